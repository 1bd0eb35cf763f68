"""A stage as a command: composed arguments, the run's folder, one-line errors, and a file instead of Hydra."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from experiments.commands.command import JobFailed, run_resolved
from experiments.commands.config import (
    ConfigError,
    RunArgs,
    build_job,
    claim_folder,
    read_yaml,
    register_schema,
    run_folder,
    validate,
)

ROOT = Path(__file__).parents[2]
MODULE = """
import logging, os, signal
from dataclasses import dataclass, field
from stages.stage import Stage, parent
from experiments.commands.command import stage_command

logger = logging.getLogger(__name__)

@dataclass
class Size:
    eggs: int = 1
    share: float | None = None

@dataclass
class CookArgs:
    food: str | None = parent(plain=True, default=None)
    size: Size = field(default_factory=Size)
    names: list[str] = field(default_factory=lambda: ["a"])
    then: str = ""
    def validate(self):
        if self.size.eggs < 0:
            raise ValueError(f"size.eggs must not be negative, but is {self.size.eggs}")

def cook(args, space):
    print("cooking")
    space.track.log(1, eggs=args.size.eggs)
    logger.info("news of cooking")
    (space.folder / "half").write_text("")
    match args.then:
        case "signal": os.kill(os.getpid(), signal.SIGINT)
        case "end": os.kill(os.getpid(), signal.SIGTERM)
        case "value": int("x")
        case "bug": 1 / 0
        case "threads": space.count(threads=int(os.environ["OMP_NUM_THREADS"]))

main = stage_command(Stage("cook", 1, CookArgs, cook))
if __name__ == "__main__":
    main()
"""
PRIMARY = """
defaults:
  - cook_schema
  - tracking: none
  - _self_
  - experiment: null
