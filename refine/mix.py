"""How many examples of each kind a policy is trained on: so that CoT alone (solutions, right rollouts) and CoT with
corrections can be compared at equal numbers of examples, or of tokens (LeMa)."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from stages.checks import check_choices, check_least, check_range
from training.examples import Example

BY = ("all", "examples", "tokens")
CORRECTIONS = "corrections"
SHARE = 0.25

Groups = Mapping[str, Sequence[Example]]  # by kind


@dataclass
class MixArgs:
    """`by` all takes every example. By examples or by tokens (those that are read and those that are written) `size` is
    how many there are in the end; null: as many as the other kinds have without corrections. Of these, `corrections` is
    the share of corrections, where there are so many; the other kinds are the rest. All are drawn without replacement.
    """

    by: str = "all"  #: or examples, tokens
    size: int | None = None  #: of the whole mix; null: that of the other kinds without corrections
    corrections: float = SHARE  #: share of corrections

    def validate(self) -> None:
        """Raise ValueError naming the first setting that makes no sense, or has no effect."""
        check_choices(self, "mix.", by=BY)
        check_least(self, "mix.", size=1)
        check_range(self, "mix.", corrections="[0, 1]")
        if self.by == "all" and (self.size, self.corrections) != (None, SHARE):
            raise ValueError(f"mix.by=all takes every example: mix.size={self.size} and mix.corrections have no effect")


def mix_examples(groups: Groups, args: MixArgs, seed: int) -> dict[str, list[Example]]:
    """The examples of each kind that are trained on, in their order; by tokens, as many whole ones as fit.

    Raises:
        ValueError: there are fewer than `size` in all.
    """
    if args.by == "all":
        return {kind: list(own) for kind, own in groups.items()}
    weigh = count_tokens if args.by == "tokens" else len
    others = [(kind, example) for kind, own in groups.items() if kind != CORRECTIONS for example in own]
    corrections = [(CORRECTIONS, example) for example in groups.get(CORRECTIONS, ())]
    size = args.size if args.size is not None else weigh([example for _, example in others])
    wanted = round(args.corrections * size) if others else size
    taken = _draw(corrections, wanted, weigh, random.Random(f"corrections/{seed}"))
    left = size - weigh([example for _, example in taken])
    rest = _draw(others, left, weigh, random.Random(f"others/{seed}"))
    if len(rest) == len(others) and (found := weigh([example for _, example in (*taken, *rest)])) < size:
        raise ValueError(
            f"mix.size={size} {args.by} are wanted, and there are {found}, with {len(taken)} corrections at "
            f"mix.corrections={args.corrections}"
        )
    return {kind: [example for own, example in (*taken, *rest) if own == kind] for kind in groups}


def count_tokens(examples: Sequence[Example]) -> int:
    """The tokens of all examples, those that are read and those that are written."""
    return sum(len(example.ids) for example in examples)


def _draw(
    rows: Sequence[tuple[str, Example]], most: int, weigh: Callable[[Sequence[Example]], int], rng: random.Random
) -> list[tuple[str, Example]]:
    """Rows drawn at random until the next one would be beyond `most`, in their order."""
    order, weight, taken = rng.sample(range(len(rows)), len(rows)), 0, []
    for place in order:
        weight += weigh([rows[place][1]])
        if weight > most:
            break
        taken.append(place)
    return [rows[place] for place in sorted(taken)]
