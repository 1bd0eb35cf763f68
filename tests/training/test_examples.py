"""Padded batches by hand (plans of packs are in test_packing.py)."""

from __future__ import annotations

import pytest

from training.examples import Example, pad_batch


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
