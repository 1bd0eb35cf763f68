"""What every problem source shares: the rows of a file (JSON Lines, a JSON list or Parquet), checked field by field.

Left out: the sources themselves (one file each), the splits, and the order and number of problems (`load_problems`).
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

from stages.files import strict_json
from stages.text import shown

# how exporters write a value that is missing
NOTHING = frozenset({"nan", "none", "null", "n/a", "#n/a", "<na>"})
BETWEEN = re.compile(r"[\[,\s]*")  # what stands between the values of a JSON list
POINTER = b"version https://git-lfs.github.com/spec/"  # how every Git LFS pointer begins
POINTED = "a Git LFS pointer in place of the data: run `git lfs pull` where the data was cloned"


class ProblemFileError(ValueError):
    """A problem file that cannot be used. The message names the file, the line and the value."""


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One record of a problem file: `where` a person finds it, its number `n` from 0, and its fields."""

    where: str
    n: int
    fields: dict[str, Any]

    def error(self, message: str) -> ProblemFileError:
        return ProblemFileError(f"{self.where}: {message}")

    def text(self, name: str) -> str:
        """The text of a field, without the white space around it.

        Raises:
            ProblemFileError: the field is missing, not text, blank or such as `nan`, or cannot be stored as UTF-8.
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
        if value.strip().lower() in NOTHING:
            raise self.error(f"field {name!r} is {shown(value)}, which stands for a value that is missing")
        return value.strip()

    def optional_text(self, name: str) -> str | None:
        return None if self.fields.get(name) is None else self.text(name)

    def number(self, name: str) -> Fraction:
        """The exact value of a JSON number, or of one written as text (`"5.0"`).

        Raises:
            ProblemFileError: the field is missing, not a number, or beyond 1e30 or 1e-30.
        """
        if name not in self.fields:
            raise self.error(f"field {name!r} is missing, there are {shown(sorted(self.fields))}")
        value = self.fields[name]
        if isinstance(value, str) and (number := plain_number(value)) is not None:
            return number
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            raise self.error(f"field {name!r} must be a number, not {shown(value)}")
        # a Decimal such as 1e999999999 is small until a Fraction writes it out
        if value and abs(Decimal(value).adjusted()) > 30:
            raise self.error(f"field {name!r} is out of range: {shown(value)}")
        return Fraction(value)

    def answer(self, name: str, text: str) -> str:
        """The answer that field `name` gives, if a grader can make something of it.

        Raises:
            ProblemFileError: it is empty or such as `nan`, or has digits of a script whose numbers the grader does not
                read.
        """
        if not text or text.lower() in NOTHING:
            raise self.error(f"field {name!r} gives no answer but {shown(text)}")
        if any(char.isdecimal() and not char.isascii() for char in unicodedata.normalize("NFKC", text)):
            raise self.error(f"field {name!r} has digits that the grader does not read: {shown(text)}")
        return text


def file_at(path: str, name: str) -> Path:
    """`path` itself, or the file `name` in it where `path` is a folder."""
    found = Path(path).expanduser()
    return found / name if found.is_dir() else found


def read_text(path: Path) -> str:
    """A file's text.

    Raises:
        ProblemFileError: the file is missing, unreadable or blank, a Git LFS pointer, or holds a NUL byte or bytes
            that are not UTF-8.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ProblemFileError(f"{path}: cannot be read: {error.strerror}") from error
    if data.startswith(POINTER):
        raise ProblemFileError(f"{path}: {POINTED}")
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
        return strict_json(text, parse_float=Decimal)
    except json.JSONDecodeError as error:
        where = f"{path}, line {line + error.lineno - 1}"
        part = text[max(0, error.pos - 40) : error.pos + 40]
        raise ProblemFileError(
            f"{where}: malformed JSON: {error.msg} at column {error.colno}, near {shown(part)}"
        ) from error
    except (ValueError, ArithmeticError, RecursionError) as error:  # the hooks; huge numbers; very deep brackets
        raise ProblemFileError(f"{path}, line {line}: malformed JSON: {error}: {shown(text)}") from error


def as_row(value: Any, where: str, n: int) -> SourceRow:
    """A row of a parsed JSON value, which must be an object."""
    if not isinstance(value, dict):
        raise ProblemFileError(f"{where}: expected an object with fields, not {shown(value)}")
    return SourceRow(where, n, value)


def read_jsonl(path: Path) -> list[SourceRow]:
    """The rows of a JSON Lines file; blank lines are left out and not numbered.

    Raises:
        ProblemFileError: see `read_text` and `parse_json`; or a line is not an object.
    """
    rows: list[SourceRow] = []
    # not splitlines: it also cuts at characters such as U+2028, which JSON allows inside a text
    for line, text in enumerate(read_text(path).split("\n"), start=1):
        if text.strip():
            # files that were put together have byte order marks in the middle
            value = parse_json(text.removeprefix("\ufeff"), path, line)
            rows.append(as_row(value, f"{path}, line {line}", len(rows)))
    return rows


def read_rows(path: Path) -> list[SourceRow]:
    """The rows of a file: Parquet or JSON Lines by its suffix; a .json file holds a list, or a row a line.

    Raises:
        ProblemFileError: see `read_jsonl`; or the list is empty or damaged.
    """
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    if path.suffix != ".json" or not (text := read_text(path)).lstrip().startswith("["):
        return read_jsonl(path)
    values = parse_json(text, path)
    if not values:
        raise ProblemFileError(f"{path}: holds no problems")
    rows, decoder, position = [], json.JSONDecoder(), text.index("[")
    for n, value in enumerate(values):  # the text is read again, only for the line on which each value begins
        position = BETWEEN.match(text, position).end()
        rows.append(as_row(value, f"{path}, line {text.count(chr(10), 0, position) + 1}", n))
        position = decoder.raw_decode(text, position)[1]
    return rows


def find_rows(folder: Path, *patterns: str) -> list[SourceRow]:
    """The rows of the files that the first of these patterns finds in a folder, numbered through all of them.

    Raises:
        ProblemFileError: see `read_rows`; where no pattern finds any, the last one is the name of the missing file.
    """
    found = next((files for pattern in patterns if (files := sorted(folder.glob(pattern)))), [folder / patterns[-1]])
    return [replace(row, n=n) for n, row in enumerate(row for file in found for row in read_rows(file))]


def _parquet_rows(path: Path) -> list[SourceRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as file:
            if file.read(len(POINTER)) == POINTER:
                raise ProblemFileError(f"{path}: {POINTED}")
        found = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ProblemFileError(f"{path}: cut short, damaged, or not a Parquet file: {error}") from error
    return [
        SourceRow(f"{path}, row {n}", n, {name: _exact(value) for name, value in row.items()})
        for n, row in enumerate(found)
    ]


def _exact(value: Any) -> Any:
    """The value as JSON would give it: a float as the Decimal that it is written as."""
    return Decimal(repr(value)) if isinstance(value, float) and math.isfinite(value) else value


def plain_number(text: str) -> Fraction | None:
    """The value of `12`, `-1,080.5` or `3/4`, else None; thousands separators must stand where they belong."""
    # stricter than the grader's `normalise`: what a data set calls a number is not `5 apples`, `50%` or `1e3`
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
