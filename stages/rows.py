"""Records to and from Parquet files, written whole or not at all.

The columns come from the record's type hints, so a file of another record is refused by name. Left out: which
folder a file belongs to (`stages/artifacts.py`).
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Iterable
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stages.files import StoreError, replacing

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
ROWS_AT_ONCE = 8192  # a row group of a file


def write_rows(path: str | Path, records: Iterable[Any], cls: type | None = None) -> int:
    """Write records of one dataclass as a Parquet file, whole or not at all; return how many there were.

    The same records give the same bytes. `cls` is needed only where `records` may be empty.

    Raises:
        StoreError: no record and no `cls`, a record of another class, a value of the wrong type, or a full disk.
    """
    import pyarrow.parquet as pq

    path, records = Path(path), iter(records)
    first = next(records, None)
    cls = cls or (None if first is None else type(first))
    if cls is None:
        raise StoreError(f"{path}: no rows, so their class must be given")
    schema, written = schema_of(cls), 0
    records = records if first is None else chain([first], records)
    try:
        with (
            replacing(path) as aside,
            pq.ParquetWriter(aside, schema, compression="zstd", write_page_checksum=True) as writer,
        ):
            # a part at a time, since a million rollouts do not fit in memory; its size decides the bytes of the file
            while part := list(islice(records, ROWS_AT_ONCE)):
                writer.write_table(_table(path, part, cls, schema, written))
                written += len(part)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error
    return written


def _table(path: Path, records: list[Any], cls: type, schema: pa.Schema, before: int) -> pa.Table:
    """Checked records as a table; `before` rows of the file came before them."""
    import pyarrow as pa

    rows = []
    for number, record in enumerate(records, start=before):
        if type(record) is not cls:
            raise StoreError(f"{path}, row {number}: expected {cls.__name__}, not {_shown(record)}")
        row = to_row(record)
        _record(cls, row, f"{path}, row {number}")
        rows.append(row)
    try:
        return pa.Table.from_pylist(rows, schema=schema)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        raise StoreError(_first_bad_row(path, rows, schema, before) or f"{path}: {error}") from error


def read_rows(path: str | Path, cls: type[T]) -> list[T]:
    """Read all records of a file that `write_rows` made, in order.

    Raises:
        StoreError: the file is missing, cut short or damaged, holds another record, or a value is wrong.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise StoreError(f"{path}: there is no such file of {cls.__name__} rows")
    try:
        # opened here: pyarrow reads a path that looks like a URL, or a folder, in other ways
        with path.open("rb") as file:
            table = pq.ParquetFile(file, page_checksum_verification=True).read()
        rows = table.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: cut short, damaged, or not a Parquet file: {error}") from error
    _check_columns(path, cls, table.schema)
    return [_record(cls, row, f"{path}, row {number}") for number, row in enumerate(rows)]


def schema_of(cls: type) -> pa.Schema:
    """The Arrow schema of a record class: one column a field, null only where the hint admits None."""
    import pyarrow as pa

    fields = []
    for name, hint in typing.get_type_hints(cls).items():
        arrow, nullable = _arrow_type(hint)
        fields.append(pa.field(name, arrow, nullable))
    return pa.schema(fields, metadata={"record": cls.__name__})


def _arrow_type(hint: Any) -> tuple[pa.DataType, bool]:
    import pyarrow as pa

    if isinstance(hint, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not types.NoneType]
        if len(options) != 1:
            raise TypeError(f"a column holds one type or None, not {hint}")
        return _arrow_type(options[0])[0], True
    if typing.get_origin(hint) is tuple:
        item, nullable = _arrow_type(typing.get_args(hint)[0])
        return pa.list_(pa.field("item", item, nullable)), False
    plain = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    if hint not in plain:
        raise TypeError(f"there is no column type for {hint}")
    return plain[hint], False


