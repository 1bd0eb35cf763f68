"""`python -m experiments.glore`: the whole of GLoRe, from problems to a report (arXiv 2402.10963).

Runs the stages that follow from one config (`experiments/pipelines/glore.py`); what is already there is found, not run
again.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from experiments.commands.command import Command
from experiments.commands.config import Job
from experiments.commands.dry_run import pipeline_plan
from experiments.commands.yaml_files import ConfigError
from experiments.pipelines.glore import GloreArgs, glore_nodes
from stages.artifacts import open_artifact
from stages.hub import is_hub
from stages.parents import ParentField, parent_fields, see
from stages.pipeline import PENDING, Node, StageRunner, run_pipeline
from stages.stage import Stage


def stage_program(stage: Stage) -> list[str]:
    """The command line of a stage's own command, without arguments."""
    return [sys.executable, "-m", f"experiments.{stage.name}"]


def _checked_nodes(args: GloreArgs) -> tuple[list[Node], dict[str, str]]:
    """`glore_nodes`, after a look at what is given: now, and not when a stage needs it in an hour."""
    for one in parent_fields(args.given):
        if one.value is not None and not one.field.metadata["any_path"]:
            _check_given(one, one.value, f"given.{one.name}")
    nodes, given = glore_nodes(args)
    if (start := given.get("start", given.get("student"))) and not is_hub(start) and not Path(start).exists():
        field = "given.student" if args.given.student else "student.start"
        raise ConfigError(f"{field}={start}: there is no such folder; a model of the hub is written hub:org/name")
    for node in nodes:
        waiting = dict.fromkeys(set(node.after) - given.keys(), PENDING)
        for one in parent_fields(node.build(given | waiting)):
            for path in one.paths:
                if path != PENDING:
                    _check_given(one, path, f"{node.name}.{one.name}")
    return nodes, given


def _check_given(one: ParentField, path: str, name: str) -> None:
    see(one, path, name)
    if one.field.name in ("orm", "sorm"):
        kind = open_artifact(path, thorough=False).manifest["args"].get("kind")
        if kind not in (None, one.field.name):
            raise ConfigError(f"{name}={path}: is a reward model of kind={kind}")


def run_glore(job: Job) -> dict[str, Any]:
    """Run the pipeline, copy its report into the run's folder and print the main table."""
    from rich.console import Console

    from experiments.report.markdown import copy_report, print_main_table
    from stages.files import read_json

    nodes, given = _checked_nodes(job.args)
    console = Console()
    settings = {"tracking": dataclasses.asdict(job.tracking), "launch": dataclasses.asdict(job.launch)}
    console.print(
        f"{len(nodes)} stages, {job.args.parallel} at once; artifacts in {job.run.artifacts}/", highlight=False
    )
    runner = StageRunner(job.run.artifacts, job.folder / "stages", stage_program, job.run.threads, settings, console)
    with runner:
        results = run_pipeline(nodes, given, runner, job.args.parallel, runner.stop)
    reused = {name: result.reused for name, result in results.items()}
    copy_report(results["report"].path, job.folder, reused)
    print_main_table(read_json(job.folder / "report.json"), console)
    console.print(f"{job.folder / 'report.md'}, report.html, report.json and figures/ are written", highlight=False)
    paths = given | {name: str(result.path) for name, result in results.items()}
    found = [name for name, was_there in reused.items() if was_there]
    return {"report": str(job.folder / "report.md"), "artifacts": paths, "reused": found}


main = Command(
    "glore", GloreArgs, run_glore, relaunch=False, plan=lambda job: pipeline_plan(*_checked_nodes(job.args), job)
)  # its stages are launched, not it

if __name__ == "__main__":
    main()
