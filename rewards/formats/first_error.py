"""Formats that mark the first wrong step and nothing after it: ProcessBench and MR-GSM8K.

ProcessBench (arXiv 2412.06559): `label` is the first wrong step from 0, or -1 where there is none. MR-GSM8K
(arXiv 2312.17080): `model_output_solution_first_error_step` counts from 1 and is "N/A" where there is none. The same
rows with short names are a format of their own: there `first_error_step` counts from 0 and is null.
"""

from __future__ import annotations

from typing import Any

from rewards.formats.record import (
    Choices,
    Format,
    FormatError,
    StepRecord,
    locate_error,
    spread_error,
    take_optional,
    take_text,
    take_texts,
)
from stages.text import shown

VERDICT = "model_output_answer_correctness"
ERROR_STEP = "model_output_solution_first_error_step"


def parse_processbench(row: dict[str, Any], choices: Choices) -> StepRecord:
    """A record of a row.

    Raises:
        FormatError: a field is missing or of another type, or `label` names no step.
    """
    steps, label = take_texts(row, "steps"), row.get("label")
    if type(label) is not int or label < -1:
        raise FormatError(f"field 'label' must be the first wrong step from 0, or -1, not {shown(label)}")
    return StepRecord(
        question=take_text(row, "problem"),
        steps=steps,
        labels=spread_error(None if label == -1 else label, len(steps), choices),
        id=take_optional(row, "id", str),
        correct=take_optional(row, "final_answer_correct", bool),
    )


def render_processbench(record: StepRecord, choices: Choices) -> dict[str, Any]:
    """A row of a record whose labels are hard; what is not known has no field."""
    error = locate_error(record.labels)
    row: dict[str, Any] = {} if record.id is None else {"id": record.id}
    row |= {"problem": record.question, "steps": list(record.steps)}
    if record.correct is not None:
        row["final_answer_correct"] = record.correct
    return row | {"label": -1 if error is None else error}


def parse_mr_gsm8k(row: dict[str, Any], choices: Choices) -> StepRecord:
    """A record of a row.

    Raises:
        FormatError: a field is missing or of another type, or the first error and the verdict do not fit together.
    """
    steps, error = take_texts(row, "model_output_steps"), row.get(ERROR_STEP)
    verdict = take_text(row, "model_output_solution_correctness").strip().lower()
    if verdict not in ("correct", "wrong", "incorrect"):
        raise FormatError(f"field 'model_output_solution_correctness' must be correct or wrong, not {verdict!r}")
    number = int(error) if isinstance(error, str) and error.strip().isdecimal() else error
    none = number is None or (isinstance(number, str) and number.strip().upper() in ("N/A", ""))
    if (verdict == "correct") != none or not (none or type(number) is int):
        raise FormatError(f"the solution is {verdict}, but its first wrong step is {error!r}")
    answer = take_optional(row, VERDICT, str)
    return StepRecord(
        question=take_text(row, "question"),
        steps=steps,
        labels=spread_error(None if none else number - 1, len(steps), choices),
        id=take_optional(row, "uuid", str),
        answer=take_optional(row, "ground_truth_answer", str),
        correct=None if answer is None else answer.strip().lower() == "correct",
    )


def render_mr_gsm8k(record: StepRecord, choices: Choices) -> dict[str, Any]:
    """A row of the published names, of a record whose labels are hard."""
    error = locate_error(record.labels)
    row: dict[str, Any] = {} if record.id is None else {"uuid": record.id}
    row["question"] = record.question
    if record.answer is not None:
        row["ground_truth_answer"] = record.answer
    row["model_output_steps"] = list(record.steps)
    if record.correct is not None:
        row[VERDICT] = "correct" if record.correct else "wrong"
    row["model_output_solution_correctness"] = "correct" if error is None else "wrong"
    return row | {ERROR_STEP: "N/A" if error is None else error + 1}


def parse_short(row: dict[str, Any], choices: Choices) -> StepRecord:
    """A record of a row with short names.

    Raises:
        FormatError: a field is missing or of another type.
    """
    if "first_error_step" not in row:
        raise FormatError(f"field 'first_error_step' is missing, there are {shown(sorted(row))}")
    steps = take_texts(row, "steps")
    return StepRecord(
        question=take_text(row, "question"),
        steps=steps,
        labels=spread_error(take_optional(row, "first_error_step", int), len(steps), choices),
        id=take_optional(row, "id", str),
        answer=take_optional(row, "answer", str),
        correct=take_optional(row, "final_answer_correct", bool),
    )


def render_short(record: StepRecord, choices: Choices) -> dict[str, Any]:
    """A row with short names of a record whose labels are hard."""
    known = {"id": record.id, "answer": record.answer, "final_answer_correct": record.correct}
    row = {name: value for name, value in known.items() if value is not None}
    return row | {
        "question": record.question,
        "steps": list(record.steps),
        "first_error_step": locate_error(record.labels),
    }


PROCESSBENCH = Format(
    "processbench",
    "first_error",
    parse_processbench,
    render_processbench,
    {
        "id": "string",
        "generator": "string",
        "problem": "string",
        "steps": "list<string>",
        "final_answer_correct": "bool",
        "label": "int64",
    },
)
MR_GSM8K = Format("mr_gsm8k", "first_error", parse_mr_gsm8k, render_mr_gsm8k, None)
MR_GSM8K_SHORT = Format("mr_gsm8k_short", "first_error", parse_short, render_short, None)
