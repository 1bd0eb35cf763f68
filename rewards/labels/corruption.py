"""Gold solutions with one mistake at a known step: step labels without a policy, a rollout or an oracle.

It takes solutions whose equations are marked, `48/2 = <<48/2=24>>24 clips`, as in GSM8K and the embedded world. What
follows a mistake is worked out anew from it, so that the solution ends in another answer. Left out: mistakes that need
the embedded world's facts (`world_corruption.py`), and the stage (`corrupt.py`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import count

from rollouts.grading.expressions import fold
from rollouts.steps import ANSWER_MARK

_DIGITS = r"\d+(?:,\d{3})*(?:\.\d+)?"
NUMBER = re.compile(rf"(?<![\d.,]){_DIGITS}(?!\d)")
_MARK = re.compile(rf"<<(?P<expression>[^<>=]+)=(?P<result>{_DIGITS})>>(?P<shown>{_DIGITS})")
_OPERATION = re.compile(r"[-+*/]")
# what stands before a mark and shows the same once more: ` 48/2 = $`
_SHOWN = re.compile(r"[\d.,+\-*/()$\s]*=\s*\$?\s*$")
_SLIPS = (-10, -2, -1, 1, 2, 10)


class Unfit(ValueError):
    """A solution in which this mistake cannot be made, or not so."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The numbers that a mistake may come to: above 0, at most `largest`, with so many `decimals`."""

    largest: int | None = None
    decimals: int = 2

    def write(self, value: Fraction, grouped: bool = False) -> str:
        """A number as solutions write it, such as 24, 0.5 or, grouped, 1,200.

        Raises:
            Unfit: it is out of these limits.
        """
        scaled = value * 10**self.decimals
        if value <= 0 or scaled.denominator > 1 or (self.largest is not None and value > self.largest):
            raise Unfit(f"{value} is no number of such a solution")
        whole, rest = divmod(int(scaled), 10**self.decimals)
        tail = f".{rest:0{self.decimals}}".rstrip("0").rstrip(".") if rest else ""
        return f"{whole:,}{tail}" if grouped else f"{whole}{tail}"


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a line: words, and the equation `<<expression=value>>value` that they lead to. The words after the
    last equation of a line have none (`value` None)."""

    words: str
    expression: str = ""
    value: Fraction | None = None
    grouped: bool = False  # 1,200 where it is shown

    def operands(self) -> list[Fraction]:
        """The numbers of the expression, in their order."""
        return numbers(self.expression)


Line = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Worked:
    """A gold solution as it can be corrupted: its lines without the answer line, and the question's numbers."""

    lines: tuple[Line, ...]
    given: tuple[Fraction, ...]

    def places(self) -> list[tuple[int, int]]:
        """(line, part) of every equation."""
        return [(n, k) for n, line in enumerate(self.lines) for k, part in enumerate(line) if part.value is not None]


@dataclass(frozen=True, slots=True)
class Corruption:
    """A wrong solution; `step` (0-based) is the first wrong one."""

    kind: str
    steps: tuple[str, ...]
    step: int


def parse_solution(question: str, steps: Sequence[str]) -> Worked:
    """The equations of a gold solution.

    Raises:
        Unfit: it does not end in the answer line that its last equation comes to, or an equation is missing, wrong, or
            written in another way.
    """
    *work, last = steps or ("",)
    lines = tuple(map(parse_line, work))
    values = [part.value for line in lines for part in line if part.value is not None]
    if not values or not last.startswith(ANSWER_MARK) or numbers(last) != values[-1:]:
        raise Unfit(f"the solution's last equation is not its answer, {last!r}")
    return Worked(lines, tuple(dict.fromkeys(numbers(question))))


def parse_line(step: str) -> Line:
    """A step's words and equations. Raises Unfit where an equation is not a true one as calculators mark them."""
    parts, start = [], 0
    for mark in _MARK.finditer(step):
        value = evaluate(mark["expression"])
        if value is None or not value == to_number(mark["result"]) == to_number(mark["shown"]):
            raise Unfit(f"no true equation: {mark[0]!r}")
        parts.append(Part(step[start : mark.start()], mark["expression"], value, "," in mark["shown"]))
        start = mark.end()
    line = (*parts, Part(step[start:]))
    if "<<" in "".join(part.words for part in line) or (parts and render_line(line, Limits(decimals=9)) != step):
        raise Unfit(f"an equation that is written otherwise: {step!r}")
    return line


def render_line(line: Line, limits: Limits) -> str:
    """The text of a line."""
    return "".join(
        part.words
        if part.value is None
        else f"{part.words}<<{part.expression}={limits.write(part.value)}>>{limits.write(part.value, part.grouped)}"
        for part in line
    )


