"""PRM800K, phases 1 and 2: people's ratings (-1, 0, 1) of the steps of solutions to MATH problems (arXiv 2305.20050,
"Let's Verify Step by Step"; the fields are those of the data set's README):

    {"question": {"problem": "What is 1+1?", "ground_truth_answer": "2"}, "is_quality_control_question": false,
     "is_initial_screening_question": false, "label": {"finish_reason": "solution", "total_time": 7, "steps": [
     {"completions": [{"text": "It is 2.", "rating": 1, "flagged": false}], "human_completion": null,
      "chosen_completion": 0}]}}

A record is the trajectory that the labeller followed: of each step the chosen completion, or the one that a person
wrote, or the only one; of the last step, where none was chosen, the first, which is the solution's own. What rating 0
means is the caller's choice, and so is what becomes of bad problems and rows for quality control. Left out: the other
completions as solutions of their own (a row keeps them).
"""

from __future__ import annotations

from typing import Any

from rewards.formats.record import Choices, Format, FormatError, StepRecord, doubt, take_optional, take_text
from stages.text import shown


def _parse(row: dict[str, Any], choices: Choices) -> StepRecord:
    question, label = row.get("question"), row.get("label")
    if not isinstance(question, dict) or not isinstance(label, dict) or not isinstance(label.get("steps"), list):
        raise FormatError(f"no PRM800K row: question is {shown(question)}, label is {shown(label)}")
    _check_purpose(row, label, choices)
    steps, labels = [], []
    for i, step in enumerate(label["steps"]):
        found = _followed(step, i, last=i + 1 == len(label["steps"]))
        if found is None:
            break
        steps.append(take_text(found[0], "text"))
        labels.append(_meaning(found[1], i, choices))
    return StepRecord(
        question=take_text(question, "problem"),
        steps=tuple(steps),
        labels=tuple(labels),
        answer=take_optional(question, "ground_truth_answer", str),
    )


def _check_purpose(row: dict[str, Any], label: dict[str, Any], choices: Choices) -> None:
    """See that a row is one to train on, or that the choices keep the others."""
    if label.get("finish_reason") in ("bad_problem", "give_up"):
        reason = label["finish_reason"]
        doubt(f"the labeller ended this row with finish_reason {reason!r}", reason, "aside", choices)
    for name, reason in (
        ("is_quality_control_question", "quality_control"),
        ("is_initial_screening_question", "screening"),
    ):
        if row.get(name):
            doubt(f"{name} is true", reason, "aside", choices)


def _followed(step: Any, i: int, last: bool) -> tuple[dict[str, Any], Any] | None:
    """The completion that the trajectory took at step i, and its rating; None where it ended before."""
    completions = (step.get("completions") or []) if isinstance(step, dict) else None
    if not isinstance(completions, list) or not all(isinstance(one, dict) for one in completions):
        raise FormatError(f"step {i} has no list of completions: {shown(step)}")
    chosen, written = step.get("chosen_completion"), step.get("human_completion")
    if chosen is not None:
        if type(chosen) is not int or not 0 <= chosen < len(completions):
            raise FormatError(f"step {i} chose completion {chosen!r} of {len(completions)}")
        return completions[chosen], completions[chosen].get("rating")
    if written is not None:
        written = {"text": written} if isinstance(written, str) else written
        if not isinstance(written, dict):
            raise FormatError(f"the human completion of step {i} must have a text, not be {shown(written)}")
        # a person writes a step where all of the model's are wrong: it is right unless it was corrected later
        corrected = written.get("corrected_rating")
        return written, 1 if corrected is None else corrected
    if not last and len(completions) != 1:
        others = f"{len(completions)} others, and is not the last"
        raise FormatError(f"step {i} has neither a chosen nor a human completion but {others}")
    return (completions[0], completions[0].get("rating")) if completions else None


def _meaning(rating: Any, i: int, choices: Choices) -> float | None:
    if rating is None:
        return None
    if type(rating) is not int or rating not in (-1, 0, 1):
        raise FormatError(f"the rating of step {i} must be -1, 0, 1 or null, not {shown(rating)}")
    if rating:
        return float(rating == 1)
    if choices.neutral is None:
        meaning = "say what a neutral step is, neutral=positive, negative or drop (no label)"
        raise FormatError(f"the rating of step {i} is 0: {meaning}")
    return {"positive": 1.0, "negative": 0.0, "drop": None}[choices.neutral]


def _render(record: StepRecord, choices: Choices) -> dict[str, Any]:
    question = {"problem": record.question}
    if record.answer is not None:
        question["ground_truth_answer"] = record.answer
    steps = [
        {
            "completions": [{"text": step, "rating": None if label is None else 1 if label else -1, "flagged": None}],
            "human_completion": None,
            "chosen_completion": 0,
        }
        for step, label in zip(record.steps, record.labels, strict=True)
    ]
    reason = "found_error" if 0 in record.labels else "solution"
    return {"question": question, "label": {"steps": steps, "total_time": None, "finish_reason": reason}}


PRM800K = Format("prm800k", "rating", _parse, _render, None)
