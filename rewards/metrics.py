"""How well a reward model judges: pure functions of truths and scores, no intervals.

A step is judged right where its probability is at least the threshold; the first one below it is the first error.
A measure that the data cannot give (no pairs, a single class, nothing at all) is None, never a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Truths = Sequence[Sequence[bool]]
Probabilities = Sequence[Sequence[float]]


def auroc(labels: Sequence[bool], scores: Sequence[float]) -> float | None:
    """Chance that a right item scores above a wrong one, ties counting half; None with a single class.

    Raises:
        ValueError: lengths differ, a label is no boolean, or a score is not finite.
    """
    right, values = _labels(labels), _finite(scores)
    _same_length(right, values)
    positives, negatives = int(right.sum()), int((~right).sum())
    if not positives or not negatives:
        return None
    _, level = np.unique(values, return_inverse=True)
    right_at, wrong_at = np.bincount(level, right), np.bincount(level, ~right)
    wrong_below = np.cumsum(wrong_at) - wrong_at
    return float((right_at * (wrong_below + wrong_at / 2)).sum() / (positives * negatives))


def pairwise_by_problem(
    problem_ids: Sequence[str], correct: Sequence[bool], scores: Sequence[float]
) -> dict[str, float]:
    """Share of (right, wrong) pairs of each problem that the scores order rightly, ties counting half.

    Problems without both a right and a wrong solution are left out.
    """
    right, values = _labels(correct), _finite(scores)
    _same_length(right, values)
    _same_length(problem_ids, values)
    groups: dict[str, tuple[list[float], list[float]]] = {}
    for problem_id, is_right, score in zip(problem_ids, right, values, strict=True):
        groups.setdefault(problem_id, ([], []))[0 if is_right else 1].append(score)
    shares = {}
    for problem_id, (good, bad) in groups.items():
        if good and bad:
            gaps = np.subtract.outer(good, bad)
            shares[problem_id] = float(((gaps > 0) + (gaps == 0) / 2).mean())
    return shares


def pairwise_accuracy(problem_ids: Sequence[str], correct: Sequence[bool], scores: Sequence[float]) -> float | None:
    """Mean over problems of `pairwise_by_problem`: every problem weighs the same, however many pairs it has.

    Unlike AUROC, which problem is hard does not help here: only solutions of the same problem are compared.
    """
    shares = pairwise_by_problem(problem_ids, correct, scores)
    return float(np.mean(list(shares.values()))) if shares else None


def flatten_steps(
    truth: Truths, probabilities: Probabilities, intermediate_only: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Lay the steps of all solutions end to end: label, probability, position from 1, and index of the solution.

    `intermediate_only` leaves out the last step of each solution, where the ORM was trained to be right.

    Raises:
        ValueError: a solution has not as many probabilities as truths; the message gives its index.
    """
    if len(truth) != len(probabilities):
        raise ValueError(f"{len(truth)} solutions with truths, {len(probabilities)} with probabilities")
    labels, values, positions, owners = [], [], [], []
    for index, (right, given) in enumerate(zip(truth, probabilities, strict=True)):
        if len(right) != len(given):
            raise ValueError(f"solution {index} has {len(right)} steps with truths, {len(given)} with probabilities")
        kept = max(0, len(right) - 1) if intermediate_only else len(right)
        labels.extend(right[:kept])
        values.extend(given[:kept])
        positions.extend(range(1, kept + 1))
        owners.extend([index] * kept)
    return _labels(labels), _finite(values), np.array(positions, dtype=int), np.array(owners, dtype=int)


def balanced_step_accuracy(
    truth: Truths, probabilities: Probabilities, threshold: float, intermediate_only: bool = True
) -> float | None:
    """Mean of the accuracies on right and on wrong steps; None where either kind is absent."""
    labels, values, _, _ = flatten_steps(truth, probabilities, intermediate_only)
    if labels.all() or not labels.any():
        return None
    judged = values >= threshold
    return float((judged[labels].mean() + (~judged[~labels]).mean()) / 2)


def first_error_accuracy(truth: Sequence[int | None], predicted: Sequence[int | None]) -> float | None:
    """Share of solutions whose first wrong step (None: no step is wrong) is named exactly."""
    _same_length(truth, predicted)
    return float(np.mean([a == b for a, b in zip(truth, predicted, strict=True)])) if truth else None


