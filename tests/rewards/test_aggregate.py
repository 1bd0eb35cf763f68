"""One score from those of the steps."""

from __future__ import annotations

import math

import pytest

from rewards.aggregate import AGGREGATES, aggregate


def test_every_aggregate_by_hand():
    found = {how: aggregate((0.5, 0.25, 1.0), how) for how in AGGREGATES}
    assert found == {"last": 1.0, "min": 0.25, "product": 0.125, "mean": pytest.approx(7 / 12)}
    assert all(aggregate((), how) == -math.inf for how in AGGREGATES)
    with pytest.raises(ValueError, match="aggregate='max' is none of last, min, product, mean"):
        aggregate((0.5,), "max")
