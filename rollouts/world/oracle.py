"""The oracle of the embedded world: what each step of a solution is, from the question's text alone.

It knows nothing of how a problem was made: the facts are read back from the question. A step is right when its equation
holds, its result is the quantity of the person it names, its numbers and operations derive that quantity from the
facts, and the answer takes it. How a step is worded does not matter (`rollouts/world/claims.py` reads it).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from rollouts.records import Problem
from rollouts.world.claims import ANSWER, Claim, Verdict, parse_question, read_claims
from rollouts.world.derivations import Truth, find_truth


def judge_steps(problem: Problem, steps: Sequence[str]) -> list[Verdict]:
    """What each step is.

    Steps may come in any order, merge several steps into one equation or several equations into one line, and use
    quantities that no step has worked out. To repeat a fact, or a quantity that a right step worked out, is right too.
    An answer line is right when it states the answer, as the grader reads it, also where no step led there. Wrong are a
    number that happens to fit but is nobody's (6+6 for a person who has 7+5), a quantity that comes from nowhere
    (12=12), an equation about nobody or somebody else, a fact that is not the question's, and any number that stands in
    neither. A line without numbers claims nothing, and is right.

    A step is needless where it is true and works out only quantities that the answer does not take (side), or where
    what was asked for had been worked out before, be it true or not (late). It takes nothing away from those who go
    back, but shows that the writer has lost the way. So `can_still_reach` does not count it as wrong;
    `true_first_error`, `error_kind` and what the report measures reward models by do.

    Raises:
        ValueError: the problem is not of the embedded world.
    """
    truth = _truth(problem.question)
    needed = truth.needed(set())
    known: set[str] = set()
    verdicts = []
    for step in steps:
        claims = read_claims(truth, step.strip(), known)
        verdicts.append(Verdict.UNREAD if claims is None else _judge_claims(truth, claims, needed, known))
        known.update(claim.name for claim in claims or () if claim.verdict is Verdict.RIGHT)
    return verdicts


def _judge_claims(truth: Truth, claims: Sequence[Claim], needed: set[str], known: set[str]) -> Verdict:
    """What a step is that makes these claims, after those of `known` had been worked out."""
    ends = {truth.goal, ANSWER}
    about = {claim.name for claim in claims if claim.derived} or {claim.name for claim in claims}
    told_first = sorted(claims, key=lambda claim: claim.derived)
    wrong = [claim for claim in told_first if claim.verdict is not Verdict.RIGHT]
    if known & ends and about and not ends & (about | {claim.name for claim in wrong}):
        return Verdict.LATE
    if wrong:
        return wrong[0].verdict
    return Verdict.RIGHT if not about or about & (needed | ends) else Verdict.SIDE


def true_first_error(problem: Problem, steps: Sequence[str]) -> int | None:
    """The 0-based index of the first step that is not right, or None where every step is (see `judge_steps`).

    A needless step counts: there a solution leaves the way, and there it has to be mended. A solution that stops before
    its answer has no wrong step for that.
    """
    return next((i for i, verdict in enumerate(judge_steps(problem, steps)) if verdict is not Verdict.RIGHT), None)


def error_kind(problem: Problem, steps: Sequence[str]) -> Verdict | None:
    """What the first step is that is not right. Where every step is: `unread` if no answer follows, None if one does.

    Raises:
        ValueError: the problem is not of the embedded world.
    """
    if (first := next((one for one in judge_steps(problem, steps) if one is not Verdict.RIGHT), None)) is not None:
        return first
    return None if any(_states_answer(problem, step) for step in steps) else Verdict.UNREAD


def _states_answer(problem: Problem, step: str) -> bool:
    claims = read_claims(_truth(problem.question), step.strip(), set())
    return any(claim.name == ANSWER for claim in claims or ())


def can_still_reach(problem: Problem, steps: Sequence[str]) -> bool:
    """Whether the right answer can still follow from this prefix (the V* that a SORM approximates, GLoRe sec. 3.2).

    Who goes on takes every number that was written as it is. So a wrong quantity ends it, unless it belongs to
    somebody whom the answer does not need, or no longer needs, since what depends on it has been stated rightly; and
    a right quantity does not, also where its step is wrong (6+6 for 7+5). A needless step does not end it either: that
    a policy never comes back from one is the policy's. A line that cannot be understood ends it.

    Raises:
        ValueError: the problem is not of the embedded world.
    """
    truth = _truth(problem.question)
    stated: set[str] = set()
    for step in steps:
        claims = read_claims(truth, step.strip(), stated)
        if claims is None:
            return False
        needed = {ANSWER, *truth.needed(stated)}
        if any(claim.name in needed and not claim.true for claim in claims):
            return False
        stated.update(claim.name for claim in claims if claim.true)
    return True


@lru_cache(maxsize=1024)
def _truth(question: str) -> Truth:
    return find_truth(parse_question(question))
