"""Examples that begin with the same tokens, such as solutions of one problem: what they share is read once.

Losses and gradients are those of examples read one by one, since no token of a causal model sees what comes after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from training.batches import Batch, Example
from training.branches import Reader, find_branches
from training.packing import pack_batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LEAST = 8  # a shorter beginning is read again: it costs less than a lookup of its keys


@dataclass(frozen=True, slots=True)
class Row:
    """Examples as one row of tokens: `ids`, and for each token its `depths`, the number of those before it.

    Example i is the tokens `paths[i]` of the row; the first `shared[i]` of them are also another's.
    """

    ids: list[int]
    depths: list[int]
    paths: list[list[int]]
    shared: list[int]


def share(examples: Sequence[Example]) -> Row:
    """Read each beginning that several examples have in common once."""
    ids: list[int] = []
    depths: list[int] = []
    paths: list[list[int]] = [[]] * len(examples)
    shared = [0] * len(examples)
    before: list[int] = []
    for i, same in _overlaps(examples):
        own = examples[i].ids
        paths[i] = before = [*before[:same], *range(len(ids), len(ids) + len(own) - same)]
        ids += own[same:]
        depths += range(same, len(own))
        shared[i] = same
    return Row(ids, depths, paths, shared)


def count_read(examples: Sequence[Example]) -> int:
    """How many tokens `share` leaves."""
    return sum(len(examples[i].ids) - same for i, same in _overlaps(examples))


def _overlaps(examples: Sequence[Example]) -> Iterator[tuple[int, int]]:
    """Each example, and how many tokens it shares with the one before it: with no earlier one does it share more."""
    before: list[int] = []
    for i in sorted(range(len(examples)), key=lambda i: examples[i].ids):
        own, same = examples[i].ids, 0
        for one, other in zip(before, own, strict=False):
            if one != other:
                break
            same += 1
        yield i, same if same >= _LEAST or same == len(own) else 0
        before = own


def share_batch(examples: Sequence[Example], pad_id: int) -> Batch:
    """Examples as one row in which beginnings are shared; targets are in the order of the examples.

    Where nothing is shared it is a plain pack.

    Raises:
        ValueError: there is no token to read.
    """
    import torch

    row = share(examples)
    if not any(row.shared):
        return pack_batch([examples], pad_id)
    each = list(zip(examples, row.paths, row.shared, strict=True))
    readers = [Reader(path[same:], range(same, len(path)), path) for _, path, same in each if same < len(path)]
    places = [path[position] for example, path, _ in each for position in example.positions]
    targets = torch.tensor([target for example in examples for target in example.targets], dtype=torch.float64)
    return Batch(
        ids=torch.tensor([row.ids]),
        mask=None,
        rows=torch.zeros(len(places), dtype=torch.long),
        positions=torch.tensor(places, dtype=torch.long),
        targets=targets,
        position_ids=torch.tensor([row.depths]),
        packing=find_branches(readers, len(row.ids)),
    )
