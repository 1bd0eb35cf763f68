"""Math-Shepherd: `input` is a question and its steps with the tag `ки` after each, `label` the same with + or - in the
place of each tag, `task` the data set (arXiv 2312.08935; the data set's card):

    {"input": "How many? Step 1: 5+8 = 13. ки Step 2: So 12. ки", "task": "GSM8K",
     "label": "How many? Step 1: 5+8 = 13. + Step 2: So 12. -"}

The first step is told from the question by its "Step 1:". Question and steps lose the white space around them.
"""

from __future__ import annotations

import re
from typing import Any

from rewards.formats.record import Choices, Format, FormatError, StepRecord, take_text
from stages.text import shown

TAG = "ки"
FIRST = re.compile(r"[Ss]tep 1:")


def _parse(row: dict[str, Any], choices: Choices) -> StepRecord:
    pieces = take_text(row, "input").split(TAG)
    labels = _read_signs(pieces, take_text(row, "label"))  # `label` is `input` with a sign for each tag
    first = FIRST.search(pieces[0])
    if not labels or first is None:
        raise FormatError(f"no {'step tag ' + TAG if not labels else 'Step 1:'} is found in {shown(row['input'])}")
    question, texts = pieces[0][: first.start()], [pieces[0][first.start() :], *pieces[1:-1]]
    steps = tuple(text.strip() for text in texts)
    if not all(steps):
        raise FormatError(f"step {steps.index('')} is empty: nothing stands between two tags")
    if pieces[-1].strip():
        raise FormatError(f"text without a label after the last step tag: {shown(pieces[-1])}")
    return StepRecord(question.strip(), steps, labels)


def _read_signs(pieces: list[str], label: str) -> tuple[float, ...]:
    signs, at = [], 0
    for piece in pieces[:-1]:
        end = at + len(piece)
        if label[at:end] != piece or label[end : end + 1] not in ("+", "-"):
            raise FormatError(f"'label' has no + or - in the place of step tag {len(signs)} of 'input'")
        signs.append(float(label[end] == "+"))
        at = end + 1
    if label[at:] != pieces[-1]:
        raise FormatError("'label' goes on otherwise than 'input' after the last step tag")
    return tuple(signs)


def _render(record: StepRecord, choices: Choices) -> dict[str, Any]:
    steps = record.steps
    if not steps:
        raise FormatError("a solution without steps has no place for a label")
    for name, text in (("the question", record.question), *((f"step {i}", step) for i, step in enumerate(steps))):
        if TAG in text:
            raise FormatError(f"{name} holds the step tag {TAG}: {shown(text)}")
    if not FIRST.match(steps[0]):
        raise FormatError(
            f"the first step must begin with 'Step 1:' to be told from the question, not {shown(steps[0])}: "
            "number_steps=true writes it"
        )
    signs = ["+" if label == 1 else "-" for label in record.labels]
    return {
        "input": f"{record.question} " + "\n".join(f"{step} {TAG}" for step in steps),
        "label": f"{record.question} " + "\n".join(f"{step} {sign}" for step, sign in zip(steps, signs, strict=True)),
    }


_COLUMNS = {"input": "string", "label": "string", "task": "string"}
MATH_SHEPHERD = Format("math_shepherd", "boolean", _parse, _render, _COLUMNS)
