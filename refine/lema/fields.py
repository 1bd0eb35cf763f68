"""What replies of all layouts share: texts made clean, and the value that names a step."""

from __future__ import annotations

import re

PARTS = ("step", "explanation", "solution")  # the fields of a correction, in the paper's order
FENCE = re.compile(r"\s*(?:```|~~~)\s*\w{0,20}\s*")  # a line before or after code

_LINE_ENDS = re.compile(r"\r\n?|[\x85\u2028\u2029]")
_SPACES = re.compile(r"[\t\x0b\x0c\xa0\u1680\u2000-\u200a\u202f\u205f]")
_INVISIBLE = re.compile("[\xad\u200b\u2060\ufeff]")
# controls of a terminal, halves of characters, and marks that turn the direction of a text
_BAD = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_EMPHASIS = re.compile(r"(\*{1,3}|_{1,3})(?=\S)(.*\S)\1")
_HALF_EMPHASIS = re.compile(r"^\*{2,3}(?=\S)|(?<=\S)\*{2,3}$")

_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
_ORDINALS = "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
_NUMBER = rf"(?P<number>[-−–]?\d+|\b(?:{'|'.join(_WORDS)})\b)"
_STEP = re.compile(
    rf"""(?:(?:the\s+)?(?:first\s+)?(?:incorrect|wrong)\s+step\s+is\s+|it\s+is\s+)?(?:the\s+)?steps?\s*(?:is\s+)?(?:[:\#]|no\.?|number)?\s*
        {_NUMBER}(?P<rest>.*)
    |(?:the\s+)?(?P<ordinal>{"|".join(_ORDINALS)})\s+step\b(?P<rest2>.*)
    |{_NUMBER.replace("?P<number>", "?P<bare>")}(?P<rest3>(?:[.):,](?!\d).*)?)""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_NONE = re.compile(
    r"""(?:none|no|n/?a|null|nothing|nil|not\s+applicable|[-–—]*|all\s+(?:the\s+|of\s+the\s+)?steps\s+are\b.*
        |there\s+(?:is|are)\s+no\b.*|none\b.*|no\b(?!\.?\s*[0-9:]).*)""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_MORE = re.compile(
    r"\s*(?:,|;|/|&|\+|[-–—~]|and\b|or\b|to\b|through\b|until\b)\s*(?:also\s+)?(?:steps?\s*)?\d", re.IGNORECASE
)
_ANOTHER = re.compile(r"\bsteps?\s*#?\s*(\d+)", re.IGNORECASE)


class Dropped(ValueError):
    """A reply that cannot be used. The message is the reason, a word of `refine.lema.judge.REASONS`."""


def clean_text(text: str) -> str:
    """The text with line feeds and spaces only, and without what nobody sees.

    Raises:
        Dropped: it holds control characters, or halves of characters.
    """
    text = _INVISIBLE.sub("", _SPACES.sub(" ", _LINE_ENDS.sub("\n", text)))
    if _BAD.search(text):
        raise Dropped("control_characters")
    return text


def clean_line(line: str) -> str:
    """The line without spaces and emphasis around it: `**4 * 3 = 12**`."""
    line, before = line.strip(), None
    while line != before:
        before = line
        found = _EMPHASIS.fullmatch(line)
        if found and found[1] not in found[2]:
            line = found[2].strip()
        elif line.count("**") == 1:
            line = _HALF_EMPHASIS.sub("", line).strip()
    return line


def read_step(text: str) -> int:
    """The number of the one step that a text names, from 1: `Step 2`, `2`, `the second step`, `Step 2: 4 * 3 = 13`.

    Raises:
        Dropped: it names none, several, or cannot be read.
    """
    value = re.sub(r"[*_`#\"'“”\[\](){}$]|\\(?:boxed|text)", "", text)
    value = " ".join(value.split())
    if _NONE.fullmatch(value.rstrip(".! ")):
        raise Dropped("no_step")
    found = _STEP.fullmatch(value)
    if found is None:
        raise Dropped("unclear_step")
    rest = found["rest"] or found["rest2"] or found["rest3"] or ""
    name = (found["number"] or found["bare"] or found["ordinal"]).lower()
    number = next((names.index(name) for names in (_WORDS, _ORDINALS) if name in names), None)
    if number is None:
        if len(name) > 9 or not name.isdecimal():
            raise Dropped("no_such_step")  # below 0, or a runaway number
        number = int(name)
    if re.match(r"\.\d|\w", rest):
        raise Dropped("unclear_step")
    others = {int(other) for other in _ANOTHER.findall(rest) if len(other) < 10}
    if _MORE.match(rest) or others - {number}:
        raise Dropped("several_steps")
    if number < 1:
        raise Dropped("no_such_step")
    return number
