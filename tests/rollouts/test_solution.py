"""The one cut of a text: the rules of docs/reading.md, and what holds of every text."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.texts import check_continuation, check_cut, texts


@settings(max_examples=2000, deadline=None)
@given(texts)
def test_whatever_the_text_the_answer_stands_in_the_last_step_and_cutting_twice_changes_nothing(text):
    check_cut(text)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(["6 * 3 = 18", "Tom has 4.", "So 18 - 2 = 16", "x"]), max_size=4), texts)
def test_a_continuation_changes_no_step_of_its_prefix(prefix, text):
    check_continuation(prefix, text)
