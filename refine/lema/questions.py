"""What a policy reads that is to write a new problem after one that is there, and the question read from its reply.

Problem: A box has 4 rows of 3 pens. …
New problem:
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from refine.lema.fields import FENCE, Dropped, clean_line, clean_text
from rollouts.solution import solution_part
from rollouts.steps import Chat
from stages.stage import MISSING

MAX_QUESTION = 2000  # characters
_HEAD, _NEW = "Problem: ", "New problem:"
_HEADING = re.compile(
    r"[\s>#*_]*(?:(?:the\s+)?(?:new|evolved)\s+(?:problem|question)[*_]*\s*(?::[*_]*|$)|(?:problem|question|q)\s*\d*:)",
    re.IGNORECASE,
)
_SOLVED = re.compile(r"[\s>#*_]*(?:solution|answer|explanation|step\s*1)\b[*_]*\s*:|\s*####", re.IGNORECASE)
_ASKS = re.compile(
    r"\?|\b(?:what|how|find|compute|calculate|determine|evaluate|simplify|express|solve|prove|which|where|why|who)\b",
    re.IGNORECASE,
)


@dataclass
class QuestionExample:
    """A problem and a new one that was written after it."""

    problem: str = MISSING
    new: str = MISSING


@dataclass
class QuestionPromptArgs:
    """How a policy is asked for a new problem: with `chat` as the user's turn (and `system` as the system's), else as a
    text."""

    instruction: str = (
        "Write a new problem of the same kind and difficulty as this one, with another story and other numbers. It "
        "must have one answer that follows from what it tells. Write the new problem alone, without a solution."
    )
    examples: list[QuestionExample] = field(default_factory=list)
    chat: bool = False  #: as a turn of a conversation; a text for policies that are no chat models
    system: str | None = None

    def validate(self) -> None:
        """Raise ValueError naming the first setting that has no effect."""
        if self.system is not None and not self.chat:
            raise ValueError(f"ask.system={self.system!r} is used with ask.chat=true only")

    @property
    def stop(self) -> tuple[str, ...]:
        """What ends a reply: a policy that is no chat model would go on with a problem of its own."""
        return () if self.chat else ("\n\n", "\n" + _HEAD.rstrip())


def ask_question(question: str, args: QuestionPromptArgs) -> str | Chat:
    """What a policy reads that is to write a new problem. A text ends with a line feed."""
    shown = [f"{_HEAD}{one.problem.strip()}\n{_NEW}\n{one.new.strip()}" for one in args.examples]
    text = "\n\n".join([args.instruction.strip(), *shown, f"{_HEAD}{question.strip()}\n{_NEW}\n"]).lstrip("\n")
    return Chat(text.rstrip("\n"), args.system) if args.chat else text


def read_question(text: str, lines: bool = False) -> str:
    """The question that a reply is; its lines are joined by spaces, unless `lines` keeps them.

    Raises:
        Dropped: there is none, there are several, or a solution stands beside it.
    """
    if not text.strip():
        raise Dropped("empty")
    if len(text) > 4 * MAX_QUESTION:
        raise Dropped("too_long")
    rows = [row for row in clean_text(solution_part(text.strip())).split("\n") if not FENCE.fullmatch(row)]
    heads = [place for place, row in enumerate(rows) if _HEADING.match(row)]
    if len(heads) > 1 or (heads and any("?" in row for row in rows[: heads[0]])):
        raise Dropped("repeated")
    if heads:
        rows = [_HEADING.sub("", rows[heads[0]], count=1), *rows[heads[0] + 1 :]]
    if any(_SOLVED.match(row) for row in rows):
        raise Dropped("solved")
    return _check(list(filter(None, map(clean_line, rows))), lines)


def _check(rows: Sequence[str], lines: bool) -> str:
    question = ("\n" if lines else " ").join(rows)
    if len(question) > MAX_QUESTION:
        raise Dropped("too_long")
    if len(question.split()) < 4 or not _ASKS.search(question):
        raise Dropped("no_question")
    return question
