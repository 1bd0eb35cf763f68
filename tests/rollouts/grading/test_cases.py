"""The table that `make bench-grading` measures graders by (`experiments/bench/grading_cases.json`)."""

from __future__ import annotations

import pytest

from experiments.bench.grading_cases import load_cases
from rollouts.grading.answers import grade

CASES = load_cases()


def test_the_table_is_large_and_repeats_nothing():
    assert len(CASES) == len(set(CASES)) >= 400


@pytest.mark.parametrize("kind", sorted({case.kind for case in CASES}))
def test_every_row_of_a_kind(kind):
    own = [case for case in CASES if case.kind == kind]
    assert [case for case in own if grade(case.text, case.reference).correct is not case.right] == []
    assert all(grade(case.text, case.reference).graded for case in own)
