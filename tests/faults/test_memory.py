"""Memory does not grow with the number of samples."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.killing import ROOT, write_script

# not ru_maxrss, which begins with that of the process that started this one
PROGRAM = """
from pathlib import Path
from experiments.sample import main
main()
lines = Path("/proc/self/status").read_text().splitlines()
print("peak", next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")))
"""


def peak(folder: Path, rows: int) -> int:
    """Mebibytes that sampling so many rows took, at most."""
    policy = write_script(folder / "policy")
    overrides = [f"policy={policy}", "sampler.backend=scripted", "problems.limit=200", f"n={rows // 200}"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *overrides],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    (manifest,) = folder.glob("artifacts/sample/*/manifest.json")
    assert json.loads(manifest.read_text())["counts"]["rollouts"] == rows
    return int(done.stdout.split()[-1])


def test_memory_stays_flat(tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    (tmp_path / "more").mkdir()
    few, more = peak(tmp_path / "few", 2_000), peak(tmp_path / "more", 20_000)
    assert more < few + 80, f"{more} MiB for 20,000 rows, {few} MiB for 2,000"


@pytest.mark.slow
def test_two_hundred_thousand_rows_fit_in_a_gibibyte(tmp_path: Path) -> None:
    used = peak(tmp_path, 200_000)
    print(f"200,000 rows: {used} MiB")
    assert used < 1024
