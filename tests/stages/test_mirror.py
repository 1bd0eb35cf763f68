"""The mirror in W&B, with the real client: what it keeps offline is read back, and it never harms the work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stages import wandb_server
from stages.mirror import Run, Shown
from stages.tracking import Mode, TrackingArgs
from stages.wandb_server import clean
from tests.wandb_runs import Kept, read_runs

ROOT = Path(__file__).parents[2]
STEPS = 6
# a stage that trains: it logs `STEPS` steps, goes on after those that it has kept, and logs all of them anew
PROGRAM = """
import json, os, signal, sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from stages import mirror, wandb_server
from stages.make import make
from stages.mirror import Run, Shown
from stages.stage import Stage, parent
from stages.tracking import Mode, Tracker, TrackingArgs

HOW, ROOT = sys.argv[1], Path(sys.argv[2])
if "ANSWERS" in os.environ:
    wandb_server.answers = lambda url: True
    mirror._INIT = 2


@dataclass
class CookArgs:
    eggs: int = 2


@dataclass
class EatArgs:
    food: str = parent("cook")


def core():
    return next(one for one in psutil.Process().children(recursive=True) if "wandb-core" in one.name())


def cook(args, work):
    kept = work.unfinished / "kept.json"
    done = json.loads(kept.read_text()) if kept.exists() else 0
    for step in range(1, done + 1):
        work.track.log(step, loss=1 / step)
    for step in range(done + 1, 7):
        work.track.log(step, loss=1 / step)
        work.track.log(step, auroc=step / 10)
        work.unfinished.mkdir(exist_ok=True)
        kept.write_text(str(step))
        if HOW == "die" and step == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        if HOW == "killed" and step == 2:
            core().kill()
        if HOW == "full" and step == 2:
            mirror._WRITTEN = 1
            core().rlimit(psutil.RLIMIT_FSIZE, (1, 1))
    print("text on the console")
    (work.folder / "food").write_text("x")
    work.count(eggs=args.eggs)
    work.spend(30)


def eat(args, work):
    (work.folder / "bill").write_text("y")


COOK, EAT = Stage("cook", 1, CookArgs, cook), Stage("eat", 1, EatArgs, eat)


def show(artifact):
    rows = [["egg", 0.5], [os.environ.get("MY_API_KEY", ""), None]]
    return Shown({"report/right": 0.25, "report/said": "fine"}, {"meals": (["what", "share"], rows)})


def run(stage, name, key):
    args = TrackingArgs(mode=Mode.wandb, tags=["t"], notes="why").resolved("group", name)
    config = {"lr": 0.1, "note": "with hunter2hunter2 inside", "url": "http://me:swordfish2@host/v1"}
    return Run(args, ROOT / "run", f"{stage.name}-{key}", stage.name, config, lambda one: f"kind of {one.stage}", show)


def made(stage, args, name):
    artifact, reused = make(stage, args, ROOT, lambda folder, key: Tracker(folder, run(stage, name, key).open()))
    if reused:
        run(stage, name, artifact.key).mirror(artifact)
    return str(artifact.path)


