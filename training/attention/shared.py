"""Attention where examples of a row go on from tokens that they share: each example has a query for every token of its
own, and the keys of all that it consists of.

Examples with about as many queries and keys are put side by side as a small padded batch, as plain packs are
(`training/attention/install.py`). Variable-length flash attention takes all at once, with copies of what is shared.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

from training.attention.attend import Attend, alike, regroup

if TYPE_CHECKING:
    import torch

# pairs of a query and a key that cost as much as one call of attention more (measured on a CPU, 4 heads of 32)
_CALL = 4000


@dataclass(frozen=True, slots=True)
class Reader:
    """One example in its row: the tokens that ask, the depth of each (how many stand before it), and all its tokens."""

    queries: Sequence[int]
    depths: Sequence[int]
    keys: Sequence[int]

    @property
    def whole(self) -> bool:
        return len(self.queries) == len(self.keys)


@dataclass(frozen=True, slots=True)
class Branches:
    """Where the queries and keys of a row of `tokens` are.

    `groups` are (examples, queries, keys) of like size; those of the first `whole` groups have no tokens but their
    own. `gather` is the token in each place of a query, `holes` the places without one, `scatter` (tokens,) the place
    of each token's query and `idle` the tokens without. `depths` (places,) is how many tokens stand before a query.
    `keys` is the token in each place of a key; `order` are those places token by token: a token's begin at `begins`
    (tokens,). `read` are the tokens of all examples one by one, which start at `bounds`, with `longest` at most, and
    `copies` (all tokens read,) where they are, token by token.
    """

    groups: tuple[tuple[int, int, int], ...]
    whole: int
    gather: torch.Tensor
    holes: torch.Tensor
    scatter: torch.Tensor
    idle: torch.Tensor
    depths: torch.Tensor
    keys: torch.Tensor
    order: torch.Tensor
    begins: torch.Tensor
    read: torch.Tensor
    copies: torch.Tensor
    bounds: torch.Tensor
    longest: int

    def to(self, device: torch.device) -> Branches:
        import torch

        values = (getattr(self, field.name) for field in fields(self))
        return Branches(*(value.to(device) if isinstance(value, torch.Tensor) else value for value in values))

    def attend(self, attend: Attend, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Causal attention of all examples: (tokens, heads, size) -> the same; none for tokens without a query."""
        import torch

        if attend.fused(query):
            # it wants examples whole; what a token gets is the same in all that share it
            copied = (_collect().apply(states, self.read, self.copies, self.begins) for states in (query, key, value))
            return attend.variable_length(*copied, self.bounds, self.longest).index_select(0, self.copies[self.begins])
        there, back = (self.gather, self.holes), (self.scatter, self.idle)
        queries = regroup(query, *there, *back).split([n * size for n, size, _ in self.groups])
        depths = self.depths.split([n * size for n, size, _ in self.groups])
        both = (_collect().apply(states, self.keys, self.order, self.begins) for states in (key, value))
        keys, values = (states.split([n * size for n, _, size in self.groups]) for states in both)
        found = []
        for number, (n, asked, size) in enumerate(self.groups):
            own = (states[number].unflatten(0, (n, -1)).transpose(1, 2) for states in (queries, keys, values))
            mask = None if number < self.whole else _mask(depths[number].view(n, 1, asked, 1), size, attend.window)
            found.append(attend(*own, mask).transpose(1, 2).flatten(0, 1))
        return regroup(found[0] if len(found) == 1 else torch.cat(found), *back, *there)


def _mask(depths: torch.Tensor, keys: int, window: int | None) -> torch.Tensor:
    """(examples, 1, queries, keys): which keys a query sees, given how many stand before it."""
    import torch

    places = torch.arange(keys, device=depths.device)
    seen = places <= depths
    return seen if window is None or window >= keys else seen & (places > depths - window)


