"""Hydra's other launchers and sweepers run our commands: joblib, submitit's local executor, Optuna."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from experiments.commands.sweeps import Unfinished, _print_failed, read_sweep
from stages.files import read_json
from tests.experiments.test_commands import MODULE, cook, kitchen  # noqa: F401

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "script.json").write_text(json.dumps({"*": ["#### 1", "#### 2", "#### 3"]}))
    return tmp_path


def sample(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "experiments.sample", "--multirun", "policy=policy", "sampler.backend=scripted"]
    return subprocess.run(
        [*command, "problems.limit=2", *argv],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def results(folder: Path) -> dict[str, dict]:
    found = folder.glob("runs/sample/*/result.json")
    return {path.parent.name.split(",")[0]: json.loads(path.read_text()) for path in found}


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_arms_in_processes_of_a_launcher(folder: Path, launcher: str) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.removesuffix('_local')}_launcher")
    done = sample(folder, f"hydra/launcher={launcher}", "n=1,2,0")
    assert done.returncode == 1, done.stderr
    assert "1 of 3 arms failed" in done.stderr and "n must be at least 1, not 0" in done.stderr
    first = results(folder)
    assert set(first) == {"n=1", "n=2"} and all((folder / one["path"]).is_dir() for one in first.values())
    marks = {path: path.stat().st_mtime_ns for path in folder.glob("runs/sample/*/result.json")}
    assert sample(folder, f"hydra/launcher={launcher}", "n=1,2").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in folder.glob("runs/sample/*/result.json")} == marks


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_sweep_over_lists_of_paths(folder: Path, launcher: str) -> None:
    """Two jobs, two folders side by side with plain names, the same under every launcher; one fails alone."""
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    (folder / "a").mkdir()
    (folder / "a" / "gsm8k.json").write_text("[]")
    command = [sys.executable, "-m", "experiments.evaluate_prm", "-m", "prm.model=policy", "threshold=0.5"]
    done = subprocess.run(
        [*command, "data=[a/gsm8k.json],[b/math.json]", f"hydra/launcher={launcher}"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1 and "2 of 2 arms failed" in done.stderr
    assert (
        "error: a/gsm8k.json: there is no solution in it" in done.stderr
        and "error: b/math.json: there is no such file" in done.stderr
    )
    assert sorted(path.parent.name for path in folder.glob("runs/evaluate_prm/*/config.yaml")) == [
        "data=-a-gsm8k.json-,prm.model=policy,threshold=0.5-81ca9ca7",
        "data=-b-math.json-,prm.model=policy,threshold=0.5-b26b88e1",
    ]


def optuna(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    options = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1", "n=2"]
    return sample(folder, *options, "hydra.sweeper.direction=maximize", "hydra.sweeper.sampler.seed=1", *argv)


def test_optuna_goes_by_the_objective(folder: Path) -> None:
    storage = f"hydra.sweeper.storage=sqlite:///{folder}/study.db"
    done = optuna(folder, "sampler.max_tokens=range(1,9)", "objective=tokens", storage)
    assert done.returncode == 0, done.stderr
    found = yaml.safe_load((folder / "runs" / "sample" / "optimization_results.yaml").read_text())
    tokens = [one["tokens"] for one in results(folder).values()]
    assert tokens and found["best_value"] == max(tokens) and (folder / "study.db").exists()


def test_optuna_outlives_failed_trials_and_needs_an_objective(folder: Path) -> None:
    done = optuna(folder, "sampler.top_p=interval(2.0,3.0)", "objective=tokens")
    assert done.returncode == 1 and "3 of 3 arms failed" in done.stderr and "Traceback" not in done.stderr
    done = optuna(folder, "sampler.top_p=interval(0.5,1.0)")
    assert done.returncode == 1 and "this sweeper needs objective=KEY" in done.stderr and results(folder) == {}


def test_a_trial_that_fails_often_is_one_row(capsys: pytest.CaptureFixture) -> None:
    failed = [
        {"overrides": ["n=2"], "why": "no"},
        {"overrides": ["n=2"], "why": "no"},
        {"overrides": ["n=6"], "why": "x"},
    ]
    _print_failed(failed, failed)
    table = capsys.readouterr().err
    assert "3 of 3 arms failed" in table and table.count("n=2") == 1 and table.count("n=6") == 1


def test_a_relaunch_runs_the_arms_that_failed_and_the_sweep_says_which(folder: Path) -> None:
    runs = folder / "runs" / "sample"
    own = "policy=policy,problems.limit=2,sampler.backend=scripted"
    taken = runs / f"n=2,{own}"
    taken.mkdir(parents=True)
    (taken / "config.yaml").write_text("n: 5\n")
    done = sample(folder, "n=1,2,3")
    assert done.returncode == 1 and "1 of 3 arms failed" in done.stderr
    arms, (missing,) = read_sweep(runs)
    assert [arm.name for arm in arms] == [f"n=1,{own}", f"n=3,{own}"]
    assert missing.name == taken.name and missing.why.startswith("failed: ") and "other arguments" in missing.why
    assert "n=2" in read_json(taken / "failed.json")["overrides"]
    (taken / "config.yaml").unlink()
    again = sample(folder, "n=1,2,3")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("(finished before)") == 2 and again.stdout.count("(made in ") == 1
    assert [arm.name[:3] for arm in read_sweep(runs)[0]] == ["n=1", "n=2", "n=3"] and not read_sweep(runs)[1]
    assert not (taken / "failed.json").exists()


def test_what_a_killed_sweep_leaves_is_named_and_run(kitchen: Path) -> None:  # noqa: F811
    """One arm was finished, one killed with the whole sweep, one not begun: the second launch runs the last two."""
    case = """        case "murder" if not os.path.exists("murdered"):
            open("murdered", "w").close()
            os.kill(int(os.environ["STEPWISE_PARENT"]), signal.SIGKILL)
            signal.pause()
        case "threads"""
    (kitchen / "kitchen.py").write_text(MODULE.replace('        case "threads', case))
    argv = ["--multirun", "then=end_well,murder,wait", "run.threads=1"]
    killed = cook(kitchen, *argv)
    assert killed.returncode == -9
    done, missing = read_sweep(kitchen / "runs" / "cook")
    assert [arm.name for arm in done] == ["then=end_well"]
    assert missing == [Unfinished("then=murder", "killed, or still running"), Unfinished("then=wait", "not started")]
    again = cook(kitchen, *argv)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("finished before") == 1 and again.stdout.count("cooking") == 2
    assert len(read_sweep(kitchen / "runs" / "cook")[0]) == 3


def test_a_sweeper_that_is_not_installed_is_one_line(folder: Path) -> None:
    """As where the extra was left out: a search for thresholds and learning rates says which one it needs."""
    (folder / "hidden").mkdir()
    (folder / "hidden" / "sitecustomize.py").write_text(
        "import pkgutil\n"
        "walk = pkgutil.walk_packages\n"
        "pkgutil.walk_packages = lambda *a, **b: (one for one in walk(*a, **b) if 'optuna' not in one.name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "experiments.glore", "-m", "experiment=glore/embedded/small", "+sweep=optuna"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(folder / "hidden"), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2 and "it comes with pip install 'stepwise[optuna]'" in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1
