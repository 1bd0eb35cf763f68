"""GSM8K: rows of question and answer, whose text is the gold solution and whose last line is `#### n`.

Read from a folder with train.jsonl and test.jsonl, or laid out as the hub's openai/gsm8k is (main/train-*.parquet).
The steps keep their `<<…>>` marks.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rollouts.problems.reading import ProblemFileError, SourceRow, number_text, plain_number, read_jsonl
from rollouts.problems.splits import hold_out, question_key
from rollouts.records import Problem
from stages.text import shown

if TYPE_CHECKING:
    from rollouts.problems.args import ProblemArgs


def load(args: ProblemArgs) -> list[Problem]:
    """The problems of `args.split`; validation is held out of the train file, and train is the rest of it.

    Raises:
        ProblemFileError: a file is missing or malformed (loading train or validation reads the test file too, so
            that no test question is trained on).
    """
    test = _problems(args, "test")
    if args.split == "test":
        return test
    return hold_out(_problems(args, "train"), args, {question_key(problem.question) for problem in test})


def _problems(args: ProblemArgs, file: str) -> list[Problem]:
    folder = Path(args.path).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ProblemFileError(f"{folder}: gsm8k needs the folder that holds train.jsonl and test.jsonl")
    parts = sorted(folder.glob(f"main/{file}-*.parquet"))
    rows = [row for part in parts for row in _parquet_rows(part)] if parts else read_jsonl(folder / f"{file}.jsonl")
    return [_problem(replace(row, n=n), args.split) for n, row in enumerate(rows)]


def _problem(row: SourceRow, split: str) -> Problem:
    solution = row.text("answer")
    steps, mark, last = solution.rpartition("####")
    if not mark:
        raise row.error(f"field 'answer' has no line '#### n': {solution[-80:]!r}")
    value = plain_number(last)
    if value is None:
        raise row.error(f"field 'answer' must end in '#### n' with a number n, not {shown(last.strip())}")
    if not steps.strip():
        raise row.error(f"field 'answer' has no solution before its '####': {shown(solution)}")
    # a student learns the steps up to the first answer line: that must be the last, and a line of its own
    if "####" in steps or steps.rpartition("\n")[2].strip():
        raise row.error(f"field 'answer' must have one '####', at the start of its last line: {solution[-80:]!r}")
    return Problem(f"gsm8k/{split}/{row.n}", row.text("question"), number_text(value), solution, "gsm8k", split)


def _parquet_rows(path: Path) -> list[SourceRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ProblemFileError(f"{path}: cut short, damaged, or not a Parquet file: {error}") from error
    return [SourceRow(f"{path}, row {n}", n, fields) for n, fields in enumerate(found)]
