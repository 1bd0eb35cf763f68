"""ORM labels: which outcomes count, labels at every step or at the last, balance in total or within problems."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from rewards.encode import LabelledSolution
from rewards.labels.outcome import (
    Outcome,
    balance_outcomes,
    drop_duplicates,
    drop_unusable,
    from_candidate,
    from_rollout,
    label_outcomes,
)
from rollouts.records import Candidate
from tests.tiny import rollout

RIGHT = from_rollout(rollout(["a", "b", "#### 12"], True, 0))
WRONG = from_rollout(rollout(["a", "#### 13"], False, 1))
UNGRADED = from_rollout(rollout(["a", "#### x"], None, 2))
EMPTY = from_rollout(rollout([], False, 3))
CUT = from_rollout(replace(rollout(["a", "b", "c"], False, 4), finish_reason="length"))


def test_every_step_carries_the_outcome():
    assert label_outcomes([RIGHT, WRONG], "all_steps") == [
        LabelledSolution("p", ("a", "b", "#### 12"), (1.0, 1.0, 1.0)),
        LabelledSolution("p", ("a", "#### 13"), (0.0, 0.0)),
    ]


def test_or_the_last_step_alone():
    assert label_outcomes([RIGHT, WRONG], "last") == [
        LabelledSolution("p", ("a", "b", "#### 12"), (None, None, 1.0)),
        LabelledSolution("p", ("a", "#### 13"), (None, 0.0)),
    ]


def test_what_is_cut_or_has_no_grade_is_no_outcome():
    kept, counts = drop_unusable([RIGHT, UNGRADED, CUT, EMPTY, WRONG])
    assert kept == [RIGHT, WRONG] and counts == {"truncated": 1, "ungraded": 2}


def test_a_candidate_that_wrote_all_it_may_was_cut():
    one = Candidate("p", "local", "sorm", 1, 0, "", ("a", "b"), None, False, 31)
    assert from_candidate(one, 32) == Outcome("p", ("a", "b"), False, False)
    assert from_candidate(one, 31).truncated


def test_what_a_problem_has_twice_counts_once():
    """The first of them stays, where it stood."""
    other = replace(RIGHT, problem_id="q")
    assert drop_duplicates([RIGHT, WRONG, other, WRONG, RIGHT]) == [RIGHT, WRONG, other]


outcomes = st.lists(st.tuples(st.sampled_from("pqr"), st.booleans()))


@given(outcomes, st.integers(0, 3))
def test_balance_keeps_as_many_right_as_wrong(drawn, seed):
    ours = [Outcome(name, (f"step {i}",), correct) for i, (name, correct) in enumerate(drawn)]
    assert balance_outcomes(ours, "none", seed) == ours
    given_ = Counter((one.problem_id, one.correct) for one in ours)
    for balance in ("total", "problem"):
        kept = balance_outcomes(ours, balance, seed)
        assert kept == balance_outcomes(ours, balance, seed)
        places = [ours.index(one) for one in kept]
        assert places == sorted(set(places))
        counts = Counter((one.problem_id, one.correct) for one in kept)
        if balance == "problem":
            for name in "pqr":
                fewer = min(given_[name, True], given_[name, False])
                assert counts[name, True] == counts[name, False] == fewer
        else:
            fewer = min(sum(n for (_, right), n in given_.items() if right is side) for side in (True, False))
            assert [sum(one.correct is side for one in kept) for side in (True, False)] == [fewer, fewer]


def test_the_seed_decides_which_are_kept():
    ours = [Outcome("p", (f"step {i}",), i == 0) for i in range(20)]
    assert len({balance_outcomes(ours, "problem", seed)[1].steps for seed in range(20)}) > 3
