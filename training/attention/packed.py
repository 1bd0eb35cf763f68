"""Where the examples of packed rows are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from training.attention.attend import alike

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Packing:
    """Where the examples of a batch of packs are, with the tokens of all rows counted through.

    `groups` are (examples, places for each) of like length. `gather` (places,) is the token in each place; `holes` are
    the places without one. `scatter` (tokens,) is the place of each token; `idle` are the tokens of no example.
    `bounds` (sequences + 1,) is where each example, or what is padded of a row, starts; none has more than `longest`.
    """

    groups: tuple[tuple[int, int], ...]
    gather: torch.Tensor
    holes: torch.Tensor
    scatter: torch.Tensor
    idle: torch.Tensor
    bounds: torch.Tensor
    longest: int

    def to(self, device: torch.device) -> Packing:
        tensors = (self.gather, self.holes, self.scatter, self.idle, self.bounds)
        return Packing(self.groups, *(tensor.to(device) for tensor in tensors), self.longest)


def find_packing(lengths: Sequence[Sequence[int]], width: int) -> Packing:
    """The packing of rows of `width` tokens that hold examples of these lengths from their left end on."""
    import torch

    spans = []  # (length, first token) of each example
    bounds, longest = [0], 0
    for row, own in enumerate(lengths):
        at = row * width
        for length in own:
            spans.append((length, at))
            at += length
            bounds.append(at)
        if at < (row + 1) * width:
            longest = max(longest, (row + 1) * width - at)
            bounds.append((row + 1) * width)
    spans.sort(reverse=True)
    groups = alike([length for length, _ in spans])
    sizes = torch.tensor([places for count, places in groups for _ in range(count)])
    own, first = torch.tensor(spans).unbind(1)
    start = sizes.cumsum(0) - sizes
    within = torch.arange(int(sizes.sum())) - start.repeat_interleave(sizes)
    filled = within < own.repeat_interleave(sizes)
    gather = torch.where(filled, first.repeat_interleave(sizes) + within, 0)
    scatter = torch.full((len(lengths) * width,), -1)
    scatter[gather[filled]] = filled.nonzero()[:, 0]
    return Packing(
        groups=groups,
        gather=gather,
        holes=(~filled).nonzero()[:, 0],
        scatter=scatter.clamp(min=0),
        idle=(scatter < 0).nonzero()[:, 0],
        bounds=torch.tensor(bounds, dtype=torch.int32),
        longest=max(longest, spans[0][0]),
    )
