"""One score of a whole solution from the probabilities after its steps: last, min, product, mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

# name -> how; an ORM's own is `last`, the others are for judges of single steps
AGGREGATES = {"last": lambda steps: steps[-1], "min": min, "product": math.prod, "mean": fmean}


def aggregate(probabilities: Sequence[float], how: str = "last") -> float:
    """The score of a solution; minus infinity where it has no step, or could not be read.

    Raises:
        ValueError: `how` is unknown.
    """
    if how not in AGGREGATES:
        raise ValueError(f"aggregate={how!r} is none of {', '.join(AGGREGATES)}")
    return float(AGGREGATES[how](probabilities)) if probabilities else -math.inf