def _record(cls: type[T], row: dict[str, Any], where: str) -> T:
    try:
        record = from_row(cls, row)
    except ValueError as error:
        raise StoreError(f"{where}: {_shorten(str(error))}") from error
    for name, value in row.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, float) and not math.isfinite(item):
                raise StoreError(f"{where}: {cls.__name__}.{name} must be finite, not {_shown(value)}")
    return record


def _check_columns(path: Path, cls: type, found: pa.Schema) -> None:
    wanted = schema_of(cls)
    record = (found.metadata or {}).get(b"record", b"").decode(errors="replace")
    if record and record != cls.__name__:
        raise StoreError(f"{path}: holds {record} rows, not {cls.__name__} rows")
    if not found.equals(wanted):
        have = {field.name: str(field.type) for field in found}
        want = {field.name: str(field.type) for field in wanted}
        changed = sorted(name for name in want.keys() & have.keys() if want[name] != have[name])
        raise StoreError(
            f"{path}: not a file of {cls.__name__} rows: missing columns {sorted(want.keys() - have.keys())}, "
            f"unknown {_shown(sorted(have.keys() - want.keys()))}, "
            f"of another type {[f'{name}: {have[name]}' for name in changed]}"
        )


def _first_bad_row(path: Path, rows: list[dict[str, Any]], schema: pa.Schema, before: int) -> str | None:
    import pyarrow as pa

    for number, row in enumerate(rows, start=before):
        for field in schema:
            try:
                pa.array([row[field.name]], type=field.type)
            except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
                return f"{path}, row {number}: {field.name} cannot be stored: {_shown(row[field.name])}: {error}"
    return None


def _shown(value: Any) -> str:
    return _shorten(repr(value))


def _shorten(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:300]}… ({len(text)} characters)"


def to_row(record: Any) -> dict[str, Any]:
    """Turn a record into a dict of plain values (tuples become lists), as Parquet and JSON want them."""
    row = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        row[field.name] = list(value) if isinstance(value, tuple) else value
    return row


def from_row(cls: type[T], row: dict[str, Any]) -> T:
    """Build a record from a row.

    Raises:
        ValueError: a field is missing, unknown, or of the wrong type; the message names field and value.
    """
    fields = _fields(cls)
    if not isinstance(row, dict):
        raise ValueError(f"a {cls.__name__} row must have fields, not be {row!r}")
    if row.keys() != fields.keys():
        unknown, missing = row.keys() - fields.keys(), fields.keys() - row.keys()
        raise ValueError(f"a {cls.__name__} row has missing fields {sorted(missing)}, unknown {sorted(unknown)}")
    values = {}
    for name, (hint, is_tuple, fits) in fields.items():
        value = row[name]
        if is_tuple and isinstance(value, list):
            value = tuple(value)
        if not fits(value):
            raise ValueError(f"{cls.__name__}.{name} must be {_name(hint)}, not {value!r}")
        values[name] = value
    return cls(**values)


@cache
def _fields(cls: type) -> dict[str, tuple[Any, bool, Callable[[Any], bool]]]:
    """Of each field its type hint, whether that is a tuple, and what says whether a value fits it."""
    hints = typing.get_type_hints(cls)
    return {name: (hint, typing.get_origin(hint) is tuple, _fits(hint)) for name, hint in hints.items()}


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


@cache
def _fits(hint: Any) -> Callable[[Any], bool]:
    # made once a type: looking at the hint again for every value took most of the time of reading a million rows
    if isinstance(hint, types.UnionType):
        options = [_fits(option) for option in typing.get_args(hint)]
        return lambda value: any(fits(value) for fits in options)
    if typing.get_origin(hint) is tuple:
        item = _fits(typing.get_args(hint)[0])
        return lambda value: isinstance(value, tuple) and all(map(item, value))
    if hint is types.NoneType:
        return lambda value: value is None
    if hint is int:
        return lambda value: isinstance(value, int) and not isinstance(value, bool)
    return lambda value: isinstance(value, hint)
