"""The wheel alone, unpacked into a fresh folder, is enough to run the commands from anywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("conf", "experiments", "refine", "rewards", "rollouts", "stages", "training")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert int(version("setuptools").split(".")[0]) >= 77, "building a wheel needs setuptools>=77: pip install '.[dev]'"
    folder = tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__", "log"))
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(folder / "source")], check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    shutil.rmtree(folder / "source")
    return folder / "unpacked"


def run(unpacked: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    # -I and this line: neither the checkout nor an editable install of it is found before the wheel
    start = f"import sys; sys.path.insert(0, {str(unpacked)!r}); sys.meta_path[:] = [f for f in sys.meta_path if " \
        "'Editable' not in getattr(f, '__name__', '')]\n"  # fmt: skip
    site = folder / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(start)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(unpacked), str(site)])}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def test_everything_is_in_it(unpacked: Path) -> None:
    def tree(folder: Path, pattern: str) -> set[str]:
        return {path.relative_to(folder).as_posix() for path in folder.glob(pattern)}

    assert tree(unpacked, "conf/**/*.yaml") == tree(ROOT, "conf/**/*.yaml")
    templates = tree(ROOT, "experiments/report/templates/*")
    assert len(templates) >= 4 and templates == tree(unpacked, "experiments/report/templates/*")
    student = tree(ROOT, "refine/students/student/*")
    assert len(student) >= 4 and student <= tree(unpacked, "refine/**/*")
    assert all((unpacked / name / "py.typed").is_file() for name in PACKAGES)
    assert tree(unpacked, "**/*.py") >= {path for name in PACKAGES for path in tree(ROOT, f"{name}/**/*.py")}


def test_commands_run_from_another_folder(unpacked: Path, tmp_path: Path) -> None:
    done = run(unpacked, tmp_path, "-c", "import conf, experiments; print(experiments.__file__, conf.__file__)")
    assert all(one.startswith(str(unpacked)) for one in done.stdout.split()) and done.stdout, done.stderr
    done = run(unpacked, tmp_path, "-m", "experiments.sample", "--help")
    assert done.returncode == 0 and "python -m experiments.sample" in done.stdout, done.stderr
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "script.json").write_text(json.dumps({"*": ["#### 1"]}))
    arguments = ["policy=policy", "sampler.backend=scripted", "problems.limit=2", "n=1"]
    done = run(unpacked, tmp_path, "-m", "experiments.sample", *arguments)
    assert done.returncode == 0 and done.stdout.startswith("artifacts/sample/"), done.stderr
    # as pip writes a console script; an arm of a sweep is started by it again
    (tmp_path / "stepwise-sample").write_text("import sys\nfrom experiments.sample import main\nsys.exit(main())\n")
    done = run(unpacked, tmp_path, "stepwise-sample", "--multirun", *arguments, "seed=1,2")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("runs/sample/*/result.json"))) == 3
