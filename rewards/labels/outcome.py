"""Graded solutions into ORM labels: the outcome of the one sampled solution is the label of its every step (GLoRe
sec. 3.1). They are a student's rollouts, or candidates of `revise`: what a judge is to rank, it should have seen."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rewards.encode import LabelledSolution
from rollouts.records import Candidate, Rollout

T = TypeVar("T")
BALANCES = ("none", "total", "problem")
POSITIONS = ("all_steps", "last")


@dataclass(frozen=True, slots=True)
class Outcome:
    """A solution that was graded (`correct` None: it could not be); one that is `truncated` has no end."""

    problem_id: str
    steps: tuple[str, ...]
    correct: bool | None
    truncated: bool = False


def from_rollout(rollout: Rollout) -> Outcome:
    """The outcome of a rollout."""
    return Outcome(rollout.problem_id, rollout.steps, rollout.correct, rollout.finish_reason == "length")


def from_candidate(candidate: Candidate, max_tokens: int) -> Outcome:
    """The outcome of a candidate. Why it ended is not recorded: with `max_tokens` of its own it counts as truncated."""
    truncated = candidate.completion_tokens >= max_tokens
    return Outcome(candidate.problem_id, candidate.steps, candidate.correct, truncated)


def drop_unusable(outcomes: Sequence[Outcome]) -> tuple[list[Outcome], dict[str, int]]:
    """The outcomes that say something of a whole solution, and how many are left out: truncated ones, which are wrong
    only since they were cut, and those without a grade or a step."""
    whole = [one for one in outcomes if not one.truncated]
    kept = [one for one in whole if one.correct is not None and one.steps]
    return kept, {"truncated": len(outcomes) - len(whole), "ungraded": len(whole) - len(kept)}


def drop_duplicates(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The first of the outcomes of each problem that have the same steps."""
    kept: dict[tuple[str, tuple[str, ...]], Outcome] = {}
    for one in outcomes:
        kept.setdefault((one.problem_id, one.steps), one)
    return list(kept.values())


def label_outcomes(outcomes: Sequence[Outcome], positions: str) -> list[LabelledSolution]:
    """Label the steps of graded solutions with their outcome: all of them, or the last only."""
    labelled = []
    for one in outcomes:
        hidden = 0 if positions == "all_steps" else len(one.steps) - 1
        labels = (None,) * hidden + (float(one.correct),) * (len(one.steps) - hidden)
        labelled.append(LabelledSolution(one.problem_id, one.steps, labels))
    return labelled


def balance_outcomes(outcomes: Sequence[Outcome], balance: str, seed: int) -> list[Outcome]:
    """Drop outcomes until right and wrong ones are equally many, in total or within every problem.

    With `problem`, a model cannot learn which problems are hard instead of which solutions are right. The order is
    kept.
    """
    if balance == "none":
        return list(outcomes)
    groups: dict[str, tuple[list[int], list[int]]] = {}
    for i, one in enumerate(outcomes):
        group = one.problem_id if balance == "problem" else ""
        groups.setdefault(group, ([], []))[not one.correct].append(i)
    return [outcomes[i] for i in sorted(balance_sides(groups.values(), seed))]


def balance_sides(groups: Iterable[Sequence[list[T]]], seed: int) -> list[T]:
    """As many items of each side of every group as its smaller side has, drawn at random: of [[1, 2, 3], [7]] it may be
    2 and 7."""
    rng = random.Random(f"balance/{seed}")
    return [item for sides in groups for side in sides for item in rng.sample(side, min(map(len, sides)))]
