"""MATH-APS (OpenR): a row a prefix of a solution, with the label of its last step, or one for each step:

    {"question": "How many?", "process": "Step 1: 5+8 = 13.\\n\\n\\n\\n\\nStep 2: So 12.", "label": ["-"]}
is two steps, of which the second is wrong and the first has no label. Steps are told apart by five line feeds or `ки`,
else by their numbers ("Step 2:" at the start of a line). And PaddleNLP's rows, a step a response:

    {"src": ["How many?"], "tgt": [], "responses": ["5+8 = 13.", "So 12."], "labels": ["+", "-"]}
"""

from __future__ import annotations

import re
from typing import Any

from rewards.formats.record import (
    Choices,
    Format,
    FormatError,
    StepRecord,
    read_signs,
    take_text,
    take_texts,
    write_signs,
)
from stages.text import shown

BETWEEN = "\n\n\n\n\n"
_TAGS = re.compile(r"\n{5}|ки")
_NUMBERS = re.compile(r"\n(?=[Ss]tep \d+:)")


def _parse_aps(row: dict[str, Any], choices: Choices) -> StepRecord:
    process, signs = take_text(row, "process"), row.get("label")
    cut = _TAGS if _TAGS.search(process) else _NUMBERS
    steps = tuple(text.strip() for text in cut.split(process))
    steps = steps[:-1] if len(steps) > 1 and not steps[-1] else steps
    if not all(steps):
        raise FormatError(f"step {steps.index('')} is empty")
    labels = read_signs(signs if isinstance(signs, list) else [signs])
    if len(labels) not in (1, len(steps)):
        raise FormatError(f"field 'label' has {len(labels)} labels for {len(steps)} steps")
    return StepRecord(take_text(row, "question"), steps, (None,) * (len(steps) - len(labels)) + labels)


def _render_aps(record: StepRecord, choices: Choices) -> dict[str, Any]:
    labels = record.labels
    if not labels or (None in labels and (labels[-1] is None or set(labels[:-1]) != {None})):
        raise FormatError(f"a row has a label for each step or for the last one, not {shown(labels)}")
    known = [label for label in labels if label is not None]
    return {"question": record.question, "process": BETWEEN.join(record.steps), "label": write_signs(known)}


def _parse_paddle(row: dict[str, Any], choices: Choices) -> StepRecord:
    source, steps = take_texts(row, "src"), take_texts(row, "responses")
    if len(source) != 1:
        raise FormatError(f"field 'src' must be one question, not {shown(source)}")
    return StepRecord(source[0], steps, read_signs(take_texts(row, "labels")))


def _render_paddle(record: StepRecord, choices: Choices) -> dict[str, Any]:
    return {
        "src": [record.question],
        "tgt": [],
        "responses": list(record.steps),
        "labels": write_signs(record.labels),
    }


MATH_APS = Format("math_aps", "rating", _parse_aps, _render_aps)
PADDLENLP = Format("paddlenlp", "boolean", _parse_paddle, _render_paddle)
