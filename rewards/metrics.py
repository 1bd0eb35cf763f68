"""How well a reward model judges: pure functions of truths and scores, no intervals.

A step is judged right where its probability is at least the threshold; the first one below it is the first error. A
threshold is a number, or one for each position, the last of which stands for all that follow.
A measure that the data cannot give (no pairs, a single class, nothing at all) is None, never a number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Threshold = float | Sequence[float]


def auroc(labels: Sequence[bool], scores: Sequence[float]) -> float | None:
    """Chance that a right item scores above a wrong one, ties counting half; None with a single class.

    Raises:
        ValueError: lengths differ, a label is no boolean, or a score is not finite.
    """
    from scipy.stats import rankdata

    right, values = _arrays(labels, scores)
    positives, negatives = int(right.sum()), int((~right).sum())
    if not positives or not negatives:
        return None
    return float((rankdata(values)[right].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def pairwise_by_problem(
    problem_ids: Sequence[str], correct: Sequence[bool], scores: Sequence[float]
) -> dict[str, float]:
    """Share of (right, wrong) pairs of each problem that the scores order rightly, ties counting half.

    Problems without both a right and a wrong solution are left out.
    """
    right, values = _arrays(correct, scores)
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
    truth: Sequence[Sequence[bool]], probabilities: Sequence[Sequence[float]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The steps of all solutions end to end, but the last step of each, where the ORM was trained to be right.

    Returns label, probability, position from 1, and index of the solution: [[True, False, False], [True, True]] with
    [[.9, .4, .3], [.8, .2]] gives [True, False, True], [.9, .4, .8], [1, 2, 1] and [0, 0, 1].

    Raises:
        ValueError: a solution has not as many probabilities as truths.
    """
    steps = [
        (label, score, position, index)
        for index, solution in enumerate(zip(truth, probabilities, strict=True))
        for position, (label, score) in enumerate(list(zip(*solution, strict=True))[:-1], start=1)
    ]
    columns = list(zip(*steps, strict=True)) or [(), (), (), ()]
    labels, values, positions, owners = map(np.array, columns, (bool, float, int, int))
    return labels, values, positions, owners


def threshold_at(threshold: Threshold, place: int) -> float:
    """The threshold at a position (from 0)."""
    return threshold[min(place, len(threshold) - 1)] if isinstance(threshold, Sequence) else threshold


def show_threshold(threshold: Threshold) -> str:
    """A threshold in words; one for each position is shown as `0.1 0.2 0.5 by position`."""
    if isinstance(threshold, Sequence):
        return " ".join(f"{value:.3g}" for value in threshold) + " by position"
    return f"{threshold:.3g}"


def first_error(scores: Sequence[float], threshold: Threshold) -> int | None:
    """The first step (0-based) whose score is below `threshold`, or None.

    Raises:
        ValueError: a score up to there, or the threshold, is NaN, of which no comparison says anything.
    """
    for i, score in enumerate(scores):
        least = threshold_at(threshold, i)
        if math.isnan(score) or math.isnan(least):
            raise ValueError(f"step {i} has the score {score}, the threshold is {least}: not both are numbers")
        if score < least:
            return i
    return None


def harmonic_mean(a: Any, b: Any) -> Any:
    """Harmonic mean of two numbers or arrays from 0 to 1; 0 where both are 0."""
    total = np.asarray(a, dtype=float) + b
    mean = np.divide(2 * np.asarray(a) * b, total, out=np.zeros_like(total), where=total != 0)
    return float(mean) if mean.ndim == 0 else mean


def brier(labels: Sequence[bool], probabilities: Sequence[float]) -> float | None:
    """Mean squared distance of probability and outcome: 0 is perfect, 0.25 is what a constant 0.5 gets."""
    right, values = _arrays(labels, probabilities, shares=True)
    return float(((values - right) ** 2).mean()) if len(right) else None


def reliability_bins(labels: Sequence[bool], probabilities: Sequence[float], bins: int = 10) -> list[dict[str, Any]]:
    """Equal-width bins of probability that hold anything: low, high, n, mean predicted, share observed right.

    A bin includes its lower edge; the last also its upper edge.
    """
    right, values = _arrays(labels, probabilities, shares=True)
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
    """The threshold with the highest accuracy; of equals the one nearest 0.5.

    With a single class, or nothing, every threshold is as good: 0.5. Choose it on validation problems, never on
    those that are reported.
    """
    right, values = _arrays(labels, probabilities)
    if right.all() or not right.any():
        return 0.5
    levels, place = np.unique(values, return_inverse=True)
    right_at, wrong_at = np.bincount(place, right), np.bincount(place, ~right)
    # one below all of them, between each two, and above all of them
    thresholds = np.concatenate([[min(0.0, levels[0])], middles(levels), [np.nextafter(levels[-1], math.inf)]])
    wrong_below = np.concatenate([[0], np.cumsum(wrong_at)])
    right_above = right_at.sum() - np.concatenate([[0], np.cumsum(right_at)])
    return pick_threshold(thresholds, (wrong_below + right_above) / len(right))


def middles(levels: np.ndarray) -> np.ndarray:
    """A threshold between each two neighbours of ascending scores: above the lower one, at most the upper one."""
    halves = (levels[:-1] + levels[1:]) / 2
    return np.where(halves > levels[:-1], halves, levels[1:])  # the half of two neighbouring floats is one of them


def pick_threshold(thresholds: np.ndarray, worth: np.ndarray) -> float:
    """The threshold that is worth most; of equals the one nearest 0.5."""
    best = np.flatnonzero(np.isclose(worth, worth.max(), rtol=0, atol=1e-12))
    return float(thresholds[best[np.argmin(np.abs(thresholds[best] - 0.5))]])


def _arrays(labels: Sequence[bool], scores: Sequence[float], shares: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores as arrays, checked; with `shares`, scores must be from 0 to 1."""
    for index, label in enumerate(labels):
        if not isinstance(label, (bool, np.bool_)):
            raise ValueError(f"label {index} must be True or False, not {label!r}")
    right, values = np.asarray(labels, dtype=bool), np.asarray(scores, dtype=float)
    if len(right) != len(values):
        raise ValueError(f"lengths differ: {len(right)} and {len(values)}")
    for index in np.flatnonzero(~np.isfinite(values))[:1]:
        raise ValueError(f"score {index} is {values[index]}, not a finite number")
    for index in np.flatnonzero((values < 0) | (values > 1))[:1] if shares else ():
        raise ValueError(f"probability {index} is {values[index]}, not between 0 and 1")
    return right, values
