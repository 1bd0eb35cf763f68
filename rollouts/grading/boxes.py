"""Answers that are marked within a text: LaTeX boxes, and `<answer>` tags."""

from __future__ import annotations

import re

Place = tuple[int, int, str | None, str]  # begin and end in the text, the content, the rule


_TAG = re.compile(r"<(/?)(?:final[_ ]?)?answer>", re.IGNORECASE)


def tagged(text: str) -> Place | None:
    """`<answer>18</answer>`; a stop string may have taken the last tag."""
    tags = list(_TAG.finditer(text)) if "<" in text else []
    begin = next((n for n in range(len(tags) - 1, -1, -1) if not tags[n][1]), None)
    if begin is None:
        return None
    end = tags[begin + 1] if begin + 1 < len(tags) else None
    content = text[tags[begin].end() : end.start() if end else None].strip()
    if end is None and "\n" in content:
        return None
    return tags[begin].start(), end.end() if end else len(text), content.replace("\n", " "), "answer"


_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|([0-9]+)(?![0-9A-Za-z]|[.,/:][0-9]))")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_MAX_BOXES = 64  # that are looked at
_LONGEST_BOX = 10_000  # characters within which a box must close: bounds the time
_BETWEEN = re.compile(
    r"[\s$.;]*(?:\\[()\[\]])?\s*(?:,|,?\s*(?:and|or)|,?\s*\\text\{\s*(?:and|or)\s*\})[\s$]*(?:\\[()\[\]])?[\s$]*"
    r"(?:[A-Za-z]\s*=\s*)?"
)


def last_box(text: str) -> Place | None:
    """The last box that holds something, with those that it is listed with (`\\boxed{3} and \\boxed{5}`)."""
    boxes: list[Place] = []
    at = len(text)
    for _ in range(_MAX_BOXES):
        at = max(text.rfind("\\boxed", 0, at), text.rfind("\\fbox", 0, at))
        if at < 0:
            break
        box = _box_at(text, at)
        if box is None or (boxes and boxes[0][2] and not box[2]):
            continue
        if boxes and boxes[0][2] and _BETWEEN.fullmatch(text, box[1], boxes[0][0]) is None:
            break
        boxes = [box, *(boxes if boxes and boxes[0][2] else [])]
        if box[2] is None:
            break
    if not boxes:
        return None
    contents = list(dict.fromkeys(box[2] for box in boxes))
    content = None if None in contents else ", ".join(map(str, contents))
    return boxes[0][0], boxes[-1][1], content, "boxed"


def _box_at(text: str, at: int) -> Place | None:
    """The box that begins here: its content is None where it does not close soon; no box where it is only
    mentioned."""
    box = _BOX.match(text, at)
    if box is None:
        return (at, len(text), None, "boxed") if text[at:].strip() in ("\\boxed", "\\fbox") else None
    if box[1]:
        return at, box.end(), box[1], "boxed"
    depth = 1
    for brace in _BRACE.finditer(text, box.end(), box.end() + _LONGEST_BOX):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return at, brace.end(), text[box.end() : brace.start()].strip(), "boxed"
    return at, len(text), None, "boxed"