made(EAT, EatArgs(made(COOK, CookArgs(), "arm/cook")), "arm/eat")
"""


def start(folder: Path, how: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Cook and eat in a process of its own, which has nothing of this one's environment."""
    (folder / "program.py").write_text(PROGRAM)
    (folder / "home").mkdir(exist_ok=True)
    paths = {"PATH": os.environ["PATH"], "HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, str(folder / "program.py"), how, str(folder), "--password=swordfish1"],
        env=paths | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def runs(folder: Path) -> dict[str, Kept]:
    found = read_runs(folder / "run")
    assert len({run.id for run in found}) == len(found)
    return {run.name: run for run in found}


def steps(run: Kept) -> list[Any]:
    """The lines of a run: step, loss, auroc."""
    return [(one["step"], one["loss"], one.get("auroc")) for one in run.history if "loss" in one]


def recorded(folder: Path) -> list[Any]:
    """The same, of metrics.jsonl: all that the work has done."""
    (file,) = folder.glob("cook/*/metrics.jsonl")
    rows: dict[int, dict[str, float]] = {}
    for line in file.read_text().splitlines():
        row = json.loads(line)
        rows.setdefault(row["step"], {}).update(row)
    return [(step, row["loss"], row.get("auroc")) for step, row in rows.items()]


@pytest.fixture(scope="module")
def cooked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages, with nothing set but secrets."""
    folder = tmp_path_factory.mktemp("cooked")
    (folder / "home").mkdir()
    # a password for another host: there is no key
    (folder / "home" / ".netrc").write_text("machine example.org login me password swordfish3\n")
    done = start(folder, MY_API_KEY="hunter2hunter2", HF_TOKEN="hf_swordfish4", DB_PASSWORD="swordfish5")
    assert done.returncode == 0 and "wandb" not in done.stdout + done.stderr, done.stdout + done.stderr
    return folder


def test_names_and_numbers(cooked: Path) -> None:
    found = runs(cooked)
    assert list(found) == ["arm/cook", "arm/eat"]
    facts = found["arm/cook"].facts
    assert (facts["project"], facts["run_group"], facts["job_type"]) == ("stepwise", "group", "cook")
    assert (facts["tags"], facts["notes"], found["arm/cook"].exit_code) == (["t"], "why", 0)
    assert steps(found["arm/cook"]) == [(n, pytest.approx(1 / n), n / 10) for n in range(1, STEPS + 1)]
    summary = found["arm/cook"].summary
    assert {name: summary[name] for name in ("eggs", "tokens", "report/right", "report/said")} == {
        **{"eggs": 2, "tokens": 30, "report/right": 0.25, "report/said": "fine"}
    }
    assert summary["seconds"] >= 0 and "bill" not in summary
    assert found["arm/cook"].tables["meals"]["columns"] == ["what", "share"]
    assert found["arm/cook"].tables["meals"]["data"] == [["egg", 0.5], ["$MY_API_KEY", None]]


def test_lineage(cooked: Path) -> None:
    found = runs(cooked)
    (food,) = found["arm/cook"].made.keys() & found["arm/eat"].used.keys()
    produced, used = found["arm/cook"].made[food], found["arm/eat"].used[food]
    assert produced["digest"] == used["digest"] and produced["type"] == used["type"] == "kind of cook"
    key = food.removeprefix("cook-")
    (entry,) = [one for one in produced["manifest"]["contents"] if one["path"] == "food"]
    assert entry["ref"] == (cooked / "cook" / key / "food").resolve().as_uri()  # by reference: nothing is copied
    assert found["arm/eat"].config["parents"] == {"food": [f"cook/{key}"]}
    assert found["arm/eat"].config["artifact"].startswith("eat/") and "commit" in found["arm/eat"].config["code"]


def test_no_secret_is_in_any_file(cooked: Path) -> None:
    assert runs(cooked)["arm/cook"].config["note"] == "with $MY_API_KEY inside"
    assert runs(cooked)["arm/cook"].config["url"] == "http://***@host/v1"
    ours = {cooked / "program.py", cooked / "home" / ".netrc"}
    files = [file for file in cooked.rglob("*") if file.is_file() and file not in ours]
    assert any(file.suffix == ".wandb" for file in files)
    canaries = [b"hunter2hunter2", *(f"swordfish{n}".encode() for n in range(1, 6)), b"text on the console"]
    for file in files:
        assert not [one for one in canaries if one in file.read_bytes()], file


def test_what_was_found_is_a_run_too_but_once(cooked: Path) -> None:
    before = {run.id for run in runs(cooked).values()}
    assert start(cooked).returncode == 0
    assert {run.id for run in runs(cooked).values()} == before
    for state in (cooked / "run" / "wandb").glob("*.json"):
        state.unlink()
    assert start(cooked).returncode == 0
    anew = [run for run in read_runs(cooked / "run") if run.id not in before]
    assert [run.name for run in anew] == ["arm/cook", "arm/eat"]
    assert steps(anew[0]) == recorded(cooked) and anew[0].summary["eggs"] == 2 and anew[1].used


def test_a_killed_stage_goes_on_as_one_run(tmp_path: Path) -> None:
    assert start(tmp_path, "die").returncode == -signal.SIGKILL
    (state,) = (tmp_path / "run" / "wandb").glob("cook-*.json")
    identity = json.loads(state.read_text())["id"]
    assert start(tmp_path).returncode == 0
    run = runs(tmp_path)["arm/cook"]
    assert steps(run) == recorded(tmp_path) and [step for step, *_ in steps(run)] == [1, 2, 3, 4, 5, 6]
    assert run.id == identity and run.exit_code == 0 and run.made


def test_variables_of_wandb_win_over_defaults(tmp_path: Path) -> None:
    own = {"PROJECT": "mine", "RUN_GROUP": "sweep 7", "NAME": "best", "JOB_TYPE": "try", "RUN_ID": "abc", "TAGS": "u"}
    assert start(tmp_path, **{f"WANDB_{name}": value for name, value in own.items()}).returncode == 0
    first, second = read_runs(tmp_path / "run")
    assert {first.facts["project"], second.facts["run_group"], second.name} == {"mine", "sweep 7", "best"}
    assert first.facts["tags"] == ["t"]  # what was set wins over both
    # an id, and a type, are of the first run only: all others of the process would be one with it
    assert {(run.id == "abc", run.facts["job_type"]) for run in (first, second)} == {(True, "try"), (False, "eat")}


@pytest.mark.parametrize("how", ["", "killed", "full", "no server", "a server that is none", "in the way"])
def test_the_work_is_unharmed(how: str, tmp_path: Path) -> None:
    """W&B's process is killed, cannot write to its disk, has a key but no server, or cannot even begin."""
    environment = {"WANDB_MODE": "offline"}
    if how == "no server":
        environment = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    if how == "a server that is none":  # something answers, but not as W&B does
        environment = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9", "ANSWERS": "1"}
    if how == "in the way":
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "wandb").write_text("a file")
    done = start(tmp_path, how, **environment)
    assert done.returncode == 0, done.stderr
    assert recorded(tmp_path) == [(n, 1 / n, n / 10) for n in range(1, STEPS + 1)]
    assert len(list(tmp_path.glob("eat/*/bill"))) == 1
    if how in ("", "no server", "a server that is none"):
        assert steps(runs(tmp_path)["arm/cook"]) == recorded(tmp_path)
    said, failed = done.stderr.splitlines(), "W&B failed, the work goes on without it: "
    match how:
        case "":
            assert said == []
        case "no server":
            assert said == ["W&B's server http://127.0.0.1:9 does not answer, runs are kept offline"]
        case "a server that is none":
            (line,) = [line for line in said if "W&B" in line]
            assert line.startswith("W&B cannot be reached, runs are kept offline: ")
        case "killed":
            assert [line.startswith(failed) for line in said] == [True]
            assert runs(tmp_path)["arm/eat"].exit_code == 0  # W&B's next process is another one
        case "full":
            assert len(said) == 2 and all(line.endswith("cut short; is the disk full?") for line in said)
        case "in the way":
            assert [line.startswith(failed) for line in said] == [True, True]


