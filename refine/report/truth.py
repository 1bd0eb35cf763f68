"""What is true, by the oracle of the embedded world, of steps and labels; and that no test problem was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from operator import and_

from rollouts.problems.splits import question_key
from rollouts.records import Candidate, CandidateKey, Problem, StepLabels, identity
from rollouts.world.args import SOURCE
from rollouts.world.claims import Verdict
from rollouts.world.oracle import can_still_reach, error_kind, judge_steps


def judge_prefixes(problem: Problem, steps: Sequence[str]) -> list[bool]:
    """Whether all steps of each prefix are right: what a stepwise reward model should say after each step.

    A needless step counts as wrong: from there a policy that learnt from gold solutions does not come back.
    """
    return list(accumulate((verdict is Verdict.RIGHT for verdict in judge_steps(problem, steps)), and_))


def judge_candidates(
    problems: Mapping[str, Problem], candidates: Sequence[Candidate]
) -> dict[CandidateKey, list[bool]] | None:
    """What `judge_prefixes` says of every draft and sample; None where a problem is not the embedded world's."""
    if any(problem.source != SOURCE for problem in problems.values()):
        return None
    return {
        identity(one): judge_prefixes(problems[one.problem_id], one.steps)
        for one in candidates
        if one.kind in ("draft", "sample")
    }


def name_errors(problems: Mapping[str, Problem], candidates: Sequence[Candidate]) -> dict[CandidateKey, Verdict] | None:
    """What went wrong first in every draft that is not right (`error_kind`); None where a problem is not the embedded
    world's. A draft in which the oracle finds nothing wrong could not be graded: it is `unread`."""
    if any(problem.source != SOURCE for problem in problems.values()):
        return None
    return {
        identity(one): error_kind(problems[one.problem_id], one.steps) or Verdict.UNREAD
        for one in candidates
        if one.kind == "draft" and one.correct is not True
    }


def judge_labels(
    problems: Mapping[str, Problem], labels: Sequence[StepLabels], *, strict: bool = False
) -> dict[str, tuple[int, int]] | None:
    """How many labels of wrong rollouts the oracle agrees with, and how many there are, by problem; None where one is
    not the embedded world's.

    The truth is whether the right answer can still be reached, from needless steps too (`can_still_reach`); `strict`
    takes whether all steps so far are right, and none is needless (`judge_prefixes`).
    """
    if any(problem.source != SOURCE for problem in problems.values()):
        return None
    found: dict[str, tuple[int, int]] = {}
    for row in labels:
        problem = problems[row.problem_id]
        truth = judge_prefixes(problem, row.steps) if strict and not row.correct else None
        for i, label in enumerate(row.labels):
            if label is not None and not row.correct:
                right, given = found.get(row.problem_id, (0, 0))
                agrees = label == (can_still_reach(problem, row.steps[: i + 1]) if truth is None else truth[i])
                found[row.problem_id] = right + agrees, given + 1
    return found


def check_apart(trained_on: Sequence[Problem], tested_on: Sequence[Problem]) -> None:
    """See that no problem that was tested on was trained on, by its text.

    Raises:
        ValueError: there is one; the message names it.
    """
    trained = {question_key(problem.question): problem.id for problem in trained_on}
    for problem in tested_on:
        if other := trained.get(question_key(problem.question)):
            raise ValueError(f"test problem {problem.id} was trained on, as {other}: the report would not be honest")
