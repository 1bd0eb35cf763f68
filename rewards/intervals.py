"""95% intervals by resampling problems, and trainings where there are several; tests of two arms on the same problems.

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
        return replicate([self], counts)[0]

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


def replicate(tallies: Sequence[Tally], counts: np.ndarray) -> np.ndarray:
    """The ratio of each tally in each resample, (tallies, resamples); NaN where its denominator is 0."""
    columns = np.array([part for one in tallies for part in (one.numerators, one.denominators)], dtype=float).T
    sums = sums_of_resamples(columns, counts).T
    above, below = sums[::2], sums[1::2]
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)


def sums_of_resamples(columns: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sums over problems of each column of (problems, columns), in each resample: (resamples, columns)."""
    return np.concatenate([counts[at : at + CHUNK] @ columns for at in range(0, len(counts), CHUNK)])


def over_trainings(values: np.ndarray, replicates: np.ndarray, n: int, seed: int = 0) -> Estimate:
    """The mean of one statistic over several trainings, with a 95% interval over trainings and problems.

    `values` (trainings,) is the statistic of each training; `replicates` (trainings, resamples) is the same in each
    resample of the problems, which draws the same ones for all trainings. Each resample also draws trainings: trainings
    and problems are crossed, and both are resampled (the pigeonhole bootstrap: Owen 2007, arXiv 0712.1111).

    That alone is not right for few trainings: it counts up to three times the noise that belongs to one problem in one
    training, and the mean of few trainings varies more than percentiles show. So the distances from the value to the
    percentiles are stretched by one factor, which gives them the standard error of the sum of two components (the
    variance over problems of the mean; the variance between trainings beyond that noise), times Student's quantile over
    the normal one, with the degrees of freedom of Satterthwaite (1946).

    Raises:
        ValueError: there is only one training, or a value is NaN.
    """
    from scipy.stats import norm, t

    trainings, resamples = replicates.shape
    measured = _measured(values, replicates)
    value = float(values.mean())
    if not measured.size:
        return {"value": value, "low": None, "high": None, "n": int(n)}
    drawn = np.random.default_rng(seed).integers(0, trainings, (trainings, resamples))[:, : measured.shape[1]]
    spread = np.take_along_axis(measured, drawn, axis=0).mean(axis=0)
    total, freedom = _variance(values, measured)
    stretch = 1.0
    if total > 0 and spread.var() > 0:
        stretch = np.sqrt(total / spread.var()) * t.ppf(0.975, freedom) / norm.ppf(0.975)
    low, high = value + stretch * (np.percentile(spread, [2.5, 97.5]) - value)
    return {"value": value, "low": float(low), "high": float(high), "n": int(n)}


def trainings_p(values: np.ndarray, replicates: np.ndarray) -> float:
    """Two-sided p that the mean over all trainings and problems is 0, from the variance and the degrees of freedom of
    `over_trainings`, whose arguments these are; 1 where nothing varies."""
    from scipy.stats import t

    measured = _measured(values, replicates)
    total, freedom = _variance(values, measured) if measured.size else (0.0, 1.0)
    return float(2 * t.sf(abs(values.mean()) / np.sqrt(total), freedom)) if total > 0 else 1.0


def _measured(values: np.ndarray, replicates: np.ndarray) -> np.ndarray:
    """The resamples in which every training could be measured: (trainings, resamples)."""
    if len(values) < 2 or np.isnan(values).any():
        raise ValueError(f"the luck of training needs two or more values, all of them numbers, not {values.tolist()}")
    return replicates[:, ~np.isnan(replicates).any(axis=0)]


def _variance(values: np.ndarray, measured: np.ndarray) -> tuple[float, float]:
    """Variance of the mean of the values over problems and trainings, and its degrees of freedom."""
    others = len(values) - 1
    of_problems = measured.mean(axis=0).var()
    noise = (measured.var(axis=1).mean() - of_problems) / others  # of a problem and a training, in the mean
    between = values.var(ddof=1) / len(values)
    total = of_problems + max(0.0, between - noise)
    freedom = others * (total / between) ** 2 if between > 0 else np.inf
    return float(total), float(max(freedom, others))


def holm(chances: Sequence[float]) -> list[float]:
    """The p of each test after Holm's correction for all of them (Holm 1979): below 0.05 in any of them by chance with
    a probability of at most 0.05."""
    adjusted, least = [0.0] * len(chances), 0.0
    for place, at in enumerate(sorted(range(len(chances)), key=lambda at: chances[at])):
        least = max(least, min(1.0, (len(chances) - place) * chances[at]))
        adjusted[at] = least
    return adjusted


def join_ratios(
    counts: np.ndarray, a: Tally, b: Tally, join: Callable[[Any, Any], Any], n: int
) -> tuple[Estimate | None, np.ndarray]:
    """What `join` makes of two ratios, None where one of them has no item; and in each resample, (resamples,)."""
    spread = join(a.replicates(counts), b.replicates(counts))
    if a.value is None or b.value is None:
        return None, spread
    return estimate(join(a.value, b.value), spread, n), spread


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """Exact two-sided p that two arms are equally good (McNemar); each is right (1) or not (0) by problem, (problems,).

    Only the problems on which they differ count.
    """
    from scipy.stats import binomtest

    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def wilson(right: int, total: int) -> Estimate | None:
    """Share right of independent items, such as one of each problem, with Wilson's 95% interval."""
    from scipy.stats import binomtest

    if not total:
        return None
    interval = binomtest(right, total).proportion_ci(0.95, method="wilson")
    return {"value": right / total, "low": float(interval.low), "high": float(interval.high), "n": total}
