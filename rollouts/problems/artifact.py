"""Problems of an artifact: those that `evolve` made, or those that another stage worked on (its `problems`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rollouts.records import Problem
from stages.artifacts import open_artifact

if TYPE_CHECKING:
    from rollouts.problems.args import ProblemArgs
    from stages.bad_rows import BadRows


def load(args: ProblemArgs, bad: BadRows) -> list[Problem]:
    """The problems of `args.split` in the artifact `args.path`, as they are there: ids and sources stay.

    Raises:
        ArtifactError: there is no such artifact, or it has no problems.
    """
    return [problem for problem in open_artifact(args.path).rows(Problem, "problems") if problem.split == args.split]
