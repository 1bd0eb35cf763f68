"""`python -m experiments.bench.plan_times SETTING=VALUE …`: a plan's seconds beside those of a run that is finished.

Three stages of the run say how fast its machine samples, trains and scores; the plan then says how long the others take
at that speed. By default the run is that of `make demo`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from experiments.plan import make_plan
from experiments.planning.args import PlanArgs
from experiments.planning.costs import Cost, cost_of
from stages.launch import LaunchArgs
from stages.markdown import table

MEASURED = {"sampled_per_second": "rollouts", "trained_per_second": "global_refiner", "scored_per_second": "rerank"}


def measured_speed(plan: PlanArgs, costs: list[Cost], made: dict[str, dict[str, Any]]) -> PlanArgs:
    """The plan with the speed of this run: tokens planned for a stage over the seconds that it took."""
    works = {cost.work.name: cost.work for cost in costs}
    speeds = {}
    for name, stage in MEASURED.items():
        if stage not in made:
            raise ValueError(f"{stage} is not made: run the pipeline first")
        work = works[stage]
        tokens = {"rollouts": work.sampled, "global_refiner": work.computed, "rerank": work.scored}[stage]
        speeds[name] = tokens / made[stage]["seconds"]
    return replace(plan, load_seconds=0.0, **speeds)


def compare(plan: PlanArgs, costs: list[Cost], made: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Stage, seconds planned, seconds taken, ratio; the stages that say how fast the machine is are left out."""
    plan, rows = measured_speed(plan, costs, made), []
    planned = taken = 0.0
    for work in (cost.work for cost in costs if cost.accelerators and cost.work.name in made):
        if work.name not in MEASURED.values():
            seconds, real = 3600 * cost_of(work, plan, LaunchArgs()).hours, made[work.name]["seconds"]
            planned, taken = planned + seconds, taken + real
            rows.append([work.name, f"{seconds:.0f}", f"{real:.0f}", f"{seconds / real:.2f}"])
    return [*rows, ["all", f"{planned:.0f}", f"{taken:.0f}", f"{planned / taken:.2f}"]]


def main(words: Sequence[str]) -> None:
    """Print the table."""
    plan, _, costs, made = make_plan(list(words) or ["experiment=demo", "plan.accuracy=0.4"])
    print(table(["stage", "planned s", "taken s", "ratio"], compare(plan, costs, made)))


if __name__ == "__main__":
    main(sys.argv[1:])
