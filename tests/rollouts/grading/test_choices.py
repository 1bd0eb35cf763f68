"""Multiple choice: what is the right choice and what is not, and that numbers are graded as before."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollouts.grading.answers import canonical, grade
from rollouts.grading.choices import Choice, is_chosen, parse_choice, render_choice
from rollouts.records import Problem

BANK = Choice("C", "bank")

RIGHT = [
    "C",
    "c",
    "(C)",
    "(c).",
    "[C]",
    "C.",
    "C)",
    "C:",
    "(C) bank",
    "C. bank",
    "C) Bank.",
    "C: a bank",
    "C - bank",
    "bank",
    "the bank",
    "Bank ,",
    "**(C) bank**",
    "**C**",
    r"\text{C}",
    r"\textbf{(C)} bank",
    "option C",
    "choice (C)",
    "The answer is: C",
    "C, because money is kept there",
    "(C) since money is kept there",
    '"bank"',
    "C, bank",
    "C (bank)",
    "the bank (C)",
    "letter C",
    "C!",
]
WRONG = [
    "A",
    "(B)",
    "D. bank",
    "(A) bank",
    "C. sea",
    "(C) river bank",
    "B or C",
    "C or B",
    "C and D",
    "(C), (D)",
    "C D",
    "bank or sea",
    "not bank",
    "not C",
    "banks",
    "river bank",
    "3",
    "Cat",
    "AC",
    "CC",
    "",
    "(C",
    "C, D",
    "C (sea)",
    "sea (C)",
    "bank (A)",
]


@pytest.mark.parametrize("answer", RIGHT)
def test_right_choices(answer):
    assert is_chosen(answer, BANK)


@pytest.mark.parametrize("answer", WRONG)
def test_wrong_choices(answer):
    assert not is_chosen(answer, BANK)


@pytest.mark.parametrize(
    ("answer", "choice", "right"),
    [
        ("a bank", Choice("B", "bank"), True),  # an article, no letter
        ("A bank", Choice("A", "sea"), False),
        ("a lot", Choice("B", "a lot"), True),
        ("I", Choice("I", "nine"), True),
        ("john's house", Choice("A", "John's house"), True),
        ("johns house", Choice("A", "John's house"), False),
        ("e-mail", Choice("D", "E mail"), False),
        ("E-mail", Choice("E", "letter"), False),
        ("10", Choice("A", "10"), True),
        ("10.0", Choice("A", "10"), False),
        ("-5", Choice("A", "5"), False),
        ("-5", Choice("A", "-5"), True),
        ("-", Choice("A", "+"), False),
        ("x-1", Choice("A", "x+1"), False),
        ("5!", Choice("A", "5"), False),
        (".5", Choice("A", "5"), False),
    ],
)
def test_texts_that_look_like_letters(answer, choice, right):
    assert is_chosen(answer, choice) == right


@pytest.mark.parametrize(
    ("text", "correct"),
    [
        ("Money is kept in banks.\n#### C", True),
        ("Money is kept in banks.\n#### (C) bank", True),
        ("So the answer is (C) bank.", True),
        ("So the answer is bank.", True),
        ("So the correct option is C.", True),
        ("So the correct choice is (A).", False),
        (r"So it is \boxed{\text{C}}.", True),
        ("Money is kept in banks.\n#### (A) sea", False),
        ("I think of C.", False),
    ],
)
def test_the_grader_compares_choices(text, correct):
    verdict = grade(text, "(C) bank")
    assert verdict.correct == correct and verdict.graded
    assert verdict.rule == "none" or verdict.rule.endswith(":choice")


@pytest.mark.parametrize(
    "reference", ["18", "C", "(C)", "(3) bank", "(c) bank", "(CD) bank", "x (C) bank", "(C)bank", ""]
)
def test_no_other_reference_is_a_choice(reference):
    assert parse_choice(reference) is None
    assert not grade("#### C. 18", "18").correct and grade("#### 18", "18").rule == "hash:number"


@given(st.sampled_from("ABCDE"), st.text(min_size=1).filter(lambda text: not text[0].isspace()))
def test_there_and_back(letter, text):
    choice = Choice(letter, text)
    assert parse_choice(render_choice(choice)) == choice


@given(st.text())
def test_no_answer_raises(answer):
    is_chosen(answer, BANK)


def test_answers_that_name_one_choice_are_one_vote():
    asked = Problem("a", "Where?\nAnswer choices: (A) sea (B) river bank (C) bank", "(C) bank", None, "x", "test")
    for letter, answers in {
        "C": ["C", "(C) bank", "c.", "bank", "the bank", "\\text{(C)}"],
        "A": ["A", "sea", "(A)"],
        "B": ["river bank", "B) river bank"],
    }.items():
        assert {canonical(answer, asked) for answer in answers} == {letter}
    assert canonical("C. sea", asked) not in ("A", "C") and canonical("A or B", asked) not in ("A", "B")
    plain = replace(asked, answer="18")
    assert canonical("C", plain) == canonical("(C)", plain) != canonical("(C) bank", plain)
