"""Near copies of problems: with other names and numbers, or some other words."""

from __future__ import annotations

import pytest

from rollouts.problems.copies import Copies
from rollouts.records import Problem

TEST = (
    "Max bought stamps at the post office. Some had a snowflake design, some a truck design. Max bought 16 snowflake "
    "stamps. He bought 3 more truck stamps than snowflake stamps. How many stamps did Max buy in all?"
)
COPIES = Copies([Problem("t0", TEST, "35", None, "s", "test"), Problem("t1", "What is 3 + 5?", "8", None, "s", "test")])


@pytest.mark.parametrize(
    "question",
    [
        TEST,
        TEST.lower().replace(".", " ."),
        TEST.replace("Max", "Bella").replace("16", "eleven").replace("3", "9"),
        f"It is Monday. {TEST}",
        TEST.replace("How many stamps did Max buy in all?", "What is the total number of stamps that he now has?"),
        "What is 17 + 25?",
    ],
)
def test_a_copy_is_found(question: str) -> None:
    assert COPIES.find(question) in ("t0", "t1")


@pytest.mark.parametrize(
    "question",
    [
        "Ann buys 3 boxes of 12 eggs. She drops 4 eggs. How many eggs are left?",
        "Max bought stamps for 5 dollars and sold a third of them for 7 dollars. How much did he win?",
        "What is 3 * 6?",
        "",
    ],
)
def test_another_problem_is_none(question: str) -> None:
    assert COPIES.find(question) is None


def test_where_there_is_nothing_to_copy() -> None:
    assert Copies([]).find(TEST) is None
