"""ER-PRM (arXiv 2412.11006): a text like Math-Shepherd's with a tag after each step, and a soft label for each tag:

    {"text": "How many? Step 1: 5+8 = 13. ки Step 2: So 12. ки", "value": [0.9, 0.1]}
is the question "How many?", two steps and the labels 0.9 and 0.1.
"""

from __future__ import annotations

from typing import Any

from rewards.formats.math_shepherd import TAG, check_first, check_tags, split_question
from rewards.formats.record import Choices, Format, FormatError, StepRecord, take_text
from stages.text import shown


def _parse(row: dict[str, Any], choices: Choices) -> StepRecord:
    pieces, values = take_text(row, "text").split(TAG), row.get("value")
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        raise FormatError(f"field 'value' must be a list of numbers, not {shown(values)}")
    if len(values) != len(pieces) - 1:
        raise FormatError(f"field 'value' has {len(values)} numbers for {len(pieces) - 1} step tags")
    question, steps = split_question(pieces)
    return StepRecord(question, steps, tuple(map(float, values)))


def _render(record: StepRecord, choices: Choices) -> dict[str, Any]:
    check_tags(record)
    check_first(record.steps)
    text = f"{record.question} " + "\n".join(f"{step} {TAG}" for step in record.steps)
    return {"text": text, "value": list(record.labels)}


ER_PRM = Format("er_prm", "soft", _parse, _render, numbered=True)
