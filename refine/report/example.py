"""One solved problem to show step by step: draft, located error, both refinements, scores and the final choice.

Left out: drawing it (`experiments/report/markdown.py`, `experiments/report/figures.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rewards.scorer import first_error
from rollouts.records import Candidate, Choice

if TYPE_CHECKING:
    from refine.report.inputs import ReportInputs
    from rollouts.records import CandidateKey

KINDS = ("draft", "global", "local")


def choose_example(inputs: ReportInputs, candidates: dict[CandidateKey, Candidate]) -> dict[str, Any] | None:
    """The problem that shows most: a wrong draft whose error was located and mended and then chosen.

    Among equals one of a length that fits a page, then the first. None where nothing was reranked.
    """
    chosen = {
        choice.problem_id: choice
        for choice in inputs.choices
        if (choice.selector, choice.scorer, choice.where) == ("reranked", inputs.scorer, inputs.where)
    }
    scores = {
        (judgement.scorer, judgement.problem_id, judgement.kind, judgement.where, judgement.sample): judgement
        for judgement in inputs.judgements
    }
    best, best_rank = None, None
    for problem in inputs.problems:
        if problem.id not in chosen:
            continue
        example = _describe(inputs, problem, candidates, scores, chosen[problem.id])
        rank = _rank(example)
        if best_rank is None or rank > best_rank:
            best, best_rank = example, rank
    return best


def _describe(
    inputs: ReportInputs,
    problem: Any,
    candidates: dict[CandidateKey, Candidate],
    scores: dict[Any, Any],
    choice: Choice,
) -> dict[str, Any]:
    solutions = {}
    for kind in KINDS:
        key = (problem.id, kind, inputs.where if kind == "local" else "none", 0)
        if key not in candidates:
            solutions[kind] = None
            continue
        candidate, sorm = candidates[key], scores.get(("sorm", *key))
        scorer = scores.get((inputs.scorer, *key))
        solutions[kind] = {
            "steps": list(candidate.steps),
            "answer": candidate.answer,
            "correct": candidate.correct is True,
            "sorm": list(sorm.probabilities) if sorm is not None and sorm.probabilities else None,
            "score": None if scorer is None or not scorer.probabilities else scorer.probabilities[-1],
        }
    return {
        "problem_id": problem.id,
        "question": problem.question,
        "answer": problem.answer,
        "scorer": inputs.scorer,
        "where": inputs.where,
        "solutions": solutions,
        "located_error": _located(inputs, problem.id, candidates, solutions),
        "true_error": _true_error(inputs.step_truth, (problem.id, "draft", "none", 0)),
        "oracle": inputs.step_truth is not None,
        "chosen": choice.kind,
        "correct": choice.correct,
    }


def _located(
    inputs: ReportInputs, problem_id: str, candidates: dict[CandidateKey, Candidate], solutions: dict[str, Any]
) -> int | None:
    """The 0-based step that the local refiner was told of; without a refinement the first the SORM would name."""
    local = candidates.get((problem_id, "local", inputs.where, 0))
    if local is not None:
        return local.error_step
    draft = solutions["draft"]
    return first_error(draft["sorm"], inputs.thresholds["sorm"]) if draft and draft["sorm"] else None


def _true_error(step_truth: dict[CandidateKey, list[bool]] | None, key: CandidateKey) -> int | None:
    truth: Sequence[bool] = (step_truth or {}).get(key, [])
    return next((step for step, right in enumerate(truth) if not right), None)


def _rank(example: dict[str, Any]) -> tuple[bool, ...]:
    draft, whole, local = (example["solutions"][kind] for kind in KINDS)
    wrong = draft is not None and not draft["correct"]
    located = example["located_error"] is not None
    exact = located and (not example["oracle"] or example["located_error"] == example["true_error"])
    mended = [refined is not None and refined["correct"] for refined in (whole, local)]
    steps = [len(solution["steps"]) for solution in (draft, whole, local) if solution is not None]
    return (
        wrong and example["correct"],
        located,
        exact,
        any(mended),
        all(mended),
        # an error in the middle shows more than one in the first step
        located and 0 < example["located_error"] < len(draft["steps"]) - 1 if draft else False,
        3 <= max(steps, default=0) <= 8 and len(example["question"]) <= 500,
    )
