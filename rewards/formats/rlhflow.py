"""RLHFlow's turns (Mistral-PRM-Data, Deepseek-PRM-Data): the user says a step, the assistant `+` or `-`:

    {"conversations": [
     {"role": "user", "content": "How many? Step 1: 5+8 = 13."}, {"role": "assistant", "content": "+"},
     {"role": "user", "content": "Step 2: So 12."}, {"role": "assistant", "content": "-"}]}
is the question "How many?", two steps and the labels 1 and 0. The first turn has the question too; its "Step 1:" tells
them apart, as in Math-Shepherd. Other rows are refused.
"""

from __future__ import annotations

from typing import Any

from rewards.formats.math_shepherd import check_first, find_first
from rewards.formats.record import Choices, Format, FormatError, StepRecord, read_signs, write_signs
from stages.text import shown


def _parse(row: dict[str, Any], choices: Choices) -> StepRecord:
    turns = row.get("conversations")
    if not isinstance(turns, list) or not turns or not all(map(_is_turn, turns)):
        raise FormatError(f"field 'conversations' must be a list of turns with role and content, not {shown(turns)}")
    roles = [turn["role"] for turn in turns]
    if roles != ["user", "assistant"] * (len(turns) // 2):
        raise FormatError(f"the turns must be the user's and the assistant's by turns, not {shown(roles)}")
    texts = [turn["content"] for turn in turns[::2]]
    first = find_first(texts[0])
    steps = tuple(text.strip() for text in (texts[0][first:], *texts[1:]))
    if not all(steps):
        raise FormatError(f"step {steps.index('')} is empty")
    return StepRecord(texts[0][:first].strip(), steps, read_signs([turn["content"] for turn in turns[1::2]]))


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and all(isinstance(turn.get(name), str) for name in ("role", "content"))


def _render(record: StepRecord, choices: Choices) -> dict[str, Any]:
    check_first(record.steps)
    texts = [f"{record.question} {record.steps[0]}", *record.steps[1:]]
    turns = []
    for text, sign in zip(texts, write_signs(record.labels), strict=True):
        turns += [{"role": "user", "content": text}, {"role": "assistant", "content": sign}]
    return {"conversations": turns}


RLHFLOW = Format("rlhflow", "boolean", _parse, _render, numbered=True)
