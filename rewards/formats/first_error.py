"""Formats that mark the first wrong step and nothing after it: ProcessBench and MR-GSM8K.

ProcessBench (arXiv 2412.06559): `label` is the first wrong step from 0, or -1 where there is none. MR-GSM8K
(arXiv 2312.17080): `model_output_solution_first_error_step` counts from 1 and is "N/A" where there is none. The same
rows with short names are a format of their own: there `first_error_step` counts from 0 and is null. These three have
the labels 1 and 0:

    {"id": "gsm8k-0", "problem": "How many?", "steps": ["5+8 = 13.", "So 12."], "final_answer_correct": false,
     "label": 1}
    {"uuid": "0056", "question": "How many?", "model_output_steps": ["5+8 = 13.", "So 12."],
     "model_output_solution_correctness": "wrong", "model_output_solution_first_error_step": 2}
    {"id": "0056", "question": "How many?", "steps": ["5+8 = 13.", "So 12."], "first_error_step": 1}
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
CORRECT = "model_output_solution_correctness"
ERROR_STEP = "model_output_solution_first_error_step"


def _known(**fields: Any) -> dict[str, Any]:
    """A row without the fields that are not known."""
    return {name: value for name, value in fields.items() if value is not None}


def _parse_processbench(row: dict[str, Any], choices: Choices) -> StepRecord:
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


def _render_processbench(record: StepRecord, choices: Choices) -> dict[str, Any]:
    error = locate_error(record.labels)
    row = _known(id=record.id, problem=record.question, steps=list(record.steps), final_answer_correct=record.correct)
    return row | {"label": -1 if error is None else error}


def _parse_mr_gsm8k(row: dict[str, Any], choices: Choices) -> StepRecord:
    steps, error = take_texts(row, "model_output_steps"), row.get(ERROR_STEP)
    verdict = take_text(row, CORRECT).strip().lower()
    if verdict not in ("correct", "wrong", "incorrect"):
        raise FormatError(f"field {CORRECT!r} must be correct or wrong, not {verdict!r}")
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


def _render_mr_gsm8k(record: StepRecord, choices: Choices) -> dict[str, Any]:
    error = locate_error(record.labels)
    known = _known(uuid=record.id, question=record.question, ground_truth_answer=record.answer)
    known["model_output_steps"] = list(record.steps)
    if record.correct is not None:
        known[VERDICT] = "correct" if record.correct else "wrong"
    if error is None:
        return known | {CORRECT: "correct", ERROR_STEP: "N/A"}
    return known | {CORRECT: "wrong", ERROR_STEP: error + 1}


def _parse_short(row: dict[str, Any], choices: Choices) -> StepRecord:
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


def _render_short(record: StepRecord, choices: Choices) -> dict[str, Any]:
    known = _known(id=record.id, answer=record.answer, final_answer_correct=record.correct)
    steps, error = list(record.steps), locate_error(record.labels)
    return known | {"question": record.question, "steps": steps, "first_error_step": error}


_COLUMNS = {
    **dict.fromkeys(("id", "generator", "problem"), "string"),
    "steps": "list<string>",
    "final_answer_correct": "bool",
    "label": "int64",
}
PROCESSBENCH = Format("processbench", "first_error", _parse_processbench, _render_processbench, _COLUMNS)
MR_GSM8K = Format("mr_gsm8k", "first_error", _parse_mr_gsm8k, _render_mr_gsm8k, None)
MR_GSM8K_SHORT = Format("mr_gsm8k_short", "first_error", _parse_short, _render_short, None)
