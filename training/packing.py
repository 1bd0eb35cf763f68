"""Packs: rows of several whole examples instead of padding, in an order that depends on (seed, epoch).

Lengths [5, 3, 2, 4] in packs of at most 7 tokens are [[0, 2], [3, 1]]. Positions start at 0 with every example, and
none sees another.
"""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections.abc import Sequence

from training.attention.packed import Branch, find_packing
from training.examples import Batch, Example, place_targets

_PACKED_TOGETHER = 8192  # examples that are fitted at a time: enough for full packs, and the order stays random


def plan_packs(
    lengths: Sequence[int], pack_tokens: int, seed: int, epoch: int, families: Sequence[int] | None = None
) -> list[list[int]]:
    """Indices of every example, once, in packs of at most `pack_tokens` tokens (or one longer example).

    Best-fit decreasing: the longest example left goes where it leaves least room; n log n time. Examples of one family
    (`families` has a number for each example) stay together; a family of more than a pack is cut.

    Raises:
        ValueError: a length or `pack_tokens` is under 1.
    """
    if pack_tokens < 1 or min(lengths, default=1) < 1:
        raise ValueError(f"packs of {pack_tokens} tokens for lengths from {min(lengths, default=1)}: both at least 1")
    rng = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    parts = _cut_families(order, lengths, pack_tokens, range(len(lengths)) if families is None else families)
    sizes = [sum(lengths[i] for i in part) for part in parts]
    packs: list[list[int]] = []
    for start in range(0, len(parts), _PACKED_TOGETHER):
        found = _best_fit(range(len(parts))[start : start + _PACKED_TOGETHER], sizes, pack_tokens)
        packs += [[i for at in pack for i in parts[at]] for pack in found]
    rng.shuffle(packs)
    return packs


def _cut_families(
    order: Sequence[int], lengths: Sequence[int], pack_tokens: int, families: Sequence[int]
) -> list[list[int]]:
    """The examples of each family, cut into parts of at most a pack."""
    parts: list[list[int]] = []
    newest: dict[int, tuple[list[int], int]] = {}  # of each family: the part that is being filled, its tokens
    for i in order:
        part, size = newest.get(families[i], ([], 0))
        if not part or size + lengths[i] > pack_tokens:
            part, size = [], 0
            parts.append(part)
        part.append(i)
        newest[families[i]] = (part, size + lengths[i])
    return parts


def _best_fit(chosen: Sequence[int], lengths: Sequence[int], pack_tokens: int) -> list[list[int]]:
    packs: list[list[int]] = []
    open_: list[tuple[int, int]] = []  # (room, pack), sorted
    for i in sorted(chosen, key=lambda i: -lengths[i]):
        at = bisect_left(open_, (lengths[i], -1))
        if at == len(open_):
            packs.append([])
            room, pack = pack_tokens, len(packs) - 1
        else:
            room, pack = open_.pop(at)
        packs[pack].append(i)
        if room > lengths[i]:
            insort(open_, (room - lengths[i], pack))
    return packs


def pack_batch(packs: Sequence[Sequence[Example]], pad_id: int) -> Batch:
    """Each pack as one row; rows are padded on the right to the longest pack.

    Raises:
        ValueError: there is no pack, or one without a token.
    """
    import torch

    sizes = [sum(len(example.ids) for example in pack) for pack in packs]
    if not sizes or not all(sizes):
        raise ValueError(f"{len(sizes)} packs, of {sizes} tokens: there is nothing to read")
    width = max(sizes)
    ids = torch.full((len(packs), width), pad_id)
    # padding has position 0 everywhere: each such token is a sequence of its own
    positions = torch.zeros(len(packs), width, dtype=torch.long)
    examples, rows, paths, branches = [], [], [], []
    for row, pack in enumerate(packs):
        column = 0
        for example in pack:
            end = column + len(example.ids)
            ids[row, column:end] = torch.tensor(example.ids)
            positions[row, column:end] = torch.arange(len(example.ids))
            places = range(row * width + column, row * width + end)
            branches.append(Branch(places, range(len(places)), places))
            examples.append(example)
            rows.append(row)
            paths.append(range(column, end))
            column = end
    starts = torch.cat([(positions.flatten() == 0).nonzero()[:, 0], torch.tensor([ids.numel()])]).int()
    # of examples of one length the last comes first: which random numbers of a dropout each gets hangs on the order
    packing = find_packing(branches[::-1], ids.numel(), starts)
    return Batch(ids, None, *place_targets(examples, rows, paths), positions, packing)
