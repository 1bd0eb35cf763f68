"""The embedded world: seeded word problems in GSM8K's format, made here, so that the truth about them is known.

A problem is a set of facts (quantities given directly or relative to one another) told in shuffled sentences,
some of them distractors, and a question. `parse_question` reads the facts back from the text, so the oracle
(`rollouts/world/oracle.py`) needs nothing but the question.
"""

from __future__ import annotations

import hashlib
import random

from rollouts.problems.args import ProblemArgs
from rollouts.records import Problem
from rollouts.world.args import SOURCE as WORLD
from rollouts.world.args import WorldArgs
from rollouts.world.facts import ITEMS, NAMES, SYMBOLS, Fact, World, apply, has_shortcut, render_fact

# share of problem contents in each split; a problem's split is a function of its content (names, item and order left
# out), never of the seed
SPLIT_RANGES = {"train": (0, 80), "validation": (80, 88), "test": (88, 100)}
_MOST_DRAWS = 10_000  # where so many do not fit the settings, none may
_COMMUTE = ({"more", "fewer"}, {"times", "share"})


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
    low, high = SPLIT_RANGES[args.split]
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
        facts, order = _draw_facts(world, steps, rng)
        if not world.shortcuts and has_shortcut(facts, order):
            steps = len(order) + len(facts.asked) - 1  # try again as long, or long problems would be rare
            continue
        question, content = render_question(facts, rng)
        if content in seen or not low <= _bucket(facts) < high:
            continue
        seen.add(content)
        steps = None
        solution = render_solution(facts, order)
        answer = str(facts.answer())
        identity = f"arithmetic/{args.split}/{len(problems)}"
        problems.append(Problem(identity, question, answer, solution, WORLD, args.split))
    return problems


def _bucket(world: World) -> int:
    """0 … 99, the same for all problems that differ in their names, item or order of sentences only."""

    def describe(name: str) -> str:
        fact = world.facts[name]
        others = sorted(map(describe, fact.others))  # the two people of a sum have no order
        return f"{fact.relation}({','.join(others)};{fact.number})"

    asked = sorted(map(describe, world.asked))
    rest = sorted(describe(name) for name in world.facts if name not in world.asked)
    content = f"{asked} {rest}"
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:4], "big") % 100


def _draw_facts(args: WorldArgs, given: int | None, rng: random.Random) -> tuple[World, list[str]]:
    """Draw a world of `given` steps, or of any number, and the names in the gold solution's order.

    Raises:
        ValueError: no world within the settings was found.
    """
    for _ in range(_MOST_DRAWS):
        steps = rng.randint(args.min_steps, args.max_steps) if given is None else given
        total = steps >= 2 and rng.random() < args.totals
        names = rng.sample(NAMES[: args.people], steps + 1 + args.max_distractors + 2)
        facts = {names[0]: Fact(names[0], "direct", _draw_direct(args, rng), ())}
        values = {names[0]: facts[names[0]].number}
        order: list[str] = []
        unused = [names[0]]  # people whose quantity nobody needs yet: each must be used for every step to matter
        for name in names[1 : steps + (0 if total else 1)]:
            before = facts[unused[-1]].relation if not args.shortcuts else None
            fact, value = _draw_relation(args, name, unused, values, before, rng)
            if fact is None:
                break
            facts[name], values[name] = fact, value
            unused = [other for other in unused if other not in fact.others] + [name]
            order.append(name)
        if len(order) < steps - (1 if total else 0):
            continue
        last = order[-1]
        asked = (last, rng.choice([n for n in facts if n != last])) if total else (last,)
        if sum(values[n] for n in asked) > args.max_value:
            continue
        world = World(facts, asked, rng.choice(ITEMS))
        reachable = values if args.side_branches else {name: values[name] for name in asked}
        for name in names[steps + 1 : steps + 1 + rng.randint(args.min_distractors, args.max_distractors)]:
            fact, value = _draw_distractor(args, name, reachable, rng)
            if fact is None:
                break
            facts[name], reachable[name] = fact, value
        else:
            return world, order
    raise ValueError(f"problems.world: none of {_MOST_DRAWS} drawn problems keeps to {args}")


def _draw_direct(args: WorldArgs, rng: random.Random) -> int:
    return rng.randint(2, min(args.max_operand + 3, args.max_value))


def _draw_relation(
    args: WorldArgs,
    name: str,
    unused: list[str],
    values: dict[str, int],
    before: str | None,
    rng: random.Random,
) -> tuple[Fact | None, int | None]:
    """A fact about `name` that builds on whoever is last in `unused`, and the quantity; not one that commutes with the
    relation `before`, since that could only be a shortcut."""
    for _ in range(20):
        relation = rng.choice(args.operations)
        if any({relation, before} <= alike for alike in _COMMUTE):
            continue
        other = unused[-1]
        if relation == "sum":
            others = [n for n in values if n != other]
            if not others:
                continue
            pair = (other, rng.choice(others))
            value = values[pair[0]] + values[pair[1]]
            fact = Fact(name, "sum", None, pair)
        else:
            number = rng.randint(2, args.max_operand if relation in ("more", "fewer") else args.max_factor)
            value = apply(relation, values[other], number)
            fact = Fact(name, relation, number, (other,))
        if value is not None and 1 <= value <= args.max_value:
            return fact, value
    return None, None


def _draw_distractor(
    args: WorldArgs, name: str, values: dict[str, int], rng: random.Random
) -> tuple[Fact | None, int | None]:
    """A person nobody asks about: told directly, or relative to somebody who matters; None where no number fits."""
    relations = [operation for operation in args.operations if operation != "sum"]
    if relations and (not args.direct_distractors or rng.random() < 0.6):
        for _ in range(10):
            other = rng.choice(list(values))
            relation = rng.choice(relations)
            number = rng.randint(2, args.max_operand if relation in ("more", "fewer") else args.max_factor)
            value = apply(relation, values[other], number)
            if value is not None and 1 <= value <= args.max_value:
                return Fact(name, relation, number, (other,)), value
    if not args.direct_distractors:
        return None, None
    number = _draw_direct(args, rng)
    return Fact(name, "direct", number, ()), number


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
        lines.append(render_step(f"In total {' and '.join(world.asked)} have", expression, world.answer()))
    return "\n".join([*lines, f"#### {world.answer()}"])


def render_step(lead: str, expression: str, result: int) -> str:
    """One line of a solution, such as `As Tom has 7 pens and Ann has 5 more pens than Tom, <<7+5=12>>12`."""
    return f"{lead}, <<{expression}={result}>>{result}"
