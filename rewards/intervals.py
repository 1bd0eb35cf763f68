"""95% intervals by resampling problems, and tests of two arms on the same problems.

Every statistic is a ratio of sums over problems, so that all steps or solutions of a problem are drawn together. All
of them see the same resamples, so that a difference of two is paired. An estimate is a dict of value, low, high and n,
or None where there was nothing to measure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Estimate = dict[str, Any]
RESAMPLES = 10_000
CHUNK = 500  # resamples at a time: bounds memory


def resample(problems: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each problem is drawn in each resample: (resamples, problems) of uint8.

    With 3 problems a row such as [2, 0, 1] means: the first was drawn twice, the second never, the third once.
    """
    if problems < 1:
        raise ValueError(f"no problems to resample: {problems}")
    rng = np.random.default_rng(seed)
    counts = np.empty((resamples, problems), dtype=np.uint8)
    for start in range(0, resamples, CHUNK):
        rows = min(CHUNK, resamples - start)
        drawn = rng.integers(0, problems, (rows, problems)) + np.arange(rows)[:, None] * problems
        counts[start : start + rows] = np.bincount(drawn.ravel(), minlength=rows * problems).reshape(rows, problems)
    return counts


def auroc_replicates(counts: np.ndarray, owners: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """AUROC in each resample, (resamples,); `owners[i]` is the problem of item i. NaN with a single class."""
    order = np.argsort(scores, kind="stable")
    owners, right = owners[order], labels[order].astype(float)
    levels = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])
    found = []
    for start in range(0, len(counts), CHUNK // 5):
        weights = counts[start : start + CHUNK // 5][:, owners].astype(float)
        right_at = np.add.reduceat(weights * right, levels, axis=1)
        wrong_at = np.add.reduceat(weights * (1 - right), levels, axis=1)
        wins = (right_at * (np.cumsum(wrong_at, axis=1) - wrong_at / 2)).sum(axis=1)
        pairs = right_at.sum(axis=1) * wrong_at.sum(axis=1)
        found.append(np.divide(wins, pairs, out=np.full(len(wins), np.nan), where=pairs != 0))
    return np.concatenate(found)


def estimate(value: float, replicates: np.ndarray, n: int) -> Estimate:
    """The value with the 2.5 and 97.5 percentiles of its replicates (those that could be measured)."""
    measured = replicates[~np.isnan(replicates)]
    if not len(measured):
        return {"value": float(value), "low": None, "high": None, "n": int(n)}
    low, high = np.percentile(measured, [2.5, 97.5])
    return {"value": float(value), "low": float(low), "high": float(high), "n": int(n)}


@dataclass
class Tally:
    """A ratio of sums that can be resampled, both by problem, (problems,).

    Three items of the problems 0, 0 and 2, of which the second is no hit, are [1, 0, 1] of [2, 0, 1].
    """

    numerators: np.ndarray
    denominators: np.ndarray

    @classmethod
    def of(cls, owners: Sequence[int], hits: Any, problems: int, among: Any = None) -> Tally:
        """Hits of the items, or of those that `among` names; `owners[i]` is the problem of item i."""
        weights = np.ones(len(owners)) if among is None else np.asarray(among, dtype=float)
        where = np.asarray(owners, dtype=int)
        above = np.bincount(where, np.asarray(hits, dtype=float) * weights, problems)
        return cls(above, np.bincount(where, weights, problems))

    @property
    def value(self) -> float | None:
        """The ratio; None where there is nothing in the denominator."""
        below = self.denominators.sum()
        return self.numerators.sum() / below if below else None

    def replicates(self, counts: np.ndarray) -> np.ndarray:
        """The ratio in each resample, (resamples,); NaN where a resample has nothing in the denominator."""
        columns = np.column_stack([self.numerators, self.denominators]).astype(float)
        sums = np.concatenate([counts[at : at + CHUNK] @ columns for at in range(0, len(counts), CHUNK)])
        return np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] != 0)

    def estimate(self, counts: np.ndarray) -> Estimate | None:
        """The ratio with its interval; n is the sum of the denominators."""
        if self.value is None:
            return None
        return estimate(self.value, self.replicates(counts), round(self.denominators.sum()))

    def minus(self, other: Tally, counts: np.ndarray) -> Estimate | None:
        """The difference to another ratio, in pairs; n is the number of problems."""
        if self.value is None or other.value is None:
            return None
        return estimate(self.value - other.value, self.replicates(counts) - other.replicates(counts), counts.shape[1])


def join_ratios(
    counts: np.ndarray, a: Tally, b: Tally, join: Callable[[Any, Any], Any], n: int
) -> tuple[Estimate | None, np.ndarray]:
    """What `join` makes of two ratios, None where one of them has no item; and in each resample, (resamples,)."""
    ratios, spread = (a.estimate(counts), b.estimate(counts)), join(a.replicates(counts), b.replicates(counts))
    if any(one is None for one in ratios):
        return None, spread
    return estimate(join(*(one["value"] for one in ratios)), spread, n), spread


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """Exact two-sided p that two arms are equally good (McNemar); each is right (1) or not (0) by problem, (problems,).

    Only the problems on which they differ count.
    """
    from scipy.stats import binomtest

    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def wilson(right: int, total: int) -> Estimate | None:
    """Share right of independent items with Wilson's 95% interval: for counts whose problems are not known."""
    from scipy.stats import binomtest

    if not total:
        return None
    interval = binomtest(right, total).proportion_ci(0.95, method="wilson")
    return {"value": right / total, "low": float(interval.low), "high": float(interval.high), "n": total}
