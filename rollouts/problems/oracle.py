"""The oracle of the embedded world: which steps of a solution are true, from the question's text alone.

It knows nothing of how a problem was made: `parse_question` reads the facts back. A step is right when its equation
holds, its result is the quantity of the person it names, and its numbers and operations derive that quantity from the
facts. How a step is worded does not matter. No text is run as code, and none raises or takes long.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from rollouts.answers import extract, normalise
from rollouts.problems.arithmetic import NAMES, TEMPLATES, Fact, World
from rollouts.problems.terms import Parts, Term, collapse, drop, parse_expression
from rollouts.steps import ANSWER_MARK
from rollouts.types import Problem

_PEOPLE = frozenset(NAMES)
_FIELDS = {"number": "[0-9]{1,9}"}
_SENTENCES = {
    relation: re.compile(
        re.sub(r"\\\{(\w+)\\\}", lambda m: rf"(?P<{m[1]}>{_FIELDS.get(m[1], r'[A-Za-z]+')})", re.escape(template))
    )
    for relation, template in TEMPLATES.items()
}
_ASK_ONE = re.compile(r"How many (?P<item>[A-Za-z]+) does (?P<a>[A-Za-z]+) have\?")
_ASK_TOTAL = re.compile(r"How many (?P<item>[A-Za-z]+) do (?P<a>[A-Za-z]+) and (?P<b>[A-Za-z]+) have together\?")
_EQUATION = re.compile(r"<<(?P<expression>[0-9+\-*/() .]{1,200})= ?(?P<result>[0-9]{1,9})>>(?P<shown>[0-9]{1,9})")
_ARITHMETIC = "0123456789+-*/() ."
# the kind of term that a relation to a number is, and on which side the number stands
_OPERATIONS = {"more": ("+", 1), "fewer": ("+", -1), "times": ("*", 1), "share": ("*", -1)}
_TOTAL_WORDS = frozenset(("total", "together", "altogether"))
_TOTAL = ""  # stands for the name where a total is meant
_ANSWER = ANSWER_MARK  # stands for the name in an answer line


def parse_question(question: str) -> World:
    """Read the facts back from a question of the embedded world.

    Raises:
        ValueError: a sentence is not one of this world's, or the facts do not fit together.
    """
    facts: dict[str, Fact] = {}
    *sentences, ask = re.split(r"(?<=[.?]) ", question.strip())
    found = _ASK_ONE.fullmatch(ask) or _ASK_TOTAL.fullmatch(ask)
    if found is None:
        raise ValueError(f"not a question of the arithmetic world: {ask!r}")
    for sentence in sentences:
        fact = _parse_sentence(sentence, found["item"])
        if fact is None:
            raise ValueError(f"not a sentence of the arithmetic world about {found['item']}: {sentence!r}")
        if fact.name in facts:
            raise ValueError(f"the quantity of {fact.name} is told twice: {question!r}")
        facts[fact.name] = fact
    asked = tuple(value for key, value in found.groupdict().items() if key != "item")
    unknown = {name for fact in facts.values() for name in fact.others} | set(asked)
    unknown -= set(facts)
    if unknown or len(set(asked)) < len(asked):
        raise ValueError(f"the facts do not tell the quantity of {', '.join(sorted(unknown) or asked)}: {question!r}")
    world = World(facts, asked, found["item"])
    world.values()
    return world


def _parse_sentence(sentence: str, item: str) -> Fact | None:
    for relation, pattern in _SENTENCES.items():
        if found := pattern.fullmatch(sentence):
            groups = found.groupdict()
            if groups["item"] != item:
                return None
            number = int(groups["number"]) if "number" in groups else None
            return Fact(groups["name"], relation, number, tuple(groups[key] for key in ("a", "b") if key in groups))
    return None


def judge_steps(problem: Problem, steps: Sequence[str]) -> list[bool]:
    """Whether each step is right: a true result that the problem's facts derive.

    Steps may come in any order, merge several steps into one equation or several equations into one line, work out
    somebody who was not asked for, and use quantities that no step has worked out. To repeat a fact, or a quantity
    that a right step worked out, is right too. An answer line is right when it states the answer, as the grader reads
    it, also where no step led there. Wrong is a number that happens to fit but is nobody's (6+6 for a person who has
    7+5), a quantity that comes from nowhere (12=12), an equation that names nobody or somebody else, and any number
    that stands in no equation. A line without numbers claims nothing, and is right.

    Raises:
        ValueError: the problem is not of the embedded world.
    """
    truth = _truth(problem.question)
    worked_out: set[str] = set()
    verdicts = []
    for step in steps:
        claims = _read(truth, step.strip(), worked_out)
        verdicts.append(claims is not None and all(claim.right for claim in claims))
        worked_out.update(claim.name for claim in claims or () if claim.right)
    return verdicts


def first_error(problem: Problem, steps: Sequence[str]) -> int | None:
    """The 0-based index of the first wrong step, or None where every step is right (see `judge_steps`).

    A solution that stops before its answer has no wrong step for that.
    """
    return next((i for i, right in enumerate(judge_steps(problem, steps)) if not right), None)


def can_still_reach(problem: Problem, steps: Sequence[str]) -> bool:
    """Whether the right answer can still follow from this prefix (the V* that a SORM approximates, GLoRe sec. 3.2).

    Who goes on takes every number that was written as it is. So a wrong quantity ends it, unless it belongs to
    somebody whom the answer does not need, or no longer needs, since what depends on it has been stated rightly; and
    a right quantity does not, also where its step is wrong (6+6 for 7+5). A line that cannot be understood ends it.

    Raises:
        ValueError: the problem is not of the embedded world.
    """
    truth = _truth(problem.question)
    stated: set[str] = set()
    for step in steps:
        claims = _read(truth, step.strip(), stated)
        if claims is None:
            return False
        needed = truth.needed(stated)
        if any(claim.name in needed and not claim.true for claim in claims):
            return False
        stated.update(claim.name for claim in claims if claim.true)
    return True


class _Claim(NamedTuple):
    """What a step says of one person: whether the quantity is true, and whether it was derived rightly as well."""

    name: str
    true: bool
    right: bool


class _Truth(NamedTuple):
    """Facts and quantities by name; where a total is asked it counts as one more person."""

    facts: dict[str, Fact]
    values: dict[str, int]
    asked: tuple[str, ...]
    item: str

    def needed(self, stated: set[str]) -> set[str]:
        """Whose quantities the answer takes, once those of `stated` are known."""
        needed = {_ANSWER}
        waiting = [_TOTAL] if _TOTAL in self.facts else list(self.asked)
        while waiting:
            name = waiting.pop()
            if name not in needed:
                needed.add(name)
                waiting.extend(() if name in stated else self.facts[name].others)
        return needed


@lru_cache(maxsize=1024)
def _truth(question: str) -> _Truth:
    world = parse_question(question)
    facts, values = world.facts, world.values()
    if len(world.asked) > 1:
        facts, values = dict(facts), dict(values)
        facts[_TOTAL], values[_TOTAL] = Fact(_TOTAL, "sum", None, world.asked), world.answer()
    return _Truth(facts, values, world.asked, world.item)


def _read(truth: _Truth, line: str, known: set[str]) -> list[_Claim] | None:
    """What a line claims; None where it has a number or a mark that no equation explains, or that names nobody.

    The quantities of `known` may be repeated.
    """
    equations = list(_EQUATION.finditer(line))
    if not equations:
        return _read_words(truth, line, known)
    text, start = "", 0
    for equation in equations:
        lead = line[start : equation.start()].rstrip()
        if lead.endswith("="):  # in "Ann has 7+5=<<7+5=12>>12" what is shown must be what is marked
            words = lead[:-1].rstrip(_ARITHMETIC)
            shown = lead[len(words) : -1].strip(" .").replace(" ", "")
            if shown != equation["expression"].replace(" ", ""):
                return None
            lead = words
        text += lead + " "
        start = equation.end()
    text += line[start:]
    if re.search(r"\d|<<|>>", text):
        return None
    names = _names(truth, text, len(equations))
    if names is None:
        return None
    return [
        _judge_equation(truth, name, *equation.groups(), known) for name, equation in zip(names, equations, strict=True)
    ]


def _read_words(truth: _Truth, line: str, known: set[str]) -> list[_Claim] | None:
    """The claims of a line without equation: the answer, or a fact or quantity told again."""
    if "<<" in line or ">>" in line:
        return None
    answer = extract(line)[0]
    value = None if answer is None else normalise(answer)
    if value is not None or line.startswith(ANSWER_MARK):
        right = value == sum(truth.values[name] for name in truth.asked)
        return [_Claim(_ANSWER, right, right)]
    if not re.search(r"\d", line):
        return []
    fact = _parse_sentence(line.rstrip(".") + ".", truth.item)
    if fact is None or fact.name not in truth.facts:
        return None
    if fact.relation == "direct":
        return [_judge_quantity(truth, fact.name, fact.number, fact.number, known)]
    own = truth.facts[fact.name]
    same = (fact.relation, fact.number, sorted(fact.others)) == (own.relation, own.number, sorted(own.others))
    return [] if same else [_Claim(fact.name, False, False)]


def _names(truth: _Truth, text: str, count: int) -> list[str] | None:
    """Whom each of `count` equations is about, from the words around them, in order; None where nobody can say."""
    words = (_TOTAL if word in _TOTAL_WORDS else word for word in re.findall(r"\w+", text))
    names = [word for word in words if word in truth.facts or word in _PEOPLE or word == _TOTAL]
    if count == 1:
        people = set(names) - {_TOTAL}
        if len(people) == 1:
            names = list(people)
        elif _TOTAL in names and people in (set(), set(truth.asked)):
            names = [_TOTAL]
    if len(names) != count or (_TOTAL in names and _TOTAL not in truth.facts):
        return None
    return names


def _judge_equation(truth: _Truth, name: str, expression: str, result: str, shown: str, known: set[str]) -> _Claim:
    if result != shown:
        return _Claim(name, False, False)
    parsed = parse_expression(expression)
    if parsed is None or parsed[0] != int(result):
        return _Claim(name, truth.values.get(name) == int(result), False)
    return _judge_quantity(truth, name, parsed[1], int(result), known)


def _judge_quantity(truth: _Truth, name: str, term: Term, value: int, known: set[str]) -> _Claim:
    true = truth.values.get(name) == value
    derived = true and (_derives(truth, term, truth.facts[name]) or (name in known and term == value))
    return _Claim(name, true, derived)


def _derives(truth: _Truth, term: Term, fact: Fact) -> bool:
    """Whether a term is what a fact says: its number, and the others' quantities or what derives these in turn."""
    if fact.relation == "direct":
        return term == fact.number
    kind, sign = _OPERATIONS.get(fact.relation, ("+", 1))
    if not isinstance(term, tuple) or term[0] != kind:
        return False
    if fact.relation == "sum":
        rests = _without(truth, term[1], fact.others[0], {})
    else:
        rests = drop(term[1], (sign, fact.number))
    return any(_tells(truth, collapse(kind, rest), fact.others[-1]) for rest in rests)


def _tells(truth: _Truth, term: Term, name: str) -> bool:
    return term == truth.values[name] or _derives(truth, term, truth.facts[name])


def _without(truth: _Truth, parts: Parts, name: str, seen: dict[tuple[Parts, str], set[Parts]]) -> set[Parts]:
    """What can be left of the parts of a sum, once those are taken out that tell somebody's quantity."""
    if (parts, name) not in seen:
        fact = truth.facts[name]
        rests = drop(parts, (1, truth.values[name]))
        if fact.relation == "sum":
            for rest in _without(truth, parts, fact.others[0], seen):
                rests |= _without(truth, rest, fact.others[1], seen)
        elif fact.relation in ("more", "fewer"):
            for rest in drop(parts, (_OPERATIONS[fact.relation][1], fact.number)):
                rests |= _without(truth, rest, fact.others[0], seen)
        elif fact.relation != "direct":
            for (sign, part), _ in parts:
                if sign == 1 and _derives(truth, part, fact):
                    rests |= drop(parts, (sign, part))
        seen[parts, name] = rests
    return seen[parts, name]
