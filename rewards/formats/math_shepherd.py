"""Math-Shepherd: `input` is a question and its steps with the tag `ки` after each, `label` the same with + or - in the
place of each tag, `task` the data set (arXiv 2312.08935; the data set's card):

    {"input": "How many? Step 1: 5+8 = 13. ки Step 2: So 12. ки", "task": "GSM8K",
     "label": "How many? Step 1: 5+8 = 13. + Step 2: So 12. -"}

The first step is told from the question by its "Step 1:". Where the question says that too, it is the one after the
end of a sentence; a row is refused where there is not just one such place. Question and steps lose the white space
around them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rewards.formats.record import Choices, Format, FormatError, StepRecord, take_text, write_signs
from stages.text import shown

TAG = "ки"
FIRST = re.compile(r"[Ss]tep 1:")
_NUMBERED = re.compile(r"\s*[Ss]tep \d+:")
_SENTENCE_END = tuple(".?!:)\"'$”’")


def _parse(row: dict[str, Any], choices: Choices) -> StepRecord:
    pieces = take_text(row, "input").split(TAG)
    labels = _read_signs(pieces, take_text(row, "label"))  # `label` is `input` with a sign for each tag
    question, steps = split_question(pieces)
    return StepRecord(question, steps, labels)


def split_question(pieces: list[str]) -> tuple[str, tuple[str, ...]]:
    """Question and steps of a text that is cut at its step tags, with what stands after the last tag.

    Raises:
        FormatError: there is no tag, a step is empty, or the first step cannot be told from the question.
    """
    if len(pieces) < 2:
        raise FormatError(f"no step tag {TAG} is found in {shown(pieces[0])}")
    if any(FIRST.search(piece) and not _NUMBERED.match(piece) for piece in pieces[1:]):
        raise FormatError(f"a step tag stands before 'Step 1:', within the question: {shown(''.join(pieces))}")
    first = find_first(pieces[0])
    question, texts = pieces[0][:first], [pieces[0][first:], *pieces[1:-1]]
    steps = tuple(text.strip() for text in texts)
    if not all(steps):
        raise FormatError(f"step {steps.index('')} is empty: nothing stands between two tags")
    if pieces[-1].strip():
        raise FormatError(f"text without a label after the last step tag: {shown(pieces[-1])}")
    return question.strip(), steps


def find_first(text: str) -> int:
    """Where the first step begins in a text of the question and that step.

    Raises:
        FormatError: it cannot be told.
    """
    found = [match.start() for match in FIRST.finditer(text)]
    if len(found) > 1:
        ends = [start for start in found if text[:start].rstrip().endswith(_SENTENCE_END)]
        if len(ends) != 1:
            raise FormatError(f"'Step 1:' stands {len(found)} times before the first step ends: {shown(text)}")
        return ends[0]
    if not found:
        raise FormatError(f"no 'Step 1:' is found before the first step ends: {shown(text)}")
    return found[0]


def check_first(steps: Sequence[str]) -> None:
    """See that a reader can tell the first step from the question.

    Raises:
        FormatError: it does not begin with "Step 1:", or there is none.
    """
    if not steps:
        raise FormatError("a solution without steps has no place for a label")
    if not FIRST.match(steps[0]):
        raise FormatError(
            f"the first step must begin with 'Step 1:' to be told from the question, not {shown(steps[0])}: "
            "number_steps=true writes it"
        )


def check_tags(record: StepRecord) -> None:
    """See that no text of a record holds the step tag."""
    for name, text in (("the question", record.question), *((f"step {i}", s) for i, s in enumerate(record.steps))):
        if TAG in text:
            raise FormatError(f"{name} holds the step tag {TAG}: {shown(text)}")


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
    check_tags(record)
    check_first(steps)
    signs = write_signs(record.labels)
    return {
        "input": f"{record.question} " + "\n".join(f"{step} {TAG}" for step in steps),
        "label": f"{record.question} " + "\n".join(f"{step} {sign}" for step, sign in zip(steps, signs, strict=True)),
    }


_COLUMNS = {"input": "string", "label": "string", "task": "string"}
MATH_SHEPHERD = Format("math_shepherd", "boolean", _parse, _render, _COLUMNS, numbered=True)
