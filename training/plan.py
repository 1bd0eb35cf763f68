"""The plan of a run: the packs of every optimiser step, each process's share of them, and how memory cuts a share.

All of it is a function of lengths, arguments, step and process, so that a run that is resumed goes on with what it
would have had.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from training.packing import plan_packs

if TYPE_CHECKING:
    from training.args import TrainArgs
    from training.prefix_sharing import Families

Pack = list[int]  # indices of the examples that share a row


def pack_size(args: TrainArgs) -> int:
    """Tokens of a pack: as given, else the parts of at most `tokens_per_batch` that make up a step."""
    if args.pack_tokens is not None:
        return min(args.pack_tokens, args.tokens_per_step)
    return args.tokens_per_step // math.ceil(args.tokens_per_step / args.tokens_per_batch)


def plan_steps(lengths: Sequence[int], args: TrainArgs, families: Sequence[int] | None = None) -> list[list[Pack]]:
    """The packs of every optimiser step of the whole run; the last epoch may be a part of one.

    A step takes packs while they fit in `tokens_per_step`; one that is longer by itself is a step. What examples of
    one of the `families` share counts for each of them, so that a step holds as many examples as without.
    """
    steps: list[list[Pack]] = []
    most = math.inf if args.max_steps is None else args.max_steps
    for epoch in range(math.ceil(args.epochs)):
        if not lengths or len(steps) >= most:
            break
        packs = plan_packs(lengths, pack_size(args), args.seed, epoch, families)
        own = _cut([(sum(lengths[i] for i in pack), pack) for pack in packs], args.tokens_per_step)
        share = min(1.0, args.epochs - epoch)
        steps.extend(own[: max(1, round(share * len(own)))])
    return steps[: args.max_steps]


def _cut(packs: Sequence[tuple[int, Pack]], tokens: int) -> list[list[Pack]]:
    steps: list[list[Pack]] = []
    room = 0
    for size, pack in packs:
        if size > room:
            steps.append([])
            room = tokens
        steps[-1].append(pack)
        room -= size
    return steps


def deal(
    step: Sequence[Pack], lengths: Sequence[int], count: int, size: int, families: Families | None = None
) -> list[list[Pack]]:
    """The packs of one step for each of `count` processes, with about equally many tokens each.

    Whole packs where there is the same number for everybody; else their examples are dealt one by one, and packed
    anew, in packs of at most `size` tokens. A process may get nothing. Families that share what they read are dealt
    whole or in parts, whichever is done first.
    """
    if families is not None:
        return _deal_families([i for pack in step for i in pack], count, families)
    whole = len(step) % count == 0
    units = list(step) if whole else [[i] for pack in step for i in pack]
    shares = _spread(units, [sum(lengths[i] for i in unit) for unit in units], count)
    return shares if whole else [repack(share, lengths, size) for share in shares]


def _deal_families(chosen: list[int], count: int, families: Families) -> list[list[Pack]]:
    units = families.units(chosen)
    if count == 1:
        return [units]
    half = math.ceil(families.read(chosen) / (2 * count))
    ways = (units, families.parts(chosen, half), [[i] for i in chosen])
    dealt = [_spread(way, [families.read(unit) for unit in way], count) for way in ways]
    return min(dealt, key=lambda shares: max(families.read([i for unit in share for i in unit]) for share in shares))


def _spread(units: Sequence[Pack], sizes: Sequence[int], count: int) -> list[list[Pack]]:
    shares: list[list[Pack]] = [[] for _ in range(count)]
    loads = [0] * count
    for at in sorted(range(len(units)), key=lambda at: -sizes[at]):
        to = loads.index(min(loads))
        shares[to].append(units[at])
        loads[to] += sizes[at]
    return shares


def repack(packs: Sequence[Pack], lengths: Sequence[int], size: int) -> list[Pack]:
    """The same examples in packs of at most `size` tokens, or one longer example."""
    chosen = [i for pack in packs for i in pack]
    return [[chosen[at] for at in pack] for pack in plan_packs([lengths[i] for i in chosen], size, 0, 0)]


def micro_batches(
    packs: Sequence[Pack], lengths: Sequence[int], args: TrainArgs, families: Families | None = None
) -> list[list[Pack]]:
    """One process's packs in batches of at most `tokens_per_batch` tokens, padding counted (or one longer example).

    With `layout` padded every example is a row of its own. With `families` a batch is one row, and what its examples
    share counts once.
    """
    if families is not None:
        return [[row] for row in families.rows((i for pack in packs for i in pack), args.tokens_per_batch)]
    rows: list[Pack] = []
    for pack in packs:
        if args.layout == "padded":
            rows += [[i] for i in pack]
        elif len(pack) > 1 and sum(lengths[i] for i in pack) > args.tokens_per_batch:
            rows += repack([pack], lengths, args.tokens_per_batch)
        else:
            rows.append(pack)
    batches: list[list[Pack]] = []
    # rows of like length side by side, so that little is padded
    for size, row in sorted(((sum(lengths[i] for i in row), row) for row in rows), key=lambda one: one[0]):
        if not batches or size * (len(batches[-1]) + 1) > args.tokens_per_batch:
            batches.append([])
        batches[-1].append(row)
    return batches


def step_seed(seed: int, step: int, process: int) -> int:
    """The seed of one step's random numbers (dropout) on one process, the same whatever ran before (63 bits)."""
    digest = hashlib.sha256(f"{seed}/{step}/{process}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def learning_rate_share(step: int, steps: int, warmup: float, final_share: float) -> float:
    """Linear warm-up over the first `warmup` of all steps, then linear decay to `final_share`; step counts from 0."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 1 - (1 - final_share) * (step - rising) / max(1, steps - rising)
