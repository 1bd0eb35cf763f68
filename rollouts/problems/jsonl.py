"""Any problems in one JSON Lines file: `question`, `answer` (text or number), optional `solution` and `id`.

    {"question": "What is 6 times 7?", "answer": 42}
    {"question": "What is 6 times 7?", "answer": "6*7 = 42\\n#### 42"}
have the answer 42; the second, of GSM8K's form, also has its `answer` as the solution. Any other text that states an
answer (a box, "the answer is 42") or has several lines is refused in the place of an answer. `problems.fields` names
the fields of other files, such as GSM-Hard's: `{question: input, answer: target}`. The file is cut into splits by a
hash of the question.
"""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from rollouts.grading.answers import extract
from rollouts.problems.args import FieldArgs
from rollouts.problems.gsm8k import split_worked
from rollouts.problems.reading import ProblemFileError, SourceRow, number_text, plain_number, read_rows
from rollouts.problems.splits import cut
from rollouts.records import Problem
from rollouts.steps import ANSWER_MARK, split_steps
from stages.bad_rows import BadRows
from stages.text import shown

if TYPE_CHECKING:
    from rollouts.problems.args import ProblemArgs


def load(args: ProblemArgs, bad: BadRows) -> list[Problem]:
    """The problems of `args.split` in the file `args.path`.

    Raises:
        ProblemFileError: the file is missing or malformed, two rows have the same id, or a solution comes to another
            answer.
    """
    path, names = Path(args.path).expanduser(), args.fields
    rows = read_rows(path)
    for name, plain in ((names.solution, "solution"), (names.id, "id")):
        if name != plain and not any(name in row.fields for row in rows):
            raise ProblemFileError(f"{path}: problems.fields.{plain}={name!r}: no row has such a field")
    seen: dict[str, str] = {}

    def make(row: SourceRow) -> Problem:
        identity = _identity(row, names.id)
        if identity in seen:
            raise row.error(f"id {shown(identity)} is also that of {seen[identity]}")
        answer, solution = _answer(row, names)
        question = row.text(names.question)
        seen[identity] = row.where
        return Problem(f"jsonl/{args.split}/{identity}", question, answer, solution, "jsonl", args.split)

    return cut(bad.keep(rows, make), args)


def _identity(row: SourceRow, name: str) -> str:
    value = row.fields.get(name)
    if value is None:
        return str(row.n)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else row.text(name)


def _answer(row: SourceRow, names: FieldArgs) -> tuple[str, str | None]:
    """The answer and the solution of a row."""
    name = names.answer
    value, solution = row.fields.get(name), row.optional_text(names.solution)
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        answer = number_text(row.number(name))
    elif ANSWER_MARK in (text := row.text(name)):
        worked, answer = split_worked(row, name)
        answer = row.answer(name, answer)
        if worked.startswith(ANSWER_MARK):  # the answer line alone
            worked = solution
        elif solution is not None:
            raise row.error(f"field {name!r} has a solution, and so has {names.solution!r}")
        solution = worked
    else:
        answer = row.answer(name, _stated_alone(row, name, text))
    return answer, _checked(row, names.solution, solution, answer)


def _stated_alone(row: SourceRow, name: str, text: str) -> str:
    """An answer, without the box around it.

    Raises:
        ProblemFileError: the text is more than an answer.
    """
    if box := re.fullmatch(r"\$?\\boxed\{([^{}]*)\}\$?\.?", text):
        return box[1]
    if extract(text)[1] != "none":
        raise row.error(f"field {name!r} must be the answer alone, not a text that states it: {shown(text)}")
    if "\n" in text and "\\begin{" not in text:  # a matrix may have lines
        raise row.error(f"field {name!r} must be the answer alone, not {text.count(chr(10)) + 1} lines: {shown(text)}")
    return text


def _checked(row: SourceRow, name: str, solution: str | None, answer: str) -> str | None:
    """The solution, which may be in any form; but where it has an answer line, that must be the answer's."""
    steps = split_steps(solution or "")
    if not steps or not steps[-1].startswith(ANSWER_MARK):
        return solution
    if len(steps) == 1:
        raise row.error(f"field {name!r} has no step before its '####': {shown(solution)}")
    value, wanted = plain_number(steps[-1].removeprefix(ANSWER_MARK)), plain_number(answer)
    if wanted is not None and value is not None and value != wanted:
        raise row.error(f"field {name!r} ends in {steps[-1]!r}, but the answer is {answer}")
    return solution
