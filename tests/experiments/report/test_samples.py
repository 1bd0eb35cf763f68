"""The section on more samples."""

from __future__ import annotations

import pytest

from experiments.report.samples import samples_parts


@pytest.mark.parametrize(
    ("accuracies", "told"),
    [
        ([0.4, 0.5, 0.6, 0.7], "at least as often right as reranking (60.0%) from n = 3 on"),
        ([0.4, 0.6, 0.5, 0.7], "at least as often right as reranking (60.0%) from n = 4 on"),  # with 2, but not with 3
        ([0.6, 0.7, 0.6, 0.5], "less often right than reranking (60.0%) with all 4 samples"),  # not for good
    ],
)
def test_from_when_on_best_of_n_is_as_good_as_reranking(accuracies, told):
    curve = [
        {"value": value, "low": value, "high": value, "n": 9, "samples": n, "tokens": n, "tokens_read": n}
        for n, value in enumerate(accuracies, start=1)
    ]
    report = {
        "curves": {"orm": curve},
        "aggregation": {},
        "headline": {"scorer": "orm"},
        "accuracy": {"reranked": {"value": 0.6, "low": 0.5, "high": 0.7, "n": 9}},
    }
    notes = " ".join(part for part in samples_parts(report) if isinstance(part, str))
    assert f"Best of n by the ORM is {told}." in notes
