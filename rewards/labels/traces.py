"""Verifying traces: graded continuations, and whether they use what their prefix worked out (GLoRe sec. 3.2)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rollouts.grading.answers import grade
from rollouts.grading.statements import states_answer
from rollouts.records import Problem
from rollouts.sampling.protocol import REFUSED, Sample
from rollouts.solution import cut_solution

# a minus is a sign where nothing that could be subtracted from stands before it
_NUMBER = re.compile(r"(?<![0-9.])(?:(?<![0-9A-Za-z)%.])-)?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?")
_EQUALS = re.compile(r"=\s*\$?\s*(?=-?[0-9])")


@dataclass(frozen=True, slots=True)
class Trace:
    """One verifying trace: the steps that followed a prefix, and whether they reached the right answer."""

    steps: tuple[str, ...]
    correct: bool


def grade_trace(problem: Problem, prefix: Sequence[str], sample: Sample) -> Trace | None:
    """A continuation as a trace; None where there is none (it was refused) or the grader could not decide."""
    if sample.finish_reason == REFUSED:
        return None
    solution = cut_solution(sample.text, prefix)
    verdict = grade(solution, problem.answer)
    return Trace(solution.steps[len(prefix) :], verdict.correct) if verdict.graded else None


def step_result(step: str) -> str | None:
    """The intermediate result R_i that a step computed: the number after its last equals sign, else the last number
    it states; None where there is none. Written without separators and trailing zeros."""
    after = [found.end() for found in _EQUALS.finditer(step)]
    numbers = _numbers(step[after[-1] :])[:1] if after else _numbers(step)[-1:]
    return numbers[0] if numbers else None


def _numbers(text: str) -> list[str]:
    """The numbers of a text as digits that can be compared: 1,080.50 is 1080.5 (no text is too long for that)."""
    # the grader's `normalise` reads one answer as a whole, with fractions and units; here are all that stand in a text
    found = []
    for number in _NUMBER.findall(text):
        whole, _, decimals = number.replace(",", "").partition(".")
        sign, whole, decimals = whole[: whole.count("-")], whole.lstrip("-0") or "0", decimals.rstrip("0")
        found.append(sign + whole + ("." + decimals if decimals else ""))
    return found


def is_consistent(prefix: Sequence[str], suffix: Sequence[str]) -> bool:
    """Whether a trace uses what the prefix's last step computed: the result stands in the suffix (rule 2).

    A step that states no number cannot be ignored, and an answer line has nothing after it that could use it.
    """
    result = step_result(prefix[-1])
    if result is None or states_answer(prefix[-1]):
        return True
    return any(result in _numbers(step) for step in suffix)


def vouches(prefix: Sequence[str], trace: Trace, consistency: bool) -> bool:
    """Whether a trace is a reason to believe in its prefix: it is right and, with `consistency`, uses its result."""
    return trace.correct and (not consistency or is_consistent(prefix, trace.steps))
