"""Files of rows, one at a time: JSON Lines, a JSON list, or Parquet, by the file's suffix.

A file is written aside and then renamed, so it is whole or not there. What a killed process leaves aside, the next one
that writes the file removes. Left out: what the rows mean.
"""

from __future__ import annotations

import glob
import json
import os
import platform
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewards.formats.record import CARRY, FormatError
from rollouts.problems.reading import POINTED, POINTER
from stages.files import strict_json
from stages.text import shown

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_ONCE = 2048
SUFFIXES = (".jsonl", ".json", ".parquet")


def read_file(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a file, each with where it stands: file and line, or row.

    Raises:
        FormatError: the file is missing, of another suffix, or malformed; the message names the file and the line.
    """
    path = Path(path).expanduser()
    _check_suffix(path)
    if not path.is_file():
        raise FormatError(f"{path}: there is no such file")
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise FormatError(f"{path}: {POINTED}")
    rows = {".jsonl": _read_lines, ".json": _read_list, ".parquet": _read_parquet}[path.suffix](path)
    for where, row in rows:
        if not isinstance(row, dict):
            raise FormatError(f"{where}: expected an object with fields, not {shown(row)}")
        yield where, row


def write_file(path: str | Path, rows: Iterable[dict[str, Any]], columns: dict[str, str] | None = None) -> int:
    """Write rows to a file and return how many there were. `columns` are the Arrow types of a Parquet file.

    Raises:
        FormatError: the suffix is another, a Parquet file is asked for without `columns`, or a row cannot be written.
    """
    path = Path(path).expanduser()
    _check_suffix(path)
    if path.suffix == ".parquet" and columns is None:
        raise FormatError(f"{path}: rows of this format are nested and go to .jsonl or .json, not to Parquet")
    begin = f".{path.name}.{platform.node()}."
    _remove_left_behind(path.parent, begin)
    aside = path.with_name(f"{begin}{os.getpid()}.tmp")
    try:
        if path.suffix == ".parquet":
            written = _write_parquet(path, aside, iter(rows), columns)
        else:
            written = _write_json(path, aside, rows)
        os.replace(aside, path)
    except OSError as error:
        raise FormatError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        aside.unlink(missing_ok=True)
    return written


def _remove_left_behind(folder: Path, begin: str) -> None:
    """Remove what processes of this machine that were killed have left of the same file."""
    for left in folder.glob(f"{glob.escape(begin)}*.tmp"):
        number = left.name.removeprefix(begin).removesuffix(".tmp")
        if not number.isdigit():
            continue
        try:
            os.kill(int(number), 0)  # asks whether the process is there
        except ProcessLookupError:
            left.unlink(missing_ok=True)
        except OSError:  # it is another user's
            continue


def _check_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise FormatError(f"{path}: the suffix must be one of {', '.join(SUFFIXES)}")


def _read_lines(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"{path}, line {number}"
                yield where, _parse(line, where)


def _read_list(path: Path) -> Iterator[tuple[str, Any]]:
    data = path.read_bytes()
    if data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"[":
        yield from _read_lines(path)  # some data sets call JSON Lines .json
        return
    for number, row in enumerate(_parse(data, str(path)), start=1):
        yield f"{path}, row {number}", row


def _parse(data: bytes, where: str) -> Any:
    try:
        value = strict_json(data.decode("utf-8-sig"))
        if rb"\ud" in data.lower():
            json.dumps(value, ensure_ascii=False).encode()  # half a character cannot be written to any file
    except json.JSONDecodeError as error:
        line = f" (line {error.lineno})" if error.lineno > 1 else ""
        raise FormatError(f"{where}{line}: malformed JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # UnicodeError is a ValueError
        raise FormatError(f"{where}: malformed JSON: {error}") from error
    return value


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with path.open("rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    number += 1
                    # a column that other rows have is null where this one has no such field
                    yield f"{path}, row {number}", {name: value for name, value in row.items() if value is not None}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: cut short, damaged, or not a Parquet file: {error}") from error


def _write_json(path: Path, aside: Path, rows: Iterable[dict[str, Any]]) -> int:
    written, listed = 0, path.suffix == ".json"
    with aside.open("wb") as file:
        for row in rows:
            try:
                text = json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
            except ValueError as error:
                raise FormatError(f"{path}, row {written + 1}: cannot be written as JSON: {error}") from error
            file.write((b",\n" if written else b"[\n") + text if listed else text + b"\n")
            written += 1
        if listed:
            file.write(b"\n]\n" if written else b"[]\n")
        file.flush()
        os.fsync(file.fileno())
    return written


def _write_parquet(path: Path, aside: Path, rows: Iterator[dict[str, Any]], columns: dict[str, str]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = [_flat(row) for row in islice(rows, ROWS_AT_ONCE)]
    schema = _schema(first, columns)
    written = 0
    with pq.ParquetWriter(aside, schema, compression="zstd", write_page_checksum=True) as writer:
        part = first
        while part:
            _check_columns(path, part, schema, written)
            try:
                writer.write_table(pa.Table.from_pylist(part, schema=schema))
            except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
                raise FormatError(f"{path}, rows {written + 1} to {written + len(part)}: {error}") from error
            written += len(part)
            part = [_flat(row) for row in islice(rows, ROWS_AT_ONCE)]
    return written


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    return row | {CARRY: json.dumps(row[CARRY], ensure_ascii=False)} if CARRY in row else row


def _schema(rows: list[dict[str, Any]], columns: dict[str, str]) -> pa.Schema:
    """The format's columns, that of what it has no field for, and others as the first rows have them."""
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "bool": pa.bool_(),
        "int64": pa.int64(),
        "list<string>": pa.list_(pa.string()),
        "list<bool>": pa.list_(pa.bool_()),
    }
    known = {name: types[kind] for name, kind in columns.items()} | {CARRY: pa.string()}
    others = sorted(set(chain.from_iterable(rows)) - known.keys())
    found = pa.Table.from_pylist([{name: row.get(name) for name in others} for row in rows]) if others else None
    return pa.schema([*known.items(), *((name, found.schema.field(name).type) for name in others)])


def _check_columns(path: Path, rows: list[dict[str, Any]], schema: pa.Schema, before: int) -> None:
    for number, row in enumerate(rows, start=before + 1):
        if unknown := sorted(row.keys() - set(schema.names)):
            raise FormatError(f"{path}, row {number}: no row of the first {ROWS_AT_ONCE} has the field {unknown[0]!r}")
        if nulls := sorted(name for name, value in row.items() if value is None):
            raise FormatError(f"{path}, row {number}: {nulls[0]!r} is null, which Parquet cannot tell from no field")