def to_number(text: str) -> Fraction:
    return Fraction(text.replace(",", ""))


def numbers(text: str) -> list[Fraction]:
    """The numbers of a text, in their order."""
    return [to_number(found[0]) for found in NUMBER.finditer(text)]


def evaluate(expression: str) -> Fraction | None:
    """What an expression comes to, exactly; None where it is none."""
    apply: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
        "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": lambda a, b: a / b,
    }  # fmt: skip
    return fold(expression.replace(",", ""), Fraction, lambda left, sign, right: apply[sign](left, right))


def substitute(text: str, changes: dict[Fraction, Fraction], limits: Limits) -> str:
    """The text with each number that has changed in place of the old one, where that stands first."""
    waiting = dict(changes)

    def put(found: re.Match[str]) -> str:
        new = waiting.pop(to_number(found[0]), None)
        return found[0] if new is None else limits.write(new, "," in found[0])

    return NUMBER.sub(put, text)


def put_nth(pattern: re.Pattern[str], text: str, place: int, new: str) -> str:
    """The text with another in place of the match number `place` (from 0)."""
    number = count()
    return pattern.sub(lambda found: new if next(number) == place else found[0], text)


def split_shown(words: str) -> tuple[str, str]:
    """The words, and the expression that is shown before its mark: `He sold`, ` 48/2 = `."""
    shown = _SHOWN.search(words)
    return (words[: shown.start()], shown[0]) if shown else (words, "")


def carry(lines: Sequence[Line], changes: dict[Fraction, Fraction], limits: Limits) -> list[Line]:
    """The lines as they go on from numbers that have changed: `changes` has the new one by the old one, and gets those
    of the equations that come out otherwise."""
    return [tuple(_carry_part(part, changes, limits) for part in line) for line in lines]


def _carry_part(part: Part, changes: dict[Fraction, Fraction], limits: Limits) -> Part:
    words = "".join(substitute(piece, changes, limits) for piece in split_shown(part.words))
    if part.value is None:
        return replace(part, words=words)
    new = with_expression(replace(part, words=words), substitute(part.expression, changes, limits))
    changes.pop(part.value, None)  # whoever uses that number from here on may mean this one
    if new.value != part.value:
        changes[part.value] = new.value
    return new


def with_expression(part: Part, expression: str) -> Part:
    """The part with another expression and what that comes to. Raises Unfit where it comes to nothing."""
    value = evaluate(expression)
    if value is None:
        raise Unfit(f"{expression} comes to nothing")
    return replace(part, expression=expression, value=value)


def finish(kind: str, gold: Sequence[Line], lines: Sequence[Line], step: int, limits: Limits) -> Corruption:
    """A corruption of these lines, with the answer line that the last equation comes to."""
    values = [part.value for line in lines for part in line if part.value is not None]
    if not values:
        raise Unfit("no equation is left")
    known = set(gold)  # an unchanged line keeps its own text, whatever its decimals
    steps = [render_line(line, Limits(decimals=9) if line in known else limits) for line in lines]
    return Corruption(kind, (*steps, f"{ANSWER_MARK} {limits.write(values[-1])}"), step)


def alter(kind: str, worked: Worked, place: tuple[int, int], new: Part, limits: Limits) -> Corruption:
    """Put another equation in one place and go on from it.

    Raises:
        Unfit: it comes to the same, or something that follows comes to no number within the limits.
    """
    (n, k), lines = place, list(worked.lines)
    old = lines[n][k]
    if new.value == old.value:
        raise Unfit("it comes to the same")
    changes = {old.value: new.value}
    (rest,) = carry([lines[n][k + 1 :]], changes, limits)
    lines[n:] = [(*lines[n][:k], new, *rest), *carry(lines[n + 1 :], changes, limits)]
    return finish(kind, worked.lines, lines, n, limits)


def wrong_result(worked: Worked, limits: Limits, rng: random.Random) -> Corruption:
    """A slip in working out: 48/2=25."""
    n, k = place = rng.choice(worked.places())
    part = worked.lines[n][k]
    return alter("result", worked, place, replace(part, value=part.value + rng.choice(_SLIPS)), limits)


def wrong_operand(worked: Worked, limits: Limits, rng: random.Random) -> Corruption:
    """Another number of the question, or of what was worked out before, in place of one."""
    n, k = place = rng.choice(worked.places())
    part, before = worked.lines[n][k], worked.places()
    known = [worked.lines[i][j].value for i, j in before[: before.index(place)]]
    operands = part.operands()
    nth = rng.randrange(len(operands))
    old = operands[nth]
    pool = [value for value in dict.fromkeys([*worked.given, *known]) if value != old]
    if not pool:
        raise Unfit("there is no other number")
    new = limits.write(rng.choice(pool))
    words, shown = split_shown(part.words)
    if numbers(shown) == operands:
        shown = put_nth(NUMBER, shown, nth, new)
    equal = [i for i, value in enumerate(numbers(words)) if value == old]
    if equal:
        words = put_nth(NUMBER, words, equal[min(operands[:nth].count(old), len(equal) - 1)], new)
    changed = with_expression(replace(part, words=words + shown), put_nth(NUMBER, part.expression, nth, new))
    return alter("operand", worked, place, changed, limits)


