"""Scoring: one forward pass gives the probability after every step of a solution; the first one that is low is the
first error (GLoRe sec. 3.3)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rewards.model import step_logits
from rollouts.policies import context_length
from rollouts.prompts import render_prompt
from rollouts.steps import encode_steps, split_steps
from training.batches import Example, pad_batch
from training.models import load_reward_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from rollouts.types import Problem


class Scorer:
    """A reward model that reads solutions. `kind` is orm or sorm; `threshold` is the one chosen when it was trained."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        kind: str,
        threshold: float,
        batch_tokens: int = 16384,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.kind, self.threshold, self.batch_tokens = kind, threshold, batch_tokens
        self.tokens = 0  # read so far

    def score(self, problems: Sequence[Problem], solutions: Sequence[str | Sequence[str]]) -> list[list[float]]:
        """One probability a step for each solution (a text, or its steps); `problems[i]` is what solution i answers.

        A solution without steps gets an empty list.

        Raises:
            ValueError: the two lists differ in length, a solution does not fit the model's context, or a score is
                not a number.
        """
        if len(problems) != len(solutions):
            raise ValueError(f"{len(problems)} problems but {len(solutions)} solutions")
        examples = [self._encode(problem, solution) for problem, solution in zip(problems, solutions, strict=True)]
        scores: list[list[float]] = [[] for _ in examples]
        for batch in self._batches(examples):
            found = iter(self._forward([examples[i] for i in batch]))
            for i in batch:
                scores[i] = list(itertools.islice(found, len(examples[i].positions)))
                if any(map(math.isnan, scores[i])):
                    raise ValueError(f"the {self.kind} scores a solution of {problems[i].id} {scores[i]}")
        return scores

    def _encode(self, problem: Problem, solution: str | Sequence[str]) -> Example:
        steps = split_steps(solution) if isinstance(solution, str) else list(solution)
        encoded = encode_steps(self.tokenizer, render_prompt(problem.question), steps)
        limit = context_length(self.model)
        if limit is not None and len(encoded.ids) > limit:
            raise ValueError(f"a solution of {problem.id} has {len(encoded.ids)} tokens, the model reads {limit}")
        return Example(encoded.ids, encoded.ends, [0.0] * len(encoded.ends))

    def _batches(self, examples: list[Example]) -> list[list[int]]:
        order = sorted((i for i, e in enumerate(examples) if e.positions), key=lambda i: len(examples[i].ids))
        batches: list[list[int]] = []
        for i in order:
            if not batches or len(examples[i].ids) * (len(batches[-1]) + 1) > self.batch_tokens:
                batches.append([])
            batches[-1].append(i)
        return batches

    def _forward(self, examples: list[Example]) -> list[float]:
        import torch

        with torch.inference_mode():
            batch = pad_batch(examples, self.tokenizer.pad_token_id).to(self.model.device)
            self.tokens += int(batch.mask.sum())
            return torch.sigmoid(step_logits(self.model, batch)).tolist()


def load_scorer(path: str | Path, dtype: str = "auto", device: str = "auto", batch_tokens: int = 16384) -> Scorer:
    """Open a trained reward model.

    Raises:
        ValueError: the folder is not a reward model's, or lacks a weight.
    """
    model, tokenizer, facts = load_reward_model(str(path), dtype, device)
    return Scorer(model, tokenizer, facts["kind"], facts["threshold"], batch_tokens)


def first_error(scores: Sequence[float], threshold: float) -> int | None:
    """The 0-based index of the first step whose score is below `threshold`, or None.

    Raises:
        ValueError: a score or the threshold is not a number: neither is below the other.
    """
    if math.isnan(threshold):
        raise ValueError("the threshold is not a number")
    for i, score in enumerate(scores):
        if math.isnan(score):
            raise ValueError(f"the score of step {i} is not a number")
        if score < threshold:
            return i
    return None
