"""Multiple choice: an answer such as `C`, `(C)`, `C. bank` or `bank` against the reference `(C) bank`.

Only a reference of that form is compared so; numbers never are. Where an answer's letter and text disagree, or it
names two choices, it is wrong.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rollouts.records import Problem

_REFERENCE = re.compile(r"\(([A-Z])\) (\S.*)", re.DOTALL)
_MARKUP = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf)\s*\{([^{}]*)\}|[*_`$\"“”]|(?<!\w)'|'(?!\w)")
_NAMED = re.compile(
    r"(?:(?:the )?(?:correct )?(?:answer|option|choice|letter)\s*(?:is\s*)?:?\s*)?(.*?)(?:(?<=[A-Za-z)])!)*",
    re.IGNORECASE | re.DOTALL,
)
_LETTER = re.compile(
    r"(?:\(([A-Za-z])\)|\[([A-Za-z])\]|([A-Za-z])(?=[).:\],]|\s*[-–—:]\s|\s+\(|$))[).:\],]?\s*[-–—:]?\s*(.*)", re.DOTALL
)
_LETTER_LAST = re.compile(r"(\S.*?\S)\s*\(([A-Z])\)")
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


_LISTED = re.compile(r"\(([A-Z])\) (\S.*?)(?=\s+\([A-Z]\) |\s*$)", re.MULTILINE)


def chosen_letter(answer: str, problem: Problem) -> str | None:
    """The letter of the choice that an answer names, for votes: `C`, `(C) bank` and `bank` are one. None where the
    problem is no multiple choice, or the answer names none of its choices."""
    right = parse_choice(problem.answer)
    if right is None:
        return None
    return next((one.letter for one in [right, *listed_choices(problem.question)] if is_chosen(answer, one)), None)


def listed_choices(question: str) -> list[Choice]:
    """The choices that the last line of a question lists: `Answer choices: (A) sea (B) bank`."""
    return [Choice(*found.groups()) for found in _LISTED.finditer(question.rpartition("\n")[2])]


def is_chosen(answer: str, right: Choice) -> bool:
    """Whether an answer, found in a text already, names this choice by its letter, its text or both."""
    answer = _NAMED.fullmatch(_MARKUP.sub(lambda mark: mark[1] or "", answer).strip())[1]
    if (last := _LETTER_LAST.fullmatch(answer)) is not None:  # bank (C)
        answer = f"({last[2]}) {last[1]}"
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
    rest = rest[1:-1] if rest[:1] + rest[-1:] == "()" else rest
    same = not _words(rest) or _noun(rest) == _noun(right.text) or _REASON.match(rest) is not None
    return letter == right.letter and same


def _words(text: str) -> str:
    """The text in lower case, without spaces that say nothing and what closes it; signs stay, as in `-5`."""
    return " ".join(text.casefold().replace("’", "'").split()).rstrip(".,; ")


def _noun(text: str) -> str:
    """The words without an article before them."""
    return re.sub(r"^(?:an?|the) (?=.)", "", _words(text))