def first_error_f1(truth: Sequence[int | None], predicted: Sequence[int | None]) -> float | None:
    """Harmonic mean of the accuracies on solutions with and without an error (the protocol of ProcessBench).

    None where either kind of solution is absent.
    """
    _same_length(truth, predicted)
    wrong = [a == b for a, b in zip(truth, predicted, strict=True) if a is not None]
    right = [b is None for a, b in zip(truth, predicted, strict=True) if a is None]
    if not wrong or not right:
        return None
    return harmonic_mean(float(np.mean(wrong)), float(np.mean(right)))


def harmonic_mean(a: Any, b: Any) -> Any:
    """Harmonic mean of two numbers or arrays from 0 to 1; 0 where both are 0."""
    total = np.asarray(a, dtype=float) + b
    mean = np.divide(2 * np.asarray(a) * b, total, out=np.zeros_like(total), where=total != 0)
    return float(mean) if mean.ndim == 0 else mean


def brier(labels: Sequence[bool], probabilities: Sequence[float]) -> float | None:
    """Mean squared distance of probability and outcome: 0 is perfect, 0.25 is what a constant 0.5 gets."""
    right, values = _labels(labels), _shares(probabilities)
    _same_length(right, values)
    return float(((values - right) ** 2).mean()) if len(right) else None


def reliability_bins(labels: Sequence[bool], probabilities: Sequence[float], bins: int = 10) -> list[dict[str, Any]]:
    """Equal-width bins of probability that hold anything: low, high, n, mean predicted, share observed right.

    A bin includes its lower edge; the last also its upper edge.
    """
    right, values = _labels(labels), _shares(probabilities)
    _same_length(right, values)
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, bins - 1)
    return [
        {
            "low": float(edges[at]),
            "high": float(edges[at + 1]),
            "n": int((place == at).sum()),
            "predicted": float(values[place == at].mean()),
            "observed": float(right[place == at].mean()),
        }
        for at in np.unique(place)
    ]


def expected_calibration_error(labels: Sequence[bool], probabilities: Sequence[float], bins: int = 10) -> float | None:
    """Mean distance of predicted and observed over the bins of `reliability_bins`, weighted by their size."""
    rows = reliability_bins(labels, probabilities, bins)
    if not rows:
        return None
    return sum(row["n"] * abs(row["predicted"] - row["observed"]) for row in rows) / sum(row["n"] for row in rows)


def best_threshold(labels: Sequence[bool], probabilities: Sequence[float]) -> float:
    """The threshold with the highest balanced accuracy over steps; of equals the one nearest 0.5.

    With a single class, or nothing, every threshold is as good: 0.5. Choose it on validation problems, never on
    those that are reported.
    """
    right, values = _labels(labels), _finite(probabilities)
    _same_length(right, values)
    if right.all() or not right.any():
        return 0.5
    levels, place = np.unique(values, return_inverse=True)
    right_at, wrong_at = np.bincount(place, right), np.bincount(place, ~right)
    middles = (levels[:-1] + levels[1:]) / 2
    # between two neighbouring floats the middle rounds to the lower one, which must stay below the threshold
    thresholds = np.concatenate([[min(0.0, levels[0])], np.where(middles > levels[:-1], middles, levels[1:])])
    wrong_below = np.cumsum(wrong_at) - wrong_at
    right_above = right_at.sum() - (np.cumsum(right_at) - right_at)
    score = wrong_below / wrong_at.sum() + right_above / right_at.sum()
    best = np.flatnonzero(np.isclose(score, score.max(), rtol=0, atol=1e-12))
    return float(thresholds[best[np.argmin(np.abs(thresholds[best] - 0.5))]])


def _labels(labels: Sequence[bool]) -> np.ndarray:
    for index, label in enumerate(labels):
        if not isinstance(label, (bool, np.bool_)):
            raise ValueError(f"label {index} must be True or False, not {label!r}")
    return np.asarray(labels, dtype=bool)


def _finite(scores: Sequence[float]) -> np.ndarray:
    values = np.asarray(scores, dtype=float)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(f"score {bad[0]} is {values[bad[0]]}, not a finite number")
    return values


def _shares(probabilities: Sequence[float]) -> np.ndarray:
    values = _finite(probabilities)
    bad = np.flatnonzero((values < 0) | (values > 1))
    if len(bad):
        raise ValueError(f"probability {bad[0]} is {values[bad[0]]}, not between 0 and 1")
    return values


def _same_length(a: Sequence[Any], b: Sequence[Any]) -> None:
    if len(a) != len(b):
        raise ValueError(f"lengths differ: {len(a)} and {len(b)}")
