"""The one cut of a text over 100,000 random texts; `tests/rollouts/test_solution.py` has 2,000 of them."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from tests.texts import check_cut, texts


@pytest.mark.slow
@settings(max_examples=100_000, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(texts)
def test_whatever_the_text_the_answer_stands_in_the_last_step_and_cutting_twice_changes_nothing(text):
    check_cut(text)
