"""Batches: every example once, within the limit, in an order of (seed, epoch) alone; padding by hand."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.batches import Example, pad_batch, plan_batches


@given(st.lists(st.integers(1, 300), max_size=200), st.integers(1, 1000), st.integers(0, 5), st.integers(0, 5))
def test_every_example_is_planned_once_within_the_limit(lengths, tokens, seed, epoch):
    batches = plan_batches(lengths, tokens, seed, epoch)
    assert sorted(itertools.chain(*batches)) == list(range(len(lengths)))
    for batch in batches:
        padded = max(lengths[i] for i in batch) * len(batch)
        assert padded <= tokens or len(batch) == 1
    assert plan_batches(lengths, tokens, seed, epoch) == batches


def test_the_order_is_a_function_of_seed_and_epoch():
    lengths = [5 + i % 7 for i in range(500)]
    orders = {str(plan_batches(lengths, 60, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    # written out once: a change here changes what every seed means
    assert plan_batches([3, 1, 2, 1, 3, 2], 6, seed=1, epoch=0) == [[4], [1, 3, 2], [5, 0]]


def test_batches_are_of_like_lengths_and_shuffled():
    lengths = [1 + i % 100 for i in range(3000)]
    batches = plan_batches(lengths, 400, 0, 0)
    waste = sum(max(lengths[i] for i in b) * len(b) for b in batches) / sum(lengths)
    assert waste < 1.05
    longest = [max(lengths[i] for i in batch) for batch in batches]
    assert longest != sorted(longest)
    # of equal lengths too the examples of a batch come from everywhere
    assert any(abs(a - b) > 300 for batch in batches for a, b in itertools.pairwise(batch))


def test_more_examples_than_are_sorted_together():
    lengths = [7] * 10_000
    batches = plan_batches(lengths, 70, 0, 0)
    assert sorted(itertools.chain(*batches)) == list(range(10_000)) and max(map(len, batches)) == 10


def test_nothing_gives_nothing():
    assert plan_batches([], 10, 0, 0) == []


def test_a_batch_by_hand():
    batch = pad_batch([Example([5, 6, 7], [1, 2], [1.0, 0.25]), Example([8], [0], [9.0])], pad_id=3)
    assert batch.ids.tolist() == [[5, 6, 7], [8, 3, 3]]
    assert batch.mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.rows.tolist() == [0, 0, 1] and batch.positions.tolist() == [1, 2, 0]
    assert batch.targets.tolist() == [1.0, 0.25, 9.0]
    assert batch.to(batch.ids.device).targets.tolist() == [1.0, 0.25, 9.0]


@pytest.mark.parametrize("token", [2**24 + 1, 10**9 + 7])
def test_targets_hold_every_token_id_exactly(token):
    assert pad_batch([Example([1, 2], [0], [token])], 0).targets.long().tolist() == [token]
