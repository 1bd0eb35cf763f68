"""What a question of the embedded world says, and what a line of a solution claims of whom.

Any text can be read: no text is run as code, and none raises or takes long. Left out: what a step is worth in its
solution (`rollouts/world/oracle.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from rollouts.grading.answers import extract
from rollouts.grading.numerals import normalise
from rollouts.steps import ANSWER_MARK
from rollouts.world.derivations import TOTAL, Term, Truth, derives, parse_expression
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
ANSWER = ANSWER_MARK  # stands for the name in an answer line


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


class Verdict(StrEnum):
    """What a step is. `side` and `late` are *needless*: they spoil nothing, but lead away from the answer. The four
    below them are wrong; a step with several faults is what comes first in it, a fact before its equation."""

    RIGHT = "right"
    SIDE = "side"  # true, about nobody whose quantity the answer takes: the way to somebody else
    LATE = "late"  # about others after what was asked for had been worked out, true or not
    ARITHMETIC = "arithmetic"  # an equation that does not hold
    LOOKUP = "lookup"  # a fact that is not told, another person's number, or one that comes from nowhere
    EARLY = "early"  # an answer line before what was asked for had been worked out
    UNREAD = "unread"  # numbers or marks that nobody can read

    @property
    def needless(self) -> bool:
        return self in (Verdict.SIDE, Verdict.LATE)

    @property
    def wrong(self) -> bool:
        return self is not Verdict.RIGHT and not self.needless


class Claim(NamedTuple):
    """What a step says of one person: whether the quantity is true, and what the claim is for itself (right or wrong).
    `derived` tells an equation from a quantity that is only told again."""

    name: str
    true: bool
    verdict: Verdict
    derived: bool


def read_claims(truth: Truth, line: str, known: set[str]) -> list[Claim] | None:
    """What a line claims; None where it has a number or a mark that nothing explains, or an equation about nobody.

    The quantities of `known` may be repeated.
    """
    equations = list(_EQUATION.finditer(line))
    if not equations:
        answer = extract(line)[0]
        value = None if answer is None else normalise(answer)
        if value is not None:
            return [_judge_answer(truth, value, known)]
        if line.startswith(ANSWER_MARK):
            return None
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
            claims = [claim._replace(verdict=Verdict.LOOKUP) for claim in claims]
            claims = claims or [Claim(fact.name, False, Verdict.LOOKUP, derived=False)]
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


def _judge_answer(truth: Truth, value: object, known: set[str]) -> Claim:
    right = value == sum(truth.values[name] for name in truth.asked)
    wrong = Verdict.LOOKUP if truth.goal in known else Verdict.EARLY
    return Claim(ANSWER, right, Verdict.RIGHT if right else wrong, derived=False)


def _judge_equation(truth: Truth, name: str, expression: str, result: str, shown: str, known: set[str]) -> Claim:
    if result != shown:
        return Claim(name, False, Verdict.ARITHMETIC, derived=True)
    parsed = parse_expression(expression)
    if parsed is None or parsed[0] != int(result):
        return Claim(name, truth.values.get(name) == int(result), Verdict.ARITHMETIC, derived=True)
    return _judge_quantity(truth, name, parsed[1], int(result), known)._replace(derived=True)


def _judge_quantity(truth: Truth, name: str, term: Term, value: int, known: set[str]) -> Claim:
    true = truth.values.get(name) == value
    right = true and (derives(truth, term, truth.facts[name]) or (name in known and term == value))
    return Claim(name, true, Verdict.RIGHT if right else Verdict.LOOKUP, derived=False)
