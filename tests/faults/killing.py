"""Sampling in processes of its own that are killed: starting it, killing it, and what it leaves."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from stages.files import read_json

ROOT = Path(__file__).parents[2]
DEADLINE = 240  # seconds after which a run that should have ended is a failure


def write_script(folder: Path, texts: int = 40) -> str:
    """A scripted policy whose answers differ from sample to sample."""
    folder.mkdir(exist_ok=True)
    rng = random.Random(0)
    script = {"*": [f"<<{n}+1={n + 1}>> step\n#### {rng.randrange(50)}" for n in range(texts)]}
    (folder / "script.json").write_text(json.dumps(script))
    return str(folder)


class Job:
    """One `python -m experiments.sample` (or another program) with these overrides, its artifacts in a folder."""

    python, root = (sys.executable,), ROOT
    program = "experiments.sample"

    def __init__(self, folder: Path, overrides: list[str]) -> None:
        self.folder, self.overrides = folder, overrides

    def start(self) -> subprocess.Popen:
        """Begin, or go on with, the run; its words go to `log`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", self.program, *self.overrides],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
            )

    def run(self) -> None:
        """Run to the end."""
        code = self.start().wait(DEADLINE)
        assert code == 0, self.log()

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    @property
    def artifact(self) -> Path | None:
        found = [path.parent for path in self.folder.glob("artifacts/sample/*/manifest.json")]
        return found[0] if found else None

    def journals(self) -> list[Path]:
        return sorted(self.folder.glob("artifacts/sample/.*.unfinished/*/*.jsonl"))

    def kept(self) -> int:
        """Rows on disk of an unfinished run."""
        return sum(path.read_bytes().count(b"\n") for path in self.journals())

    def result(self) -> dict[str, object]:
        """What must not depend on interruptions: the bytes of all rows, and what the manifest says of them."""
        manifest = read_json(self.artifact / "manifest.json")
        files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.artifact.glob("*.parquet")}
        return {"files": files, "counts": manifest["counts"], "tokens": manifest["tokens"], "notes": manifest["notes"]}


def descendants(pid: int) -> list[int]:
    """The processes that this one has started, and those that they have."""
    found, waiting = [], [pid]
    while waiting:
        for child in children(waiting.pop()):
            found.append(child)
            waiting.append(child)
    return found


def children(pid: int) -> Iterator[int]:
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            yield from map(int, (task / "children").read_text().split())
    except OSError:  # gone meanwhile
        return


def ranks(pid: int) -> dict[int, int]:
    """The processes of a launch below this one, by rank."""
    found = {}
    for child in descendants(pid):
        try:
            pairs = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        environment = dict(pair.split(b"=", 1) for pair in pairs if b"=" in pair)
        if b"RANK" in environment and b"WORLD_SIZE" in environment:
            found.setdefault(int(environment[b"RANK"]), child)
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, what: str, seconds: float = DEADLINE) -> None:
    """Look at a condition of another process until it holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"still waiting after {seconds} s: {what}"
        time.sleep(0.01)


def kill(process: subprocess.Popen, pid: int, how: signal.Signals) -> None:
    """Send a signal to the process or one of its descendants, if it is still there, and wait until all have ended."""
    everybody = [process.pid, *descendants(process.pid)]
    with suppress(ProcessLookupError):
        os.kill(pid, how)
    process.wait(DEADLINE)
    for other in everybody:
        wait_until(lambda other=other: not alive(other), f"process {other} has not ended")
