"""SVAMP: one JSON file of problems with an equation, and the gold solution that an equation gives (ASDiv uses it too).

The one file is cut into splits by a hash of the question. An equation becomes a solution only where it really
comes to the answer.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rollouts.grading.expressions import fold
from rollouts.problems.reading import (
    ProblemFileError,
    SourceRow,
    as_row,
    file_at,
    number_text,
    parse_json,
    plain_number,
    read_text,
)
from rollouts.problems.splits import cut
from rollouts.records import Problem
from stages.text import shown

if TYPE_CHECKING:
    from rollouts.problems.args import ProblemArgs

logger = logging.getLogger(__name__)

BETWEEN = re.compile(r"[\[,\s]*")  # what stands between the values of a JSON list


def load(args: ProblemArgs) -> list[Problem]:
    """The problems of `args.split` in SVAMP.json, which `args.path` is or holds.

    Raises:
        ProblemFileError: the file is missing or malformed.
    """
    path = file_at(args.path, "SVAMP.json")
    problems = [_problem(row, args.split) for row in _read_rows(path)]
    solved = sum(problem.solution is not None for problem in problems)
    logger.info("%s: %d problems, %d with a solution from their equation", path, len(problems), solved)
    return cut(problems, args)


def _read_rows(path: Path) -> list[SourceRow]:
    text = read_text(path)
    values = parse_json(text, path)
    if not isinstance(values, list):
        raise ProblemFileError(f"{path}, line 1: expected a list of problems, not {shown(values)}")
    if not values:
        raise ProblemFileError(f"{path}: holds no problems")
    rows = []
    decoder, position = json.JSONDecoder(), text.index("[")
    for n, value in enumerate(values):  # the text is read again, only for the line on which each value begins
        position = BETWEEN.match(text, position).end()
        rows.append(as_row(value, f"{path}, line {text.count(chr(10), 0, position) + 1}", n))
        position = decoder.raw_decode(text, position)[1]
    return rows


def _problem(row: SourceRow, split: str) -> Problem:
    answer = row.number("Answer")
    question = join_question(row.text("Body"), row.text("Question"))
    solution = solution_from_equations([row.text("Equation")], answer)
    return Problem(f"svamp/{split}/{row.n}", question, number_text(answer), solution, "svamp", split)


def join_question(body: str, question: str) -> str:
    """Body and question as one text. A body that ends in the middle of "If …" goes on into the question."""
    if body[-1] in '.?!,"':
        return f"{body} {question}"
    if re.split(r"[.?!]\s+", body)[-1].startswith("If "):
        return f"{body}, {question[0].lower()}{question[1:]}"
    return f"{body}. {question}"


def solution_from_equations(equations: Sequence[str], answer: Fraction) -> str | None:
    """A gold solution with one step an equation: `8 - 3 = <<8-3=5>>5`, and `#### 5` as its last line.

    An equation is arithmetic (`( 8.0 - 3.0 )`), with or without its result (`8-3=5`).

    Returns:
        The solution, or None where an equation is anything else, has no operation, or does not come exactly to its
        own result, or the last one not to the answer.
    """
    lines, value = [], None
    for equation in equations:
        left, equals, right = equation.partition("=")
        term = parse_arithmetic(left)
        if term is None or " " not in term.text or (equals and plain_number(right) != term.value):
            return None
        value, result = term.value, number_text(term.value)
        lines.append(f"{term.text} = <<{term.text.replace(' ', '')}={result}>>{result}")
    return "\n".join([*lines, f"#### {number_text(answer)}"]) if value == answer else None


class Term(NamedTuple):
    """A part of an equation: its value, its text, and how tightly it binds (0 a sum, 1 a product, 2 a number)."""

    value: Fraction
    text: str
    tightness: int


def parse_arithmetic(text: str) -> Term | None:
    """Parse numbers, `+ - * /` and parentheses; None for anything else, for a division by 0 and for a long text."""
    return fold(
        " ".join(text.split()), lambda digits: Term(Fraction(digits), number_text(Fraction(digits)), 2), _join, _negate
    )


def _negate(term: Term) -> Term:
    return Term(-term.value, f"-{term.text}" if term.tightness == 2 else f"-({term.text})", 0)


def _join(left: Term, operation: str, right: Term) -> Term:
    tightness = 0 if operation in "+-" else 1
    first = left.text if left.tightness >= tightness else f"({left.text})"
    second = right.text if right.tightness > tightness else f"({right.text})"
    if operation in "+-":
        value = left.value + right.value if operation == "+" else left.value - right.value
    else:
        value = left.value * right.value if operation == "*" else left.value / right.value
    return Term(value, f"{first} {operation} {second}", tightness)