def find_branches(readers: Sequence[Reader], tokens: int) -> Branches:
    """Where readers of a row of `tokens` tokens have their queries and keys; no token asks in two of them."""
    import torch

    number, groups = _group(readers)
    sizes = [(len(g), max(len(r.queries) for r in g), max(len(r.keys) for r in g)) for g in groups]
    ordered = [reader for group in groups for reader in group]
    asked = _numbers(reader.queries for reader in ordered)
    there = _places([len(r.queries) for r in ordered], [most for n, most, _ in sizes for _ in range(n)])
    gather = torch.zeros(sum(n * most for n, most, _ in sizes), dtype=torch.long)
    depths, empty = torch.zeros_like(gather), torch.ones_like(gather, dtype=torch.bool)
    gather[there], empty[there] = asked, False
    depths[there] = _numbers(reader.depths for reader in ordered)
    scatter = torch.full((tokens,), -1)
    scatter[asked] = there
    read = _numbers(reader.keys for reader in ordered)
    longest = [size for n, _, size in sizes for _ in range(n)]
    those = _places([len(r.keys) for r in ordered], longest)
    # a key in a hole is one that no query sees, and of the same example
    keys = torch.tensor([reader.keys[-1] for reader in ordered]).repeat_interleave(torch.tensor(longest))
    keys[those] = read
    of, order = read.sort(stable=True)
    return Branches(
        groups=tuple(sizes),
        whole=number,
        gather=gather,
        holes=empty.nonzero()[:, 0],
        scatter=scatter.clamp(min=0),
        idle=(scatter < 0).nonzero()[:, 0],
        depths=depths,
        keys=keys,
        order=those[order],
        begins=torch.searchsorted(of, torch.arange(tokens)),
        read=read,
        copies=order,
        bounds=torch.tensor([0, *accumulate(len(reader.keys) for reader in ordered)], dtype=torch.int32),
        longest=max(longest),
    )


def _group(readers: Sequence[Reader]) -> tuple[int, list[list[Reader]]]:
    """Readers in groups of like size, and how many groups have only such as are whole: those come first."""
    whole = sorted((reader for reader in readers if reader.whole), key=lambda reader: -len(reader.keys))
    groups, at = [], 0
    for count, _ in alike([len(reader.keys) for reader in whole]):
        groups.append(whole[at : at + count])
        at += count
    parts = sorted((reader for reader in readers if not reader.whole), key=lambda reader: -len(reader.queries))
    return len(groups), groups + _cut(parts)


def _numbers(parts: Iterable[Sequence[int]]) -> torch.Tensor:
    import torch

    # many times as fast as a tensor of a list
    return torch.frombuffer(array("q", chain.from_iterable(parts)), dtype=torch.long)


def _places(lengths: Sequence[int], sizes: Sequence[int]) -> torch.Tensor:
    """Where so many things of each are, if each has room for `sizes`."""
    import torch

    own, room = torch.tensor(lengths), torch.tensor(sizes)
    skipped = (room.cumsum(0) - room) - (own.cumsum(0) - own)
    return skipped.repeat_interleave(own) + torch.arange(sum(lengths))


def _cut(parts: Sequence[Reader]) -> list[list[Reader]]:
    """Readers, the one with most queries first, into groups: as many as cost less than what is padded without."""
    groups: list[list[Reader]] = []
    keys = 0
    for reader in parts:
        if groups:
            most, longest = len(groups[-1][0].queries), max(keys, len(reader.keys))
            more = most * (longest * (len(groups[-1]) + 1) - keys * len(groups[-1]))
            if more - len(reader.queries) * len(reader.keys) <= _CALL:
                groups[-1].append(reader)
                keys = longest
                continue
        groups.append([reader])
        keys = len(reader.keys)
    return groups


@cache
def _collect() -> type[torch.autograd.Function]:
    import torch

    class Collect(torch.autograd.Function):
        """Rows put into all their places. A row's gradient is the sum over them, in the same order from run to run."""

        @staticmethod
        def forward(ctx: Any, states: torch.Tensor, *where: torch.Tensor) -> torch.Tensor:
            chosen, order, begins = where
            ctx.save_for_backward(order, begins)
            return states.index_select(0, chosen)

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> tuple:
            order, begins = ctx.saved_tensors
            rows = gradient.flatten(1)
            summed = torch.nn.functional.embedding_bag(order, rows, begins, mode="sum")
            return summed.view(-1, *gradient.shape[1:]), None, None, None

    return Collect
