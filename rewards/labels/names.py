"""Labels within steps of the embedded world: is the person whose quantity a step works out the one asked for?

They are for judges so small that the ends of steps alone do not teach them to compare the two: in a solution that goes
another way than the gold one, everything else is as it should be.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rewards.encode import Mark
from rollouts.world.claims import parse_question

_PERSON = re.compile(r"\b([A-Z][a-z]+) has\b(?=.*<<)")


def name_labels(question: str, steps: Sequence[str]) -> tuple[Mark, ...]:
    """A label at the last person who has something before a step's equation, as in `As Ann has 3 pens and Bob has 2
    more pens than Ann, <<3+2=5>>5`: 1 where Bob is asked for.

    Raises:
        ValueError: the question is not of the embedded world.
    """
    asked = parse_question(question).asked
    found = ((number, list(_PERSON.finditer(step))) for number, step in enumerate(steps))
    return tuple(Mark(number, own[-1].end(1), float(own[-1][1] in asked)) for number, own in found if own)
