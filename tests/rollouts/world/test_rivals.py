"""Worlds of planning: rival chains that leave the gold one, and followers that hang from the end of each chain."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from rollouts.problems.args import ProblemArgs
from rollouts.problems.load import load_problems
from rollouts.records import Problem
from rollouts.steps import split_steps
from rollouts.world.args import WorldArgs
from rollouts.world.claims import Verdict
from rollouts.world.facts import Fact, World, has_planning_shortcut
from rollouts.world.generator import SPLIT_RANGES, render_solution
from rollouts.world.oracle import can_still_reach, error_kind, parse_question, true_first_error
from tests.rollouts.world.test_generator import contents
from tests.worlds import ancestors, some_problems

# chains only: without distractors, totals and sums of two people everybody builds on one other
CHAINS = {"max_steps": 4, "max_distractors": 0, "totals": 0.0, "operations": ["more", "fewer", "times", "share"]}


def builds_on(world: World) -> dict[str, list[str]]:
    """Who builds on each person."""
    found: dict[str, list[str]] = {name: [] for name in world.facts}
    for fact in world.facts.values():
        for other in fact.others:
            found[other].append(fact.name)
    return found


def depth(world: World, name: str) -> int:
    """Steps from where a chain starts to this person."""
    return len(ancestors(world, (name,))) - 1


@pytest.mark.parametrize("rivals", [1, 2, 3])
def test_rivals_leave_the_gold_chain_and_are_about_as_long(rivals: int):
    left_at, differences = Counter(), Counter()
    for problem in some_problems(WorldArgs(rivals=rivals, **CHAINS), 200):
        world = parse_question(problem.question)
        (asked,), children = world.asked, builds_on(world)
        gold = ancestors(world, world.asked)
        assert not children[asked]
        first = [(name, child) for name in gold for child in children[name] if child not in gold]
        assert len(first) == rivals
        for leaves, name in first:
            left_at[depth(world, asked) - depth(world, leaves)] += 1
            while children[name]:
                (name,) = children[name]
            longer = depth(world, name) - depth(world, asked)
            differences[longer] += 1
            assert longer in (-1, 0, 1)
    assert left_at.keys() == {1, 2, 3, 4} and differences.keys() == {-1, 0, 1}


@pytest.mark.parametrize("rivals", [0, 2])
def test_followers_hang_from_the_end_of_every_chain(rivals: int):
    """So neither a dead end nor what hangs from it tells where to stop."""
    sizes, deep = Counter(), 0
    for problem in some_problems(WorldArgs(rivals=rivals, followers=2, **CHAINS), 200):
        world = parse_question(problem.question)
        (asked,), children = world.asked, builds_on(world)
        gold = ancestors(world, world.asked)
        after = [name for name in world.facts if asked in ancestors(world, (name,)) and name != asked]
        assert 1 <= len(after) <= 2 and set(children[asked]) & set(after)
        sizes[len(after)] += 1
        deep += any(depth(world, name) == depth(world, asked) + 2 for name in after)
        first = [child for name in gold - {asked} for child in children[name] if child not in gold]
        assert len(first) == rivals
        for name in first:
            beyond = [other for other in world.facts if name in ancestors(world, (other,))]
            # a rival of at least one person, and 1 or 2 followers of its last
            assert 2 <= len(beyond) <= depth(world, asked) + 1 + 2
    assert sizes.keys() == {1, 2} and 0 < deep < 200


def test_without_side_branches_distractors_hang_from_the_end_of_any_chain():
    settings = {**CHAINS, "max_distractors": 3, "min_distractors": 3, "direct_distractors": False}
    beside = 0
    for problem in some_problems(WorldArgs(rivals=1, side_branches=False, **settings), 200):
        world = parse_question(problem.question)
        (asked,), children = world.asked, builds_on(world)
        gold = ancestors(world, world.asked)
        first = [child for name in gold - {asked} for child in children[name] if child not in gold]
        assert len(first) == 1  # the rival's, and no distractor
        rival = [name for name in world.facts if first[0] in ancestors(world, (name,))]
        beside += len(rival) > depth(world, asked) + 1  # longer than a rival is
    assert beside > 20


@pytest.mark.parametrize("rivals", [{"rivals": 2}, {"followers": 2}, {"rivals": 1, "followers": 1, "totals": 1.0}])
@pytest.mark.parametrize("shortcuts", [True, False])
def test_the_answer_needs_no_rival_and_no_follower(rivals: dict, shortcuts: bool):
    args = WorldArgs(shortcuts=shortcuts, **{"max_steps": 4, "operations": ["more", "fewer", "times"], **rivals})
    for problem in some_problems(args, 40):
        world = parse_question(problem.question)
        needed = ancestors(world, world.asked)
        assert len(needed) < len(world.facts)
        bare = World({name: fact for name, fact in world.facts.items() if name in needed}, world.asked, world.item)
        assert str(bare.answer()) == problem.answer
        steps = split_steps(problem.solution)
        assert true_first_error(problem, steps) is None
        assert not {name for name in re.findall(r"[A-Z][a-z]+", problem.solution)} & (world.facts.keys() - needed)


def solution_for(world: World, name: str) -> list[str]:
    """The gold solution of another question: what this person has."""
    chain = sorted(ancestors(world, (name,)), key=lambda one: depth(world, one))
    return split_steps(render_solution(World(world.facts, (name,), world.item), chain[1:]))


def test_the_oracle_says_where_a_solution_leaves_the_way():
    kinds = Counter()
    for problem in some_problems(WorldArgs(rivals=2, followers=2, shortcuts=False, **CHAINS), 60):
        world = parse_question(problem.question)
        (asked,) = world.asked
        gold = ancestors(world, world.asked)
        for name in world.facts.keys() - {asked}:
            steps = solution_for(world, name)
            if len(steps) == 1:
                continue  # told directly
            shared = len(ancestors(world, (name,)) & gold) - 1  # steps on the gold chain
            kind = Verdict.EARLY if name in gold else Verdict.SIDE
            if asked in ancestors(world, (name,)):
                kind = Verdict.LATE
            assert true_first_error(problem, steps) == shared and error_kind(problem, steps) is kind
            # who comes back can still give the answer
            assert can_still_reach(problem, [*steps[:-1], *split_steps(problem.solution)])
            assert not can_still_reach(problem, steps)
            kinds[kind] += 1
    assert kinds.keys() == {Verdict.EARLY, Verdict.SIDE, Verdict.LATE} and min(kinds.values()) > 60


def test_problems_differ_and_splits_have_none_in_common():
    small = {"min_steps": 1, "max_steps": 1, "max_operand": 3, "operations": ["more"], "totals": 0.0}
    worlds = [small | {"rivals": 1, "max_distractors": 0, "seed": seed} for seed in (1, 2)]
    worlds += [{"rivals": 2, "followers": 1}, {"followers": 2}]
    seen = {}
    for split in SPLIT_RANGES:
        loaded = [load_problems(ProblemArgs(split=split, limit=100, world=WorldArgs(**world))) for world in worlds]
        assert all(len({p.question for p in problems}) == 100 for problems in loaded)
        assert contents(loaded[0]) & contents(loaded[1])  # other seeds meet the same contents, in the same split
        seen[split] = set().union(*map(contents, loaded))
    assert not seen["train"] & seen["validation"] | seen["train"] & seen["test"] | seen["validation"] & seen["test"]


def test_without_shortcuts_nobody_else_has_the_answer():
    def lucky(problem: Problem) -> bool:
        values = parse_question(problem.question).values()
        (asked,) = parse_question(problem.question).asked
        return any(str(value) == problem.answer for name, value in values.items() if name != asked)

    settings = {**CHAINS, "rivals": 2, "followers": 2}
    assert not any(map(lucky, some_problems(WorldArgs(shortcuts=False, **settings), 200)))
    assert sum(map(lucky, some_problems(WorldArgs(**settings), 200))) > 20


def test_a_planning_shortcut_is_found_by_hand():
    start = Fact("Ann", "direct", 7, ())
    gold = [Fact("Ben", "more", 5, ("Ann",)), Fact("Bob", "times", 2, ("Ben",))]  # 12, 24

    def found(*more: Fact, order: list[Fact] = gold) -> bool:
        world = World({fact.name: fact for fact in (start, *order, *more)}, (order[-1].name,), "pens")
        return has_planning_shortcut(world, [fact.name for fact in order])

    assert not found() and not found(Fact("Dan", "more", 5, ("Ann",)))  # in Ben's place it would give the answer, too
    assert found(Fact("Dan", "more", 12, ("Ben",)))  # has 24 as well
    assert found(order=[Fact("Ben", "more", 5, ("Ann",)), Fact("Bob", "fewer", 3, ("Ben",))])  # 7-3+5
