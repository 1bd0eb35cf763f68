"""ProcessBench's protocol on scores by hand, and the choice of a threshold against trying every one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.processbench import Judged, choose_threshold, find_hits, measure_f1


def judged(truth: int | None, *scores: float, name: str = "x") -> Judged:
    return Judged(name, "Why?", truth, scores)


# at 0.5: hit, miss (one too early), miss (none found), hit | hit, miss
ONES = [
    judged(1, 0.9, 0.2, 0.1),
    judged(2, 0.9, 0.4, 0.1),
    judged(0, 0.6, 0.9),
    judged(2, 0.5, 0.7, 0.49),
    judged(None, 0.8, 0.5),
    judged(None, 0.8, 0.3, 0.9),
]


def values(solutions, threshold):
    found, _ = measure_f1(solutions, threshold, resamples=1)
    return tuple(found[name]["value"] for name in ("error", "correct", "f1"))


def test_f1_by_hand():
    assert find_hits(ONES, 0.5) == [True, False, False, True, True, False]
    wrong, right, f1 = values(ONES, 0.5)
    assert (wrong, right) == (0.5, 0.5) and f1 == 0.5
    # at 0.3: hit, hit, miss, miss (0.49 is not below) | hit, hit (0.3 is not below)
    assert values(ONES, 0.3) == (0.5, 1.0, pytest.approx(2 / 3))
    assert values(ONES, 0.0) == (0.0, 1.0, 0.0)


def test_the_threshold_by_hand():
    # right ones allow up to 0.5 and 0.3; wrong ones are hit in (.2, .9], (.1, .4], (.6, inf), (.49, .5]:
    # in (.2, .3] two of four and both, F1 2/3; in (.3, .4] the same and one of two, 1/2; in (.49, .5] the same
    assert choose_threshold(ONES) == pytest.approx(0.25)


scores = st.lists(st.sampled_from([0.0, 0.1, 0.1 + 1e-17, 0.3, 0.5, 0.7, 1.0]), min_size=1, max_size=4)
ones = scores.flatmap(
    lambda given: st.one_of(st.none(), st.integers(0, len(given) - 1)).map(lambda truth: judged(truth, *given))
)


@settings(deadline=None)
@given(st.lists(ones, min_size=2, max_size=12).filter(lambda s: 0 < sum(one.truth is None for one in s) < len(s)))
def test_no_threshold_is_better_than_the_chosen_one(solutions):
    found = choose_threshold(solutions)
    levels = sorted({score for one in solutions for score in one.scores})
    tried = [*levels, *(math.nextafter(level, math.inf) for level in levels)]
    best = max(values(solutions, threshold)[2] for threshold in tried)
    assert values(solutions, found)[2] == pytest.approx(best)


def test_neighbouring_floats_are_told_apart():
    low = 0.3
    high = math.nextafter(low, 1)
    solutions = [judged(0, low), judged(None, high)]
    assert values(solutions, choose_threshold(solutions))[2] == 1.0


def test_what_cannot_be_measured_is_refused():
    for alone in ([], ONES[:4], ONES[4:]):
        for measure in (choose_threshold, lambda s: measure_f1(s, 0.5)):
            with pytest.raises(ValueError, match=f"with and without an error: .* of {len(alone)} have one"):
                measure(alone)
    with pytest.raises(ValueError, match="score of step 1 of gsm8k-7 is nan"):
        judged(None, 0.5, math.nan, name="gsm8k-7")
    with pytest.raises(ValueError, match=r"score of step 0 of x is 1\.5"):
        judged(None, 1.5)
    with pytest.raises(ValueError, match="step 2 of x is wrong, but there are 1 scores"):
        judged(2, 0.5)
