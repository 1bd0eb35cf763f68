"""Problems to show step by step: draft, located error, both refinements, scores and the final choice.

Left out: drawing them (`experiments/report/`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from refine.report.inputs import ReportInputs
from rewards.evaluate import IMPLICIT, SCORERS, scorers_of
from rewards.metrics import first_error
from rollouts.records import Candidate, CandidateKey, Choice, Problem, identity

KINDS = ("draft", "global", "local")


@dataclass(frozen=True, slots=True)
class Example:
    """One problem of a report as a row: texts with a step a line, the scores after each step of the draft, the first
    wrong step (0-based) as it was located and as the oracle knows it, and the choice of the headline.

    What was not made or chosen is None; without scores there are none.
    """

    problem_id: str
    question: str
    answer: str
    draft: str | None
    draft_correct: bool | None
    orm: tuple[float, ...]
    sorm: tuple[float, ...]
    implicit: tuple[float, ...]
    located_error: int | None
    true_error: int | None
    global_refinement: str | None
    global_correct: bool | None
    local_refinement: str | None
    local_correct: bool | None
    chosen: str | None
    correct: bool | None


def example_rows(examples: Sequence[dict[str, Any]]) -> Iterator[Example]:
    """What `describe_examples` gives, as rows."""
    for one in examples:
        solutions = {kind: one["solutions"][kind] or {} for kind in KINDS}
        texts = {kind: "\n".join(own["steps"]) if own else None for kind, own in solutions.items()}
        right = {kind: own.get("correct") for kind, own in solutions.items()}
        scores = {name: tuple(solutions["draft"].get(name) or ()) for name in (*SCORERS, IMPLICIT)}
        yield Example(
            problem_id=one["problem_id"],
            question=one["question"],
            answer=one["answer"],
            draft=texts["draft"],
            draft_correct=right["draft"],
            orm=scores["orm"],
            sorm=scores["sorm"],
            implicit=scores["implicit"],
            located_error=one["located_error"],
            true_error=one["true_error"],
            global_refinement=texts["global"],
            global_correct=right["global"],
            local_refinement=texts["local"],
            local_correct=right["local"],
            chosen=one["chosen"],
            correct=one["correct"],
        )


def choose_example(examples: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The problem that shows most: a wrong draft whose error was located and mended, and the mended solution chosen.

    Among equals one of a length that fits a page, then the first. None where nothing was reranked.
    """
    return max((one for one in examples if one["chosen"] is not None), key=_rank, default=None)


def describe_examples(inputs: ReportInputs) -> list[dict[str, Any]]:
    """Every problem with its draft, both refinements, their scores and the choice of the headline, in order."""
    headline = ("reranked", inputs.scorer, inputs.where, inputs.when)
    chosen = {c.problem_id: c for c in inputs.choices if (c.selector, c.scorer, c.where, c.when) == headline}
    scores = {(one.scorer, *identity(one)): one.probabilities for one in inputs.judgements}
    candidates = {identity(candidate): candidate for candidate in inputs.candidates}
    scorers = scorers_of(inputs.judgements)
    return [_describe(inputs, one, candidates, scorers, scores, chosen.get(one.id)) for one in inputs.problems]


def _describe(
    inputs: ReportInputs,
    problem: Problem,
    candidates: dict[CandidateKey, Candidate],
    scorers: Sequence[str],
    scores: dict[Any, tuple[float, ...]],
    choice: Choice | None,
) -> dict[str, Any]:
    draft, *_, local = keys = [(problem.id, kind, inputs.where if kind == "local" else "none", 0) for kind in KINDS]
    solutions: dict[str, Any] = dict.fromkeys(KINDS)
    for key in keys:
        if candidate := candidates.get(key):
            given = {scorer: list(scores.get((scorer, *key), ())) or None for scorer in scorers}
            final = given[inputs.scorer]
            solutions[candidate.kind] = {
                "steps": list(candidate.steps),
                "answer": candidate.answer,
                "correct": candidate.correct is True,
                **given,
                "score": final[-1] if final else None,
            }
    if local in candidates:
        located = candidates[local].error_step  # what the refiner was told
    else:  # what the SORM would say
        own = solutions["draft"]["sorm"]
        located = first_error(own, inputs.thresholds["sorm"]) if own else None
    truth = (inputs.step_truth or {}).get(draft, [])
    return {
        "problem_id": problem.id,
        "question": problem.question,
        "answer": problem.answer,
        "scorer": inputs.scorer,
        "where": inputs.where,
        "solutions": solutions,
        "located_error": located,
        "true_error": truth.index(False) if False in truth else None,
        "oracle": inputs.step_truth is not None,
        # the gate that kept the draft, so that there was nothing to choose
        "kept_by": inputs.when if choice and inputs.when != "always" and choice.offered == 1 else None,
        "chosen": choice and choice.kind,
        "correct": choice and choice.correct,
    }


def _rank(example: dict[str, Any]) -> tuple[bool, ...]:
    draft, *refined = (example["solutions"][kind] for kind in KINDS)
    located = example["located_error"] is not None
    exact = located and (not example["oracle"] or example["located_error"] == example["true_error"])
    mended = [solution is not None and solution["correct"] for solution in refined]
    steps = [len(solution["steps"]) for solution in (draft, *refined) if solution is not None]
    return (
        not draft["correct"] and example["correct"],
        located,
        exact,
        any(mended),
        all(mended),
        # an error in the middle shows more than one in the first step
        located and 0 < example["located_error"] < len(draft["steps"]) - 1,
        3 <= max(steps) <= 8 and len(example["question"]) <= 500,
    )
