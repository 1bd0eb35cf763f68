"""`python -m experiments.lema`: the whole of LeMa, from problems to a report (arXiv 2310.20689).

Runs the stages that follow from one config (`experiments/pipelines/lema.py`); what is already there is found, not run
again. `python -m experiments.claims` makes one table of the runs of several seeds.
"""

from __future__ import annotations

import shutil
from typing import Any

from experiments.commands.command import Command
from experiments.commands.config import Job
from experiments.commands.dry_run import pipeline_plan
from experiments.pipelines.lema import LemaArgs, lema_nodes, start_settings
from experiments.pipelines.running import Checked, check_nodes, result_of, run_nodes
from experiments.report.lema import FILES, print_arms


def _checked(args: LemaArgs) -> Checked:
    return check_nodes(args, lema_nodes, start_settings(args))


def run_lema(job: Job) -> dict[str, Any]:
    """Run the pipeline, copy its report into the run's folder and print the table of the arms."""
    from rich.console import Console

    from stages.files import read_json

    nodes, given = _checked(job.args)
    console = Console()
    results = run_nodes(job, "lema", (nodes, given), console)
    for name in FILES:
        shutil.copy(results["report"].path / name, job.folder)
    print_arms(read_json(job.folder / "report.json"), console)
    console.print(f"{job.folder / 'report.md'} and report.json are written", highlight=False)
    return result_of(job, given, results)


main = Command(
    "lema", LemaArgs, run_lema, relaunch=False, plan=lambda job: pipeline_plan(*_checked(job.args), job)
)  # its stages are launched, not it

if __name__ == "__main__":
    main()
