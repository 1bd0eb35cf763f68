"""New problems of the embedded world that are like one that is there: the same people build on one another, with other
names, numbers, things and sometimes relations. The oracle solves each.
"""

from __future__ import annotations

import random
from dataclasses import replace

from rollouts.world.args import WorldArgs
from rollouts.world.claims import parse_question
from rollouts.world.derivations import find_truth
from rollouts.world.facts import ITEMS, NAMES, Fact, World
from rollouts.world.generator import is_short, render_question, render_solution, split_of

TRIES = 500
OTHER_RELATION = 0.3  # how often a relation is another one


def evolve_question(question: str, args: WorldArgs, rng: random.Random) -> str | None:
    """A new question like this one, within the world's settings; None where none was found. It is of the train split,
    which is a function of its content, so it is no test problem with other names, things or order of sentences either.

    Raises:
        ValueError: the question is not of the embedded world.
    """
    before = parse_question(question)
    for _ in range(TRIES):
        world = _redraw(before, args, rng)
        try:
            values = world.values()
        except ValueError:  # no positive whole number
            continue
        if max(*values.values(), world.answer()) > args.max_value or split_of(world) != "train":
            continue
        if args.shortcuts or not is_short(args, world, solution_order(world)):
            return render_question(world, rng)[0]
    return None


def solve_question(question: str) -> tuple[str, str]:
    """The gold solution and the answer of a question of the embedded world.

    Raises:
        ValueError: it is no such question.
    """
    world = parse_question(question)
    return render_solution(world, solution_order(world)), str(world.answer())


def solution_order(world: World) -> list[str]:
    """The people whose quantities the answer takes and nobody tells, each after those it builds on."""
    needed = find_truth(world).needed(set())
    return [name for name in world.values() if name in needed and world.facts[name].others]


def _redraw(world: World, args: WorldArgs, rng: random.Random) -> World:
    names = dict(zip(world.facts, rng.sample(NAMES[: args.people], len(world.facts)), strict=True))
    facts = {names[one.name]: _redraw_fact(one, names, args, rng) for one in world.facts.values()}
    return World(facts, tuple(names[name] for name in world.asked), rng.choice(ITEMS))


def _redraw_fact(fact: Fact, names: dict[str, str], args: WorldArgs, rng: random.Random) -> Fact:
    new = replace(fact, name=names[fact.name], others=tuple(names[other] for other in fact.others))
    if fact.relation == "sum":
        return new
    if fact.relation == "direct":
        return replace(new, number=rng.randint(2, args.max_operand + 3))
    others = [one for one in args.operations if one not in ("sum", fact.relation)]
    relation = rng.choice(others) if others and rng.random() < OTHER_RELATION else fact.relation
    number = rng.randint(2, args.max_operand if relation in ("more", "fewer") else args.max_factor)
    return replace(new, relation=relation, number=number)
