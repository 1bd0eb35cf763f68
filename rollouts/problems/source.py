"""What every problem source shares: `ProblemArgs`, checked rows of a file, and which split a question belongs to.

Left out: the sources themselves (one file each), and the order and number of problems (`load_problems`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import unicodedata
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

from rollouts.problems.arithmetic import WorldArgs
from rollouts.stages import parent
from rollouts.types import Problem

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
NAN = "nan"  # how some exporters write a value that is missing


class ProblemFileError(ValueError):
    """A problem file that cannot be used. The message names the file, the line and the value."""


@dataclass
class ProblemArgs:
    """Which problems to load; `load_problems` reads it.

    `path` is a file or folder, or the name of a Hugging Face data set when `hub`. Sources with a train and a test
    file hold out `validation_share` of the train file; sources with one file are cut by `split_shares`, the shares
    of train, validation and test. Both cuts are by a hash of the question, so they never depend on the order of the
    rows, on a seed, or on other rows. Problems come in file order, or shuffled by `shuffle_seed`; then `offset`
    problems are left out and at most `limit` are kept.
    """

    source: str = "arithmetic"
    split: str = "train"
    path: str | None = parent(plain=True, unless="hub", default=None)
    hub: bool = False
    limit: int | None = None
    offset: int = 0
    shuffle_seed: int | None = None
    validation_share: float = 0.1
    split_shares: list[float] = field(default_factory=lambda: [0.7, 0.1, 0.2])
    world: WorldArgs = field(default_factory=WorldArgs)

    def validate(self) -> None:
        """Raise ValueError naming the first setting that makes no sense, and its value."""
        from rollouts.problems import SOURCES  # the sources import this module

        if self.source not in SOURCES:
            raise ValueError(f"problems.source={self.source!r} is unknown; known are {', '.join(SOURCES)}")
        if self.split not in SPLITS:
            raise ValueError(f"problems.split={self.split!r} is unknown; known are {', '.join(SPLITS)}")
        if self.source == "arithmetic" and self.path is not None:
            raise ValueError(f"problems.path={self.path!r}: source arithmetic makes its problems and reads no file")
        if self.source != "arithmetic" and not self.path:
            raise ValueError(f"problems.path={self.path!r}: source {self.source} needs a path")
        if self.hub and self.source != "gsm8k":
            raise ValueError(f"problems.hub=true: only source gsm8k is read from the hub, not {self.source}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"problems.limit must be at least 1, not {self.limit}")
        if self.offset < 0:
            raise ValueError(f"problems.offset must not be negative, but is {self.offset}")
        if not 0 <= self.validation_share < 1:
            raise ValueError(f"problems.validation_share must be in [0, 1), not {self.validation_share}")
        shares = list(self.split_shares)
        if len(shares) != 3 or not all(0 <= share <= 1 for share in shares) or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(f"problems.split_shares must be three shares that sum to 1, not {shares}")
        self.world.validate()


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a problem file: `where` a person finds it, its number `n` from 0, and its fields."""

    where: str
    n: int
    fields: dict[str, Any]

    def error(self, message: str) -> ProblemFileError:
        return ProblemFileError(f"{self.where}: {message}")

    def text(self, name: str) -> str:
        """The text of a field, without the white space around it.

        Raises:
            ProblemFileError: the field is missing, not text, blank or `nan`, or cannot be stored as UTF-8.
        """
        if name not in self.fields:
            raise self.error(f"field {name!r} is missing, there are {shown(sorted(self.fields))}")
        value = self.fields[name]
        if not isinstance(value, str):
            raise self.error(f"field {name!r} must be text, not {shown(value)}")
        # escapes such as \u0000 and \ud800 are valid JSON, but neither can be written to a table later
        if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
            raise self.error(f"field {name!r} holds a NUL or a lone surrogate: {shown(value)}")
        # a zero-width space or a byte order mark is no white space to Python, but nobody can read it
        if not any(char.isprintable() and not char.isspace() for char in value):
            raise self.error(f"field {name!r} is empty: {shown(value)}")
        if value.strip().lower() == NAN:
            raise self.error(f"field {name!r} is {shown(value)}, which stands for a value that is missing")
        return value.strip()

    def optional_text(self, name: str) -> str | None:
        return None if self.fields.get(name) is None else self.text(name)

    def number(self, name: str) -> Fraction:
        """The exact value of a JSON number.

        Raises:
            ProblemFileError: the field is missing, not a number, or beyond 1e30 or 1e-30.
        """
        if name not in self.fields:
            raise self.error(f"field {name!r} is missing, there are {shown(sorted(self.fields))}")
        value = self.fields[name]
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            raise self.error(f"field {name!r} must be a number, not {shown(value)}")
        # a Decimal such as 1e999999999 is small until a Fraction writes it out
        if value and abs(Decimal(value).adjusted()) > 30:
            raise self.error(f"field {name!r} is out of range: {shown(value)}")
        return Fraction(value)

    def answer(self, name: str, text: str) -> str:
        """The answer that field `name` gives, if a grader can make something of it.

        Raises:
            ProblemFileError: it is `nan`, or has digits of a script whose numbers the grader does not read.
        """
        if text.lower() == NAN:
            raise self.error(f"field {name!r} gives no answer but {shown(text)}")
        if any(char.isdecimal() and not char.isascii() for char in unicodedata.normalize("NFKC", text)):
            raise self.error(f"field {name!r} has digits that the grader does not read: {shown(text)}")
        return text


