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

from rollouts.grading.answers import extract
from rollouts.grading.numerals import normalise
from rollouts.records import Problem
from rollouts.steps import ANSWER_MARK
from rollouts.world.derivations import TOTAL, Term, Truth, derives, find_truth, parse_expression
from rollouts.world.facts import NAMES, TEMPLATES, Fact, World

_PEOPLE = frozenset(NAMES)
_FIELDS = {"number": "[0-9]{1,9}"}
_FACTS = {
    relation: re.compile(
        re.sub(
            r"\\\{(\w+)\\\}",
            lambda field: rf"\b(?P<{field[1]}>{_FIELDS.get(field[1], '[A-Za-z]+')})\b",
            re.escape(template.removesuffix(".")),
        )
    )
    for relation, template in sorted(
        TEMPLATES.items(), key=lambda pair: -len(pair[1])
    )  # "5 more" is no number of mores
}
_ASK_ONE = re.compile(r"How many (?P<item>[A-Za-z]+) does (?P<a>[A-Za-z]+) have\?")
_ASK_TOTAL = re.compile(r"How many (?P<item>[A-Za-z]+) do (?P<a>[A-Za-z]+) and (?P<b>[A-Za-z]+) have together\?")
_EQUATION = re.compile(r"<<(?P<expression>[0-9+\-*/() .]{1,200})= ?(?P<result>[0-9]{1,9})>>(?P<shown>[0-9]{1,9})")
_ARITHMETIC = "0123456789+-*/() ."
_TOTAL_WORDS = frozenset(("total", "together", "altogether"))
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
        told = _parse_sentence(sentence)
        if told is None or told[1] != found["item"]:
            raise ValueError(f"not a sentence of the arithmetic world about {found['item']}: {sentence!r}")
        fact = told[0]
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


def _parse_sentence(sentence: str) -> tuple[Fact, str] | None:
    for relation, pattern in _FACTS.items():
        if sentence.endswith(".") and (found := pattern.fullmatch(sentence[:-1])):
            return _to_fact(relation, found)
    return None


def _to_fact(relation: str, found: re.Match[str]) -> tuple[Fact, str]:
    """The fact that a text states, and the item it counts."""
    groups = found.groupdict()
    number = int(groups["number"]) if "number" in groups else None
    others = tuple(groups[key] for key in ("a", "b") if key in groups)
    return Fact(groups["name"], relation, number, others), groups["item"]


