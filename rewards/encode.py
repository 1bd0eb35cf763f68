"""Labels of steps into token positions: where a reward model is trained.

ORM and SORM differ only in which steps carry which labels; from here on they are the same.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rollouts.prompts import PLAIN, Template, render_prompt
from rollouts.steps import encode_steps
from training.examples import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LabelledSolution:
    """A solution and, for each of its steps, a label in [0, 1] or None where there is none."""

    problem_id: str
    steps: tuple[str, ...]
    labels: tuple[float | None, ...]


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
    return Example(encoded.ids, positions, targets, min(encoded.prompt_length, len(encoded.ids)))


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
        lost += sum(label is not None for label in solution.labels) - len(example.positions)
        if example.positions:
            examples.append(example)
            owners.append(solution.problem_id)
    return examples, owners, lost


def warn_of_lost(lost: int, left: int, max_length: int) -> None:
    """Say in the log how many labels were lost to `max_length`, if any were; `left` are those that were not."""
    if lost:
        share = 100 * lost / (lost + left)
        logger.warning("%d labels (%.1f%%) are lost: they stand beyond max_length=%d tokens", lost, share, max_length)