def shown(value: Any) -> str:
    """A value for an error message: its repr, shortened, since a row can be megabytes long."""
    text = str(value) if isinstance(value, Decimal) else repr(value)
    return text if len(text) <= 120 else f"{text[:120]}… ({len(text)} characters)"


def file_at(path: str, name: str) -> Path:
    """`path` itself, or the file `name` in it where `path` is a folder."""
    found = Path(path).expanduser()
    return found / name if found.is_dir() else found


def read_text(path: Path) -> str:
    """A file's text.

    Raises:
        ProblemFileError: the file is missing, unreadable or blank, or holds a NUL byte or bytes that are not UTF-8.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ProblemFileError(f"{path}: cannot be read: {error.strerror}") from error
    nul = data.find(b"\0")
    if nul >= 0:
        line = data.count(b"\n", 0, nul) + 1
        raise ProblemFileError(f"{path}, line {line}: NUL byte at byte {nul} of the file")
    try:
        text = data.decode("utf-8-sig")  # editors on Windows begin a file with a byte order mark
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        bad = data[error.start]
        raise ProblemFileError(f"{path}, line {line}: not UTF-8: byte {bad:#04x} ({error.reason})") from error
    if not text.strip():
        raise ProblemFileError(f"{path}: the file is empty")
    return text


def parse_json(text: str, path: Path, line: int = 1) -> Any:
    """Parse JSON that begins on `line` of `path`; numbers with a point become Decimal.

    Raises:
        ProblemFileError: the text is malformed or torn, holds NaN or Infinity, or gives a field twice.
    """
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=_refuse_constant, object_pairs_hook=_to_object)
    except json.JSONDecodeError as error:
        where = f"{path}, line {line + error.lineno - 1}"
        part = text[max(0, error.pos - 40) : error.pos + 40]
        raise ProblemFileError(
            f"{where}: malformed JSON: {error.msg} at column {error.colno}, near {part!r}"
        ) from error
    except (ValueError, ArithmeticError, RecursionError) as error:  # the hooks; huge numbers; very deep brackets
        raise ProblemFileError(f"{path}, line {line}: malformed JSON: {error}: {shown(text)}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"a field is given twice: {shown(sorted(n for n in fields if names.count(n) > 1))}")
    return fields


def as_row(value: Any, where: str, n: int) -> Row:
    """A row of a parsed JSON value, which must be an object."""
    if not isinstance(value, dict):
        raise ProblemFileError(f"{where}: expected an object with fields, not {shown(value)}")
    return Row(where, n, value)


def read_jsonl(path: Path) -> list[Row]:
    """The rows of a JSON Lines file; blank lines are left out and not numbered.

    Raises:
        ProblemFileError: see `read_text` and `parse_json`; or a line is not an object.
    """
    rows: list[Row] = []
    # not splitlines: it also cuts at characters such as U+2028, which JSON allows inside a text
    for line, text in enumerate(read_text(path).split("\n"), start=1):
        if text.strip():
            rows.append(as_row(parse_json(text, path, line), f"{path}, line {line}", len(rows)))
    return rows


def plain_number(text: str) -> Fraction | None:
    """The value of `12`, `-1,080.5` or `3/4`, else None; thousands separators must stand where they belong."""
    match = re.fullmatch(r"(-?)([0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(\.[0-9]+)?(/[0-9]*[1-9][0-9]*)?", text.strip())
    if match is None or len(text) > 100 or (match[3] and match[4]):
        return None
    return Fraction(match[0].replace(",", ""))


def number_text(value: Fraction) -> str:
    """A number as people write it: `51`, `0.2`, and `1/3` where no decimal is exact."""
    rest, places = value.denominator, 0
    while rest % 10 in (0, 2, 4, 5, 6, 8):
        rest //= 10 if rest % 10 == 0 else 5 if rest % 5 == 0 else 2
        places += 1
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    scaled = abs(value.numerator) * 10**places // value.denominator
    sign = "-" if value < 0 else ""
    whole, part = divmod(scaled, 10**places)
    return f"{sign}{whole}.{part:0{places}d}" if places else f"{sign}{whole}"


def question_key(question: str) -> str:
    """What two questions have in common that are the same but for case, punctuation and spacing."""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", question).casefold())
    return " ".join(words) or question.strip()


def split_point(question: str) -> float:
    """Where a question stands in [0, 1): a hash of its key, evenly spread."""
    digest = hashlib.sha256(question_key(question).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48  # 6 bytes: exact in a float, so never rounded up to 1


def hold_out(problems: list[Problem], args: ProblemArgs, test_questions: set[str]) -> list[Problem]:
    """The problems of a train file that belong to `args.split`, train or validation.

    Questions that the test file has too (given by their keys) belong to neither.
    """
    clean = [problem for problem in problems if question_key(problem.question) not in test_questions]
    if len(clean) < len(problems):
        logger.warning(
            "%s: %d of %d questions of the train file are left out, the test file has them too",
            args.source,
            len(problems) - len(clean),
            len(problems),
        )
    held = args.split == "validation"
    return [p for p in clean if (split_point(p.question) < args.validation_share) == held]


def cut(problems: list[Problem], args: ProblemArgs) -> list[Problem]:
    """The problems of a single file that belong to `args.split`, by `args.split_shares`."""
    train, validation, test = args.split_shares
    total = train + validation + test
    low = {"train": 0.0, "validation": train / total, "test": (train + validation) / total}[args.split]
    high = {"train": train / total, "validation": (train + validation) / total, "test": 1.0}[args.split]
    return [problem for problem in problems if low <= split_point(problem.question) < high]
