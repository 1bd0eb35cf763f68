"""Multiple choice: an answer such as `C`, `(C)`, `C. bank` or `bank` against the reference `(C) bank`.

Only a reference of that form is compared so; numbers never are. Where an answer's letter and text disagree, or it
names two choices, it is wrong.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_REFERENCE = re.compile(r"\(([A-Z])\) (\S.*)", re.DOTALL)
_MARKUP = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf)\s*\{([^{}]*)\}|[*_`$\"“”]|(?<!\w)'|'(?!\w)")
_NAMED = re.compile(
    r"(?:(?:the )?(?:correct )?(?:answer|option|choice)\s*(?:is\s*)?:?\s*)?(.*)", re.IGNORECASE | re.DOTALL
)
_LETTER = re.compile(
    r"(?:\(([A-Za-z])\)|\[([A-Za-z])\]|([A-Za-z])(?=[).:\]]|\s*[-–—:]\s|$))[).:\]]?\s*[-–—:]?\s*(.*)", re.DOTALL
)
_REASON = re.compile(r"(?:because|since|as)\b")
_REASONED = re.compile(rf"([A-Z]),? {_REASON.pattern}")  # "C because …"


class Choice(NamedTuple):
    """A letter from A to Z and what it stands for."""

    letter: str
    text: str


def render_choice(choice: Choice) -> str:
    """The reference answer of a multiple-choice problem: `(C) bank`."""
    return f"({choice.letter}) {choice.text}"


def parse_choice(reference: str) -> Choice | None:
    """The choice that a reference names; None where it is not of the form `(C) bank`."""
    match = _REFERENCE.fullmatch(reference)
    return Choice(match[1], match[2]) if match else None


def is_chosen(answer: str, right: Choice) -> bool:
    """Whether an answer, found in a text already, names this choice by its letter, its text or both."""
    answer = _NAMED.fullmatch(_MARKUP.sub(lambda mark: mark[1] or "", answer).strip())[1]
    named = _LETTER.fullmatch(answer)
    bracketed = named is not None and not named[3]
    if not bracketed and _words(answer) == _words(right.text):
        return True
    if named is None:
        reasoned = _REASONED.match(answer)
        if reasoned is None:
            return _noun(answer) == _noun(right.text)  # "A bank", where A is a word
        return reasoned[1] == right.letter
    letter, rest = (named[1] or named[2] or named[3]).upper(), named[4]
    same = not _words(rest) or _noun(rest) == _noun(right.text) or _REASON.match(rest) is not None
    return letter == right.letter and same


def _words(text: str) -> str:
    """The text in lower case, without spaces that say nothing and what closes it; signs stay, as in `-5`."""
    return " ".join(text.casefold().replace("’", "'").split()).rstrip(".,; ")


def _noun(text: str) -> str:
    """The words without an article before them."""
    return re.sub(r"^(?:an?|the) (?=.)", "", _words(text))
