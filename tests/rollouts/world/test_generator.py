"""The embedded world: seeded, prefix-stable, splits without a problem in common, gold solutions, difficulty."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
from collections import Counter

import pytest
from hypothesis import given, settings

from experiments.bench.measure import demo_world
from rollouts.grading.answers import grade
from rollouts.problems.args import ProblemArgs
from rollouts.problems.load import load_problems
from rollouts.records import Problem
from rollouts.steps import split_steps
from rollouts.world.args import WorldArgs
from rollouts.world.facts import ITEMS, NAMES, Fact, World, has_shortcut
from rollouts.world.generator import SPLIT_RANGES
from rollouts.world.oracle import parse_question
from tests.worlds import ancestors, gold_steps, some_problems, world_args


def load(split: str = "train", limit: int | None = 200, offset: int = 0, shuffle_seed: int | None = None, **world):
    args = ProblemArgs(split=split, limit=limit, offset=offset, shuffle_seed=shuffle_seed, world=WorldArgs(**world))
    return load_problems(args)


def questions(problems: list[Problem]) -> set[tuple]:
    """What is asked and told of whom, whatever the order of the sentences and of the people in a sum."""
    found = set()
    for problem in problems:
        world = parse_question(problem.question)
        facts = frozenset((f.name, f.relation, f.number, frozenset(f.others)) for f in world.facts.values())
        found.add((facts, frozenset(world.asked), world.item))
    return found


def contents(problems: list[Problem]) -> set[tuple]:
    """What is asked and told, whatever the names, the item, and the order of sentences and of the people in a sum."""
    found = set()
    for problem in problems:
        world = parse_question(problem.question)

        def told(name: str, world=world) -> tuple:
            fact = world.facts[name]
            return (fact.relation, fact.number or 0, *sorted((told(other) for other in fact.others), key=repr))

        asked = sorted((told(name) for name in world.asked), key=repr)
        rest = sorted((told(name) for name in world.facts if name not in world.asked), key=repr)
        found.add((tuple(asked), tuple(rest)))
    return found


# the same problems again


def test_the_same_arguments_give_the_same_problems():
    assert load() == load()
    assert load() != load(seed=1)
    assert len({p.question for p in load(limit=500)}) == 500


def test_the_first_problems_do_not_depend_on_how_many_follow():
    everything = load(limit=None, size=300)
    assert len(everything) == 300
    assert load(limit=None, size=100) == everything[:100]
    assert load(limit=100, size=100) == load(limit=100, size=20000) == everything[:100]
    assert load(limit=20, offset=70) == everything[70:90]
    assert load(limit=None, offset=290, size=300) == everything[290:]
    assert load(limit=50, offset=290, size=300) == everything[290:]
    assert [p.id for p in everything[:3]] == [f"arithmetic/train/{n}" for n in range(3)]


def test_a_shuffled_choice_is_one_from_all():
    everything, chosen = load(limit=None, size=200), load(limit=20, size=200, shuffle_seed=1)
    assert chosen != everything[:20] and set(chosen) < set(everything)
    assert any(int(p.id.split("/")[-1]) > 100 for p in chosen)


def digest(problems: list[Problem]) -> str:
    return hashlib.sha256("\n".join(f"{p.id} {p.question} {p.solution}" for p in problems).encode()).hexdigest()[:16]


def test_known_worlds_stay_as_they_are():
    """What was trained and measured on them stays comparable."""
    demo = dataclasses.asdict(demo_world())
    assert digest(load(limit=200)) == "8b227b13450fa4cb"
    assert digest(load(limit=100, **demo)) == "38a6bfd7fab059b2"
    assert digest(load("test", limit=100, **demo | {"seed": 3})) == "762e16cd87e12d45"
    sums = {"side_branches": False, "shortcuts": False, "max_steps": 3, "operations": ["more", "sum", "share"]}
    assert digest(load(limit=100, **sums)) == "80e62146b17d25bc"


# splits


def test_splits_share_no_problem():
    """By content: other seeds, sizes and difficulties, in a world so small that the seeds do meet each other."""
    small = {"min_steps": 1, "max_steps": 2, "max_distractors": 0, "max_operand": 5, "operations": ["more"]}
    worlds = [(700, small | {"seed": 1}), (400, small | {"seed": 2}), (400, small | {"seed": 2, "max_operand": 6})]
    worlds += [(200, {}), (100, {"seed": 9, "max_steps": 3}), (100, {"seed": 3, "side_branches": False})]
    seen: dict[str, list[set]] = {split: [] for split in SPLIT_RANGES}
    for split in SPLIT_RANGES:
        for limit, world in worlds:
            problems = load(split, limit, **world)
            seen[split].append(contents(problems))
            assert len(questions(problems)) == limit  # none twice
        assert seen[split][0] & seen[split][1]
    train, validation, test = (set().union(*seen[split]) for split in SPLIT_RANGES)
    assert not train & validation and not train & test and not validation & test


def test_a_problem_says_its_split():
    for split in SPLIT_RANGES:
        assert {(p.split, p.source, p.id.rsplit("/", 1)[0]) for p in load(split, limit=20)} == {
            (split, "arithmetic", f"arithmetic/{split}")
        }


# gold solutions and difficulty


@settings(max_examples=60, deadline=None)
@given(world_args())
def test_problems_keep_to_their_difficulty(args: WorldArgs):
    args.validate()
    for problem in some_problems(args, 12):
        world = parse_question(problem.question)
        values = world.values()
        assert all(1 <= value <= args.max_value for value in values.values())
        assert 1 <= world.answer() <= args.max_value
        steps = split_steps(problem.solution)
        assert args.min_steps <= len(steps) - 1 <= args.max_steps
        needed = ancestors(world, world.asked)
        chain = max(len(steps) - 1 - (len(world.asked) > 1), 1)
        ends = 1 + args.rivals
        fewest = args.min_distractors + args.rivals + (ends if args.followers else 0)
        most = args.max_distractors + args.rivals * (chain + 1) + args.followers * ends
        assert fewest <= len(world.facts) - len(needed) <= most
        assert world.item in ITEMS and set(world.facts) <= set(NAMES)
        for fact in world.facts.values():
            assert fact.relation == "direct" or fact.relation in args.operations
            most = {"direct": args.max_operand + 3, "more": args.max_operand, "fewer": args.max_operand}
            if fact.relation != "sum":
                assert 2 <= fact.number <= most.get(fact.relation, args.max_factor)


@settings(max_examples=60, deadline=None)
@given(world_args())
def test_gold_solutions_compute_what_is_needed_and_nothing_else(args: WorldArgs):
    for problem in some_problems(args, 12):
        world = parse_question(problem.question)
        lines = split_steps(problem.solution)
        equations = [re.findall(r"<<(.*)=(\d+)>>(\d+)", line) for line in lines[:-1]]
        wanted = [[(f"{s.left}{s.symbol}{s.right}", str(s.result), str(s.result))] for s in gold_steps(problem)]
        assert equations == wanted
        assert lines[-1] == f"#### {problem.answer}" and problem.answer == str(world.answer())
        verdict = grade(problem.solution, problem.answer)
        assert verdict.correct and verdict.rule == "hash:number"


@settings(max_examples=40, deadline=None)
@given(world_args())
def test_every_sentence_but_distractors_is_relevant(args: WorldArgs):
    """Without it nobody could tell the answer; without a distractor everybody can."""
    for problem in some_problems(args, 6):
        world = parse_question(problem.question)
        needed = ancestors(world, world.asked)
        for name in world.facts:
            rest = {n: f for n, f in world.facts.items() if n != name and name not in ancestors(world, (n,))}
            answerable = all(asked in rest for asked in world.asked)
            assert answerable == (name not in needed)
            if answerable:
                assert World(rest, world.asked, world.item).answer() == world.answer()


def test_there_is_variety():
    problems = load(limit=1000)
    worlds = [parse_question(p.question) for p in problems]
    assert {w.item for w in worlds} == set(ITEMS)
    assert {len(w.asked) for w in worlds} == {1, 2}
    assert {f.relation for w in worlds for f in w.facts.values()} == {
        "direct",
        "more",
        "fewer",
        "times",
        "share",
        "sum",
    }
    assert Counter(len(gold_steps(p)) for p in problems).keys() == {2, 3, 4, 5, 6}
    assert {len(w.facts) - len(ancestors(w, w.asked)) for w in worlds} == {0, 1, 2}
    names = Counter(name for w in worlds for name in w.facts)
    assert names.keys() == set(NAMES)
    # shuffled: the fact that the solution starts from stands anywhere
    places = Counter([f.relation for f in w.facts.values()].index("direct") for w in worlds)
    assert places[0] < 600 and len(places) > 4


def test_every_place_of_a_sentence_is_as_likely():
    worlds = [parse_question(p.question) for p in load(limit=2000, min_steps=3, max_steps=3, max_distractors=0)]
    places = Counter(list(w.facts).index(w.asked[0]) for w in worlds if len(w.asked) == 1)
    assert len(places) == 4 and max(places.values()) < 1.3 * min(places.values())


@pytest.mark.parametrize("operations", [["more"], ["fewer"], ["times"], ["share"], ["more", "sum"], ["times", "share"]])
def test_worlds_of_few_operations(operations):
    for problem in load(limit=100, operations=operations, min_steps=1, max_steps=2, min_distractors=1):
        relations = {fact.relation for fact in parse_question(problem.question).facts.values()}
        assert relations <= {"direct", *operations}


def test_small_values_are_kept_to():
    """Quantities told directly do not exceed max_value either, though they may exceed max_operand."""
    problems = load(limit=100, max_value=9, max_operand=9, max_steps=2, min_distractors=2)
    assert max(v for p in problems for v in parse_question(p.question).values().values()) == 9


# what cannot be


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "world.size must be at least 1, not 0"),
        ({"min_steps": 0}, "not 0, 6"),
        ({"min_steps": 5, "max_steps": 4}, "not 5, 4"),
        ({"max_steps": 13}, "max_steps <= 12, not 2, 13"),
        ({"min_distractors": -1}, "not -1, 2"),
        ({"min_distractors": 3}, "not 3, 2"),
        ({"max_distractors": 9}, "max_distractors <= 8, not 0, 9"),
        ({"direct_distractors": False, "operations": ["sum"]}, "world.direct_distractors=false needs another"),
        ({"people": 10}, "world.people must be 11 .* to 38, not 10"),
        ({"people": 39}, "world.people must be 11 .* to 38, not 39"),
        ({"shortcuts": False, "max_steps": 8}, "tries every order .*, 1,814,400 for max_steps=8, max_distractors=2"),
        ({"shortcuts": False, "max_steps": 10, "rivals": 1}, "tries every order of a problem's facts, 3,628,800"),
        ({"rivals": -1}, "world.rivals and world.followers must be 0 to 4, not -1, 0"),
        ({"followers": 5}, "world.rivals and world.followers must be 0 to 4, not 0, 5"),
        ({"rivals": 1, "followers": 2, "people": 21}, "world.people must be 22 .* to 38, not 21"),
        ({"rivals": 4, "followers": 1}, "world needs 44 people for max_steps=6, rivals=4, followers=1, .* 38 names"),
        ({"max_operand": 1}, "not 1, 3, 50"),
        ({"max_operand": 51}, "not 51, 3, 50"),
        ({"max_factor": 1}, "not 9, 1, 50"),
        ({"max_factor": 51}, "not 9, 51, 50"),
        ({"max_value": 1000}, "max_value <= 999, not 9, 3, 1000"),
        ({"operations": []}, "must be some of more, fewer, times, share, sum, not \\[\\]"),
        ({"operations": ["more", "minus"]}, "not \\['more', 'minus'\\]"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        WorldArgs(**settings).validate()
    with pytest.raises(ValueError, match=message):
        load_problems(ProblemArgs(world=WorldArgs(**settings)))


@pytest.mark.parametrize(
    "settings",
    [
        {"operations": ["sum"]},  # a sum needs two people, and there is one to begin with
        {"operations": ["share"], "min_steps": 6},
        {"operations": ["times"], "min_steps": 6, "max_value": 20},
        {"max_value": 2, "max_operand": 2, "max_factor": 2, "operations": ["fewer", "more"]},
    ],
)
def test_settings_that_no_problem_fits(settings):
    with pytest.raises(ValueError, match=r"none of 10000 drawn problems keeps to WorldArgs\(.*'?operations'?=\["):
        load(**settings)


def test_a_world_that_is_too_small():
    world = {"min_steps": 1, "max_steps": 1, "max_operand": 2, "max_factor": 2, "max_value": 2, "max_distractors": 0}
    with pytest.raises(ValueError, match=r"allows only \d+ different problems of the 1000 asked"):
        load("validation", limit=1000, operations=["share"], **world)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ([("Ann", "more", 2, ("Bob",)), ("Bob", "more", 2, ("Ann",))], "do not tell the quantity of Ann, Bob"),
        ([("Ann", "more", 2, ("Tom",))], "do not tell the quantity of Ann"),
        ([("Ann", "direct", 5, ()), ("Bob", "share", 2, ("Ann",))], "Bob is no positive whole number"),
        ([("Ann", "direct", 5, ()), ("Bob", "share", 0, ("Ann",))], "Bob is no positive whole number"),
        ([("Ann", "direct", 5, ()), ("Bob", "fewer", 5, ("Ann",))], "Bob is no positive whole number"),
        ([("Ann", "direct", 0, ())], "Ann is no positive whole number"),
    ],
)
def test_facts_that_do_not_fit_together(facts, message):
    world = World({fact[0]: Fact(*fact) for fact in facts}, ("Ann",), "pens")
    with pytest.raises(ValueError, match=message):
        world.values()


def test_without_shortcuts_no_other_order_gives_the_answer():
    """Two more/fewer steps in a row can be swapped; with the setting off no problem has such a chain."""
    world = WorldArgs(min_steps=2, max_steps=4, max_distractors=1, totals=0.0, operations=["more", "fewer", "times"])
    swapped = dataclasses.replace(world, size=200)
    assert any(_swappable(problem) for problem in load_problems(ProblemArgs(world=swapped)))
    strict = dataclasses.replace(world, size=200, shortcuts=False)
    problems = load_problems(ProblemArgs(world=strict))
    assert len(problems) == 200
    assert not any(_swappable(problem) for problem in problems)


def _swappable(problem) -> bool:
    """Whether two neighbouring steps both add or subtract: their order does not matter, by hand."""
    signs = [re.search(r"<<\d+([-+*/])", step)[1] for step in problem.solution.splitlines()[:-1]]
    return any(a in "+-" and b in "+-" for a, b in itertools.pairwise(signs))


def test_without_shortcuts_long_problems_stay_as_frequent():
    settings = {"min_steps": 1, "max_steps": 4, "totals": 0.0, "operations": ["more", "fewer", "times", "share"]}
    steps = [len(split_steps(p.solution)) - 1 for p in load(limit=400, shortcuts=False, **settings)]
    assert all(60 <= steps.count(number) <= 140 for number in range(1, 5))


def test_without_side_branches_no_distractor_leaves_the_chain_midway():
    """Nobody outside the chain builds on somebody before its end; with them, some do."""
    settings = {"min_steps": 2, "max_steps": 4, "min_distractors": 2, "max_distractors": 3, "totals": 0.0}

    def beside(problem: Problem) -> int:
        world = parse_question(problem.question)
        needed = ancestors(world, world.asked)
        outside = [fact for name, fact in world.facts.items() if name not in needed]
        return sum(other in needed and other not in world.asked for fact in outside for other in fact.others)

    assert not any(map(beside, load(limit=300, side_branches=False, **settings)))
    assert any(map(beside, load(limit=300, **settings)))


def test_without_direct_distractors_there_is_one_place_to_start():
    settings = {"min_steps": 2, "max_steps": 4, "min_distractors": 2, "max_distractors": 3, "totals": 0.0}
    for others in (False, True):
        problems = load(limit=300, direct_distractors=others, **settings)
        facts = [parse_question(problem.question).facts.values() for problem in problems]
        direct = {sum(fact.relation == "direct" for fact in own) for own in facts}
        assert direct == {1} if not others else direct > {1, 2}
        steps = [len(split_steps(problem.solution)) - 1 for problem in problems]
        assert all(1 + 2 <= len(own) - n <= 1 + 3 for own, n in zip(facts, steps, strict=True))


def test_a_world_of_few_people():
    problems = load(limit=300, people=11)
    assert {name for p in problems for name in parse_question(p.question).facts} == set(NAMES[:11])


def test_a_shortcut_is_found_by_hand():
    def world(*facts):
        return World({fact.name: fact for fact in facts}, (facts[-1].name,), "pens")

    start = Fact("Ann", "direct", 7, ())
    assert has_shortcut(
        world(start, Fact("Ben", "more", 5, ("Ann",)), Fact("Bob", "fewer", 3, ("Ben",))), ["Ben", "Bob"]
    )
    doubled = [start, Fact("Ben", "more", 5, ("Ann",)), Fact("Bob", "times", 2, ("Ben",))]
    assert not has_shortcut(world(*doubled), ["Ben", "Bob"])  # (7+5)*2, but 7*2+5
    same, other = Fact("Dan", "more", 5, ("Ann",)), Fact("Dan", "more", 10, ("Ann",))
    assert has_shortcut(world(same, *doubled), ["Ben", "Bob"])  # Dan's 5 in place of Ben's
    assert has_shortcut(world(other, *doubled), ["Ben", "Bob"])  # 7*2+10 is 24 as well
