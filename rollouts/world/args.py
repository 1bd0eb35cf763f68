"""The settings of the embedded world."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import perm

from rollouts.world.facts import NAMES
from stages.checks import check_least, check_range

SOURCE = "arithmetic"  # the source of the world's problems: of no others does an oracle know the first wrong step
MOST_ORDERS = 1_000_000  # a problem then takes about a second


@dataclass
class WorldArgs:
    """Difficulty of the embedded world. Quantities stay within 1 … `max_value`.

    A relation's number is 2 … `max_operand` (more, fewer) or 2 … `max_factor` (times, share); a quantity told directly
    is at most `max_operand + 3`. A solution has `min_steps` … `max_steps` equations. A share `totals` of problems asks
    for two people together, whatever `operations` are. Distractors are sentences that no step needs; with
    `side_branches` they may build on anybody, without on the person asked about and on one another only, so that nobody
    else follows from a person of the chain; without `direct_distractors` none is told directly, so that there is one
    place to start. `people` is how many names there are.

    Two settings make problems of planning, where there are many steps that could be taken. `rivals` chains leave the
    gold chain before its end, each as long as it or one step longer or shorter, counted from the gold chain's start; no
    answer needs them. From the end of each chain, the gold one's too, hang 1 … `followers` people, directly or on one
    another: so only the question tells where to stop. Where there are rivals or followers, distractors without
    `side_branches` build on any chain's end and on its followers, or they would tell which chain is the right one.
    """

    size: int = 20000
    seed: int = 0
    min_steps: int = 2
    max_steps: int = 6
    max_value: int = 50
    max_operand: int = 9
    max_factor: int = 3
    min_distractors: int = 0
    max_distractors: int = 2
    side_branches: bool = True
    direct_distractors: bool = True
    rivals: int = 0
    followers: int = 0
    people: int = len(NAMES)
    totals: float = 0.3
    # False refuses problems whose answer comes out in another way, too: see `has_shortcut` in `facts.py`
    shortcuts: bool = True
    operations: list[str] = field(default_factory=lambda: ["more", "fewer", "times", "share", "sum"])

    def most_people(self, steps: int) -> int:
        """How many people the facts of a problem of so many steps are about at most."""
        return steps + 1 + self.rivals * (steps + 1) + self.followers * (1 + self.rivals) + self.max_distractors

    def validate(self) -> None:
        """Raise ValueError naming the first setting that no world can have."""
        check_least(self, "world.", size=1)
        if not 1 <= self.min_steps <= self.max_steps <= 12:
            raise ValueError(f"world needs 1 <= min_steps <= max_steps <= 12, not {self.min_steps}, {self.max_steps}")
        if not 0 <= self.min_distractors <= self.max_distractors <= 8:
            raise ValueError(
                f"world needs 0 <= min_distractors <= max_distractors <= 8, "
                f"not {self.min_distractors}, {self.max_distractors}"
            )
        if not 0 <= self.rivals <= 4 or not 0 <= self.followers <= 4:
            raise ValueError(f"world.rivals and world.followers must be 0 to 4, not {self.rivals}, {self.followers}")
        needed = self.most_people(self.max_steps) + 2  # two more than take part, so that names vary
        if needed > len(NAMES):
            raise ValueError(
                f"world needs {needed} people for max_steps={self.max_steps}, rivals={self.rivals}, "
                f"followers={self.followers}, max_distractors={self.max_distractors}, and there are {len(NAMES)} names"
            )
        if not needed <= self.people <= len(NAMES):
            raise ValueError(f"world.people must be {needed} (for these settings) to {len(NAMES)}, not {self.people}")
        told = self.max_steps + (0 if self.rivals or self.followers else self.max_distractors)
        if not self.shortcuts and perm(told, self.max_steps) > MOST_ORDERS:
            raise ValueError(
                f"world.shortcuts=false tries every order of a problem's facts, {perm(told, self.max_steps):,} for "
                f"max_steps={self.max_steps}, max_distractors={self.max_distractors}; it can try {MOST_ORDERS:,}"
            )
        if not 2 <= self.max_operand <= self.max_value <= 999 or not 2 <= self.max_factor <= self.max_value:
            raise ValueError(
                f"world needs 2 <= max_operand, max_factor <= max_value <= 999, "
                f"not {self.max_operand}, {self.max_factor}, {self.max_value}"
            )
        check_range(self, "world.", totals="[0, 1]")
        if not self.direct_distractors and self.max_distractors and not set(self.operations) - {"sum"}:
            raise ValueError("world.direct_distractors=false needs another of world.operations than sum")
        unknown = set(self.operations) - {"more", "fewer", "times", "share", "sum"}
        if unknown or not self.operations:
            raise ValueError(f"world.operations must be some of more, fewer, times, share, sum, not {self.operations}")
