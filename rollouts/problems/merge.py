"""The problems of several artifacts together, for whoever reads rows of more than one."""

from __future__ import annotations

from collections.abc import Iterable

from rollouts.records import Problem
from stages.artifacts import Artifact


def merge_problems(sources: Iterable[Artifact]) -> dict[str, Problem]:
    """The problems of these artifacts by id, in the order in which they come.

    Raises:
        ValueError: two problems of one id are not the same.
    """
    problems: dict[str, Problem] = {}
    for source in sources:
        for problem in source.rows(Problem, "problems"):
            known = problems.setdefault(problem.id, problem)
            if (known.question, known.answer) != (problem.question, problem.answer):
                raise ValueError(
                    f"{source.path}: problem {problem.id} is another one here, {problem.question[:60]!r}, than before, "
                    f"{known.question[:60]!r}"
                )
    return problems


def training_problems(sources: Iterable[Artifact]) -> dict[str, Problem]:
    """The same, for training.

    Raises:
        ValueError: see `merge_problems`; or one is of the test split.
    """
    sources = list(sources)
    problems = merge_problems(sources)
    if tested := next((one for one in problems.values() if one.split == "test"), None):
        paths = ", ".join(str(source.path) for source in sources)
        raise ValueError(f"{paths}: problem {tested.id} is of the test split, which trains no model")
    return problems
