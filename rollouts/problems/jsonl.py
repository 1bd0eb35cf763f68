"""Any problems in one JSON Lines file: `question`, `answer` (text or number), optional `solution` and `id`.

The file is cut into splits by a hash of the question.
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from rollouts.problems.source import Row, cut, number_text, read_jsonl, shown
from rollouts.types import Problem

if TYPE_CHECKING:
    from rollouts.problems.source import ProblemArgs


def load(args: ProblemArgs) -> list[Problem]:
    """The problems of `args.split` in the file `args.path`.

    Raises:
        ProblemFileError: the file is missing or malformed, or two rows have the same id.
    """
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    for row in read_jsonl(Path(args.path).expanduser()):
        identity = _identity(row)
        if identity in seen:
            raise row.error(f"id {shown(identity)} is also that of {seen[identity]}")
        seen[identity] = row.where
        answer, solution = _answer(row), row.optional_text("solution")
        problem = Problem(f"jsonl/{args.split}/{identity}", row.text("question"), answer, solution, "jsonl", args.split)
        problems.append(problem)
    return cut(problems, args)


def _identity(row: Row) -> str:
    value = row.fields.get("id")
    if value is None:
        return str(row.n)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else row.text("id")


def _answer(row: Row) -> str:
    value = row.fields.get("answer")
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return number_text(row.number("answer"))
    text = row.text("answer")
    if text.lower() == "nan":  # how some exporters write a value that is missing
        raise row.error(f"field 'answer' is not a number: {text!r}")
    return text
