"""The plan of a run: the packs of every optimizer step, how they are split over ranks, and the micro-batches of a rank.

All of it is a function of lengths, arguments, step and rank, so that a run that is resumed goes on as it would have.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from training.args import TrainArgs
from training.packing import plan_packs
from training.prefix_sharing import Families

Pack = list[int]  # indices of the examples that share a row


def pack_size(args: TrainArgs) -> int:
    """Tokens of a pack: `pack_tokens`, else a step cut into equal parts of at most `tokens_per_batch`.

    A step of 4,096 tokens in batches of at most 1,500 has packs of 1,365.
    """
    if args.pack_tokens is not None:
        return min(args.pack_tokens, args.tokens_per_step)
    return args.tokens_per_step // math.ceil(args.tokens_per_step / args.tokens_per_batch)


def plan_steps(lengths: Sequence[int], args: TrainArgs, families: Sequence[int] | None = None) -> list[list[Pack]]:
    """The packs of every optimizer step of the whole run; the last epoch may be a part of one.

    A step takes packs while they fit in `tokens_per_step`; a longer pack is a step of its own. At 8 tokens a step,
    packs of 5, 4, 3 and 9 tokens are the steps [5], [4, 3], [9]. With `families` (a number for each example) a family
    comes into one pack where it fits. A shared prefix counts for each example: a step has as many as without sharing.
    """
    steps: list[list[Pack]] = []
    most = math.inf if args.max_steps is None else args.max_steps
    for epoch in range(math.ceil(args.epochs)):
        if not lengths or len(steps) >= most:
            break
        packs = plan_packs(lengths, pack_size(args), args.seed, epoch, families)
        own = _cut([(sum(lengths[i] for i in pack), pack) for pack in packs], args.tokens_per_step)
        fraction = min(1.0, args.epochs - epoch)
        steps.extend(own[: max(1, round(fraction * len(own)))])
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


def split_over_ranks(
    step: Sequence[Pack], lengths: Sequence[int], count: int, size: int, families: Families | None = None
) -> list[list[Pack]]:
    """The packs of one step for each of `count` ranks, with about equally many tokens each.

    4 packs on 2 ranks are 2 each. 3 packs on 2 ranks are taken apart: the examples are dealt out one by one, and packed
    again, at most `size` tokens a pack. A rank may get nothing. Families with shared prefixes stay whole, are halved,
    or are dealt out by example: whichever leaves the busiest rank least to compute.
    """
    if families is not None:
        return _split_families([i for pack in step for i in pack], count, families)
    whole = len(step) % count == 0
    packs = list(step) if whole else [[i] for pack in step for i in pack]
    ranks = _balance(packs, [sum(lengths[i] for i in pack) for pack in packs], count)
    return ranks if whole else [repack(own, lengths, size) for own in ranks]


def _split_families(chosen: list[int], count: int, families: Families) -> list[list[Pack]]:
    whole = families.by_family(chosen)
    if count == 1:
        return [whole]
    half = math.ceil(families.tokens_read(chosen) / (2 * count))
    ways = (whole, families.parts(chosen, half), [[i] for i in chosen])
    found = [_balance(way, [families.tokens_read(part) for part in way], count) for way in ways]
    return min(found, key=lambda ranks: max(families.tokens_read([i for part in own for i in part]) for own in ranks))


def _balance(packs: Sequence[Pack], sizes: Sequence[int], count: int) -> list[list[Pack]]:
    ranks: list[list[Pack]] = [[] for _ in range(count)]
    loads = [0] * count
    for at in sorted(range(len(packs)), key=lambda at: -sizes[at]):
        to = loads.index(min(loads))
        ranks[to].append(packs[at])
        loads[to] += sizes[at]
    return ranks


def repack(packs: Sequence[Pack], lengths: Sequence[int], size: int) -> list[Pack]:
    """The same examples in packs of at most `size` tokens, or one longer example."""
    chosen = [i for pack in packs for i in pack]
    return [[chosen[at] for at in pack] for pack in plan_packs([lengths[i] for i in chosen], size, 0, 0)]


def micro_batches(
    packs: Sequence[Pack], lengths: Sequence[int], args: TrainArgs, families: Families | None = None
) -> list[list[Pack]]:
    """One rank's packs in batches of at most `tokens_per_batch` tokens, padding counted (or one longer example).

    With `layout` padded every example is a row of its own. With `families` a batch is one row, and shared prefixes
    count once.
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
    sizes = [sum(lengths[i] for i in row) for row in rows]
    return [[rows[at] for at in batch] for batch in batch_lengths(sizes, args.tokens_per_batch)]


def batch_lengths(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Indices in batches of at most so many tokens when padded (or of one index); the short ones come first and
    together, so that little is padded."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if not batches or lengths[i] * (len(batches[-1]) + 1) > tokens:
            batches.append([])
        batches[-1].append(i)
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
