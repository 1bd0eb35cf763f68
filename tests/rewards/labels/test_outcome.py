"""ORM labels: the outcome at every step or at the last, and balance in total or within problems."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from rewards.encode import LabelledSolution
from rewards.labels.outcome import balance_outcomes, label_outcomes
from tests.tiny import rollout

RIGHT = rollout(["a", "b", "#### 12"], True, 0)
WRONG = rollout(["a", "#### 13"], False, 1)
UNGRADED = rollout(["a", "#### x"], None, 2)
EMPTY = rollout([], False, 3)


def test_every_step_carries_the_outcome():
    assert label_outcomes([RIGHT, WRONG, UNGRADED, EMPTY], "all_steps") == [
        LabelledSolution("p", ("a", "b", "#### 12"), (1.0, 1.0, 1.0)),
        LabelledSolution("p", ("a", "#### 13"), (0.0, 0.0)),
    ]


def test_or_the_last_step_alone():
    assert label_outcomes([RIGHT, WRONG, UNGRADED, EMPTY], "last") == [
        LabelledSolution("p", ("a", "b", "#### 12"), (None, None, 1.0)),
        LabelledSolution("p", ("a", "#### 13"), (None, 0.0)),
    ]


outcomes = st.lists(st.tuples(st.sampled_from("pqr"), st.sampled_from([True, False, None]), st.booleans()))


@given(outcomes, st.integers(0, 3))
def test_balance_keeps_as_many_right_as_wrong(drawn, seed):
    rollouts = [rollout(["x"] if full else [], correct, i, name) for i, (name, correct, full) in enumerate(drawn)]
    assert balance_outcomes(rollouts, "none", seed) == rollouts
    given_ = Counter((r.problem_id, r.correct) for r in rollouts if r.steps)
    for balance in ("total", "problem"):
        kept = balance_outcomes(rollouts, balance, seed)
        assert kept == balance_outcomes(rollouts, balance, seed)
        places = [rollouts.index(r) for r in kept]
        assert places == sorted(set(places)) and all(r.correct is not None and r.steps for r in kept)
        counts = Counter((r.problem_id, r.correct) for r in kept)
        if balance == "problem":
            for name in "pqr":
                fewer = min(given_[name, True], given_[name, False])
                assert counts[name, True] == counts[name, False] == fewer
        else:
            fewer = min(sum(n for (_, right), n in given_.items() if right is side) for side in (True, False))
            assert [sum(r.correct is side for r in kept) for side in (True, False)] == [fewer, fewer]


def test_the_seed_decides_which_are_kept():
    rollouts = [rollout(["x"], i == 0, i) for i in range(20)]
    assert len({balance_outcomes(rollouts, "problem", seed)[1].sample for seed in range(20)}) > 3
