"""How many examples of each kind are drawn, and that none is drawn twice."""

from __future__ import annotations

import pytest

from refine.mix import MixArgs, count_tokens, mix_examples
from training.examples import Example

# corrections are three times as long
GROUPS = {
    "rollouts": [Example([0] * 10, [], [n]) for n in range(40)],
    "solutions": [Example([0] * 10, [], [n]) for n in range(40, 60)],
    "corrections": [Example([0] * 30, [], [n]) for n in range(60, 90)],
}


def drawn(args: MixArgs, seed: int = 0) -> dict[str, list[int]]:
    args.validate()
    found = {kind: [one.targets[0] for one in own] for kind, own in mix_examples(GROUPS, args, seed).items()}
    for own in found.values():
        assert own == sorted(set(own))
    return found


def sizes(args: MixArgs) -> tuple[int, int]:
    """Of corrections, and of the rest."""
    found = drawn(args)
    return len(found["corrections"]), len(found["rollouts"]) + len(found["solutions"])


def test_by_default_all_are_taken() -> None:
    assert {kind: len(own) for kind, own in drawn(MixArgs()).items()} == {kind: len(GROUPS[kind]) for kind in GROUPS}


def test_as_many_examples_as_without_corrections() -> None:
    assert sizes(MixArgs("examples", corrections=0.25)) == (15, 45)
    assert sizes(MixArgs("examples", corrections=0.0)) == (0, 60)
    # there are no more: the others fill it up
    assert sizes(MixArgs("examples", corrections=0.9)) == (30, 30)
    assert sizes(MixArgs("examples", size=20, corrections=0.5)) == (10, 10)


def test_as_many_tokens_as_without_corrections() -> None:
    assert sizes(MixArgs("tokens", corrections=0.5)) == (10, 30)
    found = mix_examples(GROUPS, MixArgs("tokens", size=205, corrections=0.3), 0)
    # 61 tokens are two corrections; of 145 that are left, 14 others have 140
    assert [len(found["corrections"]), sum(map(count_tokens, found.values()))] == [2, 200]


def test_one_kind_alone_has_the_size_that_is_asked_for() -> None:
    only = {"corrections": GROUPS["corrections"]}
    assert len(mix_examples(only, MixArgs("examples", size=7), 0)["corrections"]) == 7
    assert len(mix_examples({"rollouts": GROUPS["rollouts"]}, MixArgs("examples", size=7), 0)["rollouts"]) == 7


def test_which_ones_depends_on_the_seed() -> None:
    args = MixArgs("examples", corrections=0.25)
    assert drawn(args) == drawn(args) != drawn(args, 1)


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mix.size=99 examples are wanted, and there are 85, with 25 corrections at"):
        drawn(MixArgs("examples", size=99, corrections=0.25))
    with pytest.raises(ValueError, match=r"mix.size=9999 tokens are wanted, and there are 1500"):
        drawn(MixArgs("tokens", size=9999))