class FakeRun:
    """A run of W&B's server that has seen two steps."""

    def __init__(self) -> None:
        self.resumed, self.rows, self.finished = True, [], []
        self.summary, self.settings = {"step": 2}, type("Settings", (), {"_offline": False})

    def define_metric(self, name: str, step_metric: str) -> None: ...

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def finish(self, exit_code: int) -> None:
        self.finished.append(exit_code)


def online(folder: Path, monkeypatch: pytest.MonkeyPatch, init: Any) -> Run:
    import wandb

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb_server, "answers", lambda url: True)
    monkeypatch.setenv("WANDB_MODE", "online")
    args = TrackingArgs(mode=Mode.wandb).resolved("g", "n")
    return Run(args, folder, "cook-1", "cook", {}, lambda one: "food", lambda one: Shown())


def test_a_run_that_goes_on_online_sends_what_the_server_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake, options = FakeRun(), []
    run = online(tmp_path, monkeypatch, lambda **given: options.append(given) or fake)
    for _ in range(2):
        opened = run.open()
        for step in (1, 2, 3, 3, 4):
            opened.log({"step": step, "time": 5.0, "loss": 1.0, "none": None})
    assert [row["step"] for row in fake.rows] == [3, 3]  # the last step waits for more of it
    opened.end(None)
    assert fake.rows[-1] == {"step": 4, "_timestamp": 5.0, "loss": 1.0} and fake.finished == [1]
    assert options[0]["id"] == options[1]["id"] and options[0]["resume"] == "allow" and not run.finished


def test_a_server_that_fails_later_makes_all_runs_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    modes = []

    def init(**options: Any) -> FakeRun:
        modes.append(options["mode"])
        if options["mode"] == "online":
            raise wandb.errors.CommError("connection refused")
        return FakeRun()

    run = online(tmp_path, monkeypatch, init)
    assert run.open() and run.open()
    assert modes == ["online", "offline", "offline"] and os.environ["WANDB_MODE"] == "offline"
    assert [record.message for record in caplog.records] == [
        "W&B cannot be reached, runs are kept offline: connection refused"
    ]


def test_key_is_looked_for_in_environment_and_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert not wandb_server.has_key(wandb)
    (tmp_path / "netrc").write_text("not a netrc at all {")
    assert not wandb_server.has_key(wandb)
    host = wandb_server.urlsplit(wandb.setup().settings.base_url).hostname
    (tmp_path / "netrc").write_text(f"machine {host} login user password nothing\n")
    assert wandb_server.has_key(wandb)
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "nothing")
    assert wandb_server.has_key(wandb)


def test_disabled_is_no_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = online(tmp_path, monkeypatch, lambda **_: pytest.fail("it was opened"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert run.open() is None
    monkeypatch.setenv("WANDB_MODE", "online")
    assert Run(TrackingArgs(), tmp_path, "x", "y", {}, lambda one: "", lambda one: Shown()).open() is None


def test_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-12345678")
    monkeypatch.setenv("SHORT_TOKEN", "abc")  # would spoil every text with these letters
    value = {"a": ["x sk-12345678", 1, None, True], "b": {"url": "https://u:p@h/x?y@z"}, "c": ("abc",)}
    assert clean(value) == {
        "a": ["x $OPENAI_API_KEY", 1, None, True],
        "b": {"url": "https://***@h/x?y@z"},
        "c": ["abc"],
    }
