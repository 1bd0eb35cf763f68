"""Prompts and solutions, there and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollouts.grading.answers import extract
from rollouts.prompts import parse_prompt, parse_solution, render_prompt, render_solution
from rollouts.steps import split_steps

QUESTION = "Ann has 7 pens. How many pens does Ann have?"


def test_a_prompt():
    assert render_prompt(QUESTION) == f"Q: {QUESTION}\n"
    assert render_prompt(f"  {QUESTION}\n") == f"Q: {QUESTION}\n"
    assert parse_prompt(f"Q: {QUESTION}\n") == QUESTION


@given(st.text())
def test_a_question_comes_back(question):
    assert parse_prompt(render_prompt(question)) == question.strip()


@pytest.mark.parametrize("prompt", ["", "\n", "Q:", QUESTION, f"Q: {QUESTION}", f"{QUESTION}\n", f"A: {QUESTION}\n"])
def test_another_prompt_is_refused(prompt):
    with pytest.raises(ValueError, match="not a prompt that asks for a solution: "):
        parse_prompt(prompt)


def test_a_solution():
    assert render_solution(["<<7+5=12>>12", "#### 12"]) == "<<7+5=12>>12\n#### 12\n"
    assert parse_solution("<<7+5=12>>12\n\n #### 12 \nQ: more") == ("<<7+5=12>>12", "#### 12")
    assert render_solution([]) == "" and parse_solution("") == ()


@given(st.text())
def test_steps_come_back(text):
    steps = parse_solution(text)
    assert list(steps) == split_steps(text)
    assert parse_solution(render_solution(steps)) == steps


@given(st.lists(st.sampled_from(["<<7+5=12>>12", "#### 12", "x", "The answer is 12"]), max_size=4))
def test_a_rendered_solution_is_graded_by_its_last_line(steps):
    """A prompt that a policy goes on with does not hide the answer that it gave."""
    text = render_solution(parse_solution("\n".join(steps)))
    assert extract(text + render_prompt(QUESTION)) == extract(text)
