r"""Corrections as JSON: an object with the three fields somewhere in a reply, among prose, fences, copies of a draft.

    {"incorrect_step": 2, "explanation": "4 * 3 is 12.", "correct_solution": ["Step 2: 4 * 3 = 12", "#### 12"]}

Models write LaTeX into JSON without escaping it: `\frac` would become a form feed, `\sqrt` an error. Both are mended.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from refine.lema.fields import PARTS, Dropped, clean_text

_FIELDS = {
    **dict.fromkeys(("incorrect_step", "wrong_step", "error_step", "incorrect_step_number"), "step"),
    **dict.fromkeys(("first_incorrect_step", "first_wrong_step", "first_error_step"), "step"),
    **dict.fromkeys(("explanation", "reason"), "explanation"),
    **dict.fromkeys(("correct_solution", "corrected_solution", "solution", "correction"), "solution"),
    **dict.fromkeys(("correct_steps", "corrected_steps"), "solution"),
}
_MARKED = re.compile(r"[\"'](?:\w+[ _])?(?:incorrect|wrong|error)[ _-]step", re.IGNORECASE)
# names of LaTeX that begin as an escape of JSON does; what follows a line feed is mostly a word
_COMMAND = (
    r"b(?:egin|eta|ar|inom|oxed|ig|mod|ullet|f|ecause)|f(?:rac|orall|lat|loor)|r(?:ho|ight\w*|angle|m|floor|ceil)"
    r"|t(?:imes|ext\w*|an|heta|o|frac|herefore|op|au|riangle)|n(?:eq?|u|abla|otin|eg|ot)"
)
_ESCAPE = re.compile(rf"\\\\|\\(?=(?:{_COMMAND})(?![A-Za-z]))|\\u(?![0-9A-Fa-f]{{4}})|\\(?![\"\\/bfnrtu])")
_BEGINNING = re.compile(r"\{(?=\s{0,100}\")")
MAX_TRIES = 64  # places at which an object may begin: bounds the time


class _NotANumber:
    """Stands for NaN and infinity, which are no JSON."""


class _Twice(dict):
    """An object in which a field is there twice, with different values."""


def read_json(text: str, parts: Sequence[str] = PARTS) -> dict[str, str] | None:
    """The fields of the one object in a text that names a step (or, where that is not asked for, gives a solution), as
    texts; None where there is none.

    Raises:
        Dropped: several objects do, a field is there twice, or has another type.
    """
    if "{" not in text:
        return None
    key = "step" if "step" in parts else "solution"
    found = [one for value in _objects(text) for one in _within(value, key)]
    if not found:
        if _MARKED.search(text):
            raise Dropped("malformed_json")
        return None
    if isinstance(found[0], _Twice) or any(one != found[0] for one in found[1:]):
        raise Dropped("repeated")
    return {name: clean_text(_as_text(name, value)) for name, value in found[0].items()}


def _objects(text: str) -> Iterator[Any]:
    """Every outermost object of a text."""
    text = _ESCAPE.sub(lambda found: found[0] if found[0] == r"\\" else "\\" + found[0], text)
    decoder = json.JSONDecoder(
        object_pairs_hook=_to_fields, parse_constant=lambda _: _NotANumber(), strict=False
    )  # raw line feeds are let through
    end = 0
    for found in islice(_BEGINNING.finditer(text), MAX_TRIES):
        if found.start() >= end:
            try:
                value, end = decoder.raw_decode(text, found.start())
            except (ValueError, RecursionError):
                continue
            yield value


def _to_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object by the names of our fields; what has another name keeps it, since an object may lie within."""
    fields: dict[str, Any] = {}
    twice = False
    for key, value in pairs:
        name = re.sub(r"[\s-]+", "_", key.strip().lower())
        name = _FIELDS.get(name, f"?{name}")
        twice |= not name.startswith("?") and name in fields and fields[name] != value
        fields[name] = value
    return _Twice(fields) if twice else fields


def _within(value: Any, key: str, depth: int = 0) -> Iterator[dict[str, Any]]:
    """The objects with this field in a value, the outermost only."""
    if isinstance(value, dict) and key in value:
        kept = {name: own for name, own in value.items() if name in PARTS}
        yield _Twice(kept) if isinstance(value, _Twice) else kept
    elif depth < 3 and isinstance(value, dict | list):
        for own in value.values() if isinstance(value, dict) else value:
            yield from _within(own, key, depth + 1)


def _as_text(name: str, value: Any) -> str:
    if name == "step":
        return _step_text(value)
    if value is None:
        return ""
    lines = value if isinstance(value, list) else [value]
    if not all(isinstance(line, str) for line in lines):
        raise Dropped("malformed_json")
    return "\n".join(lines)


def _step_text(value: Any) -> str:
    if isinstance(value, list):
        if len(value) > 1:
            raise Dropped("several_steps")
        value = value[0] if value else None
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    if type(value) is int and abs(value) < 10**9:
        return str(value)
    raise Dropped("no_such_step" if type(value) is int else "unclear_step")