def judge_steps(problem: Problem, steps: Sequence[str]) -> list[bool]:
    """Whether each step is right: a true result that the problem's facts derive.

    Steps may come in any order, merge several steps into one equation or several equations into one line, work out
    somebody who was not asked for, and use quantities that no step has worked out. To repeat a fact, or a quantity
    that a right step worked out, is right too. An answer line is right when it states the answer, as the grader reads
    it, also where no step led there. Wrong are a number that happens to fit but is nobody's (6+6 for a person who has
    7+5), a quantity that comes from nowhere (12=12), an equation about nobody or somebody else, a fact that is not the
    question's, and any number that stands in neither. A line without numbers claims nothing, and is right.

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


def true_first_error(problem: Problem, steps: Sequence[str]) -> int | None:
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
        needed = {_ANSWER, *truth.needed(stated)}
        if any(claim.name in needed and not claim.true for claim in claims):
            return False
        stated.update(claim.name for claim in claims if claim.true)
    return True


class _Claim(NamedTuple):
    """What a step says of one person: whether the quantity is true, and whether it was derived rightly as well."""

    name: str
    true: bool
    right: bool


@lru_cache(maxsize=1024)
def _truth(question: str) -> Truth:
    return find_truth(parse_question(question))


def _read(truth: Truth, line: str, known: set[str]) -> list[_Claim] | None:
    """What a line claims; None where it has a number or a mark that nothing explains, or an equation about nobody.

    The quantities of `known` may be repeated.
    """
    equations = list(_EQUATION.finditer(line))
    if not equations:
        answer = extract(line)[0]
        value = None if answer is None else normalise(answer)
        if value is not None or line.startswith(ANSWER_MARK):
            right = value == sum(truth.values[name] for name in truth.asked)
            return [_Claim(_ANSWER, right, right)]
    text = _words_around(line, equations)
    facts, text = _cut_facts(text)
    if re.search(r"\d|<<|>>", text):
        return None
    names = _names(truth, text, [fact for fact, _ in facts], len(equations))
    if names is None:
        return None
    claims = [
        _judge_equation(truth, name, *equation.groups(), known) for name, equation in zip(names, equations, strict=True)
    ]
    for fact, item in facts:
        if fact.relation == "direct" and item == truth.item:
            claims.append(_judge_quantity(truth, fact.name, fact.number, fact.number, known))
        elif item != truth.item or not _is_told(truth, fact):
            # who goes on takes the quantity of the equation, not the fact
            claims = [claim._replace(right=False) for claim in claims] or [_Claim(fact.name, False, False)]
    return claims


def _words_around(line: str, equations: Sequence[re.Match[str]]) -> str:
    """A line without its equations, nor what is shown before them: `7+5=` in "Ann has 7+5=<<7+5=12>>12"."""
    text, start = "", 0
    for equation in equations:
        lead = line[start : equation.start()].rstrip()
        words = lead[:-1].rstrip(_ARITHMETIC) if lead.endswith("=") else lead
        shown = lead[len(words) : -1].strip(" .").replace(" ", "")
        # what is shown otherwise than it is marked stays, and its numbers with it
        text += words if shown == equation["expression"].replace(" ", "") else lead
        text += " \n "  # no fact goes across an equation
        start = equation.end()
    return text + line[start:]


def _cut_facts(text: str) -> tuple[list[tuple[Fact, str]], str]:
    """The facts that a text states, with the items they count, and the text with only their names left of them."""
    facts: list[tuple[Fact, str]] = []
    for relation, pattern in _FACTS.items():
        if told := list(pattern.finditer(text)):
            facts += [_to_fact(relation, found) for found in told]
            text = pattern.sub(r"\g<name>", text)
    return facts, text


def _is_told(truth: Truth, fact: Fact) -> bool:
    own = truth.facts.get(fact.name)
    if own is None:
        return False
    return (fact.relation, fact.number, sorted(fact.others)) == (own.relation, own.number, sorted(own.others))


def _names(truth: Truth, text: str, facts: Sequence[Fact], count: int) -> list[str] | None:
    """Whom each of `count` equations is about, from the words around them, in order; None where nobody can say."""
    words = (TOTAL if word in _TOTAL_WORDS else word for word in re.findall(r"\w+", text))
    names = [word for word in words if word in truth.facts or word in _PEOPLE or word == TOTAL]
    if count == 0:
        return []
    if count == 1:
        people = set(names) - {TOTAL}
        if people == {fact.name for fact in facts}:  # several facts merged: it is about the one that uses the others
            people -= {other for fact in facts for other in fact.others}
        if len(people) == 1:
            names = list(people)
        elif TOTAL in names and people in (set(), set(truth.asked)):
            names = [TOTAL]
    if len(names) != count or (TOTAL in names and TOTAL not in truth.facts):
        return None
    return names


def _judge_equation(truth: Truth, name: str, expression: str, result: str, shown: str, known: set[str]) -> _Claim:
    if result != shown:
        return _Claim(name, False, False)
    parsed = parse_expression(expression)
    if parsed is None or parsed[0] != int(result):
        return _Claim(name, truth.values.get(name) == int(result), False)
    return _judge_quantity(truth, name, parsed[1], int(result), known)


def _judge_quantity(truth: Truth, name: str, term: Term, value: int, known: set[str]) -> _Claim:
    true = truth.values.get(name) == value
    derived = true and (derives(truth, term, truth.facts[name]) or (name in known and term == value))
    return _Claim(name, true, derived)
