"""Examples into padded batches of about equal numbers of tokens, in an order that depends on (seed, epoch) alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_SORTED_TOGETHER = 4096  # examples that are sorted by length at a time: little padding, and batches still mixed


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids, and a target for some of them: `targets[i]` belongs to position `positions[i]`.

    For a policy the target of position t is the id of token t + 1; for a reward model it is the label, in [0, 1],
    of the step that ends at position t.
    """

    ids: list[int]
    positions: list[int]
    targets: list[float]


def plan_batches(lengths: Sequence[int], tokens: int, seed: int, epoch: int) -> list[list[int]]:
    """Indices of every example, once, in batches of at most `tokens` padded tokens (or one longer example)."""
    rng = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), _SORTED_TOGETHER):
        chunk = sorted(order[start : start + _SORTED_TOGETHER], key=lambda i: lengths[i])
        batch: list[int] = []
        for i in chunk:  # lengths rise, so the newest is the longest
            if batch and lengths[i] * (len(batch) + 1) > tokens:
                batches.append(batch)
                batch = []
            batch.append(i)
        batches.append(batch)
    rng.shuffle(batches)
    return batches


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of one padded batch: `ids`, `mask` (batch, length); `rows`, `positions`, `targets` (targets,)."""

    ids: torch.Tensor
    mask: torch.Tensor
    rows: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(*(getattr(self, name).to(device) for name in Batch.__slots__))


def pad_batch(examples: Sequence[Example], pad_id: int) -> Batch:
    """Pad on the right: a causal model's outputs at an example's own tokens do not depend on it."""
    import torch

    longest = max(len(example.ids) for example in examples)
    ids = torch.full((len(examples), longest), pad_id)
    mask = torch.zeros(len(examples), longest, dtype=torch.long)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        mask[row, : len(example.ids)] = 1
    rows = torch.repeat_interleave(torch.arange(len(examples)), torch.tensor([len(e.positions) for e in examples]))
    positions = torch.tensor([position for e in examples for position in e.positions], dtype=torch.long)
    targets = torch.tensor([target for e in examples for target in e.targets], dtype=torch.float64)
    return Batch(ids, mask, rows, positions, targets)
