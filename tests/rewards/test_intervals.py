"""Intervals: exact small cases, agreement with scipy and with theory, and coverage on simulated data."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rewards import intervals
from rewards.metrics import auroc


def test_resamples_draw_as_many_problems_as_there_are():
    counts = intervals.resample(7, 1203, seed=3)
    assert counts.shape == (1203, 7) and counts.dtype == np.uint8
    assert (counts.sum(axis=1) == 7).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(7), abs=0.12)
    assert (intervals.resample(7, 1203, seed=3) == counts).all()
    assert (intervals.resample(7, 1203, seed=4) != counts).any()


def accuracy(correct, resamples=intervals.RESAMPLES, seed=0):
    """Share right of n problems, as reports have it."""
    counts = intervals.resample(len(correct), resamples, seed)
    return intervals.Tally(np.array(correct), np.ones(len(correct))).estimate(counts)


def test_nothing_to_resample_is_refused():
    with pytest.raises(ValueError, match="no problems"):
        intervals.resample(0)


def test_accuracy_of_a_single_problem_and_of_equal_ones():
    assert accuracy([True]) == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 1}
    assert accuracy([False] * 9) == {"value": 0.0, "low": 0.0, "high": 0.0, "n": 9}


def test_accuracy_is_the_binomial_in_the_limit():
    found = accuracy([True] * 60 + [False] * 40)
    low, high = stats.binom.ppf([0.025, 0.975], 100, 0.6) / 100
    assert (found["value"], found["n"]) == (0.6, 100)
    assert found["low"] == pytest.approx(low, abs=0.011) and found["high"] == pytest.approx(high, abs=0.011)


def test_accuracy_agrees_with_scipy():
    correct = np.random.default_rng(0).random(150) < 0.3
    rng = np.random.default_rng(1)
    theirs = stats.bootstrap((correct,), np.mean, method="percentile", rng=rng, batch=500).confidence_interval
    ours = accuracy(list(correct))
    assert ours["low"] == pytest.approx(theirs.low, abs=0.008) and ours["high"] == pytest.approx(theirs.high, abs=0.008)


def test_the_interval_covers_the_truth_about_19_times_in_20():
    rng, covered, runs = np.random.default_rng(5), 0, 300
    for seed in range(runs):
        found = accuracy(list(rng.random(150) < 0.55), resamples=400, seed=seed)
        covered += found["low"] <= 0.55 <= found["high"]
    assert 0.91 <= covered / runs <= 0.98


def test_steps_of_a_problem_are_drawn_together():
    # 30 problems of 20 equal steps: as steps 600 independent items, as problems only 30
    hits = np.r_[np.full(15, 20), np.zeros(15)]
    counts = intervals.resample(30, 2000)
    clustered = intervals.Tally(hits, np.full(30, 20)).estimate(counts)
    assert clustered["n"] == 600 and clustered["high"] - clustered["low"] > 0.3


def test_a_group_without_members_is_none():
    counts = intervals.resample(3, 50)
    none = intervals.Tally(np.zeros(3), np.zeros(3))
    assert none.estimate(counts) is None
    assert intervals.Tally(np.ones(3), np.ones(3)).minus(none, counts) is None


def test_a_rare_group_drops_the_resamples_that_miss_it():
    found = intervals.Tally(np.array([1, 0, 0]), np.array([1, 0, 0])).estimate(intervals.resample(3, 50))
    assert found == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 1}


@pytest.mark.parametrize(
    ("training", "problem", "both"),
    [(0.1, 0.05, 0.05), (0.02, 0.3, 0.4), (0.0, 0.4, 0.0), (0.0, 0.0, 0.4)],
    ids=["luck of training", "a bit of each", "problems alone", "noise alone"],
)
def test_the_interval_over_trainings_covers_the_truth(training, problem, both):
    """Five trainings of which each has its luck, 100 problems of which each is harder or easier for all, and noise."""
    rng, covered, percentiles, runs = np.random.default_rng(3), 0, 0, 300
    for seed in range(runs):
        luck, hard = training * rng.standard_normal((5, 1)), problem * rng.standard_normal((1, 100))
        results = 0.1 + luck + hard + both * rng.standard_normal((5, 100))
        counts = intervals.resample(100, 300, seed)
        replicates = intervals.replicate([intervals.Tally(row, np.ones(100)) for row in results], counts)
        found = intervals.over_trainings(results.mean(axis=1), replicates, 100, seed)
        assert found["value"] == pytest.approx(results.mean()) and found["n"] == 100
        covered += found["low"] <= 0.1 <= found["high"]
        drawn = np.random.default_rng(seed).integers(0, 5, (5, 300))
        low, high = np.percentile(np.take_along_axis(replicates, drawn, axis=0).mean(axis=0), [2.5, 97.5])
        percentiles += low <= 0.1 <= high
    assert 0.915 <= covered / runs <= 0.99
    if training > both:  # what the stretch is for
        assert percentiles / runs < 0.88


def test_problems_that_all_trainings_find_hard_count_once():
    """Five equal trainings say no more of the problems than one does."""
    results = np.tile(np.random.default_rng(0).random(200) < 0.5, (5, 1)).astype(float)
    counts = intervals.resample(200, 2000)
    tallies = [intervals.Tally(row, np.ones(200)) for row in results]
    found = intervals.over_trainings(results.mean(axis=1), intervals.replicate(tallies, counts), 200)
    assert {**found, "n": 200} == pytest.approx(tallies[0].estimate(counts), abs=1e-9)


def test_the_luck_of_training_is_not_seen_in_one():
    with pytest.raises(ValueError, match="two or more values"):
        intervals.over_trainings(np.array([0.5]), np.ones((1, 10)), 3)
    with pytest.raises(ValueError, match="all of them numbers"):
        intervals.over_trainings(np.array([0.5, np.nan]), np.ones((2, 10)), 3)


def test_resamples_that_miss_a_rare_group_in_one_training_are_dropped():
    found = intervals.over_trainings(np.array([0.5, 0.7]), np.array([[0.5, np.nan, 0.5], [0.7, 0.7, 0.7]]), 3)
    assert found["value"] == pytest.approx(0.6) and found["low"] <= 0.6 <= found["high"]
    nowhere = intervals.over_trainings(np.array([0.5, 0.7]), np.full((2, 3), np.nan), 3)
    assert nowhere == {"value": pytest.approx(0.6), "low": None, "high": None, "n": 3}


def test_nothing_measured_in_any_resample_has_no_interval():
    assert intervals.estimate(0.5, np.array([np.nan]), 1) == {"value": 0.5, "low": None, "high": None, "n": 1}


def test_pairing_narrows_a_difference():
    a = np.random.default_rng(0).random(200) < 0.5
    b = a | (np.arange(200) < 20)
    counts, ones = intervals.resample(200), np.ones(200)
    found = intervals.Tally(b * 1.0, ones).minus(intervals.Tally(a * 1.0, ones), counts)
    gained = int(b.sum() - a.sum())
    assert found["value"] == pytest.approx(gained / 200) and found["low"] > 0
    assert found["high"] - found["low"] < 0.1  # unpaired it would be about 0.2
    assert intervals.mcnemar(b, a) == pytest.approx(2 * 0.5**gained)
    same = intervals.Tally(a * 1.0, ones).minus(intervals.Tally(a * 1.0, ones), counts)
    assert same == {"value": 0, "low": 0, "high": 0, "n": 200} and intervals.mcnemar(a, a) == 1.0


def test_mcnemar_by_hand():
    a = np.arange(10) < 8
    b = np.isin(np.arange(10), (0, 1, 2, 9))
    # five problems only a solves, one only b: 2 * P(at most 1 of 6) = 2 * 7 / 64
    assert intervals.mcnemar(a, b) == pytest.approx(14 / 64)
    assert intervals.mcnemar(b, a) == pytest.approx(14 / 64)


def test_auroc_of_each_resample_is_that_of_the_repeated_items():
    rng = np.random.default_rng(2)
    owners = np.repeat(np.arange(12), 3)
    labels, scores = rng.random(36) < 0.5, rng.integers(0, 6, 36) / 5
    counts = intervals.resample(12, 150)
    found = intervals.auroc_replicates(counts, owners, labels, scores)
    for row in (0, 77, 149):
        items = np.repeat(np.arange(36), counts[row][owners])
        assert found[row] == pytest.approx(auroc(labels[items], scores[items]))


def test_auroc_of_a_single_class_is_no_number():
    found = intervals.auroc_replicates(intervals.resample(2, 5), np.array([0, 1]), np.ones(2, bool), np.ones(2))
    assert np.isnan(found).all()


def test_wilson_by_hand():
    found = intervals.wilson(9, 10)
    assert found["value"] == 0.9 and found["n"] == 10
    assert found["low"] == pytest.approx(0.5958, abs=1e-3) and found["high"] == pytest.approx(0.9821, abs=1e-3)
    assert intervals.wilson(0, 0) is None
    with pytest.raises(ValueError, match="11"):
        intervals.wilson(11, 10)


def test_p_over_trainings_is_students_where_trainings_differ_and_normal_where_problems_do() -> None:
    norm, ttest_1samp = stats.norm, stats.ttest_1samp

    rng = np.random.default_rng(0)
    values = np.array([0.02, 0.05, 0.03])
    nearly_none = values[:, None] + 1e-9 * rng.standard_normal((3, 1000))
    assert intervals.trainings_p(values, nearly_none) == pytest.approx(ttest_1samp(values, 0).pvalue, rel=1e-3)
    same = 0.1 + 0.05 * rng.standard_normal(1000)
    alike = np.array([same, same])
    assert intervals.trainings_p(np.array([0.1, 0.1]), alike) == pytest.approx(2 * norm.sf(0.1 / same.std()))
    assert intervals.trainings_p(np.array([0.1, 0.1]), np.full((2, 10), 0.1)) == 1.0
    with pytest.raises(ValueError, match="two or more values"):
        intervals.trainings_p(values[:1], nearly_none[:1])


def test_p_and_interval_over_trainings_agree() -> None:
    """The p is below 5% about where the interval leaves out zero."""
    rng = np.random.default_rng(1)
    for mean in (0.0, 0.02, 0.04, 0.08):
        values = mean + 0.01 * rng.standard_normal(4)
        spread = values[:, None] + 0.02 * rng.standard_normal((1, 4000)) + 0.005 * rng.standard_normal((4, 4000))
        found, p = intervals.over_trainings(values, spread, 500), intervals.trainings_p(values, spread)
        assert (p < 0.04) <= (found["low"] > 0 or found["high"] < 0) <= (p < 0.06)


def test_holms_correction() -> None:
    assert intervals.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert intervals.holm([0.5, 0.9]) == [1.0, 1.0] and intervals.holm([0.2]) == [0.2] and intervals.holm([]) == []
