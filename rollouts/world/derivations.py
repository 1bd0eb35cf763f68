"""Whether an expression derives a quantity from the facts of a question: what the oracle judges equations by.

Expressions are whole numbers, + - * / and brackets. They are parsed here and computed exactly, never run as code, and
compared as terms in which the order of sums and products does not matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

from rollouts.grading.expressions import fold
from rollouts.world.facts import Fact, World

TOTAL = ""  # stands for the name where a total is meant
# the kind of term that a relation is, and on which side its number stands
_OPERATIONS = {"more": ("+", 1), "fewer": ("+", -1), "times": ("*", 1), "share": ("*", -1), "sum": ("+", 1)}


class Truth(NamedTuple):
    """Facts and quantities by name; where a total is asked it counts as one more person.

    In `order` all come before those whose quantities theirs is told by; `last_use` is the last place in it where a
    number can be needed.
    """

    facts: dict[str, Fact]
    values: dict[str, int]
    asked: tuple[str, ...]
    item: str
    order: tuple[str, ...]
    last_use: dict[int, int]

    @property
    def goal(self) -> str:
        """Whose quantity is the answer."""
        return TOTAL if TOTAL in self.facts else self.asked[0]

    def needed(self, stated: set[str]) -> set[str]:
        """Whose quantities the answer takes, once those of `stated` are known."""
        needed: set[str] = set()
        waiting = [self.goal]
        while waiting:
            name = waiting.pop()
            if name not in needed:
                needed.add(name)
                waiting.extend(() if name in stated else self.facts[name].others)
        return needed


def find_truth(world: World) -> Truth:
    """What the facts of a question come to."""
    facts, values = world.facts, world.values()
    if len(world.asked) > 1:
        facts, values = dict(facts), dict(values)
        facts[TOTAL], values[TOTAL] = Fact(TOTAL, "sum", None, world.asked), world.answer()
    order = tuple(reversed(values))
    last_use: dict[int, int] = {}
    for place, name in enumerate(order):
        last_use[values[name]] = place
        if facts[name].relation == "more":
            last_use[facts[name].number] = place
    return Truth(facts, values, world.asked, world.item, order, last_use)


# An expression is a number, or a kind (+ or *) with its parts: how often each is added or subtracted, or multiplied
# or divided by. So 3+4 and 4+3 are the same, 7+(5-2) and 7+5-2 too, and 12/3 and 3/12 are not.

_Part = tuple[int, "Term"]  # 1 or -1, and what is added (multiplied) or subtracted (divided by)
_Parts = dict[_Part, int]  # with how often it is
Term = int | tuple[str, frozenset[tuple[_Part, int]]]


def parse_expression(text: str) -> tuple[Fraction | int, Term] | None:
    """The value and the term of an expression of whole numbers, + - * / and brackets; None where it is not one."""
    return fold(text, lambda digits: (int(digits), int(digits)), _join)


def _join(
    left: tuple[Fraction | int, Term], operation: str, right: tuple[Fraction | int, Term]
) -> tuple[Fraction | int, Term]:
    if operation == "+":
        return left[0] + right[0], _combine("+", left[1], 1, right[1])
    if operation == "-":
        return left[0] - right[0], _combine("+", left[1], -1, right[1])
    if operation == "*":
        return left[0] * right[0], _combine("*", left[1], 1, right[1])
    return Fraction(left[0]) / right[0], _combine("*", left[1], -1, right[1])


def _combine(kind: str, left: Term, sign: int, right: Term) -> Term:
    parts: Counter[_Part] = Counter()
    for outer, term in ((1, left), (sign, right)):
        if isinstance(term, tuple) and term[0] == kind:
            for (inner, part), times in term[1]:
                parts[outer * inner, part] += times
        else:
            parts[outer, term] += 1
    return kind, frozenset(parts.items())


def _take(parts: _Parts, part: _Part, count: int) -> _Parts | None:
    """The parts without `count` of one; None where there are not so many."""
    there = parts.get(part, 0)
    if count > there:
        return None
    rest = {key: times for key, times in parts.items() if key != part}
    return rest if count == there else {**rest, part: there - count}


def _collapse(kind: str, parts: _Parts) -> Term:
    """The term that some parts make; a single one is itself."""
    if len(parts) == 1:
        ((sign, part), times) = next(iter(parts.items()))
        if sign == times == 1:
            return part
    return kind, frozenset(parts.items())


def derives(truth: Truth, term: Term, fact: Fact) -> bool:
    """Whether a term is what a fact says: its number, and the others' quantities or what derives these in turn."""
    if fact.relation == "direct":
        return term == fact.number
    kind, sign = _OPERATIONS[fact.relation]
    if not isinstance(term, tuple) or term[0] != kind:
        return False
    parts: _Parts | None = dict(term[1])
    if fact.number is not None:
        parts = _take(parts, (sign, fact.number), 1)
    if parts is None:
        return False
    if kind == "+":
        return _adds_up(truth, 0, Counter(fact.others), parts)
    rest, other = _collapse(kind, parts), fact.others[0]
    return rest == truth.values[other] or derives(truth, rest, truth.facts[other])


def _adds_up(truth: Truth, place: int, needs: Counter[str], parts: _Parts) -> bool:
    """Whether the parts of a sum are the quantities it needs, so many of each, as numbers or as what derives them.

    It goes on from `place` of `truth.order`: whoever stands before is not needed any more.
    """
    while place < len(truth.order) and not needs[truth.order[place]]:
        place += 1
    if place == len(truth.order):
        return not parts
    if any(sign == 1 and isinstance(part, int) and truth.last_use.get(part, -1) < place for sign, part in parts):
        return False  # without this, a sum of many small numbers would take for ever
    name = truth.order[place]
    fact = truth.facts[name]
    for count in range(needs[name] + 1):
        rest = _take(parts, (1, truth.values[name]), needs[name] - count)
        # what a product is made of stands inside of it, the parts of a sum beside one another
        others = () if fact.relation in ("times", "share") else fact.others
        more = needs + Counter(dict.fromkeys(others, count))
        if rest is not None and any(
            _adds_up(truth, place + 1, more, left) for left in _expand(truth, fact, count, rest)
        ):
            return True
    return False


def _expand(truth: Truth, fact: Fact, count: int, parts: _Parts) -> Iterator[_Parts]:
    """What can be left of the parts of a sum when `count` times a fact's own numbers or products are taken out."""
    if count == 0 or fact.relation == "sum":
        yield parts
    elif fact.relation in ("more", "fewer"):
        left = _take(parts, (_OPERATIONS[fact.relation][1], fact.number), count)
        if left is not None:
            yield left
    elif fact.relation != "direct":
        for sign, part in parts:
            if sign == 1 and derives(truth, part, fact):
                yield from _expand(truth, fact, count - 1, _take(parts, (sign, part), 1))
