"""TRL's stepwise supervision: `prompt`, `completions` (a step each), `labels` (a boolean each).

    {"prompt": "How many?", "completions": ["5+8 = 13.", "So 12."], "labels": [true, false]}
is the question "How many?", two steps and the labels 1 and 0.
TRL documentation, "Dataset formats and types", stepwise supervision. Labels that are numbers are read as soft labels;
they are never written, since TRL's trainer rounds 0.99 down to 0. Left out: conversational prompts.
"""

from __future__ import annotations

from typing import Any

from rewards.formats.record import Choices, Format, FormatError, StepRecord, take_text, take_texts
from stages.text import shown


def _parse(row: dict[str, Any], choices: Choices) -> StepRecord:
    labels = row.get("labels")
    if not isinstance(labels, list) or not all(isinstance(label, bool | int | float) for label in labels):
        raise FormatError(f"field 'labels' must be a list of booleans, not {shown(labels)}")
    return StepRecord(take_text(row, "prompt"), take_texts(row, "completions"), tuple(map(float, labels)))


def _render(record: StepRecord, choices: Choices) -> dict[str, Any]:
    labels = [label == 1 for label in record.labels]
    return {"prompt": record.question, "completions": list(record.steps), "labels": labels}


_COLUMNS = {"prompt": "string", "completions": "list<string>", "labels": "list<bool>"}
TRL = Format("trl", "boolean", _parse, _render, _COLUMNS)
