"""`python -m experiments.glore`: the whole of GLoRe, from problems to a report (arXiv 2402.10963).

Runs the stages that follow from one config (`experiments/pipelines/glore.py`); what is already there is found, not run
again.
"""

from __future__ import annotations

from typing import Any

from experiments.commands.command import Command
from experiments.commands.config import Job
from experiments.commands.dry_run import pipeline_plan
from experiments.pipelines.glore import GloreArgs, glore_nodes
from experiments.pipelines.running import Checked, check_nodes, result_of, run_nodes


def _checked(args: GloreArgs) -> Checked:
    student = "given.student" if args.given.student else "student.start"
    starts = {"start": student, "student": student, "reward_start": "given.reward_start"}
    return check_nodes(args, glore_nodes, starts)


def run_glore(job: Job) -> dict[str, Any]:
    """Run the pipeline, copy its report into the run's folder and print the main table."""
    from rich.console import Console

    from experiments.report.markdown import copy_report, print_main_table
    from stages.files import read_json

    nodes, given = _checked(job.args)
    console = Console()
    results = run_nodes(job, "glore", (nodes, given), console)
    copy_report(results["report"].path, job.folder, {name: result.reused for name, result in results.items()})
    print_main_table(read_json(job.folder / "report.json"), console)
    console.print(f"{job.folder / 'report.md'}, report.html, report.json and figures/ are written", highlight=False)
    return result_of(job, given, results)


main = Command(
    "glore", GloreArgs, run_glore, relaunch=False, plan=lambda job: pipeline_plan(*_checked(job.args), job)
)  # its stages are launched, not it

if __name__ == "__main__":
    main()
