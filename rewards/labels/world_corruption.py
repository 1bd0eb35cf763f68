"""Mistakes in gold solutions of the embedded world that need its facts: somebody else's quantity, somebody else's
relation, a step too many; and whether the oracle agrees on where any mistake is."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial

from rewards.labels.corruption import (
    NUMBER,
    Corruption,
    Limits,
    Maker,
    Unfit,
    Worked,
    alter,
    finish,
    parse_line,
    put_nth,
    with_expression,
)
from rollouts.records import Problem
from rollouts.world.facts import SYMBOLS, Fact, World, render_fact
from rollouts.world.generator import render_solution
from rollouts.world.oracle import parse_question, true_first_error

WORLD_KINDS = ("person", "link", "past", "branch")


def world_makers(problem: Problem) -> dict[str, Maker]:
    """The kinds of mistakes that only this world has, for one problem."""
    world = parse_question(problem.question)
    return {
        "person": partial(_wrong_person, world),
        "link": partial(_wrong_link, world),
        "past": partial(_step_past, world, problem),
        "branch": partial(_wrong_branch, world),
    }


def oracle_agrees(problem: Problem, corruption: Corruption) -> bool:
    """Whether the step of a corruption is the first wrong one in truth."""
    return true_first_error(problem, corruption.steps) == corruption.step


def _wrong_person(world: World, worked: Worked, limits: Limits, rng: random.Random) -> Corruption:
    """`Ann has 5 more pens than Tom` is read as `than Eva`, whose quantity is known already."""
    n, fact = _choose(world, worked, rng)
    values, place = world.values(), rng.randrange(len(fact.others))
    known = {name for name, one in world.facts.items() if not one.others} | set(_worked_out(world, worked)[:n])
    pool = sorted(known - {fact.name, *fact.others})
    if not pool:
        raise Unfit("nobody else's quantity is known")
    old, new = fact.others[place], rng.choice(pool)
    others = tuple(new if i == place else name for i, name in enumerate(fact.others))
    part = worked.lines[n][0]
    words = part.words
    for before, after in (
        (Fact(old, "direct", values[old], ()), Fact(new, "direct", values[new], ())),
        (fact, replace(fact, others=others)),
    ):
        words = _put_fact(words, before, after, world.item)
    expression = put_nth(NUMBER, part.expression, place, str(values[new]))
    return alter("person", worked, (n, 0), with_expression(replace(part, words=words), expression), limits)


def _wrong_link(world: World, worked: Worked, limits: Limits, rng: random.Random) -> Corruption:
    """`Ann has 5 more pens than Tom` is read with what is told of somebody else: `Ann has 2 fewer pens than Tom`."""
    n, fact = _choose(world, worked, rng)
    told = {(one.relation, one.number) for one in world.facts.values() if len(one.others) == 1}
    told -= {(fact.relation, fact.number)}
    if len(fact.others) != 1 or not told:
        raise Unfit("there is no other relation to one person")
    relation, number = rng.choice(sorted(told))
    part = worked.lines[n][0]
    words = _put_fact(part.words, fact, replace(fact, relation=relation, number=number), world.item)
    expression = f"{world.values()[fact.others[0]]}{SYMBOLS[relation]}{number}"
    return alter("link", worked, (n, 0), with_expression(replace(part, words=words), expression), limits)


def _step_past(world: World, problem: Problem, worked: Worked, limits: Limits, rng: random.Random) -> Corruption:
    """After the last step comes one about somebody whom nobody asked about, and that quantity is the answer. Which of
    the two is the first wrong step, the oracle says."""
    known = {name for name, one in world.facts.items() if not one.others} | set(_worked_out(world, worked))
    pool = [fact for fact in world.facts.values() if fact.name not in known and set(fact.others) <= known]
    if not pool:
        raise Unfit("there is nobody to go on to")
    line = parse_line(render_solution(world, [rng.choice(pool).name]).split("\n")[0])
    found = finish("past", worked.lines, [*worked.lines, line], len(worked.lines) + 1, limits)
    step = true_first_error(problem, found.steps)
    if step is None:
        raise Unfit("the answer is right by chance")
    return replace(found, step=step)


def _wrong_branch(world: World, worked: Worked, limits: Limits, rng: random.Random) -> Corruption:
    """A wrong plan: at some step it goes on to somebody whom the answer does not need, from there as many steps as were
    left, or one more or fewer, or until nobody follows, and gives that quantity as the answer."""
    path = _worked_out(world, worked)
    n = rng.randrange(len(path))
    (here,) = path[n - 1 : n] or world.facts[path[0]].others[:1]
    left = max(1, len(path) - n + rng.randint(-1, 1))
    names: list[str] = []
    for _ in range(left):
        known = {name for name, one in world.facts.items() if not one.others} | {*path[:n], *names}
        others = {one.name for one in world.facts.values() if here in one.others and set(one.others) <= known}
        if not (pool := sorted(others - {*path, *known})):
            break
        here = rng.choice(pool)
        names.append(here)
    if not names:
        raise Unfit("nobody else builds on this person")
    *lines, _ = render_solution(world, names).split("\n")
    return finish("branch", worked.lines, [*worked.lines[:n], *map(parse_line, lines)], n, limits)


def _told(world: World, worked: Worked) -> list[Fact | None]:
    """The relation that each line uses; None for one that uses none, such as a total."""
    found = []
    for line in worked.lines:
        facts = [one for one in world.facts.values() if render_fact(one, world.item)[:-1] in line[0].words]
        found.append(next((one for one in facts if one.others), None))
    return found


def _worked_out(world: World, worked: Worked) -> list[str]:
    return [fact.name if fact else "" for fact in _told(world, worked)]


def _choose(world: World, worked: Worked, rng: random.Random) -> tuple[int, Fact]:
    """A line that uses a relation, and that relation."""
    places = [(n, fact) for n, fact in enumerate(_told(world, worked)) if fact is not None]
    if not places:
        raise Unfit("no line states a relation")
    return rng.choice(places)


def _put_fact(words: str, old: Fact, new: Fact, item: str) -> str:
    before, after = (render_fact(one, item)[:-1] for one in (old, new))
    if before not in words:
        raise Unfit(f"{before!r} does not stand there")
    return words.replace(before, after, 1)
