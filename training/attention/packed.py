"""Where the examples of packed rows are, and their attention; examples of a row may share their first tokens.

Say the row is `P P P a a b b b`: a prompt of 3 tokens, then what two answers add to it. The first example is whole: its
5 queries see 5 keys, places 0 to 4. The second is a branch: its 3 queries, places 5 to 7, see the keys 0 1 2 5 6 7.

Examples with about as many queries and keys make a group, which is computed as a small padded batch (here a group of
one example, 5 x 5, and one of 3 x 6). On a GPU variable-length flash attention takes all of them at once instead, with
copies of the shared tokens. Several rows are counted through: place 0 of the second row is the width of the first.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

from training.attention.attend import Attend, regroup

if TYPE_CHECKING:
    import torch

_ALIKE = 0.8  # examples of a group have at least this share of the tokens of its longest
# one more call of attention costs as much as this many pairs of query and key (measured on a CPU, 4 heads of 32)
_CALL = 4000


@dataclass(frozen=True, slots=True)
class Branch:
    """One example in its row: the places of its queries, the position of each in the example, and of all its keys.

    The second example above is `Branch(queries=[5, 6, 7], depths=[3, 4, 5], keys=[0, 1, 2, 5, 6, 7])`.
    """

    queries: Sequence[int]
    depths: Sequence[int]
    keys: Sequence[int]

    @property
    def whole(self) -> bool:
        """Whether it shares no token that another example computes."""
        return len(self.queries) == len(self.keys)


@dataclass(frozen=True, slots=True)
class Packing:
    """Index tensors from the tokens of a row to the padded groups of its examples, and back.

    `groups` has (examples, queries, keys) of each; the first `whole` groups hold whole examples only, which need no
    mask. A slot is a place in a padded group: there are sum(examples x queries) query slots and sum(examples x keys)
    key slots, group after group.

    - `gather` (query slots,): the token of each; `holes`: the slots that are padding; `depths` (query slots,): the
      position of each query in its example.
    - `scatter` (tokens,): the query slot of each token; `idle`: the tokens that have none.
    - `keys` (key slots,): the token of each. A shared token is in several: `order` lists the key slots sorted by token,
      and those of token t start at `begins[t]`, which is how their gradients are summed.
    - for variable-length attention: `read`, the tokens of all examples one after the other, which start at `bounds` and
      have at most `longest` tokens; `copies`, the places in `read` sorted by token. Where no token is shared, rows are
      read as they are: `starts` is where each example starts in them, and each token of padding.
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
    starts: torch.Tensor | None = None

    def attend(self, attend: Attend, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Causal attention of all examples: (tokens, heads, size) -> the same; none for tokens without a query."""
        import torch

        if attend.fused(query) and self.starts is not None:
            return attend.variable_length(query, key, value, self.starts, self.longest)
        if attend.fused(query):
            # it takes whole examples; the copies of a shared token give the same, so the first is taken
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


def find_packing(branches: Sequence[Branch], tokens: int, starts: torch.Tensor | None = None) -> Packing:
    """The index tensors for the examples of rows of `tokens` tokens in all; a token is a query in at most one of them.

    `starts` is given where no token is shared: see `Packing`.
    """
    import torch

    whole, groups = _group(branches)
    ordered = [branch for group in groups for branch in group]
    sizes = [(len(g), max(len(one.queries) for one in g), max(len(one.keys) for one in g)) for g in groups]
    widths = [(queries, keys) for count, queries, keys in sizes for _ in range(count)]  # of each example when padded
    query_slots = _slots([len(one.queries) for one in ordered], [queries for queries, _ in widths])
    key_slots = _slots([len(one.keys) for one in ordered], [keys for _, keys in widths])
    queries, read = _numbers(one.queries for one in ordered), _numbers(one.keys for one in ordered)
    gather = torch.zeros(sum(queries for queries, _ in widths), dtype=torch.long)
    depths, empty = torch.zeros_like(gather), torch.ones_like(gather, dtype=torch.bool)
    gather[query_slots], empty[query_slots] = queries, False
    depths[query_slots] = _numbers(one.depths for one in ordered)
    scatter = torch.full((tokens,), -1)
    scatter[queries] = query_slots
    # no query sees a padded key; it repeats the last key of its own example
    last = torch.tensor([one.keys[-1] for one in ordered])
    keys = last.repeat_interleave(torch.tensor([keys for _, keys in widths]))
    keys[key_slots] = read
    of, order = read.sort(stable=True)
    return Packing(
        groups=tuple(sizes),
        whole=whole,
        gather=gather,
        holes=empty.nonzero()[:, 0],
        scatter=scatter.clamp(min=0),
        idle=(scatter < 0).nonzero()[:, 0],
        depths=depths,
        keys=keys,
        order=key_slots[order],
        begins=torch.searchsorted(of, torch.arange(tokens)),
        read=read,
        copies=order,
        bounds=torch.tensor([0, *accumulate(len(one.keys) for one in ordered)], dtype=torch.int32),
        longest=max(keys for _, keys in widths),
        starts=starts,
    )


def _group(branches: Sequence[Branch]) -> tuple[int, list[list[Branch]]]:
    """Examples in groups of like size, those of whole ones first; and how many groups are of whole ones."""
    groups: list[list[Branch]] = []
    for branch in sorted((branch for branch in branches if branch.whole), key=lambda branch: -len(branch.keys)):
        if groups and len(branch.keys) >= _ALIKE * len(groups[-1][0].keys):
            groups[-1].append(branch)
        else:
            groups.append([branch])
    parts = sorted((branch for branch in branches if not branch.whole), key=lambda branch: -len(branch.queries))
    return len(groups), groups + _cut(parts)


def _numbers(parts: Iterable[Sequence[int]]) -> torch.Tensor:
    import torch

    # many times as fast as torch.tensor of a list
    return torch.frombuffer(array("q", chain.from_iterable(parts)), dtype=torch.long)


def _slots(lengths: Sequence[int], sizes: Sequence[int]) -> torch.Tensor:
    """The slots of rows of `lengths` in a layout that pads each to `sizes`: [2, 1] in [3, 3] are slots 0, 1 and 3."""
    import torch

    own, room = torch.tensor(lengths), torch.tensor(sizes)
    skipped = (room.cumsum(0) - room) - (own.cumsum(0) - own)
    return skipped.repeat_interleave(own) + torch.arange(sum(lengths))


def _cut(parts: Sequence[Branch]) -> list[list[Branch]]:
    """Branches, the one with most queries first, into groups: a new one where padding would cost more than a call."""
    groups: list[list[Branch]] = []
    keys = 0
    for branch in parts:
        if groups:
            most, longest = len(groups[-1][0].queries), max(keys, len(branch.keys))
            more = most * (longest * (len(groups[-1]) + 1) - keys * len(groups[-1]))
            if more - len(branch.queries) * len(branch.keys) <= _CALL:
                groups[-1].append(branch)
                keys = longest
                continue
        groups.append([branch])
        keys = len(branch.keys)
    return groups


@cache
def _collect() -> type[torch.autograd.Function]:
    import torch

    class Collect(torch.autograd.Function):
        """`index_select` whose gradient sums the copies of a row in a fixed order, so that runs are repeatable."""

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
