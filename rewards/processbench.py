"""ProcessBench's protocol: is the first wrong step of a solution named, or that there is none? (arXiv 2412.06559)

The score is the harmonic mean (F1) of the accuracies on solutions with an error and on those without. A threshold is
given, or chosen on one subset, which is then no longer a test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rewards.intervals import RESAMPLES, Estimate, Tally, join_ratios, resample
from rewards.metrics import Threshold, first_error, harmonic_mean, middles, pick_threshold


class ProtocolError(ValueError):
    """Solutions or scores of which the protocol can make nothing. The message says why."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A solution's first wrong step (`truth`, from 0; None: all are right) and a model's probability for each step.

    Raises:
        ProtocolError: a score is not a number from 0 to 1, or `truth` names no step.
    """

    id: str
    question: str
    truth: int | None
    scores: tuple[float, ...]

    def __post_init__(self) -> None:
        for i, score in enumerate(self.scores):
            if not 0 <= score <= 1:  # NaN is not either
                raise ProtocolError(f"the score of step {i} of {self.id} is {score}, not a probability")
        if self.truth is not None and not 0 <= self.truth < len(self.scores):
            raise ProtocolError(f"step {self.truth} of {self.id} is wrong, but there are {len(self.scores)} scores")


def find_hits(judged: Sequence[Judged], threshold: Threshold) -> list[bool]:
    """Whether the first score below the threshold is the first wrong step, of each solution."""
    return [first_error(one.scores, threshold) == one.truth for one in judged]


def measure_f1(
    judged: Sequence[Judged], threshold: Threshold, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[dict[str, Estimate], np.ndarray]:
    """Accuracy on solutions with an error (`error`) and on those without (`correct`), and `f1`, their harmonic mean,
    with 95% intervals; and F1 in each resample, (resamples,). All solutions of a question are drawn together.

    Raises:
        ProtocolError: there is no solution with, or none without an error.
    """
    _check_both(judged)
    questions = {question: i for i, question in enumerate(dict.fromkeys(one.question for one in judged))}
    owners = [questions[one.question] for one in judged]
    hits, wrong = find_hits(judged, threshold), np.array([one.truth is not None for one in judged])
    counts = resample(len(questions), resamples, seed)
    error, correct = (Tally.of(owners, hits, len(questions), kind) for kind in (wrong, ~wrong))
    f1, spread = join_ratios(counts, error, correct, harmonic_mean, len(judged))
    return {"error": error.estimate(counts), "correct": correct.estimate(counts), "f1": f1}, spread


def choose_threshold(judged: Sequence[Judged]) -> float:
    """The threshold of highest F1 on these solutions; of equals the one nearest 0.5. None is better.

    A solution is a hit for every threshold above the score of its first wrong step and up to the lowest score before
    it, so that F1 changes at these scores only.

    Raises:
        ProtocolError: there is no solution with, or none without an error.
    """
    _check_both(judged)
    ranges = np.array([_hit_range(one) for one in judged])
    wrong = np.array([one.truth is not None for one in judged])
    edges = np.unique(ranges[np.isfinite(ranges)])
    thresholds = np.concatenate([edges[:1], middles(edges), [np.nextafter(edges[-1], math.inf)]])
    shares = []
    for kind in (wrong, ~wrong):
        low, high = ranges[kind & (ranges[:, 0] < ranges[:, 1])].T
        hits = np.searchsorted(np.sort(low), thresholds) - np.searchsorted(np.sort(high), thresholds)
        shares.append(hits / kind.sum())
    return pick_threshold(thresholds, harmonic_mean(*shares))


def _hit_range(one: Judged) -> tuple[float, float]:
    """The thresholds for which a solution is a hit: above the first number, up to the second."""
    if one.truth is None:
        return -math.inf, min(one.scores, default=math.inf)
    return one.scores[one.truth], min(one.scores[: one.truth], default=math.inf)


def _check_both(judged: Sequence[Judged]) -> None:
    wrong = sum(one.truth is not None for one in judged)
    if not 0 < wrong < len(judged):
        raise ProtocolError(f"F1 needs solutions with and without an error: {wrong} of {len(judged)} have one")