def wrong_operation(worked: Worked, limits: Limits, rng: random.Random) -> Corruption:
    """Another of + - * / in place of one."""
    n, k = place = rng.choice(worked.places())
    part = worked.lines[n][k]
    signs = _OPERATION.findall(part.expression)
    if not signs:
        raise Unfit("nothing is worked out")
    nth = rng.randrange(len(signs))
    new = rng.choice([sign for sign in "+-*/" if sign != signs[nth]])
    words, shown = split_shown(part.words)
    if shown and _OPERATION.findall(shown) != signs:
        raise Unfit("what is shown is written otherwise than what is marked")
    changed = replace(part, words=words + put_nth(_OPERATION, shown, nth, new))
    changed = with_expression(changed, put_nth(_OPERATION, part.expression, nth, new))
    return alter("operation", worked, place, changed, limits)


def _single(line: Line) -> bool:
    return len(line) == 2  # an equation and what follows it


def step_left_out(worked: Worked, limits: Limits, rng: random.Random) -> Corruption:
    """A line is missing; who needed its result takes a number that it had begun with. That is the first wrong step."""
    lines = worked.lines
    n = rng.choice([n for n, line in enumerate(lines[:-1]) if _single(line)] or [None])
    if n is None:
        raise Unfit("there is no line to leave out")
    part = lines[n][0]
    rest = carry(lines[n + 1 :], {part.value: rng.choice(part.operands())}, limits)
    changed = next((i for i, (old, new) in enumerate(zip(lines[n + 1 :], rest, strict=True)) if old != new), None)
    if changed is None:
        raise Unfit("nobody needs the line")
    return finish("left_out", lines, [*lines[:n], *rest], n + changed, limits)


def steps_swapped(worked: Worked, limits: Limits, rng: random.Random) -> Corruption:
    """Two lines in the wrong order: what was to be done with the result of the first is done before it."""
    lines = worked.lines
    pairs = [n for n in range(len(lines) - 1) if _single(lines[n]) and _single(lines[n + 1])]
    pairs = [n for n in pairs if lines[n][0].value in lines[n + 1][0].operands()]
    if not pairs:
        raise Unfit("no two lines build on each other")
    n = rng.choice(pairs)
    first, second = lines[n], lines[n + 1]
    start = rng.choice(first[0].operands())
    (early,) = carry([second], {first[0].value: start}, limits)
    (late,) = carry([first], {start: early[0].value}, limits)
    rest = carry(lines[n + 2 :], {second[0].value: late[0].value}, limits)
    return finish("swapped", lines, [*lines[:n], early, late, *rest], n, limits)


def stop_early(worked: Worked, limits: Limits, rng: random.Random) -> Corruption:
    """An intermediate result is given as the answer: the answer line is the first wrong step."""
    ends = [n for n, line in enumerate(worked.lines[:-1]) if len(line) > 1]
    if not ends:
        raise Unfit("there is one equation only")
    lines = worked.lines[: rng.choice(ends) + 1]
    return finish("early", worked.lines, lines, len(lines), limits)


Maker = Callable[[Worked, Limits, random.Random], Corruption]
# by the name of the kind; what each does, its docstring says
KINDS: dict[str, Maker] = {
    "result": wrong_result,
    "operand": wrong_operand,
    "operation": wrong_operation,
    "left_out": step_left_out,
    "swapped": steps_swapped,
    "early": stop_early,
}


def check_place(gold: Sequence[str], corruption: Corruption) -> bool:
    """Whether all before the step is gold, and the step is not: with one thing changed and another answer in the end,
    that is where it went wrong."""
    before, step = corruption.steps[: corruption.step], corruption.steps[corruption.step]
    return set(before) <= set(gold) and step not in gold


def draw(makers: dict[str, Maker], worked: Worked, limits: Limits, rng: random.Random) -> Iterator[Corruption]:
    """Corruptions of one solution, of every kind in turn, in a random order, three times; what does not fit is left
    out. The caller takes as many as it wants."""
    for _ in range(3):
        for kind in rng.sample(sorted(makers), len(makers)):
            with suppress(Unfit):
                yield makers[kind](worked, limits, rng)
