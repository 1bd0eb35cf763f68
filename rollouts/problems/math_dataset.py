r"""MATH: problems in LaTeX whose solution ends in \boxed{answer}.

Read from a folder with train and test, each a folder of subject folders of JSON files, or a file train.jsonl or
test.jsonl; or from one JSONL file, which is cut into splits by a hash of the question.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from rollouts.problems.reading import ProblemFileError, SourceRow, as_row, parse_json, read_jsonl, read_text
from rollouts.problems.splits import cut, hold_out, question_key
from rollouts.records import Problem

if TYPE_CHECKING:
    from rollouts.problems.args import ProblemArgs


def load(args: ProblemArgs) -> list[Problem]:
    """The problems of `args.split`; of a folder, validation is held out of train, and train is the rest of it.

    Raises:
        ProblemFileError: a file is missing or malformed, or a solution has no boxed answer.
    """
    path = Path(args.path).expanduser()
    if not path.is_dir():
        return cut([_problem(row, str(row.n), args.split) for row in read_jsonl(path)], args)
    test = _read_side(path, "test", args.split)
    if args.split == "test":
        return test
    return hold_out(_read_side(path, "train", args.split), args, {question_key(problem.question) for problem in test})


def _read_side(root: Path, side: str, split: str) -> list[Problem]:
    folder = root / side
    if not folder.is_dir():
        if not folder.with_suffix(".jsonl").exists():
            raise ProblemFileError(f"{root}: has neither a folder {side} nor a file {side}.jsonl")
        return [_problem(row, str(row.n), split) for row in read_jsonl(folder.with_suffix(".jsonl"))]
    files = sorted(folder.glob("*/*.json"), key=lambda file: (file.parent.name, len(file.stem), file.stem))
    if not files:
        raise ProblemFileError(f"{folder}: holds no SUBJECT/NUMBER.json files")
    rows = [as_row(parse_json(read_text(file), file), f"{file}, line 1", n) for n, file in enumerate(files)]
    return [_problem(row, f"{file.parent.name}/{file.stem}", split) for row, file in zip(rows, files, strict=True)]


def _problem(row: SourceRow, identity: str, split: str) -> Problem:
    question, solution = row.text("problem"), row.text("solution")
    answer = last_boxed(solution)
    if not answer:
        raise row.error(f"field 'solution' has no \\boxed{{answer}} with balanced braces: {solution[-80:]!r}")
    return Problem(f"math/{split}/{identity}", question, row.answer("solution", answer), solution, "math", split)


def last_boxed(text: str) -> str | None:
    r"""What the last \boxed{…} or \fbox{…} holds; None where there is none or its braces do not balance."""
    marks = list(re.finditer(r"\\(?:boxed|fbox)\s*", text))
    if not marks:
        return None
    inside = text[marks[-1].end() :]
    if not inside.startswith("{"):  # `\boxed 5$` is valid LaTeX, and some solutions have it
        match = re.match(r"[^\s${}]+", inside)
        return match[0].rstrip(".,;") if match else None
    depth = 0
    for match in re.finditer(r"\\.|[{}]", inside, re.DOTALL):  # an escaped brace is text
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0 and match[0] == "}":
            return inside[1 : match.start()].strip()
    return None
