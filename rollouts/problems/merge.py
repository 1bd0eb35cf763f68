"""The problems of several artifacts together, for whoever reads rows of more than one."""

from __future__ import annotations

from collections.abc import Iterable

from rollouts.records import Problem
from stages.artifacts import Artifact


def merge_problems(sources: Iterable[Artifact], training: bool = False) -> dict[str, Problem]:
    """The problems of these artifacts by id, in the order in which they come; for `training` none of the test split.

    Raises:
        ValueError: two problems of one id are not the same, or one is of the test split and it is for training.
    """
    problems: dict[str, Problem] = {}
    for source in sources:
        for problem in source.rows(Problem, "problems"):
            if training and problem.split == "test":
                raise ValueError(f"{source.path}: problem {problem.id} is of the test split, which trains no model")
            known = problems.setdefault(problem.id, problem)
            if (known.question, known.answer) != (problem.question, problem.answer):
                raise ValueError(
                    f"{source.path}: problem {problem.id} is another one here, {problem.question[:60]!r}, than before, "
                    f"{known.question[:60]!r}"
                )
    return problems
