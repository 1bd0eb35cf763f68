"""The only grader: finds the final answer in a text and compares it with the reference, exactly.

Plain numbers are compared as fractions here; text, lists and expressions go to `rollouts/grading/symbolic.py`.
No text is evaluated as code and none raises. What cannot be read as a whole is wrong, because a wrong
answer taken for right poisons labels, while a miss only costs a sample. Left out: how steps are judged.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rollouts.grading import choices, symbolic
from rollouts.grading.numerals import is_whole, normalise
from rollouts.grading.wording import clean
from rollouts.solution import Solution, cut_solution

if TYPE_CHECKING:
    from rollouts.records import Problem

UNGRADED = frozenset({"timeout", "crash", "undecided", "no_reference"})


@dataclass(frozen=True, slots=True)
class Grade:
    """The grader's word on one text: is it right, what it answered, and the rule that said so.

    `rule` is `WHERE:HOW`, or one of the words below. WHERE is the rule that found the answer: boxed, hash (`####`),
    answer_is ("the answer is", a line `Answer: …`), answer (the tag), last_number. HOW is number (both plain:
    compared as fractions), choice, text, list, symbolic (math-verify), or why a found answer is wrong: unread (neither
    a number nor comparable as a whole, such as "10 … Wait, 12"), empty, unclosed (box), too_long, retracted ("Wait, …"
    comes after).
    none: nothing was found, which is wrong whatever the reference.
    timeout, crash, undecided (symbolic comparison), no_reference (it is empty): not graded, see `graded`.
    """

    correct: bool
    answer: str | None
    rule: str

    @property
    def graded(self) -> bool:
        """False where the grader could not decide; `correct` is False then, and means nothing."""
        return self.rule not in UNGRADED


def grade(text: str | Solution, reference: str, *, last_number: bool = False) -> Grade:
    """Grade the final answer of `text`, which may be cut already, against `reference` (an answer, not a solution).

    `last_number` lets the last number of the text count where nothing states an answer: for evaluation of
    models that state none, never for labels. Takes microseconds for plain numbers; what is not a plain number
    may take `prover.DEADLINE` seconds, and the first such call starts the prover's processes (`warm_up`).

    Raises:
        RuntimeError: the prover cannot be started on this machine; never because of the texts.
    """
    solution = text if isinstance(text, Solution) else cut_solution(text, last_number=last_number)
    answer, where = solution.answer, solution.rule
    if answer is None:
        return Grade(False, None, where)
    reference = clean(reference)
    if not reference:
        return Grade(False, answer, "no_reference")
    if is_whole(answer) and is_whole(reference):
        return Grade(int(answer) == int(reference), answer, f"{where}:number")
    if (right := choices.parse_choice(reference)) is not None:
        return Grade(choices.is_chosen(answer, right), answer, f"{where}:choice")
    value, expected = normalise(answer), normalise(reference)
    if (value is None) != (expected is None):
        # 12,34,567 where the other is a number: beside a list it is one
        value, expected = normalise(_grouped(answer)), normalise(_grouped(reference))
    if value is not None and expected is not None:
        right = value == expected and not _other_half(answer, reference)
        return Grade(right, answer, f"{where}:number")
    if where == "last_number":  # nothing stated it, so it gets no benefit of the doubt
        return Grade(False, answer, "last_number:unread")
    correct, how = symbolic.compare(answer, reference, reference_is_number=expected is not None)
    return Grade(False, answer, how) if correct is None else Grade(correct, answer, f"{where}:{how}")


_LAKH = re.compile(r"(?<![0-9,.])[1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3}(?![0-9,])")
_HALF = re.compile(r"[0-9]\s*([ap])\.?\s?m\b", re.IGNORECASE)


def _grouped(answer: str) -> str:
    """Digits that are grouped as in India, without the commas."""
    return _LAKH.sub(lambda number: number[0].replace(",", ""), answer)


def _other_half(answer: str, reference: str) -> bool:
    """Whether one is before noon and the other after it: 3 am is not 3 pm."""
    halves = _HALF.search(answer), _HALF.search(reference)
    return None not in halves and halves[0][1].lower() != halves[1][1].lower()


def warm_up() -> None:
    """Start the prover now (about a second), so that no first call to `grade` waits for it.

    Raises:
        RuntimeError: it cannot be started.
    """
    symbolic.warm_up()


def extract(text: str, *, last_number: bool = False) -> tuple[str | None, str]:
    """The answer that a text states, without markup and closing punctuation, and the rule (see `Grade`); the answer
    is None where there is none to trust."""
    solution = cut_solution(text, last_number=last_number)
    return solution.answer, solution.rule


def canonical(answer: str, problem: Problem | None = None) -> Hashable:
    """What equal answers have in common, for votes: 1/2, 0.5 and \\frac{1}{2} are one value, and so are lists of the
    same values in any order; of a problem of multiple choice `C`, `(C) bank` and `bank` are one. What is none of these
    is the answer in one spelling."""
    if problem is not None and (letter := choices.chosen_letter(answer, problem)):
        return letter
    value = normalise(answer)
    return symbolic.canonical(answer) if value is None else value
