"""`python -m experiments.glore`: the whole of GLoRe, from problems to a report (arXiv 2402.10963).

Runs the stages that follow from one config (`experiments/pipelines/glore.py`); what is already there is found, not run
again.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from experiments.commands.command import command
from experiments.commands.config import Job
from experiments.pipelines.glore import GivenArgs, GloreArgs, glore_nodes
from stages.artifacts import open_artifact
from stages.pipeline import Processes, run_pipeline


def run_glore(job: Job) -> dict[str, Any]:
    """Run the pipeline, copy its report into the run's folder and print the main table."""
    from rich.console import Console

    from experiments.report.markdown import print_main_table
    from stages.files import read_json

    for one in dataclasses.fields(GivenArgs):
        path, metadata = getattr(job.args.given, one.name), one.metadata
        if path is not None and not metadata["plain"]:
            open_artifact(path, *metadata["parent"], thorough=False)  # now, and not when a stage needs it in an hour
    nodes, given = glore_nodes(job.args)
    console = Console()
    settings = {"tracking": dataclasses.asdict(job.tracking), "launch": dataclasses.asdict(job.launch)}
    console.print(
        f"{len(nodes)} stages, {job.args.parallel} at once; artifacts in {job.run.artifacts}/", highlight=False
    )
    with Processes(job.run.artifacts, job.folder / "stages", job.run.threads, settings, console) as processes:
        paths = run_pipeline(nodes, given, processes, job.args.parallel, processes.stop)
    report = Path(paths["report"])
    for name in ("report.md", "report.json"):
        shutil.copyfile(report / name, job.folder / name)
    shutil.copytree(report / "figures", job.folder / "figures", dirs_exist_ok=True)
    print_main_table(read_json(job.folder / "report.json"), console)
    console.print(f"{job.folder / 'report.md'}, report.json and figures/ are written", highlight=False)
    return {"report": str(job.folder / "report.md"), "artifacts": paths}


main = command("glore", GloreArgs, run_glore, relaunch=False)  # its stages do

if __name__ == "__main__":
    main()
