"""The plan of a run: every example once an epoch, fair shares, and batches within memory."""

from __future__ import annotations

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from tests.training.runs import args_of
from training.plan import learning_rate_share, micro_batches, pack_size, plan_steps, split_over_ranks, step_seed

lengths_of = st.lists(st.integers(1, 50), min_size=1, max_size=80)


def flat(*levels):
    """The numbers in lists of lists."""
    return [one for level in levels for one in (flat(*level) if isinstance(level, list) else [level])]


def tokens(packs, lengths) -> int:
    return sum(lengths[i] for i in flat(*packs))


def test_packs_are_equal_parts_of_a_step():
    sizes = {
        (step, batch): pack_size(args_of(tokens_per_step=step, tokens_per_batch=batch))
        for step, batch in [(4096, 4096), (4096, 1024), (1024, 4096), (1500, 1000), (10, 3)]
    }
    assert list(sizes.values()) == [4096, 1024, 1024, 750, 2]
    assert pack_size(args_of(tokens_per_step=1000, pack_tokens=300)) == 300
    assert pack_size(args_of(tokens_per_step=100, pack_tokens=300)) == 100


@given(lengths_of, st.integers(1, 300), st.integers(1, 300))
def test_a_step_holds_whole_packs_within_its_size(lengths, step_tokens, batch_tokens):
    args = args_of(tokens_per_step=step_tokens, tokens_per_batch=batch_tokens)
    steps = plan_steps(lengths, args)
    assert sorted(flat(steps)) == list(range(len(lengths)))
    for step in steps:
        assert len(step) == 1 or tokens(step, lengths) <= step_tokens
        assert all(len(pack) == 1 or tokens([pack], lengths) <= pack_size(args) for pack in step)
    # no two neighbours would have been one
    assert all(tokens([*a, b[0]], lengths) > step_tokens for a, b in itertools.pairwise(steps))


def test_steps_are_planned_by_seed_and_epoch():
    lengths = [4 + i % 9 for i in range(100)]
    one, two = (plan_steps(lengths, args_of(epochs=epochs)) for epochs in (1, 2))
    assert two[: len(one)] == one and two[len(one) :] != one
    assert sorted(flat(two[len(one) :])) == list(range(100))
    assert len(plan_steps(lengths, args_of(epochs=0.5))) == round(len(one) / 2)
    assert plan_steps(lengths, args_of(epochs=0.001)) == one[:1]
    assert plan_steps(lengths, args_of(epochs=1e9, max_steps=3)) == one[:3]
    assert plan_steps(lengths, args_of(seed=1)) != one
    assert plan_steps([], args_of()) == []
    # what fits in memory at a time changes nothing, given the size of a pack
    cut = [plan_steps(lengths, args_of(pack_tokens=40, tokens_per_batch=batch)) for batch in (10, 80)]
    assert cut[0] == cut[1]


@given(lengths_of, st.integers(1, 5), st.integers(1, 200))
def test_every_process_gets_a_fair_share(lengths, count, size):
    packs = plan_steps(lengths, args_of(tokens_per_step=10_000, tokens_per_batch=size))[0]
    shares = split_over_ranks(packs, lengths, count, size)
    assert len(shares) == count and sorted(flat(shares)) == list(range(len(lengths)))
    largest = max(tokens([pack], lengths) for pack in packs)
    loads = [tokens(share, lengths) for share in shares]
    assert max(loads) - min(loads) <= largest
    assert all(len(pack) == 1 or tokens([pack], lengths) <= size for share in shares for pack in share)
    if len(packs) % count == 0:
        assert sorted(map(sorted, itertools.chain(*shares))) == sorted(map(sorted, packs))


def test_one_pack_for_two_processes_is_halved():
    lengths = [random.Random(0).randrange(10, 20) for _ in range(60)]
    loads = [tokens(share, lengths) for share in split_over_ranks([list(range(60))], lengths, 2, 2000)]
    assert abs(loads[0] - loads[1]) <= 20


@given(lengths_of, st.integers(1, 300), st.sampled_from(["packed", "padded"]))
def test_micro_batches_hold_every_example_within_memory(lengths, batch_tokens, layout):
    args = args_of(layout=layout, tokens_per_step=500, pack_tokens=100, tokens_per_batch=batch_tokens)
    for step in plan_steps(lengths, args):
        batches = micro_batches(step, lengths, args)
        assert sorted(flat(batches)) == sorted(flat(step))
        for rows in batches:
            longest = max(tokens([row], lengths) for row in rows)
            assert longest * len(rows) <= batch_tokens or flat(rows) == rows[0] == rows[0][:1]
            assert layout == "packed" or all(len(row) == 1 for row in rows)


def test_seeds_of_steps_are_the_same_everywhere_and_differ():
    assert step_seed(0, 0, 0) == 3051931488724851722
    seeds = [step_seed(*numbers) for numbers in itertools.product(range(3), range(30), range(3))]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**63 for seed in seeds)


def test_the_learning_rate_rises_and_falls():
    shares = [learning_rate_share(step, 20, 0.2, 0.1) for step in range(20)]
    assert shares[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert all(a > b for a, b in itertools.pairwise(shares[4:])) and 0.1 < shares[-1] < 0.2
    assert learning_rate_share(0, 1, 0.0, 0.0) == 1.0
