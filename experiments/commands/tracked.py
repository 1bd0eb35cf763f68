"""What W&B is shown of this project: how runs are called, what sort of thing an artifact is, numbers and tables.

Left out: how it gets there (`stages/mirror.py`).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.commands.config import Job
from refine.prompts import KINDS
from refine.report.example import Example
from stages.artifacts import Artifact
from stages.files import read_json
from stages.mirror import Run, Shown, Table
from stages.pipeline import Node, NodeResult
from stages.rows import read_rows
from stages.stage import Stage
from stages.tracking import Tracker, TrackingArgs
from stages.wandb_server import clean

REPORT = "report.json"
EXAMPLES, WRONG = 100, 200  # most rows of the tables `examples` and `wrong`
TEXT = 2_000  # characters of a text, which may be one of a model
SORTS = {  # of the artifacts of a stage
    "sample": "rollouts",
    "label_steps": "labels",
    "import_labels": "labels",
    "corrupt_solutions": "labels",
    "audit_labels": "audit",
    "train_reward": "reward_model",
    "train_implicit": "reward_model",
    "build_pairs": "pairs",
    "revise": "candidates",
    "rerank": "choices",
    "collect_mistakes": "mistakes",
    "correct": "corrections",
    "report": "report",
    "lema_report": "report",
}


def resolved(job: Job) -> TrackingArgs:
    """How a job's run is called in W&B: its group is all runs of its name, its own name that of its folder."""
    return job.tracking.resolved(job.run.name, job.folder.name or job.run.name)


class TrackedStage:
    """A stage's job in W&B: a run for the artifact that it makes or finds."""

    def __init__(self, job: Job, stage: Stage) -> None:
        self.job, self.stage, self.args = job, stage, resolved(job)

    def track(self, folder: Path, key: str) -> Tracker:
        """What writes metrics.jsonl to `folder`, where the artifact of this key is made."""
        return Tracker(folder, self._run(key).open())

    def found(self, artifact: Artifact) -> None:
        """Show an artifact that was there already."""
        self._run(artifact.key).mirror(artifact)

    def _run(self, key: str) -> Run:
        return stage_run(self.args, self.job.folder, self.stage.name, key, self.job.config)


def stage_run(args: TrackingArgs, folder: Path, stage: str, key: str, config: dict[str, Any]) -> Run:
    """The run of a stage's artifact; `args` are resolved, and `config` are the arguments."""
    return Run(args, folder, f"{stage}-{key}", stage, _untracked(config), sort_of, show)


def artifact_run(args: TrackingArgs, folder: Path, artifact: Artifact) -> Run:
    """The run of an artifact that was made before."""
    return stage_run(args, folder, artifact.stage, artifact.key, artifact.manifest.get("args", {}))


class TrackedPipeline:
    """The job of a pipeline, glore or lema, in W&B: a run of its own, with a line for each stage that is done and the
    report's numbers; and a run for each artifact that was found. A stage's process opens its own."""

    def __init__(self, job: Job, name: str) -> None:
        self.args, self.stages = resolved(job), job.folder / "stages"
        self._mirror = pipeline_run(self.args, job.folder, name, job.config).open()
        self._lock = threading.Lock()  # stages end in several threads
        self._done = {"stages_done": 0, "seconds": 0.0, "tokens": 0}

    def done(self, node: Node, result: NodeResult, artifact: Artifact) -> None:
        """Show that a stage is done, and its artifact, unless its own process has."""
        with self._lock:
            if result.reused:
                artifact_run(self.args.of_stage(node.name), self.stages, artifact).mirror(artifact)
            self._done["stages_done"] += 1
            for name in ("seconds", "tokens"):
                self._done[name] += artifact.manifest.get(name, 0)
            if self._mirror is not None:
                self._mirror.log({"step": self._done["stages_done"], **self._done})

    def end(self, report: Artifact | None) -> None:
        """End the pipeline's run with its report; with None, it has failed."""
        mirror, self._mirror = self._mirror, None
        if mirror is not None:
            mirror.end(report)


