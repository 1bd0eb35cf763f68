"""Labels of steps into token positions: where a reward model is trained.

ORM and SORM differ only in which steps carry which labels; from here on they are the same.
"""

from __future__ import annotations

import logging
import random
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from rollouts.prompts import PLAIN, Template, render_prompt
from rollouts.steps import Encoded, encode_after, encode_steps, join_steps
from training.examples import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)


class Mark(NamedTuple):
    """A label within a step: at the token that covers the last of the step's first `stop` characters."""

    step: int
    stop: int
    label: float


@dataclass(frozen=True, slots=True)
class LabelledSolution:
    """A solution and, for each of its steps, a label in [0, 1] or None where there is none; `marks` are others, within
    steps."""

    problem_id: str
    steps: tuple[str, ...]
    labels: tuple[float | None, ...]
    marks: tuple[Mark, ...] = ()


def encode_labels(
    tokenizer: PreTrainedTokenizerFast,
    question: str,
    solution: LabelledSolution,
    max_length: int,
    template: Template = PLAIN,
) -> Example:
    """Token ids of question and solution; each label stands at the last token of its step.

    A step that ends beyond `max_length` has no label; the caller counts those.

    Raises:
        ValueError: labels and steps differ in number, or a label is outside [0, 1].
    """
    if len(solution.labels) != len(solution.steps):
        raise ValueError(f"{len(solution.labels)} labels for {len(solution.steps)} steps of {solution.problem_id}")
    for label in solution.labels:
        if label is not None and not 0 <= label <= 1:
            raise ValueError(f"a label of {solution.problem_id} is {label!r}, outside [0, 1]")
    encoded = encode_steps(tokenizer, render_prompt(question, template), solution.steps, max_length)
    positions, targets = [], []
    for end, label in zip(encoded.ends, solution.labels, strict=False):  # ends may be fewer: cut at max_length
        if label is not None:
            positions.append(end)
            targets.append(float(label))
    if solution.marks:
        marked = zip(mark_positions(tokenizer, encoded, solution), solution.marks, strict=True)
        both = {at: mark.label for at, mark in marked if at < len(encoded.ids)} | dict(
            zip(positions, targets, strict=True)
        )
        positions, targets = map(list, zip(*sorted(both.items()), strict=True)) if both else ([], [])
    return Example(encoded.ids, positions, targets, min(encoded.prompt_length, len(encoded.ids)))


def mark_positions(tokenizer: PreTrainedTokenizerFast, encoded: Encoded, solution: LabelledSolution) -> list[int]:
    """The token of each of a solution's marks."""
    starts = [0, *accumulate(len(step) + 1 for step in solution.steps)]
    stops = [stop for _, stop in encode_after(tokenizer, join_steps(solution.steps))[1]]
    return [encoded.prompt_length + bisect_left(stops, starts[mark.step] + mark.stop) for mark in solution.marks]


def encode_solutions(
    tokenizer: PreTrainedTokenizerFast,
    questions: Mapping[str, str],
    solutions: Sequence[LabelledSolution],
    max_length: int,
    template: Template = PLAIN,
) -> tuple[list[Example], list[str], int]:
    """Encode all solutions; `questions` is by problem id. Returns the examples, the problem of each, and the number of
    labels that are lost since they stand beyond `max_length`; examples that lost all of theirs are left out."""
    examples, owners, lost = [], [], 0
    for solution in solutions:
        example = encode_labels(tokenizer, questions[solution.problem_id], solution, max_length, template)
        wanted = sum(label is not None for label in solution.labels) + len(solution.marks)
        lost += wanted - len(example.positions)
        if example.positions:
            examples.append(example)
            owners.append(solution.problem_id)
    return examples, owners, lost


def pair_solutions(
    examples: Sequence[Example], owners: Sequence[str], tokens: int, seed: int
) -> tuple[list[Example], list[str]]:
    """Solutions, each with the label (0 or 1) of its last step alone, in groups of right and wrong ones of one problem
    (`Example.group`); `owners` are their problems. Returns what is left, in order: those of problems with both.

    A problem is one group where that has at most `tokens` tokens, else as few as that takes, each with at least one
    right and one wrong solution, drawn at random.
    """
    rng = random.Random(f"pairs/{seed}")
    problems: dict[str, tuple[list[int], list[int]]] = {}
    for i, (example, owner) in enumerate(zip(examples, owners, strict=True)):
        problems.setdefault(owner, ([], []))[example.targets[-1] > 0.5].append(i)
    group_of: dict[int, int] = {}
    for sides in problems.values():
        for side in sides:
            rng.shuffle(side)
        for count in range(1, min(map(len, sides)) + 1):
            parts = [[i for side in sides for i in side[n::count]] for n in range(count)]
            if max(sum(len(examples[i].ids) for i in part) for part in parts) <= tokens:
                break
        if all(sides):
            first = len(group_of)  # a number that no group has: each has more examples than one
            group_of |= {i: first + n for n, part in enumerate(parts) for i in part}
    kept = sorted(group_of)
    return [replace(examples[i], group=group_of[i]) for i in kept], [owners[i] for i in kept]


def warn_of_lost(lost: int, left: int, max_length: int) -> None:
    """Say in the log how many labels were lost to `max_length`, if any were; `left` are those that were not."""
    if lost:
        share = 100 * lost / (lost + left)
        logger.warning("%d labels (%.1f%%) are lost: they stand beyond max_length=%d tokens", lost, share, max_length)
