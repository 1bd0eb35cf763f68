"""The embedded world: seeded word problems in GSM8K's format, made here, so that the truth about them is known.

A problem is a set of facts (quantities given directly or relative to one another) told in shuffled sentences,
some of them distractors, and a question. `parse_question` reads the facts back from the text, so the oracle
(`rollouts/world/oracle.py`) needs nothing but the question.
"""

from __future__ import annotations

import hashlib
import random
from functools import cache

from rollouts.problems.args import ProblemArgs
from rollouts.records import Problem
from rollouts.world.args import SOURCE as WORLD
from rollouts.world.args import WorldArgs
from rollouts.world.draw import draw_facts
from rollouts.world.facts import SYMBOLS, Fact, World, has_planning_shortcut, has_shortcut, render_fact

# share of problem contents in each split; a problem's split is a function of its content (names, item and order left
# out), never of the seed
SPLIT_RANGES = {"train": (0, 80), "validation": (80, 88), "test": (88, 100)}


def load(args: ProblemArgs) -> list[Problem]:
    """Generate `args.world.size` different problems of `args.split`, the same ones for the same arguments.

    Where only the first ones are asked for, no more are made: they do not depend on those that follow.

    Raises:
        ValueError: the settings are impossible, or allow too few different problems.
    """
    world = args.world
    world.validate()
    if args.split not in SPLIT_RANGES:
        raise ValueError(f"problems.split={args.split!r}: the arithmetic world has {', '.join(SPLIT_RANGES)}")
    rng = random.Random(f"arithmetic/{world.seed}/{args.split}")
    problems: list[Problem] = []
    seen: set[str] = set()
    tries = 0
    size = world.size
    if args.limit is not None and args.shuffle_seed is None:
        size = min(size, args.offset + args.limit)
    steps: int | None = None
    while len(problems) < size:
        tries += 1
        if tries > (50 if world.shortcuts else 2000) * size + 10_000:
            raise ValueError(f"problems.world allows only {len(problems)} different problems of the {size} asked")
        facts, order = draw_facts(world, steps, rng)
        if not world.shortcuts and is_short(world, facts, order):
            steps = len(order) + len(facts.asked) - 1  # try again as long, or long problems would be rare
            continue
        question, content = render_question(facts, rng)
        if content in seen or split_of(facts) != args.split:
            continue
        seen.add(content)
        steps = None
        solution = render_solution(facts, order)
        answer = str(facts.answer())
        identity = f"arithmetic/{args.split}/{len(problems)}"
        problems.append(Problem(identity, question, answer, solution, WORLD, args.split))
    return problems


def is_short(args: WorldArgs, world: World, order: list[str]) -> bool:
    """Whether the answer comes out in another way, too, as problems of these settings may have it."""
    return (has_planning_shortcut if args.rivals or args.followers else has_shortcut)(world, order)


def split_of(world: World) -> str:
    """The split that problems with these facts belong to."""
    bucket = _bucket(world)
    return next(split for split, (low, high) in SPLIT_RANGES.items() if low <= bucket < high)


def _bucket(world: World) -> int:
    """0 … 99, the same for all problems that differ in their names, item or order of sentences only."""

    @cache
    def describe(name: str) -> str:
        fact = world.facts[name]
        others = sorted(map(describe, fact.others))  # the two people of a sum have no order
        return f"{fact.relation}({','.join(others)};{fact.number})"

    asked = sorted(map(describe, world.asked))
    rest = sorted(describe(name) for name in world.facts if name not in world.asked)
    content = f"{asked} {rest}"
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:4], "big") % 100


def render_question(world: World, rng: random.Random) -> tuple[str, str]:
    """The text of a problem with its sentences shuffled, and its content: the same text with them sorted."""
    sentences = [render_fact(fact, world.item) for fact in world.facts.values()]
    if len(world.asked) == 1:
        ask = f"How many {world.item} does {world.asked[0]} have?"
    else:
        ask = f"How many {world.item} do {world.asked[0]} and {world.asked[1]} have together?"
    content = " ".join([*sorted(sentences), ask])
    rng.shuffle(sentences)
    return " ".join([*sentences, ask]), content


def render_solution(world: World, order: list[str]) -> str:
    """The gold solution: one line a step, which restates what it builds on and the fact it uses, and `#### n`.

    With the quantity restated, all that the next number depends on stands in the line itself or is one look-up away, so
    that also a very small model can learn the steps, and can see from a line whether it is right.
    """
    values = world.values()
    answer = sum(values[name] for name in world.asked)
    lines = []
    for name in order:
        fact = world.facts[name]
        numbers = [values[other] for other in fact.others] + ([] if fact.number is None else [fact.number])
        expression = SYMBOLS[fact.relation].join(map(str, numbers))
        told = [Fact(other, "direct", values[other], ()) for other in fact.others]
        lead = " and ".join(render_fact(one, world.item)[:-1] for one in [*told, fact])
        lines.append(render_step(f"As {lead}", expression, values[name]))
    if len(world.asked) > 1:
        expression = "+".join(str(values[name]) for name in world.asked)
        lines.append(render_step(f"In total {' and '.join(world.asked)} have", expression, answer))
    return "\n".join([*lines, f"#### {answer}"])


def render_step(lead: str, expression: str, result: int) -> str:
    """One line of a solution, such as `As Tom has 7 pens and Ann has 5 more pens than Tom, <<7+5=12>>12`."""
    return f"{lead}, <<{expression}={result}>>{result}"
