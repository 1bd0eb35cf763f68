"""Our own step labels to and from records: rows of `label_steps`, with the problems that they belong to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rewards.formats.record import FormatError, StepRecord, harden
from rollouts.problems.splits import question_key
from rollouts.records import Problem, StepLabels
from stages.rows import from_row, read_rows, to_row
from stages.text import shown

NAME = "step_labels"
LINES = ("error", "join")
# what a record has no field of its own for
_OF_PROBLEM = ("solution", "source", "split")
_OF_ROW = ("successes", "trials", "fix_length", "fix_steps", "rule", "values", "confidences")


def read_step_labels(folder: str | Path) -> Iterator[tuple[str, StepRecord]]:
    """The records of an artifact of `label_steps` or `import_labels`, each with where it stands.

    Raises:
        StoreError: a file is missing or damaged.
        FormatError: a row belongs to no problem of the folder.
    """
    folder = Path(folder).expanduser()
    problems = {problem.id: problem for problem in read_rows(folder / "problems.parquet", Problem)}
    for number, row in enumerate(read_rows(folder / "rows.parquet", StepLabels), start=1):
        where = f"{folder / 'rows.parquet'}, row {number}"
        if row.problem_id not in problems:
            raise FormatError(f"{where}: there is no problem {row.problem_id!r} in problems.parquet")
        yield where, from_step_labels(row, problems[row.problem_id])


def from_step_labels(row: StepLabels, problem: Problem) -> StepRecord:
    """A record of a row of step labels and its problem."""
    beyond = {name: value for name, value in to_row(problem).items() if name in _OF_PROBLEM}
    beyond |= {name: value for name, value in to_row(row).items() if name in _OF_ROW}
    return StepRecord(
        question=problem.question,
        steps=row.steps,
        labels=tuple(None if label is None else float(label) for label in row.labels),
        id=row.rollout_id,
        answer=problem.answer,
        correct=row.correct,
        extra={NAME: {"problem_id": problem.id} | beyond},
    )


def to_step_labels(
    record: StepRecord, name: str, threshold: float | None = None, split: str = "train"
) -> tuple[StepLabels, Problem]:
    """Step labels and a problem of a record; `name` is the rollout's where the record has no id.

    The problem of a record that was none of ours is named after its question, so that solutions of one question
    belong together; its answer is empty where none is known. Soft labels become values beside the labels that
    `threshold` makes of them. `correct`, where it is not known, is that every step is right.

    Raises:
        FormatError: a label is soft and there is no threshold, or a field that `from_step_labels` kept is malformed.
    """
    own: dict[str, Any] = record.extra.get(NAME, {})
    digest = hashlib.sha256(question_key(record.question).encode()).hexdigest()[:16]
    labels = tuple(None if label is None else label == 1 for label in harden(record.labels, threshold))
    soft = any(label not in (None, 0, 1) for label in record.labels)
    problem = {"solution": None, "source": "import", "split": split}
    problem |= {name: own[name] for name in _OF_PROBLEM if name in own}
    problem |= {"id": own.get("problem_id", f"import/{digest}"), "question": record.question}
    zeros = [0] * len(record.steps)
    row = {"successes": zeros, "trials": zeros, "fix_length": None, "fix_steps": [], "rule": "import"}
    row |= {"values": list(record.labels) if soft else [], "confidences": []}
    row |= {name: own[name] for name in _OF_ROW if name in own}
    row |= {"rollout_id": name if record.id is None else record.id, "problem_id": problem["id"], "labels": labels}
    row["correct"] = all(label is True for label in labels) if record.correct is None else record.correct
    try:
        found = from_row(Problem, problem | {"answer": record.answer or ""})
        return from_row(StepLabels, row | {"steps": record.steps}), found
    except ValueError as error:
        raise FormatError(f"not what is written for step labels: {error}") from error


def one_line_steps(record: StepRecord, lines: str) -> StepRecord:
    """The record with steps of one line each, as our models read them; `lines` join puts a space for each line end.

    Raises:
        FormatError: a step is blank, or has several lines and `lines` is error.
    """
    steps = tuple(" ".join(step.split()) if "\n" in step else step for step in record.steps)
    for i, (step, own) in enumerate(zip(steps, record.steps, strict=True)):
        if not step.strip():
            raise FormatError(f"step {i} is blank: {shown(own)}")
        if step != own and lines == "error":
            raise FormatError(f"step {i} has several lines, and a step of ours is one: {shown(own)}: choose lines=join")
    return replace(record, steps=steps)