def pipeline_run(args: TrackingArgs, folder: Path, name: str, config: dict[str, Any]) -> Run:
    """The run of the pipeline `name`, which ends with its report; `args` are resolved."""
    return Run(args, folder, "pipeline", name, _untracked(config), sort_of, show, makes=False)


def _untracked(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "tracking"}


def sort_of(artifact: Artifact) -> str:
    """What sort of thing an artifact is, as W&B's `type`."""
    if artifact.stage == "train_policy":
        learned = artifact.manifest.get("args", {}).get("examples", [])
        return "refiner" if set(learned) & set(KINDS) else "policy"
    return SORTS.get(artifact.stage, artifact.stage)


def show(artifact: Artifact) -> Shown:
    """What there is to see in an artifact: of a report every key of report.json, and tables."""
    if not (artifact.path / REPORT).is_file():
        return Shown()
    report = read_json(artifact.path / REPORT)
    tables = {"results": _results(report), "differences": _differences(report)}
    if "calibration" in report:
        tables["calibration"] = _calibration(report)
    if (artifact.path / "examples.parquet").is_file():
        tables |= _examples(read_rows(artifact.path / "examples.parquet", Example))
    return Shown({name: _short(value) for name, value in _leaves(report)}, tables)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(name, value) of everything in nested dicts that is no dict; W&B makes a section of what is before a slash."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{name}/{key}" if name else str(key))
    else:
        yield name, value


def _short(value: Any) -> Any:
    # cleaned before it is cut: half a key is still a key
    return clean(value)[:TEXT] if isinstance(value, str) else value


def _estimate(found: Any) -> list[Any]:
    return [(found or {}).get(name) for name in ("value", "low", "high", "n")]


def _results(report: dict[str, Any]) -> Table:
    """How often each selector, or arm, is right, with its interval, and what it costs."""
    costs = [report.get(name, {}) for name in ("tokens", "tokens_read")]
    rows = [[name, *_estimate(one), *(cost.get(name) for cost in costs)] for name, one in report["accuracy"].items()]
    return ["selector", "right", "low", "high", "problems", "tokens", "tokens_read"], rows


def _differences(report: dict[str, Any]) -> Table:
    rows = [[name, *_estimate(one), (one or {}).get("mcnemar_p")] for name, one in report["difference"].items()]
    return ["difference", "value", "low", "high", "n", "mcnemar_p"], rows


def _calibration(report: dict[str, Any]) -> Table:
    """Predicted and observed shares of each bin of scores: of whole solutions, and of steps."""
    rows = [
        [scorer, of, one["low"], one["high"], one["n"], one["predicted"], one["observed"]]
        for of, key in (("solutions", "reliability"), ("steps", "reliability_steps"))
        for scorer, bins in (report.get(key) or {}).items()
        for one in bins or []
    ]
    return ["scorer", "of", "low", "high", "n", "predicted", "observed"], rows


def _examples(examples: Sequence[Example]) -> dict[str, Table]:
    """`examples` is the same sample of problems in every run; `wrong` are problems that ended wrong."""
    columns = [
        *("problem", "question", "answer", "draft", "draft right", "ORM scores", "SORM scores", "implicit scores"),
        *(
            "first error",
            "true first error",
            "global refinement",
            "global right",
            "local refinement",
            "local right",
            "choice",
            "right",
        ),
    ]
    drawn = sorted(examples, key=lambda one: hashlib.sha256(one.problem_id.encode()).digest())
    wrong = [one for one in drawn if one.correct is False][:WRONG]
    return {"examples": (columns, list(map(_row, drawn[:EXAMPLES]))), "wrong": (columns, list(map(_row, wrong)))}


def _row(one: Example) -> list[Any]:
    scores = [" ".join(f"{score:.2f}" for score in scores) for scores in (one.orm, one.sorm, one.implicit)]
    return [
        *(_short(text) for text in (one.problem_id, one.question, one.answer, one.draft)),
        *(one.draft_correct, *scores, one.located_error, one.true_error),
        *(_short(one.global_refinement), one.global_correct, _short(one.local_refinement), one.local_correct),
        *(one.chosen, one.correct),
    ]
