r"""MATH: problems in LaTeX whose solution ends in \boxed{answer}; a field `answer` is believed where there is one.

    {"problem": "What is $1+1$?", "level": "Level 1", "type": "Algebra", "solution": "It is $\\boxed{2}$."}
has the answer 2. Boxes that differ, as in `$\boxed{2}$ or $\boxed{-2}$`, are the answer `2, -2` where nothing but "or"
stands between them, and otherwise an error. Read from a folder with train and test, each a folder of
SUBJECT/NUMBER.json files or a file train.jsonl, test.jsonl; from SUBJECT/train-*.parquet, as the hub's
EleutherAI/hendrycks_math is; or from one .jsonl, .json or .parquet file, which is cut into splits by a hash of the
question.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from rollouts.grading.answers import canonical
from rollouts.grading.numerals import normalise
from rollouts.problems.reading import (
    ProblemFileError,
    SourceRow,
    as_row,
    find_rows,
    number_text,
    parse_json,
    read_rows,
    read_text,
)
from rollouts.problems.splits import cut, hold_out, question_key
from rollouts.records import Problem
from stages.bad_rows import BadRows
from stages.text import shown

if TYPE_CHECKING:
    from rollouts.problems.args import ProblemArgs


def load(args: ProblemArgs, bad: BadRows) -> list[Problem]:
    """The problems of `args.split`; of a folder, validation is held out of train, and train is the rest of it.

    Raises:
        ProblemFileError: a file is missing or malformed, or a row has no answer or says two.
    """
    path = Path(args.path).expanduser()
    if not path.is_dir():
        return cut(_problems([(row, str(row.n)) for row in read_rows(path)], args.split, bad), args)
    test = _problems(_read_side(path, "test"), args.split, bad)
    if args.split == "test":
        return test
    train = _problems(_read_side(path, "train"), args.split, bad)
    return hold_out(train, args, {question_key(problem.question) for problem in test})


def _read_side(root: Path, side: str) -> list[tuple[SourceRow, str]]:
    """The rows of train or test, each with the end of its id."""
    folder = root / side
    if not folder.is_dir():
        patterns = f"*/{side}-*.parquet", f"{side}-*.parquet", f"{side}.jsonl"
        if not any(next(root.glob(pattern), None) for pattern in patterns):
            raise ProblemFileError(f"{root}: has neither a folder {side} nor a file {side}.jsonl")
        return [(row, str(row.n)) for row in find_rows(root, *patterns)]
    files = sorted(folder.glob("*/*.json"), key=lambda file: (file.parent.name, len(file.stem), file.stem))
    if not files:
        raise ProblemFileError(f"{folder}: holds no SUBJECT/NUMBER.json files")
    rows = [as_row(parse_json(read_text(file), file), f"{file}, line 1", n) for n, file in enumerate(files)]
    return [(row, f"{file.parent.name}/{file.stem}") for row, file in zip(rows, files, strict=True)]


def _problems(rows: list[tuple[SourceRow, str]], split: str, bad: BadRows) -> list[Problem]:
    return bad.keep(rows, lambda pair: _problem(*pair, split))


def _problem(row: SourceRow, identity: str, split: str) -> Problem:
    question, solution = row.text("problem"), row.text("solution")
    boxes = list(find_boxes(solution))
    given = row.fields.get("answer")
    if given is None:
        answer = row.answer("solution", _boxed_answer(row, solution, boxes))
    else:
        number = isinstance(given, int | Decimal) and not isinstance(given, bool)
        answer = number_text(row.number("answer")) if number else row.answer("answer", row.text("answer"))
        found = [content for _, _, content in boxes if content]
        if found and not any(_same(answer, box) for box in (*found, ", ".join(found))):
            raise row.error(f"field 'answer' is {shown(answer)}, but the solution's box is {shown(found[-1])}")
    return Problem(f"math/{split}/{identity}", question, answer, solution, "math", split)


def _boxed_answer(row: SourceRow, solution: str, boxes: list[tuple[int, int, str | None]]) -> str:
    if not boxes or not all(content for _, _, content in boxes):
        raise row.error(f"field 'solution' has no \\boxed{{answer}} with balanced braces: {solution[-80:]!r}")
    contents = {_key(content): content for _, _, content in reversed(boxes)}
    if len(contents) == 1:
        return boxes[-1][2]
    if all(_JOINED.fullmatch(solution, one[1], other[0]) for one, other in itertools.pairwise(boxes)):
        return ", ".join(reversed(contents.values()))
    raise row.error(
        f"field 'solution' has boxes that differ, {' and '.join(map(shown, reversed(contents.values())))}: "
        "a field 'answer' would say which is meant"
    )


def _same(answer: str, box: str) -> bool:
    return _key(answer) == _key(box) or canonical(answer) == canonical(box)


_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_JOINED = re.compile(r"(?:[\s$,;]|\\[,;(){}\[\]]|\\q?quad|\b(?:and|or)\b|\\text\s*\{\s*(?:,|and|or)\s*\})*")
_SPELLING = re.compile(r"\\(?:left|right|!|,|;|:| )|[\s$]|\\(?:text|mathrm|mbox)\s*(?=\{)")


def _key(answer: str) -> object:
    """What two spellings of one answer have in common."""
    number = normalise(answer)
    plain = re.sub(r"\\[dt]frac", r"\\frac", _SPELLING.sub("", answer)).rstrip(".")
    return plain if number is None else number


def find_boxes(text: str) -> Iterator[tuple[int, int, str | None]]:
    r"""Where each \boxed{…} or \fbox{…} begins and ends, and what it holds: None where its braces do not balance."""
    position = 0
    while (mark := _BOX.search(text, position)) is not None:
        content, position = _content(text, mark.end())
        if content and (inner := _BOX.search(content)):  # \boxed{\boxed{5}}, but not a hundred
            content = _content(content, inner.end())[0]
            content = None if content and _BOX.search(content) else content
        yield mark.start(), position, content


def _content(text: str, start: int) -> tuple[str | None, int]:
    """What a box holds that opens at `start`, and where it ends."""
    if text[start : start + 1] != "{":  # `\boxed 5$` is valid LaTeX, and some solutions have it
        match = re.compile(r"[^\s${}]+").match(text, start)
        return (match[0].rstrip(".,;"), match.end()) if match else (None, start)
    depth = 0
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):  # an escaped brace is text
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0 and match[0] == "}":
            return text[start + 1 : match.start()].strip(), match.end()
    return None, len(text)
