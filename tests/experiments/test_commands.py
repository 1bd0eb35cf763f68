"""A stage as a command: composed arguments, the run's folder, one-line errors, and a file instead of Hydra."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from omegaconf import OmegaConf

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
from experiments.commands.sweeps import objective_of
from experiments.commands.unused import refuse_typed
from refine.students.shipped import FOLDERS, find_start

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
    food: str | None = parent(any_path=True, default=None)
    size: Size = field(default_factory=Size)
    names: list[str] = field(default_factory=lambda: ["a"])
    then: str = ""
    def validate(self):
        if self.size.eggs < 0:
            raise ValueError(f"size.eggs must not be negative, but is {self.size.eggs}")

def cook(args, space):
    print("cooking")
    space.track.log(1, eggs=args.size.eggs)
    space.count(eggs=args.size.eggs)
    logger.info("news of cooking")
    (space.folder / "half").write_text("")
    match args.then:
        case "signal": os.kill(os.getpid(), signal.SIGINT)
        case "end": os.kill(os.getpid(), signal.SIGTERM)
        case "parent": os.kill(int(os.environ["STEPWISE_PARENT"]), signal.SIGINT), signal.pause()
        case "value": int("x")
        case "bug": 1 / 0
        case "exit": raise SystemExit(3)
        case "killed": os.kill(os.getpid(), signal.SIGKILL)
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
    """All but what stays of attempts: locks, metrics."""
    return [path for path in kitchen.glob("artifacts/cook/*") if path.suffix not in (".lock", ".unfinished")]


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
        (["size.egs=2"], "size.egs=2: Key 'egs' not in 'Size' (did you mean size.eggs?"),
        (["experiment=none_such"], "Available options in 'experiment': big, "),
        (["size.eggs=${oc.env:NOPE}"], "Environment variable 'NOPE' not found"),
        (["size.eggs=1", "size.eggs=2"], "error: size.eggs is given twice: size.eggs=1 and size.eggs=2\n"),
        (["size.eggs=a=b"], """error: 'size.eggs=a=b' cannot be read; a text with such characters is written so: """),
        (["group=x"], "error: group=x: "),
        (["+size.more=1"], "error: Key 'more' not in 'Size'"),
        (["--fast"], "error: unrecognized arguments: --fast ("),
        (["~size"], "error: ~size: a setting cannot be taken away; size=VALUE gives it another value\n"),
        (["~tracking"], "error: ~tracking: a setting cannot be taken away; "),
        (["~size.eggs=1"], "error: ~size.eggs=1: a setting cannot be taken away; "),
        (["~none"], "error: Could not delete from config. 'none' does not exist.\n"),
        (["names=" + "[" * 300 + "]" * 300], "is nested more than 50 deep\n"),
        (["food=" + "x" * 600], "File name too long"),
        (["run.name=a b"], "error: run.name='a b' must be 1 to 100"),
        (["food=nowhere"], "error: food: nowhere: there is no such file or folder\n"),
        (["run.artifacts="], "error: run.artifacts='' must not be empty\n"),
        (["run.artifacts=' '"], "error: run.artifacts=' ' must not be empty\n"),
        (["hydra.run.dir="], "error: hydra.run.dir= must not be empty"),
        (["-m", "size.eggs=1,2", "hydra.sweep.dir=''"], "error: hydra.sweep.dir='' must not be empty"),
        (
            ["tracking.project="],
            "error: tracking.project='' must have 1 to 128 printable characters, and no space at its ends",
        ),
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
    assert len(done.stderr.splitlines()) == (2 if argv == ["then=value"] else 1)
    assert done.returncode == 2 and made(kitchen) == []
    kept = {"config.yaml", "error.log"} if argv == ["then=value"] else set()  # the work had begun
    assert {path.name for path in kitchen.glob("runs/**/*") if path.is_file()} == kept


def test_mistake_leaves_other_runs_alone(kitchen: Path) -> None:
    assert cook(kitchen).returncode == 0
    assert cook(kitchen, "size.eggs=-1").returncode == 2
    (kitchen / "runs" / "cook" / "result.json").unlink()  # as if it had been killed before the end
    assert sorted(path.name for path in (kitchen / "runs" / "cook").iterdir()) == ["config.yaml"]
    (kitchen / "conf" / "cook.yaml").write_text(PRIMARY.replace("[b]", "[changed]"))
    assert cook(kitchen).returncode == 2
    assert read_yaml(kitchen / "runs" / "cook" / "config.yaml")["names"] == ["b"]


def test_told_to_end_while_the_interpreter_ends_it_leaves_no_trace() -> None:
    late = "import atexit, os, sys; atexit.register(os.kill, os.getpid(), 15); sys.argv = ['sample', '--help']; "
    program = [sys.executable, "-c", late + "from experiments.sample import main; main()"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGTERM and "policy" in done.stdout and not done.stderr


def test_traceback_on_request(kitchen: Path) -> None:
    done = cook(kitchen, "then=value", STEPWISE_TRACEBACK="1")
    assert done.returncode == 2 and "Traceback" in done.stderr and 'case "value": int("x")' in done.stderr


@pytest.mark.parametrize(("then", "error"), [("value", "ValueError: invalid literal"), ("bug", "ZeroDivisionError")])
def test_a_run_that_fails_leaves_its_evidence(
    kitchen: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], then: str, error: str
) -> None:
    with suppress(ZeroDivisionError):
        cook_here(kitchen, monkeypatch, capsys, f"then={then}")
    folder = kitchen / "runs" / "cook" / f"then={then}"
    log = (folder / "error.log").read_text()
    assert error in log and "kitchen.py" in log and f"arguments: {folder / 'config.yaml'}" in log
    assert "python 3." in log and "torch " in log and "program: " in log
    (metrics,) = kitchen.glob("artifacts/cook/.*.unfinished/metrics.1.jsonl")
    assert json.loads(metrics.read_text())["eggs"] == 1
    # arguments in a file, beside which there may be others
    (kitchen / "bad.yaml").write_text(f"then: {then}\n")
    with suppress(ZeroDivisionError):
        cook_here(kitchen, monkeypatch, capsys, "--resolved", "bad.yaml")
    assert error in (kitchen / "bad.error.log").read_text()
    (kitchen / "bad.yaml").write_text("then: ''\n")
    assert cook_here(kitchen, monkeypatch, capsys, "--resolved", "bad.yaml").returncode == 0
    assert not (kitchen / "bad.error.log").exists()


def test_mistake_in_the_program_shows_its_trace(kitchen: Path) -> None:
    done = cook(kitchen, "then=bug")
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr and made(kitchen) == []


@pytest.mark.parametrize(
    ("then", "code", "line"),
    [
        ("signal", 130, "stopped; the same command goes on from what is kept\n"),
        ("end", 143, "told to end (SIGTERM); the same command goes on from what is kept\n"),
    ],
)
def test_stopped_with_one_line_and_nothing_half_written(kitchen: Path, then: str, code: int, line: str) -> None:
    (kitchen / "stop.yaml").write_text(f"then: {then}\n")
    for argv in ([f"then={then}"], ["--resolved", "stop.yaml"]):
        done = cook(kitchen, *argv)
        assert (done.returncode, done.stderr, done.stdout) == (code, f"news of cooking\n{line}", "cooking\n")
        assert made(kitchen) == []
    # a child of ours leaves that to its parent
    assert cook(kitchen, f"then={then}", STEPWISE_PARENT=str(os.getpid())).stderr == "news of cooking\n"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size: {eggs: x}", "Value 'x' of type 'str' could not be converted to Integer; full_key: size.eggs"),
        ("sizes: 3", "Key 'sizes' not in 'CookArgs'"),
        ("size: [", r"cook.yaml: malformed YAML: .* line \d"),
        ("[1, 2]", "cook.yaml: expected a mapping of arguments"),
        ("size: &a [*a]", "cook.yaml: malformed YAML: \\*a holds itself"),
        ("size: " + "[" * 5000 + "]" * 5000, "cook.yaml: malformed YAML: nested more than 50 deep"),
        ('{"size": ' + "[" * 50000 + "]" * 50000 + "}", "cook.yaml: malformed YAML: nested more than 50 deep"),
        ("a: 1\n" * 300_000, "cook.yaml: has more than 1,000,000 bytes"),
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


BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))


def test_files_that_would_never_end(
    kitchen: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(kitchen / "pipe")
    (kitchen / "bomb.yaml").write_text(BOMB)
    (kitchen / "more").mkdir()
    (kitchen / "more" / "bomb.yaml").write_text(BOMB)
    for argv, message in {
        ("--resolved", "pipe"): "pipe: is not a file",
        ("--resolved", "x" * 600): "cannot be read: File name too long",
        ("--resolved", "bomb.yaml"): "bomb.yaml: malformed YAML: more than 50,000 values",
        ("food=pipe",): "food=pipe: is a pipe",
        ("--config-path", str(kitchen / "more")): "bomb.yaml: malformed YAML: more than 50,000 values",
    }.items():
        done = cook_here(kitchen, monkeypatch, capsys, *argv)
        assert (done.returncode, done.stdout) == (2, "") and message in done.stderr
        assert len(done.stderr.splitlines()) == 1 and made(kitchen) == []


def test_a_character_beyond_the_first_plane_comes_through(
    kitchen: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (kitchen / "🍳").write_text("")
    assert cook_here(kitchen, monkeypatch, capsys, "food=🍳", "names=[🙂]").returncode == 0
    (folder,) = (kitchen / "runs" / "cook").iterdir()
    assert read_yaml(folder / "config.yaml")["names"] == ["🙂"]
    # as another program writes JSON: two escapes for one character
    (kitchen / "cook.json").write_text(json.dumps({"food": "🍳", "names": ["🙂"]}))
    done = cook_here(kitchen, monkeypatch, capsys, "--resolved", "cook.json")
    assert done.returncode == 0 and json.loads(done.stdout.splitlines()[-1])["reused"], done.stderr


@pytest.mark.parametrize("name", ["1e3", "1_1_1", '"10e2"', "007", "true", "1.50"])
def test_names_stay_as_typed(
    kitchen: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for _ in range(2):  # the second time it is found
        done = cook_here(kitchen, monkeypatch, capsys, f"run.name={name}", "names=[1e3,a=b]", "dry_run=false")
        assert done.returncode == 0, done.stderr
    assert [path.name for path in (kitchen / "runs").iterdir()] == [name.strip('"')]
    (folder,) = (kitchen / "runs" / name.strip('"')).iterdir()
    assert read_yaml(folder / "config.yaml")["names"] == ["1e3", "a=b"]


@pytest.mark.parametrize("name", ["a=b", "a,b", "a b", "a#b", "a%b", "it's", 'a"b', "[a]", "a$b", "a:{b}", "a\\", "1"])
def test_paths_need_no_quotes(
    kitchen: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (kitchen / name).write_text("")
    assert cook_here(kitchen, monkeypatch, capsys, f"food={name}").returncode == 0
    (artifact,) = made(kitchen)
    assert json.loads((artifact / "manifest.json").read_text())["args"]["food"] == name


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


def test_failing_arms_do_not_end_the_others(kitchen: Path) -> None:
    argv = ["--multirun", "size.eggs=1,-3", "then=bug,exit,killed,threads", "run.threads=1"]
    done = cook(kitchen, *argv)
    assert done.returncode == 1, done.stderr
    results = sorted(kitchen.glob("runs/cook/*/result.json"))
    assert [path.parent.name for path in results] == ["size.eggs=1,then=threads"]
    table = done.stderr[done.stderr.index("7 of 8 arms failed") :]
    assert max(map(len, table.splitlines())) <= 80
    for arm, why in {
        "size.eggs=1 then=bug": "ZeroDivisionError: division by zero",
        "size.eggs=1 then=exit": "exit code 3|SystemExit: 3",
        "size.eggs=1 then=killed": "exit code -9|signal 9",
        "size.eggs=-3 then=threads": "size.eggs must not be negative",
    }.items():
        assert re.search(rf"{re.escape(arm)} .*({why})", _unfolded(table)), table
    assert not list(kitchen.glob("runs/.sweep-*"))
    # of an arm that has said why, its command says no more; one that was killed could not
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: ") and "--resolved" in line)
    assert "then=killed" in line


def _unfolded(table: str) -> str:
    """A table of two columns with each row in one line."""
    rows: list[list[str]] = []
    for line in table.splitlines():
        if line.startswith("│"):
            left, right = (cell.strip() for cell in line.strip("│").split("│"))
            if left.startswith("size.eggs"):
                rows.append(["", ""])
            if rows:
                rows[-1] = [rows[-1][0] + left, f"{rows[-1][1]} {right}".strip()]
    return "\n".join("  ".join(row) for row in rows)


def test_ctrl_c_in_a_sweep_is_one_line_and_what_is_finished_stays_so(kitchen: Path) -> None:
    argv = ["then=threads,parent,bug", "-m", "run.threads=1"]
    done = cook(kitchen, *argv)
    assert done.returncode == 130 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == "stopped; the same command goes on from what is kept"
    assert [path.parent.name for path in kitchen.glob("runs/cook/*/result.json")] == ["then=threads"]
    assert not list(kitchen.glob("runs/.sweep-*")) and "then=threads (finished before)" in cook(kitchen, *argv).stdout


IMPORTING = """
import os, signal, sys
class Finder:
    def find_spec(name, path=None, target=None):
        if name == "stages":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder)
