"""The stage `corrupt_solutions`: gold solutions, and corruptions of each at a known step, as step labels.

They cost no sampling. A judge that is warmed up on them has seen wrong steps before it reads a student's.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

from rewards.labels.corruption import KINDS, Corruption, Limits, Unfit, check_place, draw, parse_solution
from rewards.labels.world_corruption import WORLD_KINDS, oracle_agrees, world_makers
from rollouts.grading.answers import grade
from rollouts.problems.args import ProblemArgs
from rollouts.problems.load import load_problems
from rollouts.records import Problem, StepLabels
from rollouts.solution import cut_solution
from rollouts.steps import join_steps, split_steps
from rollouts.world.args import SOURCE as WORLD
from stages.bad_rows import BadRows
from stages.checks import check_least
from stages.stage import Stage
from stages.workspace import Workspace

ALL_KINDS = (*KINDS, *WORLD_KINDS)


@dataclass
class CorruptArgs:
    """Arguments of the stage `corrupt_solutions`: at most `per_problem` corruptions of each gold solution, of as many
    `kinds` as there are. Without `kinds`, all that the source can have; those of WORLD_KINDS are the embedded world's.
    """

    problems: ProblemArgs = field(default_factory=ProblemArgs)  #: whose gold solutions
    kinds: list[str] = field(default_factory=list)  #: of mistakes; none given: all
    per_problem: int = 3  #: corruptions of a solution
    seed: int = 0  #: of which mistakes are made

    def validate(self) -> None:
        """Raise ValueError naming the first setting that makes no sense."""
        known = ALL_KINDS if self.problems.source == WORLD else tuple(KINDS)
        if unknown := sorted(set(self.kinds) - set(known)):
            raise ValueError(f"kinds={unknown}: solutions of {self.problems.source} have {', '.join(known)}")
        check_least(self, per_problem=1)


def corrupt(problem: Problem, args: CorruptArgs, counts: Counter[str]) -> list[StepLabels]:
    """The labels of one gold solution and of its corruptions; none at all where it has no corruption.

    Steps before the mistake are positive; from there on all are negative, as what follows goes on from it. A mistake
    that nothing goes on from, so that the answer is right after all, is not made.
    """
    gold = split_steps(problem.solution or "")
    world = problem.source == WORLD
    limits = Limits(args.problems.world.max_value, 0) if world else Limits()
    try:
        worked = parse_solution(problem.question, gold)
    except Unfit:
        counts["unmarked"] += 1
        return []
    makers = KINDS | (world_makers(problem) if world else {})
    makers = {kind: makers[kind] for kind in args.kinds or makers}
    agrees = partial(oracle_agrees, problem) if world else partial(check_place, gold)
    found: dict[tuple[str, ...], Corruption] = {}
    for one in draw(makers, worked, limits, random.Random(f"corrupt/{args.seed}/{problem.id}")):
        solution = cut_solution(join_steps(one.steps))
        verdict = grade(solution, problem.answer)
        if verdict.correct or not verdict.graded or solution.steps != one.steps or not agrees(one):
            counts["refused"] += 1
        elif one.steps in found:
            counts["duplicates"] += 1
        else:
            found[one.steps] = one
        if len(found) == args.per_problem:
            break
    counts.update(f"kind_{one.kind}" for one in found.values())
    rows = [_row(problem, "gold", tuple(gold), len(gold))] if found else []
    return rows + [_row(problem, one.kind, one.steps, one.step, n) for n, one in enumerate(found.values())]


def _row(problem: Problem, kind: str, steps: tuple[str, ...], first: int, number: int | None = None) -> StepLabels:
    name = problem.id + ("/gold" if number is None else f"/corrupted/{number}")
    zeros, labels = (0,) * len(steps), tuple(i < first for i in range(len(steps)))
    return StepLabels(name, problem.id, steps, number is None, labels, zeros, zeros, None, (), f"corruption: {kind}")


def corrupt_solutions(args: CorruptArgs, work: Workspace) -> None:
    """Write `rows` (StepLabels) and `problems` (Problem).

    Raises:
        ValueError: not one solution can be corrupted.
    """
    bad, counts = BadRows(args.problems.bad_rows), Counter(refused=0, duplicates=0, unmarked=0)
    problems = load_problems(args.problems, bad)
    rows = [row for problem in problems for row in corrupt(problem, args, counts)]
    if not rows:
        raise ValueError(
            f"problems.source={args.problems.source}: of {len(problems)} gold solutions not one can be corrupted; "
            "their equations must be marked, as in <<3+4=7>>7"
        )
    used = {row.problem_id for row in rows}
    work.write_rows("problems", [problem for problem in problems if problem.id in used])
    work.write_rows("rows", rows, StepLabels)
    work.count(solutions=len(used), corruptions=len(rows) - len(used), **counts)
    bad.record(work)


CORRUPT_SOLUTIONS = Stage("corrupt_solutions", 1, CorruptArgs, corrupt_solutions)
