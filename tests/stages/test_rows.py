"""Parquet rows and JSON files: there and back, the same bytes, and a clear error for every kind of bad file."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rollouts import records as types
from rollouts.records import Judgement, Problem, StepLabels
from stages.files import StoreError, read_json, write_json
from stages.rows import read_rows, schema_of, to_row, write_rows

RECORDS = [value for value in vars(types).values() if dataclasses.is_dataclass(value)]
LABELS = StepLabels("r#0", "r", ("a", "b\n"), False, (True, None), (3, 0), (8, 0), None, ())
SCALARS = {
    str: st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
}


def of_hint(hint: object) -> st.SearchStrategy:
    if hint in SCALARS:
        return SCALARS[hint]
    options = [option for option in hint.__args__ if option not in (type(None), ...)]
    if hint.__class__.__name__ == "UnionType":
        return st.none() | of_hint(options[0])
    return st.lists(of_hint(options[0]), max_size=3).map(tuple)


def records(cls: type) -> st.SearchStrategy:
    hints = get_type_hints(cls)
    return st.builds(cls, **{name: of_hint(hint) for name, hint in hints.items()})


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__name__)
def test_there_and_back(cls: type, tmp_path: Path) -> None:
    @settings(max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(rows=st.lists(records(cls), max_size=4))
    def check(rows: list) -> None:
        assert write_rows(tmp_path / "rows.parquet", rows, cls) == len(rows)
        assert read_rows(tmp_path / "rows.parquet", cls) == rows

    check()


def test_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_rows(tmp_path / name, [LABELS] * 100)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_schema_comes_from_the_hints() -> None:
    schema = schema_of(StepLabels)
    assert schema.field("fix_length").type == pa.int64() and schema.field("fix_length").nullable
    assert not schema.field("rollout_id").nullable
    assert schema.field("labels").type.value_field.nullable and not schema.field("steps").type.value_field.nullable


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problem_id": 3}, "row 1: StepLabels.problem_id must be str, not 3"),
        ({"problem_id": None}, "row 1: StepLabels.problem_id must be str, not None"),
        ({"correct": 1}, "row 1: StepLabels.correct must be bool, not 1"),
        ({"successes": (1, 2.0)}, "row 1: StepLabels.successes must be .* not .*2.0"),
        ({"successes": (1, 2**63)}, "row 1: successes cannot be stored: .*9223372036854775808"),
        ({"fix_steps": ("\ud800",)}, "row 1: fix_steps cannot be stored: .*ud800"),
    ],
)
def test_bad_value_is_not_written(change: dict, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    with pytest.raises(StoreError, match=f"{path}, {message}"):
        write_rows(path, [LABELS, dataclasses.replace(LABELS, **change)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_must_be_finite(value: float, tmp_path: Path) -> None:
    row = Judgement("p", "draft", "none", 0, "orm", (0.5, value))
    with pytest.raises(StoreError, match=r"row 0: Judgement.probabilities must be finite, not"):
        write_rows(tmp_path / "rows.parquet", [row])


def test_rows_of_one_class_only(tmp_path: Path) -> None:
    problem = Problem("p", "q", "1", None, "made", "train")
    with pytest.raises(StoreError, match="row 1: expected StepLabels, not Problem"):
        write_rows(tmp_path / "rows.parquet", [LABELS, problem])
    with pytest.raises(StoreError, match="no rows, so their class must be given"):
        write_rows(tmp_path / "rows.parquet", [])


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_rows(path, [LABELS])
    with pytest.raises(StoreError):
        write_rows(path, [dataclasses.replace(LABELS, correct="yes")])
    assert read_rows(path, StepLabels) == [LABELS]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"none.parquet: there is no such file of Problem rows"):
        read_rows(tmp_path / "none.parquet", Problem)
    with pytest.raises(StoreError, match="there is no such file"):
        read_rows(tmp_path, Problem)


def test_every_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_rows(path, [LABELS] * 3)
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(StoreError, match=r"rows.parquet: cut short, damaged, or not a Parquet file"):
            read_rows(path, StepLabels)


def test_flipped_byte_in_the_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_rows(path, [dataclasses.replace(LABELS, problem_id=f"{n:x}" * 9) for n in range(500)])
    data = bytearray(path.read_bytes())
    for at in (200, 500, 900):
        flipped = data.copy()
        flipped[at] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(StoreError, match="damaged"):
            read_rows(path, StepLabels)


def test_file_of_another_record(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_rows(path, [LABELS])
    with pytest.raises(StoreError, match=f"{path}: holds StepLabels rows, not Problem rows"):
        read_rows(path, Problem)


def test_foreign_file_with_other_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"id": ["a"], "answer": [1], "extra": [2]}), path)
    with pytest.raises(StoreError, match=r"missing columns .*'question'.* unknown \['extra'\].*'answer: int64'"):
        read_rows(path, Problem)


def test_bad_value_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    row = to_row(Judgement("p", "draft", "none", 0, "orm", (0.5,)))
    pq.write_table(pa.Table.from_pylist([row, row | {"probabilities": [math.nan]}], schema_of(Judgement)), path)
    with pytest.raises(StoreError, match=rf"{path}, row 1: Judgement.probabilities must be finite, not \[nan\]"):
        read_rows(path, Judgement)


def test_text_that_is_not_a_table(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_text('{"id": 1}\n')
    with pytest.raises(StoreError, match="not a Parquet file"):
        read_rows(tmp_path / "rows.parquet", Problem)


def test_json_there_and_back(tmp_path: Path) -> None:
    value = {"a": [1, None, "é"], "b": 0.1}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("value", [math.nan, {1, 2}, "\ud800"])
def test_json_that_cannot_be_written(value: object, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"a.json: cannot be written as JSON"):
        write_json(tmp_path / "a.json", value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [(b'{"a":\n1', r"a.json, line 2: malformed JSON"), (b"\xff\xfe\xfa", "malformed JSON"), (None, "cannot be read")],
)
def test_json_that_cannot_be_read(data: bytes | None, message: str, tmp_path: Path) -> None:
    if data is not None:
        (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(StoreError, match=message):
        read_json(tmp_path / "a.json")