names: [b]
"""


@pytest.fixture
def kitchen(tmp_path: Path) -> Path:
    (tmp_path / "kitchen.py").write_text(MODULE)
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "cook.yaml").write_text(PRIMARY)
    (tmp_path / "conf" / "experiment" / "big.yaml").write_text("# @package _global_\nnames: [c, d]\nsize: {eggs: 9}\n")
    return tmp_path


def cook(kitchen: Path, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    extra = {"PYTHONPATH": os.pathsep.join([str(kitchen), str(ROOT)]), **environment}
    how = [] if "--resolved" in argv else ["--config-dir", "conf"]
    return subprocess.run(
        [sys.executable, "-m", "kitchen", *how, *argv],
        cwd=kitchen,
        env=os.environ | extra,
        capture_output=True,
        text=True,
        timeout=60,
    )


def cook_here(
    kitchen: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *argv: str
) -> subprocess.CompletedProcess[str]:
    """As `cook`, in this process, which is quicker."""
    how = [] if "--resolved" in argv else ["--config-dir", "conf"]
    monkeypatch.chdir(kitchen)
    monkeypatch.setattr(sys, "argv", ["kitchen.py", *how, *argv])
    handler, root = signal.getsignal(signal.SIGTERM), logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    spec = importlib.util.spec_from_file_location("kitchen", kitchen / "kitchen.py")
    monkeypatch.setitem(sys.modules, "kitchen", module := importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    try:
        module.main()
        code = 0
    except SystemExit as error:
        code = error.code
    finally:
        signal.signal(signal.SIGTERM, handler)
        root.setLevel(level)
        root.handlers[:] = handlers
    captured = capsys.readouterr()
    return subprocess.CompletedProcess(sys.argv, code, captured.out, captured.err)


def made(kitchen: Path) -> list[Path]:
    return [path for path in kitchen.glob("artifacts/cook/*") if path.suffix != ".lock"]


def test_run_then_reuse(kitchen: Path) -> None:
    first = cook(kitchen, "size.eggs=2")
    assert first.returncode == 0, first.stderr
    assert first.stderr == "news of cooking\n"
    assert first.stdout.startswith("cooking\nartifacts/cook/") and "(made in " in first.stdout
    folder = kitchen / "runs" / "cook" / "size.eggs=2"
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "result.json"]
    config = read_yaml(folder / "config.yaml")
    assert config["size"] == {"eggs": 2, "share": None} and config["names"] == ["b"]
    assert config["run"]["name"] == "cook" and config["tracking"]["mode"] == "none"
    result = json.loads((folder / "result.json").read_text())
    assert result["stage"] == "cook" and result["reused"] is False
    assert json.loads((kitchen / result["path"] / "metrics.jsonl").read_text())["eggs"] == 2
    again = cook(kitchen, "size.eggs=2", "run.name=other")
    assert again.returncode == 0 and "cooking" not in again.stdout and "(reused)" in again.stdout
    assert json.loads((kitchen / "runs" / "other" / "size.eggs=2" / "result.json").read_text())["key"] == result["key"]


def test_experiment_wins_over_the_primary_config(kitchen: Path) -> None:
    done = cook(kitchen, "experiment=big")
    assert done.returncode == 0, done.stderr
    config = read_yaml(kitchen / "runs" / "cook" / "experiment=big" / "config.yaml")
    assert config["names"] == ["c", "d"] and config["size"]["eggs"] == 9


def test_resolved_file_gives_the_same_artifact(kitchen: Path) -> None:
    cook(kitchen, "size.eggs=2")
    file = kitchen / "runs" / "cook" / "size.eggs=2" / "config.yaml"
    done = cook(kitchen, "--resolved", str(file))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["reused"] is True and done.stderr == "" and Path(kitchen / result["path"]).is_dir()
    (kitchen / "few.yaml").write_text('{"size": {"eggs": 3}}')
    few = json.loads(cook(kitchen, "--resolved", "few.yaml").stdout.splitlines()[-1])
    assert few["reused"] is False and few["key"] != result["key"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["size.egs=2"], "Key 'egs' not in 'Size'"),
        (["size.eggs=many"], "Value 'many' of type 'str' could not be converted to Integer"),
        (["size.share=NONE-1"], "could not be converted to Float"),
        (["tracking.mode=paper"], "Invalid value 'paper', expected one of"),
        (["experiment=none_such"], "Could not find 'experiment/none_such'"),
        (["size.eggs=-1"], "error: size.eggs must not be negative, but is -1\n"),
        (["size.eggs=???"], "error: no value is given for size.eggs\n"),
        (["run.threads=0"], "error: run.threads must be at least 1, not 0\n"),
        (["run.name=a b"], "error: run.name='a b' must be 1 to 100"),
        (["food=nowhere"], "error: food: nowhere: there is no such file or folder\n"),
        (["tracking.project="], "error: tracking.project='' must not be empty"),
        (["then=value"], "error: invalid literal for int() with base 10: 'x' (STEPWISE_TRACEBACK=1 shows where)\n"),
    ],
)
def test_user_errors(
    kitchen: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    message: str,
) -> None:
    done = cook_here(kitchen, monkeypatch, capsys, *argv)
    assert message in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 2 and made(kitchen) == []
    assert [path for path in kitchen.glob("runs/**/*") if path.is_file()] == []


def test_mistake_leaves_other_runs_alone(kitchen: Path) -> None:
    assert cook(kitchen).returncode == 0
    assert cook(kitchen, "size.eggs=-1").returncode == 2
    (kitchen / "runs" / "cook" / "result.json").unlink()  # as if it had been killed before the end
    assert sorted(path.name for path in (kitchen / "runs" / "cook").iterdir()) == ["config.yaml"]
    (kitchen / "conf" / "cook.yaml").write_text(PRIMARY.replace("[b]", "[changed]"))
    assert cook(kitchen).returncode == 2
    assert read_yaml(kitchen / "runs" / "cook" / "config.yaml")["names"] == ["b"]


def test_traceback_on_request(kitchen: Path) -> None:
    done = cook(kitchen, "then=value", STEPWISE_TRACEBACK="1")
    assert done.returncode == 2 and "Traceback" in done.stderr and 'case "value": int("x")' in done.stderr


def test_mistake_in_the_program_shows_its_trace(kitchen: Path) -> None:
    done = cook(kitchen, "then=bug")
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr and made(kitchen) == []


@pytest.mark.parametrize(("then", "code"), [("signal", 130), ("end", 143)])
def test_stopped_quietly_with_nothing_half_written(kitchen: Path, then: str, code: int) -> None:
    (kitchen / "stop.yaml").write_text(f"then: {then}\n")
    for argv in ([f"then={then}"], ["--resolved", "stop.yaml"]):
        done = cook(kitchen, *argv)
        assert (done.returncode, done.stderr, done.stdout) == (code, "news of cooking\n", "cooking\n")
        assert made(kitchen) == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size: {eggs: x}", "Value 'x' of type 'str' could not be converted to Integer; full_key: size.eggs"),
        ("sizes: 3", "Key 'sizes' not in 'CookArgsSchema'"),
        ("size: [", "cook.yaml: malformed YAML: .* line 1"),
        ("[1, 2]", "cook.yaml: expected a mapping of arguments"),
        (None, "cook.yaml: cannot be read: No such file"),
    ],
)
def test_bad_resolved_file(
    kitchen: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str | None,
    message: str,
) -> None:
    if text is not None:
        (kitchen / "cook.yaml").write_text(text)
    done = cook_here(kitchen, monkeypatch, capsys, "--resolved", "cook.yaml")
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert re.search(message, done.stderr), done.stderr
    assert made(kitchen) == []


def test_resolved_takes_one_file_only(kitchen: Path) -> None:
    done = cook(kitchen, "--resolved", "a.yaml", "size.eggs=2")
    assert done.returncode == 2 and "takes one file and no overrides" in done.stderr


def test_folder_of_other_arguments_is_refused(kitchen: Path) -> None:
    assert cook(kitchen, "size.eggs=2").returncode == 0
    (kitchen / "conf" / "cook.yaml").write_text(PRIMARY.replace("[b]", "[changed]"))
    refused = cook(kitchen, "size.eggs=2")
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1
    assert "holds a run with other arguments (names was ['b'], now ['changed'])" in refused.stderr
    assert read_yaml(kitchen / "runs" / "cook" / "size.eggs=2" / "config.yaml")["names"] == ["b"]
    taken = cook(kitchen, "size.eggs=2", "run.overwrite=true")
    assert taken.returncode == 0, taken.stderr
    assert read_yaml(kitchen / "runs" / "cook" / "size.eggs=2" / "config.yaml")["names"] == ["changed"]


def test_each_job_of_a_sweep_is_a_process(kitchen: Path) -> None:
    done = cook(kitchen, "--multirun", "size.eggs=1,2,-3", "run.threads=1")
    assert done.returncode == 2 and "size.eggs must not be negative, but is -3" in done.stderr
    results = sorted(kitchen.glob("runs/cook/*/result.json"))
    assert [path.parent.name for path in results] == ["size.eggs=1", "size.eggs=2"]
    assert done.stdout.count("cooking") == 2 and len(made(kitchen)) == 2


def test_threads_reach_the_process(kitchen: Path) -> None:
    done = cook(kitchen, "then=threads", "run.threads=3")
    assert done.returncode == 0, done.stderr
    (artifact,) = made(kitchen)
    assert json.loads((artifact / "manifest.json").read_text())["counts"] == {"threads": 3}


def test_wandb_files_stay_out_of_the_artifact(kitchen: Path) -> None:
    done = cook(kitchen, "tracking=wandb", WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    (artifact,) = made(kitchen)
    assert sorted(path.name for path in artifact.iterdir()) == ["half", "manifest.json", "metrics.jsonl"]
    assert list((kitchen / "runs" / "cook").glob("wandb/offline-run-*/*.wandb"))


def test_help_says_what_can_be_set(kitchen: Path) -> None:
    done = cook(kitchen, "--help")
    assert done.returncode == 0 and "eggs: 1" in done.stdout and "tracking: none, wandb" in done.stdout


def test_failed_process_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match=r"-c .* --resolved .*none.yaml: exit code 3"):
        run_resolved([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "."),
        (["run.name=demo", "run.threads=2", "tracking=wandb", "tracking.group=g", "+run.x=1"], "."),
        (["n=2", "experiment=a"], "experiment=a,n=2"),
        (["experiment=a", "n=2"], "experiment=a,n=2"),
        (["runner=2"], "runner=2"),
        (["policy=artifacts/a/b"], "policy=artifacts-a-b-a0a03a33"),
        (["+n=2"], "n=2-459dec5e"),
    ],
)
def test_run_folder(overrides: list[str], name: str) -> None:
    assert run_folder(overrides) == name


def test_long_run_folders_are_short_and_differ() -> None:
    names = {run_folder([f"problems.path=/{'folder/' * 60}{n}"]) for n in range(50)}
    assert len(names) == 50 and max(map(len, names)) <= 100


@dataclass
class PotArgs:
    size: float = 1.0
    lids: list[RunArgs] = field(default_factory=list)


def test_yaml_numbers_and_lists_of_dataclasses(tmp_path: Path) -> None:
    schema = register_schema("pot", PotArgs)
    (tmp_path / "pot.yaml").write_text("size: 1e-3\nlids: [{threads: 2}]\n")
    job = build_job(schema, PotArgs, read_yaml(tmp_path / "pot.yaml"), tmp_path)
    assert job.args == PotArgs(0.001, [RunArgs(threads=2)]) and type(job.args) is PotArgs
    assert job.run.name == "pot" and job.config["tracking"]["mode"] == "none"
    claim_folder(job)
    assert build_job(schema, PotArgs, read_yaml(tmp_path / "config.yaml"), tmp_path) == job
    with pytest.raises(ConfigError, match=r"run.threads must be at least 1, not 0"):
        build_job(schema, PotArgs, {"lids": [{"threads": 0}]}, tmp_path)


def test_validate_goes_everywhere() -> None:
    with pytest.raises(ValueError, match=r"run.name=''"):
        validate({"a": [PotArgs(lids=[RunArgs(name="")])]})


def test_field_names_that_are_taken() -> None:
    @dataclass
    class Clash:
        run: int = 1

    with pytest.raises(TypeError, match=r"Clash must not have fields called \['run'\]"):
        register_schema("clash", Clash)
