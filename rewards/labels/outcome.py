"""Rollouts into ORM labels: the outcome of the one sampled solution is the label of its every step (GLoRe sec. 3.1)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import TypeVar

from rewards.encode import LabelledSolution
from rollouts.records import Rollout

T = TypeVar("T")
BALANCES = ("none", "total", "problem")
POSITIONS = ("all_steps", "last")


def label_outcomes(rollouts: Sequence[Rollout], positions: str) -> list[LabelledSolution]:
    """Label the steps of every graded rollout with its outcome: all of them, or the last only.

    Rollouts that the grader could not decide, and those without steps, are left out.
    """
    labelled = []
    for rollout in rollouts:
        if rollout.correct is None or not rollout.steps:
            continue
        label = float(rollout.correct)
        hidden = 0 if positions == "all_steps" else len(rollout.steps) - 1
        labels = (None,) * hidden + (label,) * (len(rollout.steps) - hidden)
        labelled.append(LabelledSolution(rollout.problem_id, rollout.steps, labels))
    return labelled


def balance_outcomes(rollouts: Sequence[Rollout], balance: str, seed: int) -> list[Rollout]:
    """Drop rollouts until right and wrong ones are equally many, in total or within every problem.

    With `problem`, a model cannot learn which problems are hard instead of which solutions are right. The order of the
    rollouts is kept; those that would get no label are left out.
    """
    if balance == "none":
        return list(rollouts)
    groups: dict[str, tuple[list[int], list[int]]] = {}
    for i, rollout in enumerate(rollouts):
        if rollout.correct is not None and rollout.steps:
            group = rollout.problem_id if balance == "problem" else ""
            groups.setdefault(group, ([], []))[not rollout.correct].append(i)
    return [rollouts[i] for i in sorted(balance_sides(groups.values(), seed))]


def balance_sides(groups: Iterable[Sequence[list[T]]], seed: int) -> list[T]:
    """As many items of each side of every group as its smaller side has, drawn at random: of [[1, 2, 3], [7]] it may be
    2 and 7."""
    rng = random.Random(f"balance/{seed}")
    return [item for sides in groups for side in sides for item in rng.sample(side, min(map(len, sides)))]
