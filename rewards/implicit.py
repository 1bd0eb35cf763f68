"""Implicit process rewards: a reward model without a head, from outcomes alone (Yuan et al., arXiv 2412.01981).

The reward of a solution is r(y) = beta sum_t log(pi(y_t) / pi_ref(y_t)), where pi is a causal LM and pi_ref the one
that it was trained from; sigmoid(r) is the probability of a right answer. q, the sum up to the end of a step, is what
there is to hope for after it (sec. 3, proposition 3.1), and the reward of a step is by how much it moves q.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewards.metrics import Threshold
from rewards.reward_model import FACTS, SEPARATOR, check_facts, fingerprint, read_facts
from rewards.scorer import Scorer
from rollouts.prompts import Template, read_template
from rollouts.records import Problem
from rollouts.sampling.policies import load_policy, load_tokenizer
from training.attention.install import packed_attention
from training.completions import target_logits
from training.examples import Batch, Example
from training.models import save_model

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

KIND = "implicit"
_SPAN = 2**24  # more than any vocabulary has tokens


def token_log_probs(model: PreTrainedModel, batch: Batch, tokens: torch.Tensor) -> torch.Tensor:
    """log pi of each of the `tokens` (targets,) that follow the positions of `batch`, in float32."""
    import torch

    return -torch.nn.functional.cross_entropy(target_logits(model, batch).float(), tokens, reduction="none")


def token_example(example: Example, number: int = 0) -> Example:
    """A solution as a group of its own, with each of its tokens as a target of the position before it, and its `number`
    in every target: a batch does not say which of all solutions it has.

    Raises:
        ValueError: there is no prompt, so that nothing could predict the first token.
    """
    if not example.prompt:
        raise ValueError("an implicit reward needs a prompt before the solution, and the template has none")
    targets = [float(number * _SPAN + token) for token in example.ids[example.prompt :]]
    positions = list(range(example.prompt - 1, len(example.ids) - 1))
    return Example(example.ids, positions, targets, example.prompt, group=number)


def implicit_loss(
    labels: Sequence[float], references: Sequence[float], beta: float
) -> Callable[[PreTrainedModel, Batch], torch.Tensor]:
    """The loss of a batch of `token_example`s: the sum over its solutions of the binary cross-entropy of sigmoid(r)
    (arXiv 2412.01981, eq. 5). `labels` and `references`, log pi_ref of a whole solution, are by number.
    """
    import torch

    both = torch.tensor([labels, references], dtype=torch.float32)

    def loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        nonlocal both
        coded = batch.targets.long()
        right, before = both = both.to(coded.device)  # once: a step waits for such a copy
        numbers = coded[batch.members[:, 0]] // _SPAN
        log_probs = token_log_probs(model, batch, coded % _SPAN)
        sums = torch.where(batch.members >= 0, log_probs[batch.members], 0).sum(1)
        rewards = beta * (sums - before[numbers])
        return torch.nn.functional.binary_cross_entropy_with_logits(rewards, right[numbers], reduction="sum")

    return loss


def step_rewards(sums: Sequence[float]) -> list[float]:
    """The reward of each step, given q after each: by how much the step moves it."""
    return [after - before for before, after in zip([0.0, *sums], sums, strict=False)]


class Likelihood(Scorer):
    """A causal LM that reads solutions: its `logits` are log pi of a solution up to the end of each step."""

    def _forward(self, examples: list[Example]) -> tuple[list[float], list[int]]:
        batch, tokens = self._batch([token_example(example) for example in examples])
        return self._sums(self.model, batch, examples), tokens

    @staticmethod
    def _sums(model: PreTrainedModel, batch: Batch, examples: Sequence[Example]) -> list[float]:
        import torch

        with torch.inference_mode(), packed_attention(model):
            log_probs = iter(token_log_probs(model, batch, batch.targets.long()).tolist())
        found = []
        for example in examples:
            sums = list(accumulate(next(log_probs) for _ in example.ids[example.prompt :]))
            found += [sums[end - example.prompt] for end in example.positions]
        return found


class ImplicitScorer(Likelihood):
    """An implicit reward model with its reference: the score of a step is sigmoid(q). Every token is read twice, once
    by each."""

    def __init__(
        self,
        model: PreTrainedModel,
        reference: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        beta: float,
        threshold: Threshold = 0.5,
        **others: Any,
    ) -> None:
        super().__init__(model, tokenizer, KIND, threshold, **others)
        self.reference, self.beta = reference, beta

    def length(self, problem: Problem, steps: Sequence[str]) -> int:
        return 2 * super().length(problem, steps)

    def rewards(self, problem: Problem, solution: str | Sequence[str]) -> list[float]:
        """The reward of each step of a solution, a text or its steps.

        Raises:
            TooLong: it does not fit the model's context.
        """
        ((_, sums, _),) = self.logits([self.encode(problem, solution)], [f"a solution of {problem.id}"])
        return step_rewards(sums)

    def _forward(self, examples: list[Example]) -> tuple[list[float], list[int]]:
        batch, tokens = self._batch([token_example(example) for example in examples])
        own, before = (self._sums(model, batch, examples) for model in (self.model, self.reference))
        return [self.beta * (a - b) for a, b in zip(own, before, strict=True)], [2 * count for count in tokens]


def save_implicit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    beta: float,
    reference: str,
    thresholds: tuple[float, float],
    template: Template,
) -> None:
    """Save an implicit reward model as a Hugging Face causal LM. Its config names its `reference` by key, and the two
    `thresholds`, of where the first error is and of when a whole solution is right.

    Raises:
        ValueError: a weight is not finite, or the tokenizer does not come back from the folder as it was.
    """
    where, when = map(float, thresholds)
    made = {"kind": KIND, "beta": beta, "reference": reference, "threshold": where, "final_threshold": when}
    made |= {"template": template.facts(), "separator": SEPARATOR, "tokenizer": fingerprint(tokenizer, template)}
    setattr(model.config, FACTS, made)
    save_model(model, tokenizer, folder)
    check_facts(made, load_tokenizer(str(folder)), str(folder), template)


def load_implicit(
    path: str,
    reference: str,
    key: str,
    dtype: str = "auto",
    device: str = "auto",
    batch_tokens: int = 16384,
) -> ImplicitScorer:
    """Open an implicit reward model and the policy `reference` of this key that it was trained from.

    Raises:
        ValueError: the folder is not one of `save_implicit`, or it was trained from another policy.
    """
    facts = read_facts(path)
    if facts["kind"] != KIND:
        raise ValueError(f"implicit={path} is a reward model of kind {facts['kind']}")
    if facts["reference"] != key:
        raise ValueError(f"implicit={path} was trained from {facts['reference']}, and reference={reference} is {key}")
    model, tokenizer = load_policy(path, dtype, device)
    check_facts(facts, tokenizer, path)
    before, _ = load_policy(reference, dtype, device)
    return ImplicitScorer(
        model, before, tokenizer, facts["beta"], facts["threshold"], batch_tokens=batch_tokens,
        template=read_template(facts["template"]), final_threshold=facts["final_threshold"],
    )  # fmt: skip
