"""95% intervals of what `rewards/validation.py` measures on held-out problems, by resampling the problems."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rewards.encode import LabelledSolution
from rewards.intervals import Tally, auroc_replicates, estimate, resample
from rewards.metrics import Threshold, first_error, harmonic_mean, pairwise_by_problem, threshold_at
from rewards.thresholds import first_wrong, is_final

RESAMPLES = 1000  # enough for an interval of two digits, at every evaluation


def held_out_intervals(
    solutions: Sequence[LabelledSolution], scores: Sequence[Sequence[float]], where: Threshold, when: float
) -> dict[str, tuple[float, float]]:
    """(low, high) of each measure by its name. What cannot be measured is left out, and what is the same in all
    resamples: of few problems that all went one way, that says nothing."""
    rows = {name: row for row, name in enumerate(dict.fromkeys(one.problem_id for one in solutions))}
    if len(rows) < 2:
        return {}
    counts = resample(len(rows), RESAMPLES)
    steps = [
        (rows[solution.problem_id], label > 0.5, score, score >= threshold_at(where, place))
        for solution, own in zip(solutions, scores, strict=True)
        for place, (label, score) in enumerate(zip(solution.labels, own, strict=True))
        if label is not None
    ]
    finals = [
        (rows[solution.problem_id], solution.labels[-1] > 0.5, own[-1], own[-1] >= when)
        for solution, own in zip(solutions, scores, strict=True)
        if is_final(solution)
    ]
    found = {}
    for items, hits, area in ((steps, "accuracy", "auroc"), (finals, "final_accuracy", "final_auroc")):
        if items:
            owners, labels, values, said = map(np.array, zip(*items, strict=True))
            found[hits] = Tally.of(owners, said == labels, len(rows)).replicates(counts)
            found[area] = auroc_replicates(counts, owners, labels, values)
    if finals:
        ids = list(rows)
        shares = pairwise_by_problem([ids[row] for row, *_ in finals], *zip(*(one[1:3] for one in finals), strict=True))
        found["pairwise_accuracy"] = Tally.of(
            [rows[name] for name in shares], list(shares.values()), len(rows)
        ).replicates(counts)
    found |= _first_errors(solutions, scores, where, rows, counts)
    ends = {name: estimate(0, replicates, 0) for name, replicates in found.items()}
    return {name: (one["low"], one["high"]) for name, one in ends.items() if one["low"] != one["high"]}


def _first_errors(
    solutions: Sequence[LabelledSolution],
    scores: Sequence[Sequence[float]],
    where: Threshold,
    rows: dict[str, int],
    counts: np.ndarray,
) -> dict[str, np.ndarray]:
    judged = []
    for solution, own in zip(solutions, scores, strict=True):
        known, wrong = first_wrong(solution.labels)
        if known:
            judged.append((rows[solution.problem_id], first_error(own, where) == wrong, wrong is None))
    if not judged:
        return {}
    owners, hits, right = map(np.array, zip(*judged, strict=True))
    with_and_without = [Tally.of(owners, hits, len(rows), among).replicates(counts) for among in (right, ~right)]
    every = Tally.of(owners, hits, len(rows)).replicates(counts)
    return {"first_error_accuracy": every, "first_error_f1": harmonic_mean(*with_and_without)}
