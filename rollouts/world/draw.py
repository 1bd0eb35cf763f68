"""Draws the facts of one problem: the gold chain, rivals that leave it, followers of their ends, and distractors.

The same settings and the same state of `rng` give the same facts. Left out: which problems are kept, and their texts
(`rollouts/world/generator.py`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice

from rollouts.world.args import WorldArgs
from rollouts.world.facts import ITEMS, NAMES, Fact, World, apply

_MOST_DRAWS = 10_000  # where so many do not fit the settings, none may
_COMMUTE = ({"more", "fewer"}, {"times", "share"})


class _NoFit(Exception):
    """No number within the settings fits what was drawn so far."""


def draw_facts(args: WorldArgs, given: int | None, rng: random.Random) -> tuple[World, list[str]]:
    """Draw a world of `given` steps, or of any number, and the names in the gold solution's order.

    Raises:
        ValueError: no world within the settings was found.
    """
    for _ in range(_MOST_DRAWS):
        steps = rng.randint(args.min_steps, args.max_steps) if given is None else given
        try:
            return _draw(args, steps, rng)
        except _NoFit:
            continue
    raise ValueError(f"problems.world: none of {_MOST_DRAWS} drawn problems keeps to {args}")


def _draw(args: WorldArgs, steps: int, rng: random.Random) -> tuple[World, list[str]]:
    total = steps >= 2 and rng.random() < args.totals
    names = rng.sample(NAMES[: args.people], args.most_people(steps) + 2)  # two more, so that names vary
    start = Fact(names[0], "direct", _draw_direct(args, rng), ())
    facts, values = {start.name: start}, {start.name: start.number}
    order = names[1 : steps + (0 if total else 1)]
    _add_chain(args, start.name, order, facts, values, rng, commutes=args.shortcuts)
    last = order[-1]
    asked = (last, rng.choice([name for name in facts if name != last])) if total else (last,)
    if sum(values[name] for name in asked) > args.max_value:
        raise _NoFit
    world = World(facts, asked, rng.choice(ITEMS))
    spare = iter(names[steps + 1 :])
    ends = [last, *_add_rivals(args, [start.name, *order], spare, facts, values, rng)]
    followers = [name for end in ends for name in _add_followers(args, end, spare, facts, values, rng)]
    reachable = values if args.side_branches else {name: values[name] for name in (*asked, *ends, *followers)}
    for name in islice(spare, rng.randint(args.min_distractors, args.max_distractors)):
        facts[name], reachable[name] = _draw_distractor(args, name, reachable, rng)
    return world, order


def _add_chain(
    args: WorldArgs,
    start: str,
    names: list[str],
    facts: dict[str, Fact],
    values: dict[str, int],
    rng: random.Random,
    *,
    commutes: bool = True,
) -> None:
    """Add people each of whom builds on the one before, the first on `start`. Unless a chain `commutes`, no relation in
    it does with the one before, since that could only be a shortcut."""
    for name in names:
        before = None if commutes else facts[start].relation
        facts[name], values[name] = _draw_relation(args, name, start, values, before, rng)
        start = name


def _add_rivals(
    args: WorldArgs,
    path: list[str],
    names: Iterator[str],
    facts: dict[str, Fact],
    values: dict[str, int],
    rng: random.Random,
) -> list[str]:
    """Add `args.rivals` chains that leave the gold chain `path` before its end, and return the last of each.

    From the first of `path` to its own last a rival takes as many steps as the gold chain, or one more or fewer.
    """
    ends = []
    for _ in range(args.rivals):
        leaves = rng.randrange(len(path) - 1)
        length = max(1, len(path) - 1 - leaves + rng.randint(-1, 1))
        rival = list(islice(names, length))
        _add_chain(args, path[leaves], rival, facts, values, rng)
        ends.append(rival[-1])
    return ends


def _add_followers(
    args: WorldArgs, end: str, names: Iterator[str], facts: dict[str, Fact], values: dict[str, int], rng: random.Random
) -> list[str]:
    """Add 1 … `args.followers` people (none where it is 0), the first of whom builds on `end`, and return them."""
    tree = [end]
    for name in islice(names, rng.randint(1, args.followers) if args.followers else 0):
        facts[name], values[name] = _draw_relation(args, name, rng.choice(tree), values, None, rng)
        tree.append(name)
    return tree[1:]


def _draw_direct(args: WorldArgs, rng: random.Random) -> int:
    return rng.randint(2, min(args.max_operand + 3, args.max_value))


def _draw_relation(
    args: WorldArgs, name: str, other: str, values: dict[str, int], before: str | None, rng: random.Random
) -> tuple[Fact, int]:
    """A fact about `name` that builds on `other`, and the quantity; not one that commutes with the relation `before`.

    Raises:
        _NoFit: no number was found with which the quantity is one that the world may have.
    """
    for _ in range(20):
        relation = rng.choice(args.operations)
        if any({relation, before} <= alike for alike in _COMMUTE):
            continue
        if relation == "sum":
            others = [n for n in values if n != other]
            if not others:
                continue
            pair = (other, rng.choice(others))
            value = values[pair[0]] + values[pair[1]]
            fact = Fact(name, "sum", None, pair)
        else:
            fact, value = _draw_numbered(args, name, relation, other, values, rng)
        if value is not None and 1 <= value <= args.max_value:
            return fact, value
    raise _NoFit


def _draw_numbered(
    args: WorldArgs, name: str, relation: str, other: str, values: dict[str, int], rng: random.Random
) -> tuple[Fact, int | None]:
    number = rng.randint(2, args.max_operand if relation in ("more", "fewer") else args.max_factor)
    return Fact(name, relation, number, (other,)), apply(relation, values[other], number)


def _draw_distractor(args: WorldArgs, name: str, values: dict[str, int], rng: random.Random) -> tuple[Fact, int]:
    """A person nobody asks about: told directly, or relative to one of `values`.

    Raises:
        _NoFit: it must not be told directly, and no number was found.
    """
    relations = [operation for operation in args.operations if operation != "sum"]
    if relations and (not args.direct_distractors or rng.random() < 0.6):
        for _ in range(10):
            other = rng.choice(list(values))
            fact, value = _draw_numbered(args, name, rng.choice(relations), other, values, rng)
            if value is not None and 1 <= value <= args.max_value:
                return fact, value
    if not args.direct_distractors:
        raise _NoFit
    number = _draw_direct(args, rng)
    return Fact(name, "direct", number, ()), number
