"""One solved problem to show step by step: draft, located error, both refinements, scores and the final choice.

Left out: drawing it (`experiments/report/markdown.py`, `experiments/report/figures.py`).
"""

from __future__ import annotations

from typing import Any

from refine.report.inputs import ReportInputs
from rewards.metrics import first_error
from rollouts.records import Candidate, CandidateKey, Choice, Problem, identity

KINDS = ("draft", "global", "local")


def choose_example(inputs: ReportInputs, candidates: dict[CandidateKey, Candidate]) -> dict[str, Any] | None:
    """The problem that shows most: a wrong draft whose error was located and mended, and the mended solution chosen.

    Among equals one of a length that fits a page, then the first. None where nothing was reranked.
    """
    chosen = {
        choice.problem_id: choice
        for choice in inputs.choices
        if (choice.selector, choice.scorer, choice.where, choice.when)
        == ("reranked", inputs.scorer, inputs.where, inputs.when)
    }
    scores = {(one.scorer, *identity(one)): one.probabilities for one in inputs.judgements}
    examples = (
        _describe(inputs, problem, candidates, scores, chosen[problem.id])
        for problem in inputs.problems
        if problem.id in chosen
    )
    return max(examples, key=_rank, default=None)


def _describe(
    inputs: ReportInputs,
    problem: Problem,
    candidates: dict[CandidateKey, Candidate],
    scores: dict[Any, tuple[float, ...]],
    choice: Choice,
) -> dict[str, Any]:
    draft, *_, local = keys = [(problem.id, kind, inputs.where if kind == "local" else "none", 0) for kind in KINDS]
    solutions: dict[str, Any] = dict.fromkeys(KINDS)
    for key in keys:
        if candidate := candidates.get(key):
            sorm, scorer = scores.get(("sorm", *key)), scores.get((inputs.scorer, *key))
            solutions[candidate.kind] = {
                "steps": list(candidate.steps),
                "answer": candidate.answer,
                "correct": candidate.correct is True,
                "sorm": list(sorm) if sorm else None,
                "score": scorer[-1] if scorer else None,
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
        "chosen": choice.kind,
        "correct": choice.correct,
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
