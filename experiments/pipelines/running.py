"""Running a pipeline: a look at what is given before anything runs, then every stage as a process of its own."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.commands.config import Job
from experiments.commands.tracked import TrackedPipeline, resolved
from experiments.commands.yaml_files import ConfigError
from stages.artifacts import open_artifact
from stages.hub import is_hub
from stages.parents import ParentField, key_of, parent_fields, see
from stages.pipeline import PENDING, Node, NodeResult, StageRunner, run_pipeline
from stages.stage import Stage

if TYPE_CHECKING:
    from rich.console import Console

Checked = tuple[list[Node], dict[str, str]]  # the stages, and the paths that are given


def stage_program(stage: Stage) -> list[str]:
    """The command line of a stage's own command, without arguments."""
    return [sys.executable, "-m", f"experiments.{stage.name}"]


def check_nodes(args: Any, build: Callable[[Any], Checked], starts: dict[str, str]) -> Checked:
    """The stages that `build` makes of a pipeline's arguments, after a look at what is given: now, and not when a stage
    needs it in an hour. `starts` has the setting behind each node that is a policy to start from.

    Raises:
        ValueError: what is given does not exist, or is of another kind.
    """
    for one in parent_fields(args.given):
        if one.value is not None and not one.field.metadata["any_path"]:
            _check_given(one, one.value, f"given.{one.name}")
    nodes, given = build(args)
    for name, setting in starts.items():
        if (start := given.get(name)) and not is_hub(start) and not Path(start).exists():
            raise ConfigError(f"{setting}={start}: there is no such folder; a model of the hub is written hub:org/name")
    for node in nodes:
        waiting = dict.fromkeys(set(node.after) - given.keys(), PENDING)
        found = {one.name: one for one in parent_fields(node.build(given | waiting))}
        for one in found.values():
            for path in one.paths:
                if path != PENDING:
                    _check_given(one, path, f"{node.name}.{one.name}")
        _check_reference(found.get("implicit"), found.get("reference"))
    return nodes, given


def _check_given(one: ParentField, path: str, name: str) -> None:
    see(one, path, name)
    if one.field.name in ("orm", "sorm"):
        kind = open_artifact(path, thorough=False).manifest["args"].get("kind")
        if kind not in (None, one.field.name):
            raise ConfigError(f"{name}={path}: is a reward model of kind={kind}")


def _check_reference(implicit: ParentField | None, reference: ParentField | None) -> None:
    """See that an implicit reward model is read beside the policy that it was trained from, where both are given."""
    if implicit is None or reference is None or PENDING in (implicit.value, reference.value) or is_hub(reference.value):
        return
    wanted = open_artifact(implicit.value, thorough=False).manifest["parents"]["policy"]["key"]
    if (key := key_of(reference, reference.value)) != wanted:
        raise ConfigError(
            f"implicit={implicit.value} was trained from {wanted}, and reference={reference.value} is {key}: set "
            "given.reference"
        )


def run_nodes(job: Job, name: str, checked: Checked, console: Console) -> dict[str, NodeResult]:
    """Run the stages of a job of the pipeline `name`, the last of which is `report`; what is there already is found.
    Returns the artifact of each."""
    nodes, given = checked
    args = {node.name: resolved(job).of_stage(node.name) for node in nodes}  # too long a name is refused now

    def settings(stage: str) -> dict[str, Any]:
        return {"tracking": dataclasses.asdict(args[stage]), "launch": dataclasses.asdict(job.launch)}

    console.print(
        f"{len(nodes)} stages, {job.args.parallel} at once; artifacts in {job.run.artifacts}/", highlight=False
    )
    runner = StageRunner(job.run.artifacts, job.folder / "stages", stage_program, job.run.threads, settings, console)
    tracked, report = TrackedPipeline(job, name), None

    def run(node: Node, args: Any) -> NodeResult:
        result = runner(node, args)
        tracked.done(node, result, open_artifact(result.path, thorough=False))
        return result

    try:
        with runner:
            results = run_pipeline(nodes, given, run, job.args.parallel, runner.stop)
        report = open_artifact(results["report"].path, thorough=False)
        return results
    finally:
        tracked.end(report)


def result_of(job: Job, given: dict[str, str], results: dict[str, NodeResult]) -> dict[str, Any]:
    """What a pipeline's command returns."""
    paths = given | {name: str(result.path) for name, result in results.items()}
    found = [name for name, result in results.items() if result.reused]
    return {"report": str(job.folder / "report.md"), "artifacts": paths, "reused": found}
