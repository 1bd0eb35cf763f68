"""What counts of right continuations say of the first negative prefix: a small Bayesian model of all solutions at once.

The value of a prefix is how often its continuations are right. Before the first negative prefix it depends on the ease
of the problem and on how much is left to do; from there on it is a recovery rate. Both, and where first negatives lie,
are learnt from the counts themselves (empirical Bayes). Left out: what is sampled next (`rewards/labels/search.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

_EASES = 8  # levels of how often a policy goes on rightly
_SPREAD = 8.0  # how close values are to the mean of their ease and place, as a number of samples
_TRUST = 6.0  # the weight of the prior in each learnt number, in solutions
_DOUBT = 0.5  # for each solution, so many made-up ones whose first negative prefix is anywhere
_LOW = np.array([0.002, 0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45])
_VALUES = np.concatenate([_LOW, np.arange(0.5, 1, 0.05), [0.99]])  # the values that are told apart
_RARE = 0.05  # the mean recovery rate that is assumed before anything is known


@dataclass(frozen=True)
class Counts:
    """What is known of N wrong solutions with up to M prefixes each that can be continued ("open").

    `successes`, `trials` (N, M + 1) count continuations. Column r is the prefix that r more open ones follow: column 0
    is the last of them, column `open[n]` the question itself. With M = 3, a solution with the open prefixes [a], [a, b]
    has [a, b], [a] and the question in columns 0 to 2, and nothing in column 3. What follows the last open prefix is
    negative.
    """

    successes: np.ndarray
    trials: np.ndarray
    open: np.ndarray

    def __len__(self) -> int:
        return len(self.open)

    @property
    def is_prefix(self) -> np.ndarray:
        """Which columns are prefixes that can be continued, (N, M + 1)."""
        return np.arange(self.trials.shape[1]) < self.open[:, None]


@dataclass(frozen=True)
class ValueModel:
    """What is learnt.

    `ease` (levels,): how often problems have each ease. `mean` (M + 1, levels): the mean value of positive prefixes by
    place and ease. `bad`: the distribution of negative ones over the values up to the threshold. `first`
    (M + 1, M + 1): in row m, how likely the last 0 … m of m open prefixes are negative.
    """

    threshold: float
    ease: np.ndarray
    mean: np.ndarray
    bad: np.ndarray
    first: np.ndarray

    def narrow(self, columns: int) -> ValueModel:
        """The model of solutions that have fewer prefixes."""
        return replace(self, mean=self.mean[:columns], first=self.first[:columns, :columns])

    @property
    def recovery(self) -> float:
        """How often a continuation of a negative prefix is right."""
        return float(self.bad @ _VALUES[: len(self.bad)])


@dataclass(frozen=True)
class Belief:
    """What the counts say of N solutions.

    `joint` (N, M + 1, levels): P(number of negative prefixes, ease | counts), which sums to 1 for each solution.
    `good_rate` (N, M + 1, levels), `bad_rate` (N, M + 1): how likely one more continuation of a prefix is right, if it
    is positive and if it is negative.
    """

    joint: np.ndarray
    good_rate: np.ndarray
    bad_rate: np.ndarray

    @property
    def negatives(self) -> np.ndarray:
        """P(number of negative prefixes), (N, M + 1)."""
        return self.joint.sum(2)

    @property
    def positive(self) -> np.ndarray:
        """P(the prefix is positive), (N, M + 1): that no more prefixes are negative than follow it."""
        return np.cumsum(self.negatives, 1)

    @property
    def value(self) -> np.ndarray:
        """Expected value of each prefix, (N, M + 1)."""
        good = np.cumsum(self.joint, 1)
        return (good * self.good_rate).sum(2) + (1 - self.positive) * self.bad_rate


def start_model(columns: int, threshold: float) -> ValueModel:
    """What is assumed before anything is known: any ease, few recoveries, first negatives anywhere.

    `columns` is M + 1.

    Raises:
        ValueError: no value, or every value, is above `threshold`.
    """
    low = _VALUES[threshold >= _VALUES]
    if not 0 < len(low) < len(_VALUES):
        raise ValueError(f"threshold must be in [{_VALUES[0]}, {_VALUES[-1]}), not {threshold}")
    first = np.tril(np.ones((columns, columns)))
    bad = np.exp(-low / _RARE)
    # the chance to do one step right; r + 1 steps are left to do, or fewer, as some are only words
    step = np.linspace(0.3, 0.97, _EASES)
    mean = step ** (0.5 + 0.8 * np.arange(columns)[:, None])
    mean = np.clip(mean, 1.2 * threshold, 0.97)
    return ValueModel(
        threshold, np.full(_EASES, 1 / _EASES), mean, bad / bad.sum(), first / first.sum(1, keepdims=True)
    )


def infer(model: ValueModel, counts: Counts) -> Belief:
    """What the counts say under a model, which may be one of longer solutions."""
    belief, _ = _infer(model.narrow(counts.trials.shape[1]), counts, _likelihood(counts))
    return belief


def fit_model(counts: Counts, threshold: float, start: ValueModel | None = None, rounds: int = 20) -> ValueModel:
    """Expectation maximisation from `start`. Observations made up by `start_model` keep all from becoming certain."""
    prior = start_model(counts.trials.shape[1], threshold)
    model = start or prior
    if not len(counts):
        return model
    likelihood = _likelihood(counts)
    sampled = (counts.trials > 0) & (np.arange(counts.trials.shape[1]) <= counts.open[:, None])
    # else a guess, from few samples, of where first negatives lie would soon confirm itself
    alike = np.bincount(counts.open, minlength=len(prior.first))[:, None]
    made_up = (_TRUST + _DOUBT * alike) * prior.first
    for _ in range(rounds):
        belief, share = _infer(model, counts, likelihood)
        good = np.where(sampled[:, :, None], np.cumsum(belief.joint, 1), 0)
        negative = np.where(sampled, 1 - belief.positive, 0)
        mean = (good * belief.good_rate).sum(0) + _TRUST * prior.mean
        ease = belief.joint.sum((0, 1)) + _TRUST / _EASES
        bad = (negative[:, :, None] * share).sum((0, 1)) + _TRUST * prior.bad
        first = made_up.copy()
        np.add.at(first, counts.open, belief.negatives)
        model = ValueModel(
            threshold, ease / ease.sum(), mean / (good.sum(0) + _TRUST), bad / bad.sum(),
            first / first.sum(1, keepdims=True),
        )  # fmt: skip
    return model


def _infer(model: ValueModel, counts: Counts, likelihood: np.ndarray) -> tuple[Belief, np.ndarray]:
    """The belief; and, if a prefix is negative, how likely each of its values is, (N, M + 1, low values)."""
    columns = np.arange(counts.trials.shape[1])
    density = _good_values(model)
    # places first, so that both are one product of matrices a place
    both = likelihood.transpose(1, 0, 2) @ np.concatenate([density, density * _VALUES[:, None]], 2)
    both = both.transpose(1, 0, 2)
    good = np.ascontiguousarray(both[:, :, :_EASES])
    good_rate = both[:, :, _EASES:] / good
    share = likelihood[:, :, : len(model.bad)] * model.bad
    bad = share.sum(2)
    share /= bad[:, :, None]
    log_good = np.where((columns <= counts.open[:, None])[:, :, None], np.log(good), 0)
    log_bad = np.where(counts.is_prefix, np.log(bad), 0)
    above = np.cumsum(log_good[:, ::-1], 1)[:, ::-1]
    below = np.cumsum(log_bad, 1) - log_bad
    with np.errstate(divide="ignore"):
        log = above + below[:, :, None] + np.log(model.first[counts.open])[:, :, None] + np.log(model.ease)
    log -= log.max((1, 2), keepdims=True)
    joint = np.exp(log)
    joint /= joint.sum((1, 2), keepdims=True)
    return Belief(joint, good_rate, share @ _VALUES[: len(model.bad)]), share


def _good_values(model: ValueModel) -> np.ndarray:
    """The distribution over values of positive prefixes (M + 1, values, levels): none at or below the threshold."""
    mean, value = model.mean[:, None, :], _VALUES[:, None]
    width = np.where(value > model.threshold, np.gradient(_VALUES)[:, None], 0)
    density = value ** (mean * _SPREAD - 1) * (1 - value) ** ((1 - mean) * _SPREAD - 1) * width
    return density / density.sum(1, keepdims=True)


def _likelihood(counts: Counts) -> np.ndarray:
    """Likelihood of each prefix's counts for every value, up to a factor, (N, M + 1, values)."""
    right, wrong = counts.successes[:, :, None], (counts.trials - counts.successes)[:, :, None]
    log = right * np.log(_VALUES) + wrong * np.log1p(-_VALUES)
    return np.exp(log - log.max(-1, keepdims=True))
