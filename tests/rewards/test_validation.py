"""Measures on held-out problems, by hand."""

from __future__ import annotations

import math

import pytest

from rewards.encode import LabelledSolution
from rewards.validation import validate_scores


def test_figures_by_hand():
    solutions = [
        LabelledSolution("p", ("a", "b", "c"), (1.0, 1.0, 1.0)),
        LabelledSolution("p", ("a", "b", "c"), (1.0, 0.0, 0.0)),
        LabelledSolution("q", ("a", "b"), (None, 0.0)),
    ]
    scores = [[0.9, 0.8, 0.72], [0.6, 0.4, 0.75], [0.3, 0.1]]
    found = validate_scores("sorm", solutions, scores)
    # of the third solution it is not known whether its first step is wrong; of the others all is found up to 0.6
    assert found["threshold"] == pytest.approx(0.5) and "pairwise_accuracy" not in found
    assert found["first_error_accuracy"] == found["first_error_f1"] == 1.0
    # 0.72 is right, 0.75 and 0.1 are wrong: two of three in any way, that between 0.1 and 0.72 is nearest 0.5
    assert found["final_threshold"] == pytest.approx(0.41) and found["final_accuracy"] == pytest.approx(2 / 3)
    assert found["accuracy"] == pytest.approx(6 / 7)  # of all steps with a label
    assert [found[f"accuracy_at_{place}"] for place in (1, 2, 3)] == pytest.approx([1.0, 1.0, 1 / 2])
    assert "accuracy_at_4" not in found
    costs = [0.9, 0.8, 0.72, 0.6, 1 - 0.4, 1 - 0.75, 1 - 0.1]
    assert found["cross_entropy"] == pytest.approx(-sum(map(math.log, costs)) / 7)
    assert found["brier"] == pytest.approx(sum((1 - cost) ** 2 for cost in costs) / 7)
    # a bin for each, but that 0.72 and 0.75 share one: 0.735 where half are right
    assert found["calibration_error"] == pytest.approx((0.1 + 0.2 + 2 * 0.235 + 0.4 + 0.4 + 0.1) / 7)
    orm = validate_scores("orm", solutions, scores)
    assert orm["pairwise_accuracy"] == 0.0 and orm["final_auroc"] == pytest.approx(1 / 2)
    assert "first_error_accuracy" not in orm
    scores[1][0] = 0.2  # the first error seems to be the first step, unless the threshold is below: then none is found
    worse = validate_scores("sorm", solutions, scores)
    assert worse["first_error_accuracy"] == 0.5 and worse["first_error_f1"] == 0.0


def test_labels_that_are_shares_of_right_continuations():
    """They count as they are in the cross-entropy, and as right or wrong in all else."""
    solutions = [LabelledSolution("p", ("a", "b"), (0.75, 0.25)), LabelledSolution("p", ("a", "b"), (0.5, None))]
    found = validate_scores("sorm", solutions, [[0.75, 0.25], [0.4, 0.5]])
    parts = [0.75 * math.log(0.75) + 0.25 * math.log(0.25)] * 2 + [0.5 * math.log(0.4) + 0.5 * math.log(0.6)]
    assert found["cross_entropy"] == pytest.approx(-sum(parts) / 3)
    assert found["auroc"] == 1.0 and found["accuracy"] == 1.0 and found["first_error_accuracy"] == 1.0
    assert validate_scores("sorm", solutions, [[1.0, 0.0], [0.0, 0.5]])["cross_entropy"] < 10  # and not infinite


def test_positions_from_the_tenth_on_are_one():
    solutions = [LabelledSolution("p", ("a",) * 12, (1.0,) * 9 + (0.0,) * 3)]
    found = validate_scores("sorm", solutions, [[0.9] * 9 + [0.1, 0.9, 0.1]])
    assert found["accuracy_at_9"] == 1.0 and found["accuracy_at_10"] == pytest.approx(2 / 3)
    assert not {"accuracy_at_11", "accuracy_at_12"} & found.keys()
