"""Measures of reward models, on cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import metrics

NAN = math.nan
TRUTH = [[True, True, False, False], [True, True], [False, False, False]]
GIVEN = [[0.9, 0.4, 0.3, 0.1], [0.8, 0.2], [0.7, 0.2, 0.9]]


def test_auroc_by_hand():
    assert metrics.auroc([True, False], [0.9, 0.1]) == 1.0
    assert metrics.auroc([True, False], [0.1, 0.9]) == 0.0
    assert metrics.auroc([True, False], [0.5, 0.5]) == 0.5
    # pairs: 0.8>0.8 half, 0.8>0.2 one, 0.4>0.8 none, 0.4>0.2 one: 2.5 of 4
    assert metrics.auroc([True, True, False, False], [0.8, 0.4, 0.8, 0.2]) == 0.625


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])), max_size=30))
def test_auroc_is_the_share_of_ordered_pairs(items):
    right = [score for label, score in items if label]
    wrong = [score for label, score in items if not label]
    wins = [(a > b) + (a == b) / 2 for a in right for b in wrong]
    expected = pytest.approx(np.mean(wins)) if wins else None
    assert metrics.auroc([label for label, _ in items], [score for _, score in items]) == expected


@pytest.mark.parametrize("measure", [metrics.auroc, metrics.brier, metrics.expected_calibration_error])
def test_bad_scores_and_labels_are_refused(measure):
    with pytest.raises(ValueError, match="score 1 is nan"):
        measure([True, False], [0.5, NAN])
    with pytest.raises(ValueError, match="score 0 is inf"):
        measure([True, False], [math.inf, 0.5])
    with pytest.raises(ValueError, match="label 1 must be True or False, not None"):
        measure([True, None], [0.5, 0.5])
    with pytest.raises(ValueError, match="lengths differ: 1 and 2"):
        measure([True], [0.5, 0.5])


def test_nothing_to_measure_is_none():
    assert metrics.auroc([True, True], [0.1, 0.9]) is None and metrics.auroc([], []) is None
    assert metrics.pairwise_accuracy(["a", "b"], [True, False], [0.9, 0.1]) is None
    assert metrics.brier([], []) is None and metrics.expected_calibration_error([], []) is None
    assert metrics.reliability_bins([], []) == []
    assert metrics.best_threshold([True, True], [0.9, 0.1]) == 0.5 and metrics.best_threshold([], []) == 0.5


def test_pairwise_weighs_problems_alike():
    ids = ["a", "a", "a", "b", "b", "c"]
    correct = [True, False, False, True, False, True]
    scores = [0.5, 0.5, 0.9, 0.8, 0.1, 0.3]
    assert metrics.pairwise_by_problem(ids, correct, scores) == {"a": 0.25, "b": 1.0}
    assert metrics.pairwise_accuracy(ids, correct, scores) == 0.625


def test_pairwise_ignores_which_problem_is_hard():
    # scores know the problem only: AUROC is high, within a problem nothing is known
    ids, correct, scores = [], [], []
    for index in range(10):
        rights = 9 if index < 5 else 1
        ids += [str(index)] * 10
        correct += [True] * rights + [False] * (10 - rights)
        scores += [0.9 if index < 5 else 0.1] * 10
    assert metrics.auroc(correct, scores) == pytest.approx(0.9)
    assert metrics.pairwise_accuracy(ids, correct, scores) == 0.5


def test_steps_are_laid_end_to_end_without_the_last_of_each_solution():
    labels, values, positions, owners = metrics.flatten_steps(TRUTH, GIVEN)
    assert labels.tolist() == [True, True, False, True, False, False]
    assert values.tolist() == [0.9, 0.4, 0.3, 0.8, 0.7, 0.2]
    assert positions.tolist() == [1, 2, 3, 1, 1, 2] and owners.tolist() == [0, 0, 0, 1, 2, 2]
    for empty in ([], [[]], [[True]]):
        labels, values, positions, owners = metrics.flatten_steps(empty, [[0.5] * len(one) for one in empty])
        assert (labels.dtype, values.dtype, positions.dtype, owners.dtype) == (bool, float, int, int)
        assert len(labels) == len(values) == len(positions) == len(owners) == 0


def test_steps_and_probabilities_must_match():
    for truth, scores in (([[True], [True, False]], [[0.1], [0.2]]), ([[True]], [])):
        with pytest.raises(ValueError, match="shorter"):
            metrics.flatten_steps(truth, scores)
    with pytest.raises(ValueError, match="score 0 is nan"):
        metrics.best_threshold([True, False], [NAN, 0.1])


def test_harmonic_mean_by_hand():
    assert metrics.harmonic_mean(1 / 3, 1 / 2) == pytest.approx(0.4) and metrics.harmonic_mean(0.0, 0.0) == 0.0
    assert metrics.harmonic_mean(np.array([0.0, 1.0]), np.array([0.5, 1.0])).tolist() == [0.0, 1.0]


def test_calibration_by_hand():
    labels, given = [True, False, True, True], [1.0, 0.0, 0.55, 0.45]
    assert metrics.brier(labels, given) == pytest.approx((0.45**2 + 0.55**2) / 4)
    rows = metrics.reliability_bins(labels, given, bins=2)
    assert [(row["low"], row["high"], row["n"], row["observed"]) for row in rows] == [
        (0.0, 0.5, 2, 0.5),
        (0.5, 1.0, 2, 1.0),
    ]
    assert rows[0]["predicted"] == pytest.approx(0.225) and rows[1]["predicted"] == pytest.approx(0.775)
    assert metrics.expected_calibration_error(labels, given, bins=2) == pytest.approx((0.275 + 0.225) / 2)
    with pytest.raises(ValueError, match=r"probability 0 is 1.5, not between"):
        metrics.brier([True], [1.5])


def test_best_threshold_by_hand():
    # right 0.9 0.6, wrong 0.4 0.2: anything in (0.4, 0.6] is perfect
    assert metrics.best_threshold([True, True, False, False], [0.9, 0.6, 0.4, 0.2]) == 0.5
    assert metrics.best_threshold([True, False], [0.3, 0.1]) == pytest.approx(0.2)
    # scores that know nothing: say what most are, all right (0) or all wrong (above 0.7)
    assert metrics.best_threshold([True, False, True], [0.7, 0.7, 0.7]) == 0.0
    assert metrics.best_threshold([False, False, True], [0.7, 0.7, 0.7]) > 0.7
    # most of them right, not most of each kind
    assert metrics.best_threshold([True, True, True, True, False], [0.9, 0.2, 0.25, 0.8, 0.3]) == 0.0


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=25))
def test_best_threshold_is_best(items):
    labels, values = [label for label, _ in items], [value for _, value in items]
    found = metrics.best_threshold(labels, values)
    if len(set(labels)) == 1:
        assert found == 0.5
        return
    assert accuracy(items, found) == max(accuracy(items, t) for t in [0.0, *values, 1.1])


def accuracy(items, threshold):
    return sum((value >= threshold) == label for label, value in items) / len(items)


def test_a_threshold_of_each_position():
    """The last one stands for all that follow."""
    assert metrics.first_error([0.3, 0.3, 0.3, 0.3], (0.2, 0.3, 0.4)) == 2
    assert metrics.first_error([0.3, 0.3, 0.4, 0.3], [0.2, 0.3, 0.4]) == 3
    assert metrics.first_error([0.3], (0.2, 0.9)) is None
    assert metrics.threshold_at((0.2, 0.3), 7) == 0.3 and metrics.threshold_at(0.5, 7) == 0.5
    assert metrics.show_threshold((0.25, 0.5)) == "0.25 0.5 by position" and metrics.show_threshold(0.12345) == "0.123"
