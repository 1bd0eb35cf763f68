"""SVAMP: one file of problems with an equation, and the gold solution that an equation gives (ASDiv uses it too).

    {"Body": "Dan had 8 nuts. He ate 3", "Question": "How many are left?", "Equation": "( 8.0 - 3.0 )", "Answer": 5.0}
has the question "Dan had 8 nuts. He ate 3. How many are left?", the answer 5, and the solution
`8 - 3 = <<8-3=5>>5` with `#### 5` below; none where the equation does not come to the answer. Republished files have
the answer as text, a row a line, or Parquet. The one file is cut into splits by a hash of the question.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from rollouts.grading.expressions import fold
from rollouts.problems.reading import SourceRow, file_at, number_text, plain_number, read_rows
from rollouts.problems.splits import cut
from rollouts.records import Problem
from stages.bad_rows import BadRows

if TYPE_CHECKING:
    from rollouts.problems.args import ProblemArgs

logger = logging.getLogger(__name__)


def load(args: ProblemArgs, bad: BadRows) -> list[Problem]:
    """The problems of `args.split` in a file, or in SVAMP.json of a folder.

    Raises:
        ProblemFileError: the file is missing or malformed.
    """
    path = file_at(args.path, "SVAMP.json")
    problems = bad.keep(read_rows(path), lambda row: _problem(row, args.split))
    solved = sum(problem.solution is not None for problem in problems)
    logger.info("%s: %d problems, %d with a solution from their equation", path, len(problems), solved)
    return cut(problems, args)


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
