"""Examples into rows without padding: best-fit packs of whole examples, in an order that depends on (seed, epoch).

Each pack is one row of a batch. Positions start anew with every example, and none sees another.
"""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections.abc import Sequence

from training.attention.packed import find_packing
from training.examples import Batch, Example, place_targets

_PACKED_TOGETHER = 8192  # examples that fill packs together: enough to fill them, and packs still mixed


def plan_packs(
    lengths: Sequence[int], pack_tokens: int, seed: int, epoch: int, families: Sequence[int] | None = None
) -> list[list[int]]:
    """Indices of every example, once, in packs of at most `pack_tokens` tokens (or one longer example).

    Best-fit decreasing: the longest that is left goes where it leaves least room. Takes n log n time. Examples of one
    of the `families` (a number for each example) stay together; those that fill more than a pack are cut.

    Raises:
        ValueError: a length or `pack_tokens` is under 1.
    """
    if pack_tokens < 1 or min(lengths, default=1) < 1:
        raise ValueError(f"packs of {pack_tokens} tokens for lengths from {min(lengths, default=1)}: both at least 1")
    rng = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    packs: list[list[int]] = []
    if families is None:
        for start in range(0, len(order), _PACKED_TOGETHER):
            packs += _best_fit(order[start : start + _PACKED_TOGETHER], lengths, pack_tokens)
    else:
        units = _units(order, lengths, pack_tokens, families)
        sizes = [sum(lengths[i] for i in unit) for unit in units]
        for start in range(0, len(units), _PACKED_TOGETHER):
            found = _best_fit(list(range(len(units)))[start : start + _PACKED_TOGETHER], sizes, pack_tokens)
            packs += [[i for at in pack for i in units[at]] for pack in found]
    rng.shuffle(packs)
    return packs


def _units(order: Sequence[int], lengths: Sequence[int], pack_tokens: int, families: Sequence[int]) -> list[list[int]]:
    """The examples of each family, cut where they fill a pack."""
    units: list[list[int]] = []
    newest: dict[int, tuple[list[int], int]] = {}  # of each family: the unit that is being filled, its tokens
    for i in order:
        unit, size = newest.get(families[i], ([], 0))
        if not unit or size + lengths[i] > pack_tokens:
            unit, size = [], 0
            units.append(unit)
        unit.append(i)
        newest[families[i]] = (unit, size + lengths[i])
    return units


def _best_fit(chosen: list[int], lengths: Sequence[int], pack_tokens: int) -> list[list[int]]:
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

    rows = [[token for example in pack for token in example.ids] for pack in packs]
    if not rows or not all(rows):
        raise ValueError(f"{len(rows)} packs, of {[len(row) for row in rows]} tokens: there is nothing to read")
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad_id)
    # what is padded has position 0 everywhere: each such token is a sequence of its own
    positions = torch.zeros(len(rows), longest, dtype=torch.long)
    examples, owners, starts = [], [], []
    for number, (row, pack) in enumerate(zip(rows, packs, strict=True)):
        ids[number, : len(row)] = torch.tensor(row)
        start = 0
        for example in pack:
            positions[number, start : start + len(example.ids)] = torch.arange(len(example.ids))
            examples.append(example)
            owners.append(number)
            starts.append(start)
            start += len(example.ids)
    packing = find_packing([[len(example.ids) for example in pack] for pack in packs], longest)
    return Batch(ids, None, *place_targets(examples, owners, starts), positions, packing)
