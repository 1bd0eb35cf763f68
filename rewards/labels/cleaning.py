"""Rules that clean step labels: pure functions, each with its own switch (GLoRe sec. 3.2).

Consistency, the second rule, is applied where continuations are counted (`rewards/labels/prefixes.py`). Balance is
applied when a model is trained, since it drops labels that other users of the same labels want.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rewards.encode import LabelledSolution
from rewards.labels.outcome import balance_sides
from rewards.labels.prefixes import Prefix
from rollouts.records import StepLabels


def propagate_positives(labels: Sequence[bool | None]) -> tuple[bool | None, ...]:
    """If a prefix is positive, every shorter one is (rule 1)."""
    last = max((i for i, label in enumerate(labels) if label), default=-1)
    return tuple(True if i < last else label for i, label in enumerate(labels))


def drop_doubtful(row: StepLabels, least_confidence: float) -> StepLabels:
    """The row without the labels that are less likely than this to be right; those of unknown confidence stay."""
    if not row.confidences:
        return row
    kept = tuple(
        None if confidence is not None and confidence < least_confidence else label
        for label, confidence in zip(row.labels, row.confidences, strict=True)
    )
    return replace(row, labels=kept)


def changed_labels(before: Sequence[bool | None], after: Sequence[bool | None]) -> int:
    """How many labels of one solution a rule has changed or removed."""
    return sum(a != b for a, b in zip(before, after, strict=True))


def balance_lengths(labels: Sequence[StepLabels], seed: int, soft: bool = False) -> list[LabelledSolution]:
    """As many positive as negative labels at each prefix length (rule 3), so that a model cannot learn that early
    steps are right and late ones wrong. Labels too many become None; solutions that lose all are dropped."""
    places: dict[int, tuple[list[tuple[int, int]], ...]] = {}  # by length: (row, step) of positive and of negative ones
    for row, item in enumerate(labels):
        for i, label in enumerate(item.labels):
            if label is not None:
                places.setdefault(i, ([], []))[not label].append((row, i))
    kept = set(balance_sides((places[length] for length in sorted(places)), seed))
    return to_solutions(labels, kept, soft)


def prefix_values(labels: Sequence[StepLabels]) -> dict[Prefix, float]:
    """The expected share of right continuations of each prefix that a row has an estimate for; the mean where several
    rows do, since an estimate also depends on what else is known of its solution."""
    known: dict[Prefix, list[float]] = {}
    for item in labels:
        for i, value in enumerate(item.values):
            if value is not None:
                known.setdefault((item.problem_id, item.steps[: i + 1]), []).append(value)
    return {prefix: sum(own) / len(own) for prefix, own in known.items()}


def to_solutions(
    labels: Sequence[StepLabels], kept: set[tuple[int, int]] | None = None, soft: bool = False
) -> list[LabelledSolution]:
    """Step labels as a reward model's training rows; `kept` names the (row, step) places that keep their label.

    With `soft`, a target is not the label but the expected share of right continuations of its prefix, where any row
    has one (`prefix_values`): the same prefix has the same target in right and in wrong solutions.
    """
    values = prefix_values(labels) if soft else {}
    solutions = []
    for row, item in enumerate(labels):
        targets: list[float | None] = []
        for i, label in enumerate(item.labels):
            dropped = label is None or (kept is not None and (row, i) not in kept)
            expected = values.get((item.problem_id, item.steps[: i + 1])) if soft and not dropped else None
            targets.append(None if dropped else float(label) if expected is None else expected)
        if any(target is not None for target in targets):
            solutions.append(LabelledSolution(item.problem_id, item.steps, tuple(targets)))
    return solutions
