"""Supervised fine-tuning of a policy on (prompt, completion) texts; the loss is on the completion only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rollouts.steps import encode_prompt, encode_text
from training.batches import Batch, Example

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True)
class Text:
    """What a policy reads and what it should write then."""

    prompt: str
    completion: str


def encode_completion(tokenizer: PreTrainedTokenizerFast, text: Text) -> Example:
    """Token ids of prompt, completion and end token; the target of position t is the id at t + 1.

    Raises:
        ValueError: the prompt has no token, so that nothing could predict the completion's first one.
    """
    prompt = encode_prompt(tokenizer, text.prompt)
    if not prompt:
        raise ValueError(f"the prompt before {text.completion!r} has no token: {text.prompt!r}")
    ids = prompt + encode_text(tokenizer, text.completion) + [tokenizer.eos_token_id]
    positions = list(range(len(prompt) - 1, len(ids) - 1))
    return Example(ids, positions, ids[len(prompt) :])


def encode_completions(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[Text], max_length: int
) -> tuple[list[Example], int]:
    """Encode all texts; those longer than `max_length` tokens are left out, and their number is returned too."""
    encoded = [encode_completion(tokenizer, text) for text in texts]
    kept = [example for example in encoded if len(example.ids) <= max_length]
    return kept, len(encoded) - len(kept)


def completion_loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Sum over all targets of the negative log-likelihood of the target token, in float32."""
    import torch

    logits = model(**batch.inputs()).logits
    chosen = logits[batch.rows, batch.positions].float()
    return torch.nn.functional.cross_entropy(chosen, batch.targets.long(), reduction="sum")
