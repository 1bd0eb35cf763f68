"""Near copies of problems: with other names and numbers, or some other words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rollouts.problems.args import ProblemArgs
from rollouts.problems.copies import Copies
from rollouts.problems.load import load_problems, load_untrained
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


def test_the_problems_of_all_splits_but_train_are_untrained(tmp_path: Path, caplog) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text("\n".join(json.dumps({"question": f"What is {n} + 5?", "answer": n + 5}) for n in range(40)))
    args = ProblemArgs("jsonl", path=str(file), split_shares=[0.5, 0.2, 0.3], limit=3)
    found = {one.question for one in load_untrained(args)}
    train = {one.question for one in load_problems(replace(args, limit=None))}
    assert len(found) + len(train) == 40 and not found & train
    assert (
        load_untrained(replace(args, split_shares=[1.0, 0.0, 0.0])) == [] and "no test problem is known" in caplog.text
    )
    with pytest.raises(ValueError, match="x does not know the test problems: name their own source"):
        load_untrained(ProblemArgs("artifact", path="x"))


def test_where_there_is_nothing_to_copy() -> None:
    assert Copies([]).find(TEST) is None
