"""The one cut of a text: the rules of docs/reading.md, and what holds of every text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.solution import STOP_MARKERS, cut_solution
from tests.texts import check_continuation, check_cut, texts


@settings(max_examples=2000, deadline=None)
@given(texts)
def test_whatever_the_text_the_answer_stands_in_the_last_step_and_cutting_twice_changes_nothing(text):
    check_cut(text)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(["6 * 3 = 18", "Tom has 4.", "So 18 - 2 = 16", "x"]), max_size=4), texts)
def test_a_continuation_changes_no_step_of_its_prefix(prefix, text):
    check_continuation(prefix, text)


HEADINGS = [
    "Q: next",
    "Question: next",
    "Question 2. Next",
    "**Problem 3:** next",
    "### Exercise 4",
    "Example 2:",
    "User: next",
]


@pytest.mark.parametrize(
    "heading",
    [
        *(
            *HEADINGS,
            "## Human",
            "Next question: what?",
            "2. Problem: next",
            "### Instruction:",
            "user",
            "[Question 2]",
        ),
        *("<question>next", "\\textbf{Problem 2.} next", "\\section*{Problem}", "Problem (2): next", "Q.2 next"),
        *("(2) Question: next", "問題2：next", "Domanda: next", "Teacher: next"),
    ],
)
def test_the_next_problem_or_speaker_ends_a_solution_whatever_its_heading(heading):
    assert cut_solution(f"2 + 3 = 5\n{heading}\nTom has 6.\n#### 6") == (("2 + 3 = 5",), None, "none")
    assert cut_solution(f"{heading}\n2 + 3 = 5\n#### 5")[:2] == ((heading, "2 + 3 = 5", "#### 5"), "5")  # restated


@pytest.mark.parametrize("heading", ["**Question**", "Input: next", "Here is another problem:", "Now solve: next"])
def test_what_may_be_a_heading_ends_a_solution_once_its_answer_is_stated(heading):
    assert cut_solution(f"The answer is 5.\n{heading}\nThe answer is 6.")[:2] == (("The answer is 5.",), "5")
    assert cut_solution(f"2 + 3 = 5\n{heading}\nThe answer is 6.").answer == "6"


@pytest.mark.parametrize("marker", [*STOP_MARKERS, "<|end_of_document|>", "<|return|>", "<｜begin▁of▁sentence｜>"])
def test_nothing_after_an_end_token_is_a_step(marker):
    assert cut_solution(f"2 + 3 = 5{marker}\n3 + 3 = 6").steps == ("2 + 3 = 5",)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("<think>a\nb</think>\nc", ("c",)),
        ("a\nb</think>c", ("c",)),
        ("<think>a</think>b<think>c</think>d", ("d",)),
        ("<scratchpad>a</scratchpad>b", ("b",)),
        ("<|begin_of_thought|>a<|end_of_thought|><|begin_of_solution|>b<|end_of_solution|>", ("b",)),
        ("assistantanalysis a\nassistantfinal b", ("b",)),
        ("<|im_start|>assistant\nb<|im_end|>", ("b",)),
        ("<think>a", ()),
        ("<think>a</think>", ()),
        ("a<think>b</think>", ("a",)),
        ("#### 5\nQ: next\n<think>b</think>\n#### 6", ("#### 5",)),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>", ("b",)),
        ("<|channel|>analysis<|message|>a", ()),
        ("analysis a\nassistantfinal b", ("b",)),
    ],
)
def test_what_a_model_thinks_is_no_step(text, steps):
    assert cut_solution(text).steps == steps


def test_steps_of_a_prefix_stay_and_what_follows_is_read_behind_them():
    assert cut_solution("18", ["The answer is:"]) == (("The answer is:", "18"), "18", "answer_is")
    assert cut_solution("<think>a</think>#### 18", ["6 * 3 = 18"]).steps == ("6 * 3 = 18", "#### 18")
    assert cut_solution("Q: next", ["6 * 3 = 18"]).steps == ("6 * 3 = 18",)
