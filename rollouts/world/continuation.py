"""How a solution of the embedded world is put right: the steps that lead from a right prefix to the answer."""

from __future__ import annotations

from collections.abc import Sequence

from rollouts.records import Problem
from rollouts.steps import split_steps
from rollouts.world.claims import Verdict, parse_question, read_claims
from rollouts.world.derivations import find_truth


def continue_rightly(problem: Problem, prefix: Sequence[str]) -> list[str]:
    """The lines of the gold solution that are missing after right steps, in their order, and the answer line.

    What the prefix has worked out is not worked out again.

    Raises:
        ValueError: the problem is not of the embedded world, or has no gold solution.
    """
    if problem.solution is None:
        raise ValueError(f"problem {problem.id} has no gold solution to go on with")
    truth = find_truth(parse_question(problem.question))
    known: set[str] = set()
    for step in prefix:
        known |= {claim.name for claim in read_claims(truth, step, known) or () if claim.verdict is Verdict.RIGHT}
    *lines, answer = split_steps(problem.solution)
    needed, missing, so_far = truth.needed(known) - known, [], set()
    for line in lines:
        names = {claim.name for claim in read_claims(truth, line, so_far) or () if claim.derived}
        so_far |= names
        if names & needed:
            missing.append(line)
    return [*missing, answer]
