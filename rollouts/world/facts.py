"""What the embedded world's problems say: facts, the quantities that follow from them, and their sentences.

A problem is a set of facts (quantities given directly or relative to one another) and a question. Problems are drawn in
`arithmetic.py`; the oracle (`oracle.py`) reads facts back from a text.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

NAMES = (
    "Ada Ali Amy Ann Ben Bob Dan Eva Finn Gus Hana Ida Ivy Jack Jon Kim Lea Leo Liv Lucy Max Mia Nina Noah Olga Omar "
    "Paul Pia Rosa Sam Sara Tim Tom Uma Vera Will Yara Zoe"
).split()
ITEMS = "apples books cards coins marbles pens shells stamps".split()


@dataclass(frozen=True, slots=True)
class Fact:
    """How one person's quantity is told: `relation` is direct, more, fewer, times, share or sum."""

    name: str
    relation: str
    number: int | None
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class World:
    """The facts of one problem, by name, what is asked (one name, or several for a total), and the item counted."""

    facts: dict[str, Fact]
    asked: tuple[str, ...]
    item: str

    def values(self) -> dict[str, int]:
        """The true quantity of every person, computed from the facts.

        Raises:
            ValueError: the facts go round in a circle, leave somebody out, or give no positive whole number.
        """
        known: dict[str, int] = {}
        while len(known) < len(self.facts):
            before = len(known)
            for name, fact in self.facts.items():
                if name not in known and all(other in known for other in fact.others):
                    known[name] = _compute(fact, known)
            if len(known) == before:
                missing = ", ".join(name for name in self.facts if name not in known)
                raise ValueError(f"the facts do not tell the quantity of {missing}")
        return known

    def answer(self) -> int:
        values = self.values()
        return sum(values[name] for name in self.asked)


SYMBOLS = {"more": "+", "fewer": "-", "times": "*", "share": "/", "sum": "+"}


_NEARLY = 1e-6  # quotients are floats
_CALCULATE = {"more": operator.add, "fewer": operator.sub, "times": operator.mul, "share": operator.truediv}


def apply(relation: str, left: int, right: int) -> int | None:
    """The result of one relation, or None where it is not a positive whole number."""
    if relation in ("more", "sum"):
        return left + right
    if relation == "fewer":
        return left - right if left > right else None
    if relation == "times":
        return left * right
    return left // right if right and left % right == 0 else None


def _compute(fact: Fact, known: dict[str, int]) -> int:
    operands = [known[other] for other in fact.others] + ([] if fact.number is None else [fact.number])
    value = operands[0] if fact.relation == "direct" else apply(fact.relation, *operands)
    if value is None or value < 1:
        raise ValueError(f"the quantity of {fact.name} is no positive whole number: {fact}")
    return value


def has_shortcut(world: World, order: list[str]) -> bool:
    """Whether the gold chain's last quantity also comes out when its facts are applied in another order, or with a
    distractor's in place of one of them, be it by way of numbers that nobody can have.

    From such problems a policy learns to apply all the numbers it sees, without looking up who depends on whom, and
    outcomes say little about steps. A chain with a sum of two people is not looked at: a sum has no number to apply.
    """
    return _comes_out_again(world, order, [name for name, fact in world.facts.items() if len(fact.others) == 1])


def has_planning_shortcut(world: World, order: list[str]) -> bool:
    """The same where there are rivals or followers: whether somebody else has as many as is asked for, so that a wrong
    plan gives the right answer, or the gold chain's own facts give its last quantity in another order.

    With the facts of so many others in its place some order nearly always gives it, and trying them all takes long.
    """
    values, answer = world.values(), world.answer()
    others = (value for name, value in values.items() if name not in world.asked)
    return answer in others or _comes_out_again(world, order, order)


def _comes_out_again(world: World, order: list[str], told: list[str]) -> bool:
    """Whether as many of the facts of `told` as `order` has give its last quantity, in any order but its own."""
    if any(name not in told or len(world.facts[name].others) != 1 for name in order):
        return False
    values = world.values()
    right = values[order[-1]]
    apart = [
        (1 << i, name, _CALCULATE[world.facts[name].relation], world.facts[name].number) for i, name in enumerate(told)
    ]
    *before, last = order

    def search(value: float, place: int, used: int, same: bool) -> bool:
        """Go on from the first `place` facts; `used` has a bit for each, `same` says whether they are the gold ones."""
        if place == len(before):
            return any(
                abs(calculate(value, number) - right) < _NEARLY and not used & bit and not (same and name == last)
                for bit, name, calculate, number in apart
            )
        for bit, name, calculate, number in apart:
            if not used & bit and search(
                calculate(value, number), place + 1, used | bit, same and name == before[place]
            ):
                return True
        return False

    return search(values[world.facts[order[0]].others[0]], 0, 0, True)


TEMPLATES = {
    "direct": "{name} has {number} {item}.",
    "more": "{name} has {number} more {item} than {a}.",
    "fewer": "{name} has {number} fewer {item} than {a}.",
    "times": "{name} has {number} times as many {item} as {a}.",
    "share": "{name} has as many {item} as {a} shared equally among {number}.",
    "sum": "{name} has as many {item} as {a} and {b} together.",
}


def render_fact(fact: Fact, item: str) -> str:
    """One sentence of a question."""
    a, b = (*fact.others, "", "")[:2]
    return TEMPLATES[fact.relation].format(name=fact.name, number=fact.number, item=item, a=a, b=b)
