"""Supervised fine-tuning of a policy on (prompt, completion) texts; the loss is on the completion only."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rollouts.steps import Chat, encode_after, encode_prompt, end_token
from training.examples import Batch, Example

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True)
class Text:
    """What a policy reads and what it should write then; the characters `unlearnt` (start, stop) of that are read too,
    but have no part in the loss."""

    prompt: str | Chat
    completion: str
    unlearnt: tuple[int, int] = (0, 0)


def encode_completion(tokenizer: PreTrainedTokenizerFast, text: Text) -> Example:
    """Token ids of prompt, completion and end token; the target of position t is the id at t + 1.

    Raises:
        ValueError: the prompt has no token, so that nothing could predict the completion's first one.
    """
    prompt = encode_prompt(tokenizer, text.prompt)
    if not prompt:
        raise ValueError(f"the prompt before {text.completion!r} has no token: {text.prompt!r}")
    written, spans = encode_after(tokenizer, text.completion)
    ids = [*prompt, *written, end_token(tokenizer, text.prompt)]
    start, stop = text.unlearnt
    # a token that reaches into what is not learnt is not learnt either
    learnt = [n for n, (first, last) in enumerate(spans) if last <= start or first >= stop]
    places = [len(prompt) + n for n in [*learnt, len(written)]]
    return Example(ids, [place - 1 for place in places], [ids[place] for place in places], len(prompt))


def encode_completions(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[Text], max_length: int
) -> tuple[list[Example], int]:
    """Encode all texts; those longer than `max_length` tokens are left out, and their number is returned too."""
    encoded = [encode_completion(tokenizer, text) for text in texts]
    kept = [example for example in encoded if len(example.ids) <= max_length]
    return kept, len(encoded) - len(kept)


def target_logits(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """The logits (targets, vocabulary) at the positions that have a target.

    Of a batch of one row, such as a pack, no others are computed: most of the work and memory of a large vocabulary
    would go to the prompts.
    """
    if len(batch.ids) == 1 and keeps_logits(model):
        return model(**batch.inputs(), logits_to_keep=batch.positions).logits[0]
    return model(**batch.inputs()).logits[batch.rows, batch.positions]


def keeps_logits(model: PreTrainedModel) -> bool:
    """Whether a model, wrapped or not, can be asked for the logits of some positions only."""
    inner = getattr(model, "module", model)  # of one wrapped for several processes
    if hasattr(inner, "get_base_model"):  # of one with adapters
        inner = inner.get_base_model()
    return "logits_to_keep" in inspect.signature(getattr(type(inner), "forward", inner)).parameters


def completion_loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Sum over all targets of the negative log-likelihood of the target token, in float32."""
    import torch

    logits = target_logits(model, batch).float()
    return torch.nn.functional.cross_entropy(logits, batch.targets.long(), reduction="sum")
