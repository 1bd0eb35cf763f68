"""What several solutions of a new problem agree on, which nobody knows the answer of."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

from rollouts.grading.answers import canonical, grade
from rollouts.grading.choices import is_chosen, listed_choices, render_choice
from rollouts.sampling.protocol import Sample
from rollouts.solution import Solution, cut_solution
from rollouts.steps import cut_text, join_steps


class Vote(NamedTuple):
    """`agreed` of the solutions that are `answered` end in `answer`; `solution` is the first of these, and `graded`
    whether the grader takes it for right."""

    answer: str | None
    solution: str | None
    answered: int
    agreed: int
    graded: bool


def agree(question: str, samples: Sequence[Sample], choices: bool = False) -> Vote:
    """The answer that most of the solutions end in, the first of several with as many. Those that were cut off or
    refused have none. With `choices` the answer is one of those that the question lists, as `(B) bank`."""
    found: dict[Hashable, list[tuple[str, Solution]]] = {}
    for sample in samples:
        if sample.finish_reason != "stop":
            continue
        solution = cut_solution(cut_text(sample.text))
        if solution.answer is not None and (vote := _vote(question, solution.answer, choices)):
            found.setdefault(vote[0], []).append((vote[1], solution))
    if not found:
        return Vote(None, None, 0, 0, False)
    most = max(found.values(), key=len)
    answer, solution = most[0]
    verdict = grade(solution, answer)
    answered = sum(map(len, found.values()))
    return Vote(
        answer, join_steps(solution.steps).rstrip("\n"), answered, len(most), bool(verdict.graded and verdict.correct)
    )


def _vote(question: str, answer: str, choices: bool) -> tuple[Hashable, str] | None:
    """What equal answers share, and the answer as a reference; None where it is none of the choices."""
    if not choices:
        return canonical(answer), answer
    chosen = next((one for one in listed_choices(question) if is_chosen(answer, one)), None)
    return None if chosen is None else (chosen.letter, render_choice(chosen))
