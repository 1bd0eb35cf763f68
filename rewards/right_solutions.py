"""Right solutions to stand beside marked wrong ones: MR-GSM8K's rows here are wrong, and F1 needs both sides.

Gold solutions are written by people, and look otherwise than a model's. What would give them away at once is changed:
calculator marks (`<<2+3=5>>`) are taken off, and steps are numbered ("Step 1: ") where those of the wrong ones are.
Right rollouts (an artifact of `sample`) look like the wrong ones of the same policy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rewards.formats import StepRecord
from rollouts.records import Problem, Rollout
from rollouts.steps import split_steps
from stages.artifacts import open_artifact

GOLD = "gold"
_FIELDS = ("solution", "ground_truth_solution")  # of MR-GSM8K, with short names and with its own
_MARK = re.compile(r"<<[^<>\n]*>>")


def gold_solutions(records: Sequence[StepRecord], source_format: str) -> list[StepRecord]:
    """The gold solution in the row of each record that has one, once a question; `id` is the record's with `/gold`."""
    numbered = all(step.startswith(f"Step {n}: ") for one in records for n, step in enumerate(one.steps, start=1))
    found: dict[str, StepRecord] = {}
    for record in records:
        row = record.extra.get(source_format, {})
        text = next((row[name] for name in _FIELDS if isinstance(row.get(name), str)), "")
        steps = split_steps(_MARK.sub("", text))
        if steps and record.question not in found:
            shown = tuple(f"Step {n}: {step}" if numbered else step for n, step in enumerate(steps, start=1))
            found[record.question] = _right(record.question, shown, f"{record.id}/gold")
    return list(found.values())


def right_rollouts(path: str) -> list[StepRecord]:
    """The right rollouts of an artifact of `sample`, different ones of each problem.

    Raises:
        ArtifactError: there is no such artifact.
    """
    artifact = open_artifact(path, "sample")
    questions = {problem.id: problem.question for problem in artifact.rows(Problem, "problems")}
    found = {(one.problem_id, one.steps): one.id for one in artifact.rows(Rollout) if one.correct and one.steps}
    return [_right(questions[problem_id], steps, name) for (problem_id, steps), name in found.items()]


def _right(question: str, steps: tuple[str, ...], name: str) -> StepRecord:
    return StepRecord(question, steps, (1.0,) * len(steps), id=name, correct=True)
