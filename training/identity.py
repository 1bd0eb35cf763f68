"""What a checkpoint belongs to: everything that the result of a run depends on, in a few hashes.

A run goes on only from a checkpoint with the same ones.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stages.stage import plain_args
from training.examples import Example

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from training.args import TrainArgs


def identity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[Example],
    args: TrainArgs,
    processes: int,
) -> dict[str, Any]:
    """Arguments that change results, and hashes of examples, tokenizer, and the model as training finds it."""
    found = {f"args.{name}": value for name, value in plain_args(args, {}).items()}
    shapes, values = hash_model(model)
    return found | {
        "examples": hash_examples(examples),
        "tokenizer": hash_tokenizer(tokenizer),
        "model": shapes,
        "first_weights": values,
        "processes": processes,
    }


def hash_examples(examples: Sequence[Example]) -> str:
    """SHA-256 of all examples in their order."""
    total = hashlib.sha256()
    for example in examples:
        total.update(array("q", map(len, (example.ids, example.positions, example.targets))))
        total.update(array("q", [example.prompt]))
        total.update(array("q", example.ids))
        total.update(array("q", example.positions))
        total.update(array("d", example.targets))
        if example.group is not None:
            total.update(array("q", [example.group]))
    return total.hexdigest()


def hash_tokenizer(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 of how texts become ids; not of how batches are padded and cut, which encoding here does not use."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    parts |= {"padding": None, "truncation": None, "pad_id": tokenizer.pad_token_id, "end_id": tokenizer.eos_token_id}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def hash_model(model: PreTrainedModel) -> tuple[str, str]:
    """SHA-256 of the names, shapes and types of all weights and which are trained, and of sums of their bits.

    The sums are taken where the weights are; they tell two models apart, but are no proof against forgery.
    """
    shapes, sums = [], []
    for name, weight in model.named_parameters():
        shapes.append([name, list(weight.shape), str(weight.dtype), weight.requires_grad])
        sums.append([name, _sum_bits(weight.detach())])
    return tuple(hashlib.sha256(json.dumps(part).encode()).hexdigest() for part in (shapes, sums))


def _sum_bits(weight: torch.Tensor) -> list[int]:
    import torch

    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = weight.contiguous().flatten().view(kinds[weight.element_size()])
    # the second sum tells an order from another
    return [int(bits.sum(dtype=torch.int64)), int(bits[::2].sum(dtype=torch.int64))]
