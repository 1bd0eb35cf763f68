"""Which prefix of a solution is worth the next samples, and when its labels are decided: pure functions.

A *rule* decides one prefix (any of K right: GLoRe sec. 3.2), a *search* which prefix comes next. With the rule
`posterior` both ask a learnt model of values (`rewards/labels/values.py`); the others only count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rewards.labels.values import Belief, Counts
from stages.checks import check_choices, check_least, check_range

SEARCHES = ("exhaustive", "forward", "binary", "adaptive")
AUTO = "auto"
RULES = (AUTO, "any", "at_least", "posterior")
PAPER_K = 8  # continuations of every prefix that GLoRe samples
PILOT = 200  # wrong solutions whose recovery rate chooses the rule
RECOVERY = 0.01  # up to so many right continuations of wrong prefixes one right one is proof (docs/labelling.md)
FIRST_WAVE = 2  # continuations that are sampled of a prefix at first; then as many as there are, so 2, 2, 4, 8


@dataclass
class SearchArgs:
    """How labels are found and decided.

    `search` says which prefixes are sampled: `exhaustive` (every one, `continuations` times: GLoRe's way, the
    reference), `forward` (from the first on, up to the first negative), `binary` (for the first negative), `adaptive`
    (where it pays most). `rule` decides a prefix: `any` of `continuations` right (GLoRe's), `at_least` so many,
    `posterior`: by a learnt model of values, or `auto`: `any` of 8 (or `continuations`, if fewer) for the first 200
    wrong solutions, and for all, unless their recovery rate is above 1%: then `posterior`. To that model a prefix is
    positive if its value is above `threshold`; it stops at `confidence`, or when no continuation is expected to tell
    more than `least_gain` (in nats, for one as long as the solution). With `share_traces` continuations and rollouts
    count for every prefix that they go through.
    """

    search: str = "adaptive"  #: how continuations are spent (docs/labelling.md)
    rule: str = AUTO  #: what makes a prefix positive
    continuations: int = 24  #: at most so many of a prefix
    at_least: int = 2
    confidence: float = 0.92
    threshold: float = 0.1
    least_gain: float = 0.025
    share_traces: bool = True

    def validate(self) -> None:
        """Raise ValueError naming the first setting out of range."""
        check_choices(self, search=SEARCHES, rule=RULES)
        check_least(self, continuations=1, at_least=1)
        if self.rule == "at_least" and self.at_least > self.continuations:
            raise ValueError(f"at_least={self.at_least} of continuations={self.continuations} can never be")
        check_range(self, confidence="[0.5, 1)", threshold="[0.002, 0.9]", least_gain="[0, inf)")

    @property
    def needed(self) -> int:
        """How many right continuations make a prefix positive, where counts decide."""
        return self.at_least if self.rule == "at_least" else 1

    @property
    def sharing(self) -> bool:
        """Whether continuations count for every prefix that they go through; not for the reference."""
        return self.share_traces and self.search != "exhaustive"

    def describe(self) -> str:
        """The rule as it stands in every row."""
        if self.rule == "posterior":
            return f"posterior at {self.confidence:g}, {self.search}"
        needed = "any" if self.rule == "any" else f"at least {self.at_least}"
        return f"{needed} of {self.continuations}, {self.search}"


def decide(successes: int, trials: int, needed: int, limit: int) -> bool | None:
    """Whether at least `needed` of `limit` continuations vouch for a prefix; None while more samples could tell."""
    if successes >= needed:
        return True
    return False if successes + max(0, limit - trials) < needed else None


def next_wave(trials: int, limit: int) -> int:
    """How many continuations to sample next: 2, 2, 4, 8 … up to `limit` in all."""
    return max(0, min(limit - trials, max(FIRST_WAVE, trials)))


def bounds(decided: Sequence[bool | None]) -> tuple[int, int]:
    """(lo, hi): every prefix before place `lo` counts as positive, every one from `hi` on as negative.

    The first negative one is at a place lo … hi. A positive prefix vouches for all shorter ones (rule 1), even if one
    of them was decided as negative: True, None, False, True, None, False gives (4, 5).
    """
    lo = max((place + 1 for place, label in enumerate(decided) if label), default=0)
    return lo, next((place for place in range(lo, len(decided)) if decided[place] is False), len(decided))


def cheapest(lo: int, hi: int, ends: np.ndarray, right: np.ndarray, wrong: np.ndarray) -> int:
    """The place to look at first in the cheapest plan for finding the first negative prefix among lo … hi.

    `ends` (open + 1,) is how likely each place is the first negative one; `right` and `wrong` (open,) is what it costs
    to decide a prefix that is positive or negative. Where both cost the same the plan is a binary search, where
    negatives cost far more a forward one. Takes (hi - lo)³ time.
    """
    size = hi - lo
    mass = np.concatenate([[0.0], np.cumsum(ends[lo : hi + 1])])
    cost = np.zeros((size + 1, size + 1))  # of the range of places i … j, where the first negative may be
    best = np.zeros((size + 1, size + 1), dtype=int)
    for width in range(1, size + 1):
        i = np.arange(size - width + 1)
        j, looks = i + width, i[:, None] + np.arange(width)
        below, above = mass[looks + 1] - mass[i, None], mass[j + 1, None] - mass[looks + 1]
        plans = below * wrong[lo + looks] + above * right[lo + looks] + cost[i[:, None], looks]
        plans += cost[looks + 1, j[:, None]]
        best[i, j] = i + plans.argmin(1)
        cost[i, j] = plans.min(1)
    return lo + int(best[0, size])


def decision_costs(belief: Belief, counts: Counts, needed: int, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps to be written until a prefix is decided, if it is positive and if it is negative, (N, M + 1) each.

    A positive one is sampled until enough continuations vouch for it, a negative one until none is left.
    """
    columns = np.arange(counts.trials.shape[1])
    good = np.cumsum(belief.joint, 1)
    weight = good.sum(2)
    rate = np.divide((good * belief.good_rate).sum(2), weight, out=np.full_like(weight, 0.5), where=weight > 1e-12)
    left = np.maximum(0, limit - counts.trials)
    missing = np.maximum(0, needed - counts.successes)
    return np.minimum(left, missing / rate) * continuation_steps(columns), left * continuation_steps(columns)


def continuation_steps(following: np.ndarray) -> np.ndarray:
    """How many steps a continuation writes where so many open prefixes follow: one each, and a short answer line."""
    return following + 0.5


def information(belief: Belief, counts: Counts) -> np.ndarray:
    """How much one more sample of each prefix is expected to tell about where the first negative one is, in nats,
    (N, M + 1); -1 where there is no prefix."""
    n, columns = counts.trials.shape
    before, gains = _entropy(belief.negatives), np.full((n, columns), -1.0)
    negatives = np.arange(columns)
    for place in range(columns - 1):
        rate = np.where(
            (negatives <= place)[None, :, None],
            belief.good_rate[:, place][:, None, :],
            belief.bad_rate[:, place][:, None, None],
        )
        success = (belief.joint * rate).sum(2)
        failure = belief.negatives - success
        gains[:, place] = before - _expected_entropy(success) - _expected_entropy(failure)
    gains[~counts.is_prefix] = -1
    return gains


def _entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(np.maximum(p, 1e-300))).sum(1)


def _expected_entropy(weights: np.ndarray) -> np.ndarray:
    """Entropy of the normalised weights, times their sum."""
    total = np.maximum(weights.sum(1), 1e-300)
    return total * _entropy(np.maximum(weights, 0) / total[:, None])
