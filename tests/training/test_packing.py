"""Packs: every example once, within the budget and nearly full; a batch by hand."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.examples import Example
from training.packing import pack_batch, plan_packs


def gsm8k_like(count: int, seed: int = 0) -> list[int]:
    """Lengths as of GSM8K's questions with solutions: log-normal, a mean of about 190 tokens, a long tail."""
    rng = random.Random(seed)
    return [min(700, max(40, round(rng.lognormvariate(5.15, 0.42)))) for _ in range(count)]


@given(st.lists(st.integers(1, 300), max_size=200), st.integers(1, 1000), st.integers(0, 5), st.integers(0, 5))
def test_every_example_is_packed_once_within_the_budget(lengths, tokens, seed, epoch):
    packs = plan_packs(lengths, tokens, seed, epoch)
    assert sorted(itertools.chain(*packs)) == list(range(len(lengths)))
    for pack in packs:
        assert sum(lengths[i] for i in pack) <= tokens or len(pack) == 1
    assert plan_packs(lengths, tokens, seed, epoch) == packs


@pytest.mark.parametrize("count", [7473, 60_000])
@pytest.mark.parametrize("times_mean", [8, 20])
def test_packs_are_nearly_full(count, times_mean):
    lengths = gsm8k_like(count)
    budget = round(times_mean * sum(lengths) / count)
    packs = plan_packs(lengths, budget, 0, 0)
    assert sum(lengths) / (len(packs) * budget) >= 0.99


def test_few_examples_cost_at_most_one_pack_more_than_they_fill():
    for count in (1, 9, 100, 1319):
        lengths = gsm8k_like(count)
        assert len(plan_packs(lengths, 4000, 0, 0)) <= sum(lengths) // 4000 + 2


def test_the_order_is_a_function_of_seed_and_epoch():
    lengths = gsm8k_like(500)
    orders = {str(plan_packs(lengths, 900, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    # written out once: a change here changes what every seed means
    assert plan_packs([3, 1, 2, 1, 3, 2, 9], 6, seed=1, epoch=0) == [[4, 0], [6], [2, 5, 1, 3]]


def test_nothing_makes_no_pack():
    assert plan_packs([], 5, 0, 0) == []


def test_what_is_no_length_is_refused():
    with pytest.raises(ValueError, match="packs of 0 tokens"):
        plan_packs([3], 0, 0, 0)
    with pytest.raises(ValueError, match="from 0"):
        plan_packs([3, 0], 5, 0, 0)
    assert plan_packs([], 5, 0, 0) == []


@pytest.mark.parametrize("packs", [[], [[]], [[Example([1], [], [])], []]])
def test_packs_without_a_token_are_refused(packs):
    with pytest.raises(ValueError, match="nothing to read"):
        pack_batch(packs, 0)


def test_a_batch_by_hand():
    first, second = Example([5, 6, 7], [1, 2], [1.0, 0.25]), Example([8], [0], [9.0])
    third = Example([9, 10], [1], [3.0])
    batch = pack_batch([[first, second], [third]], pad_id=3)
    assert batch.ids.tolist() == [[5, 6, 7, 8], [9, 10, 3, 3]] and batch.mask is None
    assert batch.position_ids.tolist() == [[0, 1, 2, 0], [0, 1, 0, 0]]
    assert batch.rows.tolist() == [0, 0, 0, 1] and batch.positions.tolist() == [1, 2, 3, 1]
    assert batch.targets.tolist() == [1.0, 0.25, 9.0, 3.0]
    assert batch.to(batch.ids.device).inputs()["position_ids"].tolist() == batch.position_ids.tolist()
