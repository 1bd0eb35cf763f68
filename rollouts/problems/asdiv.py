"""ASDiv: one XML file of problems; those whose answer is one number, without its unit.

    <Problem ID="nluds-0001"><Body>Two red pens lie here.</Body><Question>And one more?</Question>
    <Answer>3 (pens)</Answer><Formula>2+1=3</Formula></Problem>
has the answer 3 and the solution `2 + 1 = <<2+1=3>>3` with `#### 3` below. `$5.50`, `20%`, `3 1/2 (cups)` and
`9 apples` are numbers too. Answers that are names, times, ratios or several numbers are left out and counted, since a
grader that compares numbers could not tell right from wrong. The one file is cut into splits by a hash of the question.
"""

from __future__ import annotations

import logging
import re
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.parsers import expat

from rollouts.grading.numerals import normalise
from rollouts.problems.reading import ProblemFileError, SourceRow, file_at, number_text, read_text
from rollouts.problems.splits import cut
from rollouts.problems.svamp import join_question, solution_from_equations
from rollouts.records import Problem
from stages.bad_rows import BadRows

if TYPE_CHECKING:
    from rollouts.problems.args import ProblemArgs

logger = logging.getLogger(__name__)

_TIME = re.compile(r"\b[ap]\.?m\b|o'clock", re.IGNORECASE)


def load(args: ProblemArgs, bad: BadRows) -> list[Problem]:
    """The problems of `args.split` in ASDiv.xml, which `args.path` is or holds.

    Raises:
        ProblemFileError: the file is missing or malformed, or no answer in it is a number.
    """
    path = file_at(args.path, "ASDiv.xml")
    rows = _read_rows(path)
    made = bad.keep(rows, lambda row: _problem(row, args.split))
    problems = [problem for problem in made if problem is not None]
    if not problems:
        raise ProblemFileError(f"{path}: none of the {len(rows)} problems has one number as its answer")
    solved = sum(problem.solution is not None for problem in problems)
    logger.info(
        "%s: %d problems, %d with a solution from their formula; %d left out, their answer is not one number",
        path,
        len(problems),
        solved,
        len(made) - len(problems),
    )
    return cut(problems, args)


def _problem(row: SourceRow, split: str) -> Problem | None:
    question = join_question(row.text("Body"), row.text("Question"))
    formula, value = row.text("Formula"), parse_answer(row.text("Answer"))
    if value is None:
        return None
    solution = solution_from_equations(formula.split(";"), value)
    return Problem(f"asdiv/{split}/{row.n}", question, number_text(value), solution, "asdiv", split)


def parse_answer(text: str) -> Fraction | None:
    """The number of an answer such as `9 (apples)`, `$5.50`, `3 1/2 cups` or `-(1/3)`; None where it is not one."""
    if _TIME.search(text):
        return None
    text = re.sub(r"^-\(([0-9/]+)\)", r"-\1", text)
    return normalise(re.sub(r"\s*\([^()]*\)$", "", text))  # a unit in parentheses, whatever it is


def _read_rows(path: Path) -> list[SourceRow]:
    text = read_text(path)
    reader = _Reader(path)
    try:
        reader.parser.Parse(text.encode(), True)
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise ProblemFileError(
            f"{path}, line {error.lineno}: malformed XML: {reason}, column {error.offset}"
        ) from error
    if not reader.rows:
        raise ProblemFileError(f"{path}: holds no <Problem> elements")
    return reader.rows


class _Reader:
    """Collects each <Problem> as a row with the texts of its children, and the line on which it begins."""

    def __init__(self, path: Path):
        self.path = path
        self.rows: list[SourceRow] = []
        self.row: SourceRow | None = None
        self.name: str | None = None
        self.parser = expat.ParserCreate("utf-8")
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.EntityDeclHandler = self._entity

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "Problem":
            where = f"{self.path}, line {self.parser.CurrentLineNumber}, problem {attributes.get('ID')!r}"
            self.row = SourceRow(where, len(self.rows), {})
            self.rows.append(self.row)
        elif self.row is not None:
            if self.name is not None:
                raise self.row.error(f"field {self.name!r} must be text, but holds an element {name!r}")
            if name in self.row.fields:
                raise self.row.error(f"field {name!r} is given twice")
            self.row.fields[name] = ""
            self.name = name

    def _end(self, name: str) -> None:
        self.name = None
        if name == "Problem":
            self.row = None

    def _text(self, text: str) -> None:
        if self.row is not None and self.name is not None:
            self.row.fields[self.name] += text

    def _entity(self, name: str, *_: Any) -> None:
        # a few nested entities can expand to gigabytes
        line = self.parser.CurrentLineNumber
        raise ProblemFileError(f"{self.path}, line {line}: declares the entity {name!r}, which is not allowed")
