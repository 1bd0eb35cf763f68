"""What each stage of a pipeline samples, trains on and reads, in tokens, from its arguments and what those before it
make. Nothing is run.

Left out: what it costs (`experiments/planning/costs.py`).
"""

from __future__ import annotations

from typing import Any

from experiments.planning import sampled, trained
from experiments.planning.args import PlanArgs
from experiments.planning.known import Planner, Work
from stages.pipeline import Node


def _nothing(planner: Planner, args: Any, name: str) -> Work:
    """A stage that takes seconds."""
    return Work(name, args)


STAGES = {
    "sample": sampled.sample_work,
    "label_steps": sampled.label_work,
    "corrupt_solutions": sampled.corrupt_work,
    "build_pairs": trained.pairs_work,
    "train_policy": trained.train_policy_work,
    "train_reward": trained.train_reward_work,
    "train_implicit": trained.train_implicit_work,
    "revise": sampled.revise_work,
    "beam_search": sampled.beam_work,
    "refine_until": sampled.until_work,
    "rerank": sampled.rerank_work,
    "collect_mistakes": sampled.mistakes_work,
    "correct": sampled.correct_work,
    "evolve": sampled.evolve_work,
    "report": _nothing,
    "lema_report": _nothing,
}


def plan_works(plan: PlanArgs, nodes: list[Node], given: dict[str, str]) -> list[Work]:
    """The work of each stage.

    Raises:
        ValueError: a stage is of a kind that cannot be planned, or nothing is known of what is given, or of the length
            of solutions.
    """
    planner, paths = Planner(plan), dict(given) | {node.name: f"({node.name})" for node in nodes}
    works: list[Work] = []
    for node in nodes:
        args = node.build(paths)
        same = next((one for one in works if one.args == args), None)
        if same is not None:  # one artifact: it is made once, such as the student of the last round
            paths[node.name] = paths[same.name]
            works.append(Work(node.name, args))
        elif node.stage.name in STAGES:
            works.append(STAGES[node.stage.name](planner, args, node.name))
        else:
            raise ValueError(f"{node.name}: the plan does not know what a stage {node.stage.name} does")
    return works
