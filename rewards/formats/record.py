"""One solution with its step labels, whatever format it came in, and the choices that formats leave open.

Left out: the formats themselves (one file each), and files of rows (`rewards/formats/files.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from stages.checks import check_choices, check_range
from stages.text import shown

NEUTRAL = ("positive", "negative", "drop")
AFTER_ERROR = ("unknown", "negative")
UNLABELLED = ("error", "drop", "cut")
LATER = ("error", "drop")
EXTRA = ("keep", "drop")
DOUBTFUL = ("error", "drop", "keep")
CARRY = "stepwise"  # the field of a row that holds what its format has no field for


class FormatError(ValueError):
    """A row that is not of its format, or a record that a format cannot express. The message says why."""


class LeftOut(FormatError):
    """A row that a choice leaves out. The message is the reason, by which such rows are counted."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A solution and a label in [0, 1] for each of its steps, None where a step has none.

    `answer` is the reference answer, `correct` whether the solution's own final answer is right. `extra` holds, by
    the name of a format, the fields of its row that say more than the others here, so that writing gives the row back.

    Raises:
        FormatError: labels and steps differ in number, or a label is outside [0, 1].
    """

    question: str
    steps: tuple[str, ...]
    labels: tuple[float | None, ...]
    id: str | None = None
    answer: str | None = None
    correct: bool | None = None
    extra: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.steps):
            raise FormatError(f"{len(self.labels)} labels for {len(self.steps)} steps")
        for i, label in enumerate(self.labels):
            if label is not None and not 0 <= label <= 1:
                raise FormatError(f"the label of step {i} is {label!r}, outside [0, 1]")


@dataclass
class Choices:
    """What has to be decided to read or write a format; none of it is guessed.

    `neutral` is the meaning of PRM800K's rating 0: positive, negative, or drop (no label). It has no default.
    `after_error` is what the steps after a first error are, where a format marks only that: unknown or negative.
    `threshold`: a soft label at least this high becomes positive where a format holds hard labels only.
    `unlabelled`: a solution with a step without label, in a format where every step has one, is an error, is dropped,
    or is cut before that step. `later`: labels after a first error that a format cannot hold are an error or dropped.
    `number_steps` writes "Step n: " before each step where a format finds the first step by it (Math-Shepherd).
    `aside`: rows of PRM800K that are not for training (bad problems, rows that a labeller gave up, rows for quality
    control and screening); `contradictory`: rows whose final answer is wrong though every step is right. Such rows are
    an error, are dropped (and counted by their reason), or kept.
    `extra`: what a format has no field for is kept in a field `stepwise` of the row, or dropped.
    """

    neutral: str | None = None
    after_error: str = "unknown"
    threshold: float | None = None
    unlabelled: str = "error"
    later: str = "error"
    number_steps: bool = False
    aside: str = "error"
    contradictory: str = "error"
    extra: str = "keep"

    def validate(self) -> None:
        """Raise ValueError naming the first choice that is none."""
        check_choices(self, after_error=AFTER_ERROR, unlabelled=UNLABELLED, later=LATER, extra=EXTRA)
        check_choices(self, aside=DOUBTFUL, contradictory=DOUBTFUL)
        if self.neutral is not None:
            check_choices(self, neutral=NEUTRAL)
        check_range(self, threshold="(0, 1]")


@dataclass(frozen=True)
class Format:
    """A format of rows.

    `parse` makes a record of a row's own fields, and `render` a row of a record whose labels such a row can have. Both
    raise FormatError: a field is missing, of another type or impossible; a text or label that the format cannot hold.
    `holds` says which labels a row has: boolean (one a step), rating (one a step, or none), soft (a number in [0, 1] a
    step), or first_error. `columns` are the Arrow types, by name, of a Parquet file of such rows; None where JSON only
    can hold them. Where it is `numbered`, the first step is told from the question by its "Step 1:".
    """

    name: str
    holds: str
    parse: Callable[[dict[str, Any], Choices], StepRecord]
    render: Callable[[StepRecord, Choices], dict[str, Any]]
    columns: dict[str, str] | None = None
    numbered: bool = False


def doubt(row: str, reason: str, name: str, choices: Choices) -> None:
    """Do with a doubtful row what the choice `name` says.

    Raises:
        LeftOut: it drops such rows.
        FormatError: nothing is chosen.
    """
    choice = getattr(choices, name)
    if choice == "drop":
        raise LeftOut(reason)
    if choice == "error":
        raise FormatError(f"{row}: say what becomes of such rows, {name}=drop or keep")


def read_signs(signs: Sequence[Any]) -> tuple[float, ...]:
    """Labels that are written `+` and `-`.

    Raises:
        FormatError: one is written otherwise.
    """
    plain = [sign.strip() if isinstance(sign, str) else sign for sign in signs]
    if other := [sign for sign in plain if sign not in ("+", "-")]:
        raise FormatError(f"a label must be + or -, not {shown(other[0])}")
    return tuple(float(sign == "+") for sign in plain)


def write_signs(labels: Sequence[float | None]) -> list[str]:
    """The reverse of `read_signs`, for hard labels."""
    return ["+" if label == 1 else "-" for label in labels]


def harden(labels: Sequence[float | None], threshold: float | None) -> tuple[float | None, ...]:
    """Labels as 1.0, 0.0 or None; a soft one is positive from `threshold` on.

    Raises:
        FormatError: a label is soft, and there is no threshold.
    """
    hard: list[float | None] = []
    for i, label in enumerate(labels):
        if label is None or label in (0, 1):
            hard.append(None if label is None else float(label))
        elif threshold is None:
            raise FormatError(f"the label of step {i} is {label!r}, and the format holds hard labels: give a threshold")
        else:
            hard.append(float(label >= threshold))
    return tuple(hard)


def locate_error(labels: Sequence[float | None]) -> int | None:
    """The first wrong step (0-based) by hard labels, or None where every step is right.

    Raises:
        FormatError: a step before the first error, or of a solution without one, has no label.
    """
    for i, label in enumerate(labels):
        if label is None:
            raise FormatError(f"step {i} has no label and no step before it is wrong: the first error is not known")
        if label < 1:
            return i
    return None


def spread_error(first: int | None, length: int, choices: Choices) -> tuple[float | None, ...]:
    """Labels of `length` steps of which `first` is the first wrong one: positive before it, then negative, and after it
    what `choices.after_error` says. Step 1 of 4 gives 1, 0, None, None.

    Raises:
        FormatError: there is no such step.
    """
    if first is None:
        return (1.0,) * length
    if not 0 <= first < length:
        raise FormatError(f"step {first} (from 0) is marked as wrong, but there are {length} steps")
    after = 0.0 if choices.after_error == "negative" else None
    return (1.0,) * first + (0.0,) + (after,) * (length - first - 1)


def take_text(row: dict[str, Any], name: str) -> str:
    """The text of a field; raises FormatError where it is missing or no text."""
    value = _take(row, name)
    if not isinstance(value, str):
        raise FormatError(f"field {name!r} must be text, not {shown(value)}")
    return value


def take_texts(row: dict[str, Any], name: str) -> tuple[str, ...]:
    """The texts of a field; raises FormatError where it is missing or no list of texts."""
    value = _take(row, name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise FormatError(f"field {name!r} must be a list of texts, not {shown(value)}")
    return tuple(value)


def _take(row: dict[str, Any], name: str) -> Any:
    if name not in row:
        raise FormatError(f"field {name!r} is missing, there are {shown(sorted(row))}")
    return row[name]


def take_optional(row: dict[str, Any], name: str, kind: type) -> Any:
    """The value of a field that may be missing or null; raises FormatError where it is of another type."""
    value = row.get(name)
    if value is not None and type(value) is not kind:
        raise FormatError(f"field {name!r} must be {kind.__name__} or null, not {shown(value)}")
    return value


def same(a: Any, b: Any) -> bool:
    """Whether two JSON values are the same, for which 1, 1.0 and true are three different ones."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
