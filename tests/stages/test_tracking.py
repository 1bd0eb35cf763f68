"""metrics.jsonl holds every metric, whatever happens to its mirror in W&B."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import tracking
from stages.tracking import Mode, Tracker, TrackingArgs


def rows(folder: Path) -> list[dict[str, Any]]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not strict JSON")

    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def test_one_line_a_step(tmp_path: Path) -> None:
    with closing(Tracker(TrackingArgs(), tmp_path)) as tracker:
        tracker.log(0, loss=0.5, **{"eval/accuracy": 1})
        assert len(rows(tmp_path)) == 1  # a kill from here on loses nothing
        tracker.log(np.int64(10), loss=np.float32(0.25), right=True)
    first, second = rows(tmp_path)
    assert first | {"time": 0} == {"step": 0, "time": 0, "loss": 0.5, "eval/accuracy": 1}
    assert second | {"time": 0} == {"step": 10, "time": 0, "loss": 0.25, "right": 1}
    assert second["time"] >= first["time"] > 1.6e9


def test_later_tracker_goes_on(tmp_path: Path) -> None:
    for step in (1, 2):
        with closing(Tracker(TrackingArgs(), tmp_path)) as tracker:
            tracker.log(step, loss=1.0)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]


def test_not_finite_is_null_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(Tracker(TrackingArgs(), tmp_path)) as tracker:
        for step, loss in enumerate([math.nan, math.inf, 1.0]):
            tracker.log(step, loss=loss)
    assert [row["loss"] for row in rows(tmp_path)] == [None, None, 1.0]
    assert [record.message for record in caplog.records] == ["metric loss is nan at step 0; metrics.jsonl says null"]


@pytest.mark.parametrize(
    ("step", "metrics", "message"),
    [
        (1.5, {}, "step must be an integer, not 1.5"),
        (True, {}, "step must be an integer, not True"),
        (1, {"loss": "low"}, "metric loss must be a number, not 'low'"),
        (1, {"loss": None}, "metric loss must be a number, not None"),
        (1, {"time": 3.0}, "no metric can be called 'time'"),
    ],
)
def test_what_is_no_metric(tmp_path: Path, step: Any, metrics: dict[str, Any], message: str) -> None:
    with closing(Tracker(TrackingArgs(), tmp_path)) as tracker, pytest.raises(TypeError, match=message):
        tracker.log(step, **metrics)
    assert rows(tmp_path) == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (TrackingArgs(project=""), "tracking.project='' must not be empty"),
        (TrackingArgs(project="a/b"), "tracking.project='a/b'"),
        (TrackingArgs(tags=["ok", "x" * 65]), "tracking.tags: 'x+' must have 1 to 64"),
    ],
)
def test_validate(args: TrackingArgs, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        args.validate()
    TrackingArgs(mode=Mode.wandb, tags=["a"]).validate()


class Broken:
    """A mirror that raises in one of its methods."""

    def __init__(self, method: str) -> None:
        self.method, self.calls = method, []

    def log(self, row: dict[str, Any]) -> None:
        self.calls.append("log")
        if self.method == "log":
            raise ConnectionError("no route")

    def finish(self) -> None:
        self.calls.append("finish")
        if self.method == "finish":
            raise TimeoutError("too slow")


@pytest.mark.parametrize(
    ("method", "calls", "message"),
    [
        ("open", [], "W&B failed, the run goes on without it: RuntimeError: no service"),
        ("log", ["log"], "W&B failed, the run goes on without it: ConnectionError: no route"),
        ("finish", ["log", "log", "finish"], "W&B failed, the run goes on without it: TimeoutError: too slow"),
    ],
)
def test_failing_mirror_is_one_warning(
    method: str,
    calls: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mirror = Broken(method)

    def open_mirror(*_args: Any) -> Broken:
        if method == "open":
            raise RuntimeError("no service")
        return mirror

    monkeypatch.setattr(tracking, "_open_mirror", open_mirror)
    with closing(Tracker(TrackingArgs(mode=Mode.wandb), tmp_path)) as tracker:
        tracker.log(1, loss=1.0)
        tracker.log(2, loss=0.5)
        tracker.close()  # closing twice is harmless
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]
    assert mirror.calls == calls and [record.message for record in caplog.records] == [message]


def test_key_is_looked_for_in_environment_and_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert not tracking._has_key(wandb)
    (tmp_path / "netrc").write_text("not a netrc at all {")
    assert not tracking._has_key(wandb)
    host = tracking.urlsplit(wandb.setup().settings.base_url).hostname
    (tmp_path / "netrc").write_text(f"machine {host} login user password nothing\n")
    assert tracking._has_key(wandb)
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "nothing")
    assert tracking._has_key(wandb)


PROGRAM = """
import sys
from contextlib import closing
from pathlib import Path
from stages.tracking import Mode, Tracker, TrackingArgs
folder = Path(sys.argv[1])
args = TrackingArgs(mode=Mode.wandb, project="p", group="g", name="n", tags=["t"])
config = {"lr": 0.1, "note": "with hunter2hunter2 inside"}
with closing(Tracker(args, folder, config=config, mirror_folder=folder / "run")) as tracker:
    print("text on the console")
    tracker.log(0, loss=1.0)
    tracker.log(50, loss=0.5, bad=float("nan"))
"""


def test_offline_mirror_holds_metrics_and_no_secrets(tmp_path: Path) -> None:
    """With no key, with the real client: what was written is read back with W&B's own tool."""
    (tmp_path / "run").mkdir()
    environment = {
        **{
            "PATH": str(Path(sys.executable).parent),
            "HOME": str(tmp_path),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
        "MY_API_KEY": "hunter2hunter2",
    }
    program = [sys.executable, "-c", PROGRAM, str(tmp_path), "--password=swordfish1"]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [row["step"] for row in rows(tmp_path)] == [0, 50]
    (log,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    records = inspect(log)
    run = next(record["run"] for record in records if record["type"] == "run")
    assert (run["project"], run["run_group"], run["display_name"], run["tags"]) == ("p", "g", "n", ["t"])
    assert {key: run["config"]["update"][key] for key in ("lr", "note")} == {
        "lr": 0.1,
        "note": "with $MY_API_KEY inside",
    }
    history = [record["history"]["item"] for record in records if record["type"] == "history"]
    assert [(item["step"], item["loss"]) for item in history] == [(0, 1), (50, 0.5)]
    metric = next(record["metric"] for record in records if record["type"] == "metric")
    assert metric["glob_name"] == "*" and metric["step_metric"] == "step"
    for file in tmp_path.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            assert not any(secret in data for secret in (b"hunter2", b"swordfish1", b"text on the console")), file


def inspect(log: Path) -> list[dict[str, Any]]:
    wandb = shutil.which("wandb", path=str(Path(sys.executable).parent))
    done = subprocess.run([wandb, "leet", "inspect", "--json", str(log)], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_unreachable_server_does_not_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    import wandb

    modes = []

    def init(**options: Any) -> Any:
        modes.append(options["mode"])
        if options["mode"] == "online":
            raise wandb.errors.CommError("connection refused")
        return type("Run", (Broken,), {"define_metric": lambda *_args, **_options: None})("none")

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_API_KEY", "nothing")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with closing(Tracker(TrackingArgs(mode=Mode.wandb), tmp_path)) as tracker:
        tracker.log(1, loss=1.0)
    assert modes == ["online", "offline"] and len(rows(tmp_path)) == 1
    assert [record.message for record in caplog.records] == [
        "W&B cannot be reached, its run is kept offline: connection refused"
    ]