"""
READING = """
import argparse, os, signal
argparse.ArgumentParser.parse_args = lambda *_: os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.parametrize(
    ("begins", "program", "line"),
    [
        (IMPORTING, ["-m", "experiments"], "stopped before anything was done\n"),
        (IMPORTING, ["-m", "experiments.glore"], "stopped before anything was done\n"),
        (IMPORTING, ["-m", "experiments.show"], "stopped before anything was done\n"),
        (IMPORTING, [str(ROOT / "experiments" / "convert.py")], "stopped before anything was done\n"),
        (IMPORTING, ["stepwise-glore"], "stopped before anything was done\n"),
        (READING, ["-m", "experiments.show"], "stopped\n"),
        (READING, ["-m", "experiments.claims"], "stopped\n"),
    ],
)
def test_ctrl_c_is_one_line_also_while_modules_are_imported(
    tmp_path: Path, begins: str, program: list[str], line: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(begins)
    (tmp_path / "stepwise-glore").write_text("from experiments.glore import main\nmain()\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, *program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", line)


def test_a_relaunched_sweep_runs_only_what_is_missing(kitchen: Path) -> None:
    def sweep(eggs: str, *more: str) -> subprocess.CompletedProcess[str]:
        return cook(kitchen, "--multirun", f"size.eggs={eggs}", *more)

    first = sweep("1,2")
    assert first.returncode == 0 and first.stdout.count("cooking") == 2 and len(made(kitchen)) == 2
    (kitchen / "runs" / "cook" / "size.eggs=2" / "result.json").unlink()  # as if it had failed
    again = sweep("1,2,3")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("cooking") == 1 and "(reused)" in again.stdout
    assert "runs/cook/size.eggs=1 (finished before)" in again.stdout
    gone = json.loads((kitchen / "runs" / "cook" / "size.eggs=1" / "result.json").read_text())["path"]
    shutil.rmtree(kitchen / gone)
    assert sweep("1,2").stdout.count("cooking") == 1
    assert "finished before" not in sweep("1", "run.overwrite=true").stdout
    (kitchen / "kitchen.py").write_text(MODULE.replace('Stage("cook", 1', 'Stage("cook", 2'))
    assert sweep("1,2").stdout.count("cooking") == 2
    assert sweep("1,2").stdout.count("finished before") == 2


def test_a_sweep_clears_up_after_one_that_was_killed(kitchen: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    killed, running = (kitchen / "runs" / f".sweep-{platform.node()}-{pid}" for pid in (ended.pid, os.getpid()))
    # a host whose name begins with this one's: its process ids say nothing here
    elsewhere = kitchen / "runs" / f".sweep-{platform.node()}-2-{ended.pid}"
    for folder in (killed, running, elsewhere):
        folder.mkdir(parents=True)
    assert cook(kitchen, "--multirun", "size.eggs=1").returncode == 0
    assert set(kitchen.glob("runs/.sweep-*")) == {running, elsewhere}


def test_objective_is_a_number_of_the_result_the_manifest_or_the_report(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"counts": {"right": 7, "of": "nine"}, "seconds": 3}')
    (tmp_path / "report.json").write_text('{"accuracy": {"reranked": {"value": 0.5}}}')
    result = {"path": str(tmp_path), "seconds": 2.0, "reused": True}
    assert objective_of(result, "counts.right") == 7.0 and objective_of(result, "seconds") == 2.0
    assert objective_of(result, "report.accuracy.reranked.value") == 0.5
    assert objective_of({"report": str(tmp_path / "report.md")}, "report.accuracy.reranked.value") == 0.5
    for missing in ("counts.of", "reused", "report.acuracy.reranked.value", "counts"):
        with pytest.raises(ConfigError, match=rf"objective={missing}: the result has no such number"):
            objective_of(result, missing)


def test_objective_that_does_not_exist_is_one_line(
    kitchen: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = cook_here(kitchen, monkeypatch, capsys, "objective=counts.egs")
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: objective=counts.egs: ")
    assert "near are counts.eggs" in done.stderr
    assert cook_here(kitchen, monkeypatch, capsys, "objective=counts.eggs").returncode == 0


def test_threads_reach_the_process(kitchen: Path) -> None:
    done = cook(kitchen, "then=threads", "run.threads=3")
    assert done.returncode == 0, done.stderr
    (artifact,) = made(kitchen)
    assert json.loads((artifact / "manifest.json").read_text())["counts"] == {"eggs": 1, "threads": 3}


def test_wandb_files_stay_out_of_the_artifact(kitchen: Path) -> None:
    done = cook(kitchen, "tracking=wandb", WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    (artifact,) = made(kitchen)
    assert sorted(path.name for path in artifact.iterdir()) == ["README.md", "half", "manifest.json", "metrics.jsonl"]
    assert list((kitchen / "runs" / "cook").glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.parametrize("argv", [["hydra.job.chdir=true"], ["hydra.job.chdir=true", "run.name=other"]])
def test_another_working_folder_is_refused(
    kitchen: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    done = cook_here(kitchen, monkeypatch, capsys, *argv)
    assert done.returncode == 2 and done.stderr.startswith("error: hydra.job.chdir=true: ")
    assert len(done.stderr.splitlines()) == 1 and not list(kitchen.glob("**/artifacts")) + list(kitchen.glob("runs"))


def test_dry_run_says_what_is_there_and_writes_nothing(
    kitchen: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(kitchen.rglob("*"))
    done = cook_here(kitchen, monkeypatch, capsys, "dry_run=true", "size.eggs=2")
    assert done.returncode == 0 and done.stdout.startswith("cook: would be made in artifacts/cook"), done.stderr
    assert [path for path in sorted(kitchen.rglob("*")) if "__pycache__" not in path.parts] == before
    cook_here(kitchen, monkeypatch, capsys, "size.eggs=2")
    before = sorted(kitchen.rglob("*"))
    done = cook_here(kitchen, monkeypatch, capsys, "dry_run=true", "size.eggs=2", f"food={made(kitchen)[0]}")
    assert f"from food: {made(kitchen)[0].relative_to(kitchen)} (2 eggs)" in done.stdout.replace(f"{kitchen}/", "")
    done = cook_here(kitchen, monkeypatch, capsys, "dry_run=true", "size.eggs=2")
    assert done.stdout.startswith(f"cook: found {made(kitchen)[0].relative_to(kitchen)} (2 eggs)")
    assert sorted(kitchen.rglob("*")) == before
    (kitchen / "dry.yaml").write_text("dry_run: true\nsize: {eggs: 5}\n")
    assert "would be made" in cook_here(kitchen, monkeypatch, capsys, "--resolved", "dry.yaml").stdout
    assert len(made(kitchen)) == 1


def test_a_closed_pipe_is_no_trace(kitchen: Path) -> None:
    extra = {"PYTHONPATH": os.pathsep.join([str(kitchen), str(ROOT)])}
    reader, writer = os.pipe()
    os.close(reader)
    run = ["kitchen", "--config-dir", "conf"]
    for argv, codes in (
        (run, [141]),
        (["kitchen", "--help"], [141]),
        ([*run, "--cfg", "job"], [141]),
        ([*run, "--info", "defaults-tree"], [0, 141]),
        (["experiments"], [-signal.SIGPIPE]),
        (["experiments.show", "--help"], [-signal.SIGPIPE]),
    ):
        command = [sys.executable, "-m", *argv]
        done = subprocess.run(
            command, cwd=kitchen, env=os.environ | extra, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60
        )
        assert done.returncode in codes and done.stderr in ("", "news of cooking\n"), argv
    os.close(writer)


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


def test_a_seed_that_is_none_is_refused_in_every_command(tmp_path: Path) -> None:
    from experiments import glore, sample, train_reward

    paths = {"policy": "p", "rollouts": "r", "kind": "orm"}
    run = {"problems": {}, "student": {"start": "shipped"}}
    for command, name, values in (
        (sample.main, "seed", {"policy": "p"}),
        (sample.main, "problems.shuffle_seed", {"policy": "p"}),
        (sample.main, "problems.world.seed", {"policy": "p"}),
        (train_reward.main, "train.seed", paths),
        (glore.main, "seed", run),
        (glore.main, "rollouts.seed", run),
        (glore.main, "problems.shuffle_seed", run),
    ):
        for seed in (-2, -1, 2**63):
            config = OmegaConf.create(values)
            OmegaConf.update(config, name, seed, force_add=True)
            if (name, seed) == ("rollouts.seed", -1):  # the pipeline's own stands there
                build_job(command.schema, command.args, config, tmp_path)
                continue
            with pytest.raises(ConfigError, match=rf"^{name} must be at least 0 and below 2\*\*63, not {seed}$"):
                build_job(command.schema, command.args, config, tmp_path)
        OmegaConf.update(config, name, 2**63 - 1)
        build_job(command.schema, command.args, config, tmp_path)


@pytest.mark.parametrize("word", FOLDERS)
def test_shipped_is_a_word_wherever_a_policy_is_asked_for(word: str, tmp_path: Path) -> None:
    from experiments import revise, sample, train_reward

    for command, name, values in (
        (sample.main, "policy", {}),
        (train_reward.main, "policy", {"kind": "orm", "rollouts": "r"}),
        (revise.main, "global_refiner", {"drafts": "d", "local_refiner": "l", "orm": "o", "sorm": "s"}),
    ):
        job = build_job(command.schema, command.args, values | {name: word}, tmp_path)
        assert getattr(job.args, name) == find_start(word) and job.config[name] == word


def test_field_names_that_are_taken() -> None:
    @dataclass
    class Clash:
        run: int = 1

    with pytest.raises(TypeError, match=r"Clash must not have fields called \['run'\]"):
        register_schema("clash", Clash)


def test_a_command_runs_by_its_path_from_another_folder(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "script.json").write_text(json.dumps({"*": ["#### 1"]}))
    argv = ["policy=policy", "sampler.backend=scripted", "problems.limit=1", "n=1", "-m"]  # each arm is a child
    done = subprocess.run(
        [sys.executable, ROOT / "experiments" / "sample.py", *argv],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("artifacts/sample/*/rows.parquet"))) == 1


def test_a_refused_command_line_is_forgotten(
    kitchen: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cook_here(kitchen, monkeypatch, capsys, "size.eggs=${oc.env:NOPE}").returncode == 2
    refuse_typed({"size.eggs": "for no reason"})  # a job of this process that was not typed
