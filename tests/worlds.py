"""Random difficulties of the embedded world, and the steps of a gold solution worked out anew from the question."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st

from rollouts.problems.args import ProblemArgs
from rollouts.records import Problem
from rollouts.world.args import WorldArgs
from rollouts.world.facts import SYMBOLS, World
from rollouts.world.oracle import parse_question


@st.composite
def world_args(draw: st.DrawFn) -> WorldArgs:
    """Settings for which there are many problems."""
    steps = sorted(draw(st.tuples(st.integers(1, 7), st.integers(1, 7))))
    distractors = sorted(draw(st.tuples(st.integers(0, 4), st.integers(0, 4))))
    max_value = draw(st.integers(40, 120))
    others = draw(st.lists(st.sampled_from(["fewer", "times", "share", "sum"]), unique=True))
    return WorldArgs(
        seed=draw(st.integers(0, 10**6)),
        min_steps=steps[0],
        max_steps=steps[1],
        max_value=max_value,
        max_operand=draw(st.integers(4, 20)),
        max_factor=draw(st.integers(2, 6)),
        min_distractors=distractors[0],
        max_distractors=distractors[1],
        rivals=draw(st.integers(0, 2)),
        followers=draw(st.integers(0, 2)),
        operations=["more", *others],
    )


def some_problems(world: WorldArgs, limit: int, split: str = "train") -> list[Problem]:
    from rollouts.problems.load import load_problems

    return load_problems(ProblemArgs(split=split, limit=limit, world=world))


class Step(NamedTuple):
    """One equation; the name is None where it is the total that was asked for."""

    name: str | None
    left: int
    symbol: str
    right: int
    result: int


def ancestors(world: World, names: tuple[str, ...]) -> set[str]:
    """These people and everybody whose quantity theirs is told by."""
    found: set[str] = set()
    for name in names:
        found |= {name} | ancestors(world, world.facts[name].others)
    return found


def gold_steps(problem: Problem) -> list[Step]:
    """What the gold solution must compute: everybody needed, those first whom the others need."""
    world = parse_question(problem.question)
    values = world.values()
    needed = [name for name in ancestors(world, world.asked) if world.facts[name].relation != "direct"]
    steps = []
    for name in sorted(needed, key=lambda name: len(ancestors(world, (name,)))):
        fact = world.facts[name]
        left, right = [values[other] for other in fact.others] + ([] if fact.number is None else [fact.number])
        steps.append(Step(name, left, SYMBOLS[fact.relation], right, values[name]))
    if len(world.asked) > 1:
        left, right = (values[name] for name in world.asked)
        steps.append(Step(None, left, "+", right, left + right))
    return steps
