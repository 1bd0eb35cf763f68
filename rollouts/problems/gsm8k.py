"""GSM8K: rows of question and answer, whose text is the gold solution and whose last line is `#### n`.

    {"question": "Ann has 2 pens and buys 3. How many?", "answer": "2+3 = <<2+3=5>>5\\n#### 5"}
has the answer 5, and as its solution the text of `answer`, whose steps keep their `<<…>>` marks. Read from a folder
with train.jsonl and test.jsonl, or laid out as the hub's openai/gsm8k is (main/train-*.parquet).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rollouts.problems.reading import ProblemFileError, SourceRow, find_rows, number_text, plain_number
from rollouts.problems.splits import hold_out, question_key
from rollouts.records import Problem
from stages.bad_rows import BadRows
from stages.text import shown

if TYPE_CHECKING:
    from rollouts.problems.args import ProblemArgs


def load(args: ProblemArgs, bad: BadRows) -> list[Problem]:
    """The problems of `args.split`; validation is held out of the train file, and train is the rest of it.

    Raises:
        ProblemFileError: a file is missing or malformed (loading train or validation reads the test file too, so
            that no test question is trained on).
    """
    test = _problems(args, "test", bad)
    if args.split == "test":
        return test
    return hold_out(_problems(args, "train", bad), args, {question_key(problem.question) for problem in test})


def _problems(args: ProblemArgs, file: str, bad: BadRows) -> list[Problem]:
    folder = Path(args.path).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ProblemFileError(f"{folder}: gsm8k needs the folder that holds train.jsonl and test.jsonl")
    rows = find_rows(folder, f"main/{file}-*.parquet", f"{file}-*.parquet", f"{file}.jsonl")
    return bad.keep(rows, lambda row: _problem(row, args.split))


def _problem(row: SourceRow, split: str) -> Problem:
    solution, last = split_worked(row, "answer")
    value = plain_number(last)
    if value is None:
        raise row.error(f"field 'answer' must end in '#### n' with a number n, not {shown(last)}")
    if not solution.partition("####")[0].strip():
        raise row.error(f"field 'answer' has no solution before its '####': {shown(solution)}")
    return Problem(f"gsm8k/{split}/{row.n}", row.text("question"), number_text(value), solution, "gsm8k", split)


def split_worked(row: SourceRow, name: str) -> tuple[str, str]:
    """A worked solution in field `name`, and the answer on its last line.

    Raises:
        ProblemFileError: there is no line `#### n`, it is not the last, or there are several.
    """
    solution = row.text(name)
    steps, mark, last = solution.rpartition("####")
    if not mark:
        raise row.error(f"field {name!r} has no line '#### n': {solution[-80:]!r}")
    # a student learns the steps up to the first answer line: that must be the last, and a line of its own
    if "####" in steps or steps.rpartition("\n")[2].strip() or "\n" in last:
        raise row.error(f"field {name!r} must have one '####', at the start of its last line: {solution[-80:]!r}")
    return solution, last.strip()
