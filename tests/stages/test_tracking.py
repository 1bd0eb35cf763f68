"""metrics.jsonl holds every metric, and how a run is called in W&B is known, and refused, before it begins."""

from __future__ import annotations

import json
import math
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.tracking import VARIABLES, Mode, Tracker, TrackingArgs, read_metrics
from stages.workspace import Workspace


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES.values(), "WANDB_TAGS"):
        monkeypatch.delenv(name, raising=False)


def rows(folder: Path) -> list[dict[str, Any]]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not strict JSON")

    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


class Seen:
    """A mirror that keeps what it is shown."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.ends: list[Any] = []

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def end(self, made: Any) -> None:
        self.ends.append(made)


def test_one_line_a_step(tmp_path: Path) -> None:
    mirror = Seen()
    tracker = Tracker(tmp_path, mirror)
    tracker.log(0, loss=0.5, **{"eval/accuracy": 1})
    assert len(rows(tmp_path)) == 1  # a kill from here on loses nothing
    tracker.log(np.int64(10), loss=np.float32(0.25), right=True)
    tracker.end(None)
    tracker.end(None)
    first, second = rows(tmp_path)
    assert first | {"time": 0} == {"step": 0, "time": 0, "loss": 0.5, "eval/accuracy": 1}
    assert second | {"time": 0} == {"step": 10, "time": 0, "loss": 0.25, "right": 1}
    assert second["time"] >= first["time"] > 1.6e9
    assert mirror.rows == [first, second] and mirror.ends == [None]


def test_later_tracker_goes_on(tmp_path: Path) -> None:
    for step in (1, 2):
        with closing(Tracker(tmp_path)) as tracker:
            tracker.log(step, loss=1.0)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]


def test_lines_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    with closing(Tracker(tmp_path)) as tracker:
        tracker.log(1, loss=2.0)
    with (tmp_path / "metrics.jsonl").open("ab") as file:  # of a disk that lost some, and of a process that was killed
        file.write(b'\x00\xff\n[]\n{"loss": 1.0}\n{"step": 2, "loss": 1.5}\n{"step": 3, "lo')
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path)] == [(1, 2.0), (2, 1.5)]


def test_not_finite_is_null_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(Tracker(tmp_path)) as tracker:
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
    with closing(Tracker(tmp_path)) as tracker, pytest.raises(TypeError, match=message):
        tracker.log(step, **metrics)
    assert rows(tmp_path) == []


def test_counts_and_rates_of_all_pieces_are_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a stage works, and at its end; what was kept before counts, but not for the rate."""
    monkeypatch.setattr("stages.workspace.COUNTED_EVERY", 0.0)
    tracker = Tracker(tmp_path)
    work = Workspace(tmp_path, {}, tracker)
    with work.progress(2, "samples", "first", kept=3) as bar:
        bar.advance()
        bar.advance()
    with work.progress(1, "samples", "second", kept=0) as bar:
        monkeypatch.setattr("stages.workspace.COUNTED_EVERY", 1e9)
        bar.advance()
    with work.progress(4, "steps", "training, which logs by itself") as bar:
        bar.advance(4)
    work.finish()
    work.finish()
    tracker.close()
    assert [(row["step"], row["samples"]) for row in rows(tmp_path)] == [(4, 4), (5, 5), (6, 6)]
    assert all(0 < row["samples_per_second"] <= 1000 and len(row) == 4 for row in rows(tmp_path))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (TrackingArgs(project=""), "tracking.project='' must have 1 to 128 printable characters"),
        (TrackingArgs(project="a/b"), "tracking.project='a/b' must not hold any of"),
        (TrackingArgs(entity="team?"), r"tracking.entity='team\?' must not hold"),
        (TrackingArgs(name="x" * 129), "tracking.name='x+' must have 1 to 128"),
        (TrackingArgs(group="a\nb"), "tracking.group=.* printable"),
        (TrackingArgs(group=" a"), "tracking.group=' a' .* no space at its ends"),
        (TrackingArgs(tags=["ok", "x" * 65]), "tracking.tags: 'x+' must have 1 to 64"),
    ],
)
def test_a_name_that_wandb_would_refuse_later_is_refused_now(args: TrackingArgs, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        args.validate()
    TrackingArgs(mode=Mode.wandb, tags=["a"], notes="two\nlines").validate()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WANDB_RUN_GROUP", "x" * 129),
        ("WANDB_PROJECT", "a:b"),
        ("WANDB_NAME", "a\tb"),
        ("WANDB_TAGS", f"a,{'x' * 65}"),
        ("WANDB_MODE", "onlin"),
    ],
)
def test_so_is_one_of_a_variable(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"^{name}"):
        TrackingArgs(mode=Mode.wandb).validate()
    TrackingArgs().validate()  # nobody is told
    assert TrackingArgs().resolved("g", "n").of_stage("orm") == TrackingArgs()


def test_what_is_set_wins_over_variables_and_these_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    on = TrackingArgs(mode=Mode.wandb)
    assert on.resolved("sweep", "arm") == replace(on, project="stepwise", group="sweep", name="arm")
    for name in VARIABLES:
        monkeypatch.setenv(VARIABLES[name], f"{name} of the variable")
    monkeypatch.setenv("WANDB_TAGS", "a,b")
    found = replace(on, group="mine").resolved("sweep", "arm")
    own = {name: f"{name} of the variable" for name in VARIABLES} | {"group": "mine"}
    assert found == replace(on, **own, tags=["a", "b"])
    # a stage of a pipeline gets all of that, so that the variables mean the pipeline's run
    assert found.of_stage("orm").resolved("x", "y") == found.of_stage("orm")
    assert found.of_stage("orm").name == "name of the variable/orm"


def test_a_stage_whose_name_would_be_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = TrackingArgs(mode=Mode.wandb, name="x" * 120).resolved("g", "n")
    with pytest.raises(ValueError, match=r"tracking\.name='x+/global_refiner' must have"):
        found.of_stage("global_refiner")
