"""Any problems in one JSON Lines file: `question`, `answer` (text or number), optional `solution` and `id`.

The file is cut into splits by a hash of the question.
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from rollouts.problems.reading import SourceRow, number_text, plain_number, read_jsonl
from rollouts.problems.splits import cut
from rollouts.records import Problem
from rollouts.steps import ANSWER_MARK, split_steps
from stages.text import shown

if TYPE_CHECKING:
    from rollouts.problems.args import ProblemArgs


def load(args: ProblemArgs) -> list[Problem]:
    """The problems of `args.split` in the file `args.path`.

    Raises:
        ProblemFileError: the file is missing or malformed, two rows have the same id, or a solution comes to another
            answer.
    """
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    for row in read_jsonl(Path(args.path).expanduser()):
        identity = _identity(row)
        if identity in seen:
            raise row.error(f"id {shown(identity)} is also that of {seen[identity]}")
        seen[identity] = row.where
        answer = _answer(row)
        solution = _solution(row, answer)
        problem = Problem(f"jsonl/{args.split}/{identity}", row.text("question"), answer, solution, "jsonl", args.split)
        problems.append(problem)
    return cut(problems, args)


def _identity(row: SourceRow) -> str:
    value = row.fields.get("id")
    if value is None:
        return str(row.n)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else row.text("id")


def _answer(row: SourceRow) -> str:
    value = row.fields.get("answer")
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return number_text(row.number("answer"))
    return row.answer("answer", row.text("answer"))


def _solution(row: SourceRow, answer: str) -> str | None:
    """The solution, which may be in any form; but where it has an answer line, that must be the answer's."""
    solution = row.optional_text("solution")
    steps = split_steps(solution or "")
    if not steps or not steps[-1].startswith(ANSWER_MARK):
        return solution
    if len(steps) == 1:
        raise row.error(f"field 'solution' has no step before its '####': {shown(solution)}")
    value, wanted = plain_number(steps[-1].removeprefix(ANSWER_MARK)), plain_number(answer)
    if wanted is not None and value is not None and value != wanted:
        raise row.error(f"field 'solution' ends in {steps[-1]!r}, but the answer is {answer}")
    return solution
