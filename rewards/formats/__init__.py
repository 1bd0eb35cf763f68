"""Rows of other projects' data sets to and from one record: TRL, Math-Shepherd, PRM800K, ProcessBench, MR-GSM8K and
others (FORMATS).

What a format has no field for travels in a field `stepwise` of its rows, so that converting back gives the row that
there was. Left out: files (`rewards/formats/files.py`) and our own step labels (`rewards/formats/step_labels.py`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rewards.formats.er_prm import ER_PRM
from rewards.formats.first_error import MR_GSM8K, MR_GSM8K_SHORT, PROCESSBENCH
from rewards.formats.math_shepherd import MATH_SHEPHERD
from rewards.formats.prefixes import MATH_APS, PADDLENLP
from rewards.formats.prm800k import PRM800K
from rewards.formats.record import (
    CARRY,
    Choices,
    Format,
    FormatError,
    StepRecord,
    doubt,
    harden,
    locate_error,
    same,
)
from rewards.formats.rlhflow import RLHFLOW
from rewards.formats.trl import TRL
from stages.text import shown

__all__ = ["FORMATS", "Choices", "FormatError", "StepRecord", "read_record", "write_record"]

FORMATS = {
    one.name: one
    for one in (
        *(TRL, MATH_SHEPHERD, PRM800K, PROCESSBENCH, MR_GSM8K, MR_GSM8K_SHORT),
        *(RLHFLOW, ER_PRM, MATH_APS, PADDLENLP),
    )
}
CARRIED = ("id", "answer", "correct")


def read_record(name: str, row: dict[str, Any], choices: Choices) -> StepRecord:
    """The record of a row of the format called `name`.

    Raises:
        LeftOut: a choice drops the row.
        FormatError: the row is not of that format, or a choice has to be made first.
    """
    own = {field: value for field, value in row.items() if field != CARRY}
    record = FORMATS[name].parse(own, choices)
    carried = _take_carried(row)
    extra = dict(carried.get("extra", {}))
    if more := _beyond(FORMATS[name], record, own, choices):
        extra[name] = more
    record = replace(record, **{field: carried[field] for field in CARRIED if field in carried}, extra=extra)
    if record.correct is False and record.steps and all(label == 1 for label in record.labels):
        doubt("the final answer is wrong, but every step is right", "no_wrong_step", "contradictory", choices)
    return record


def write_record(name: str, record: StepRecord, choices: Choices) -> dict[str, Any] | None:
    """The row of a record in the format called `name`; None where `choices` drop it.

    Raises:
        FormatError: the format cannot express the record, or the choices do not say how.
    """
    target = FORMATS[name]
    fitted = fit_labels(record, target.holds, choices)
    if fitted is None:
        return None
    if choices.number_steps and target.numbered:
        fitted = replace(fitted, steps=tuple(f"Step {n}: {s}" for n, s in enumerate(fitted.steps, start=1)))
    row = target.render(fitted, choices) | record.extra.get(name, {})
    found = target.parse(row, choices)
    _check_same(target, fitted, found)
    if choices.extra == "drop":
        return row
    carried: dict[str, Any] = {field: getattr(record, field) for field in CARRIED}
    carried = {field: value for field, value in carried.items() if value != getattr(found, field)}
    if extra := {other: fields for other, fields in record.extra.items() if other != name}:
        carried["extra"] = extra
    return row | {CARRY: carried} if carried else row


def fit_labels(record: StepRecord, holds: str, choices: Choices) -> StepRecord | None:
    """The record with labels that a format which `holds` such labels can have (see `Format`); None: dropped.

    Raises:
        FormatError: a label is soft, missing, or stands after the first error, and the choices do not say what then.
    """
    labels = record.labels if holds == "soft" else harden(record.labels, choices.threshold)
    if holds == "first_error":
        return _fit_first_error(record, labels, choices)
    if holds in ("boolean", "soft") and None in labels:
        missing = labels.index(None)
        if choices.unlabelled == "error":
            raise FormatError(f"step {missing} has no label: choose unlabelled=drop or cut")
        if choices.unlabelled == "drop" or missing == 0:
            return None
        return replace(record, steps=record.steps[:missing], labels=labels[:missing])
    return replace(record, labels=labels)


def _fit_first_error(record: StepRecord, labels: tuple[float | None, ...], choices: Choices) -> StepRecord | None:
    try:
        error = locate_error(labels)
    except FormatError:
        if choices.unlabelled == "drop":
            return None
        raise
    if error is not None and 1.0 in labels[error:] and choices.later == "error":
        raise FormatError(
            f"step {labels.index(1.0, error)} is labelled as right after the first error, step {error}, "
            "which the format cannot hold: later=drop leaves it out"
        )
    return replace(record, labels=labels)


def _beyond(source: Format, record: StepRecord, row: dict[str, Any], choices: Choices) -> dict[str, Any]:
    """The fields of a row that its record alone would not give back."""
    labels = record.labels if source.holds == "soft" else tuple(x and float(x >= 0.5) for x in record.labels)
    hard = replace(record, labels=labels)
    try:
        plain = source.render(hard, choices)
    except FormatError:  # a layout that is read but not written, such as a tag in the question
        plain = {}
    # hard labels written as numbers are read; they are written as booleans
    known = {"labels"} if source is TRL else set()
    return {
        field: value
        for field, value in row.items()
        if field not in known and not (field in plain and same(value, plain[field]))
    }


def _take_carried(row: dict[str, Any]) -> dict[str, Any]:
    carried = {} if row.get(CARRY) is None else row[CARRY]
    if isinstance(carried, str):  # a column of a Parquet file
        try:
            carried = json.loads(carried)
        except json.JSONDecodeError as error:
            raise FormatError(f"field {CARRY!r} is malformed JSON: {error.msg}") from error
    extra = carried.get("extra", {}) if isinstance(carried, dict) else None
    fits = isinstance(extra, dict) and all(isinstance(fields, dict) for fields in extra.values())
    kinds = {"id": str, "answer": str, "correct": bool}
    if not fits or any(
        type(carried[name]) not in (kind, type(None)) for name, kind in kinds.items() if name in carried
    ):
        raise FormatError(f"field {CARRY!r} is not what a conversion writes: {shown(row[CARRY])}")
    return carried


def _check_same(target: Format, wanted: StepRecord, found: StepRecord) -> None:
    """See that the row reads as the record that it was written from."""
    for field in ("question", "steps"):
        if getattr(found, field) != getattr(wanted, field):
            raise FormatError(
                f"{target.name} cannot hold this: {field} {shown(getattr(wanted, field))} would be read back as "
                f"{shown(getattr(found, field))}"
            )
    labels: list[Sequence[float | None]] = [wanted.labels, found.labels]
    if target.holds == "first_error":
        labels = [[locate_error(one)] for one in labels]
    if list(labels[0]) != list(labels[1]):
        raise FormatError(
            f"the row's own fields say otherwise than its labels: {shown(labels[0])}, read back {shown(labels[1])}"
        )
