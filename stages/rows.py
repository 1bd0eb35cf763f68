"""Records to and from Parquet files, written whole or not at all.

The columns come from the record's type hints, so a file of another record is refused by name. Left out: which
folder a file belongs to (`stages/artifacts.py`).
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterable
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stages.files import StoreError, replacing
from stages.text import shown

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
            raise StoreError(f"{path}, row {number}: expected {cls.__name__}, not {shown(record)}")
        rows.append(to_row(record))
        _naming(path, number, _fields, cls, rows[-1])
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
    return [_naming(path, number, from_row, cls, row) for number, row in enumerate(rows)]


def _naming(path: Path, number: int, work: Callable[[type, dict[str, Any]], T], cls: type, row: dict[str, Any]) -> T:
    try:
        return work(cls, row)
    except ValueError as error:
        raise StoreError(f"{path}, row {number}: {error}") from error


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
            f"unknown {shown(sorted(have.keys() - want.keys()))}, "
            f"of another type {[f'{name}: {have[name]}' for name in changed]}"
        )


def _first_bad_row(path: Path, rows: list[dict[str, Any]], schema: pa.Schema, before: int) -> str | None:
    import pyarrow as pa

    for number, row in enumerate(rows, start=before):
        for field in schema:
            try:
                pa.array([row[field.name]], type=field.type)
            except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
                return f"{path}, row {number}: {field.name} cannot be stored: {shown(row[field.name])}: {error}"
    return None


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
        ValueError: a field is missing, unknown, of the wrong type or not finite; the message names field and value.
    """
    return cls(**_fields(cls, row))


def _fields(cls: type, row: dict[str, Any]) -> dict[str, Any]:
    """The fields of a row, checked, with tuples for lists."""
    from pydantic import ValidationError

    try:
        return _validator(cls)(row)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
    hints = typing.get_type_hints(cls)
    if not isinstance(row, dict):
        raise ValueError(f"a {cls.__name__} row must have fields, not be {shown(row)}")
    if row.keys() != hints.keys():
        missing, unknown = sorted(hints.keys() - row.keys()), shown(sorted(map(str, row.keys() - hints.keys())))
        raise ValueError(f"a {cls.__name__} row has missing fields {missing}, unknown {unknown}")
    name = first["loc"][0]
    hint = hints[name].__name__ if isinstance(hints[name], type) else str(hints[name])
    wanted = "finite" if first["type"] == "finite_number" else hint
    raise ValueError(f"{cls.__name__}.{name} must be {wanted}, not {shown(row[name])}")


@cache
def _validator(cls: type) -> Callable[[Any], dict[str, Any]]:
    """What checks the fields of a row: nothing is taken for what it is not, but a list for a tuple."""
    from pydantic import ConfigDict, Strict, TypeAdapter
    from typing_extensions import TypedDict

    fields = {
        name: typing.Annotated[hint, Strict(False)] if typing.get_origin(hint) is tuple else hint
        for name, hint in typing.get_type_hints(cls).items()
    }
    row = TypedDict(cls.__name__, fields)
    row.__pydantic_config__ = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    return TypeAdapter(row).validator.validate_python
