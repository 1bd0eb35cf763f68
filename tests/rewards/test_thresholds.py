"""Where and when: thresholds chosen on labels, corrected by the prior of each position, saved and opened."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.encode import LabelledSolution
from rewards.metrics import first_error, threshold_at
from rewards.reward_model import read_facts
from rewards.scorer import load_scorer
from rewards.thresholds import TOGETHER, by_position, final_threshold, position_priors, where_threshold
from tests.tiny import save_reward


def labelled(*labels: float | None) -> LabelledSolution:
    return LabelledSolution("p", ("a",) * len(labels), labels)


RIGHT, SECOND, THIRD = labelled(1.0, 1.0, 1.0), labelled(1.0, 0.0, 0.0), labelled(1.0, 1.0, 0.0)


def test_priors_by_hand():
    # with a made-up label of each kind: 3 of 3 right, 2 of 3, 1 of 2
    assert position_priors([RIGHT, SECOND, labelled(1.0, 1.0, None)]) == (4 / 5, 3 / 5, 1 / 2)
    assert position_priors([labelled(0.75, 0.25)]) == (2 / 3, 1 / 3)
    long = labelled(*[1.0] * (TOGETHER - 1), 0.0, 0.0)
    assert position_priors([long])[-1] == 1 / 4 and len(position_priors([long])) == TOGETHER
    assert position_priors([]) == ()


@given(st.floats(0.01, 0.99), st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4), st.integers(0, 5))
def test_a_threshold_of_a_position_is_that_of_the_corrected_score(threshold, priors, place):
    """By Bayes: odds of a score times odds of the prior."""
    own = threshold_at(by_position(threshold, priors), place)
    prior = priors[min(place, len(priors) - 1)]
    odds = own / (1 - own) * prior / (1 - prior)
    assert odds / (1 + odds) == pytest.approx(threshold)
    assert by_position(threshold, ()) == threshold


def test_errors_are_found_that_one_number_for_all_positions_cannot_find():
    """A model of balanced labels gives the first step of all solutions 0.35, which says nothing: 20 of 20 are right."""
    solutions = [RIGHT] * 10 + [SECOND] * 5 + [THIRD] * 5
    scores = [[0.35, 0.6, 0.7]] * 10 + [[0.35, 0.38, 0.2]] * 5 + [[0.35, 0.6, 0.45]] * 5
    found = {}
    for priors in ((), position_priors(solutions)):
        where = by_position(where_threshold("sorm", solutions, scores, priors), priors)
        found[bool(priors)] = [first_error(own, where) for own in scores[::5]]
    assert found[True] == [None, None, 1, 2]
    assert 1 not in found[False] and 2 not in found[False]  # above 0.35 it is always the first step


def test_an_orm_is_asked_whether_there_is_an_error_at_all():
    """Its labels are the outcome at each step, so that any step below the threshold is a hit."""
    solutions = [labelled(1.0, 1.0), labelled(1.0, 1.0), labelled(0.0, 0.0), labelled(0.0, 0.0)]
    scores = [[0.5, 0.8], [0.45, 0.9], [0.5, 0.1], [0.55, 0.35]]
    assert where_threshold("orm", solutions, scores, ()) == pytest.approx(0.4)  # between 0.35 and 0.45
    # as first errors, which are all at the first step, nothing would be found there
    assert where_threshold("sorm", solutions, scores, ()) != pytest.approx(0.4)


def test_what_is_not_known_does_not_choose():
    unknown = LabelledSolution("p", ("a", "b"), (None, 0.0))
    assert where_threshold("sorm", [RIGHT, unknown], [[0.9] * 3, [0.1, 0.1]], ()) == 0.5
    assert where_threshold("sorm", [RIGHT], [[0.1] * 3], ()) == 0.5  # no error to be found
    last = LabelledSolution("p", ("a", "b"), (1.0, None))
    assert final_threshold([last, RIGHT, SECOND], [[0.1, 0.99], [0.9, 0.9, 0.8], [0.9, 0.9, 0.6]]) == pytest.approx(0.7)
    assert final_threshold([last], [[0.1, 0.9]]) == 0.5


def test_thresholds_stay_probabilities():
    """Also where every score is 1 and the best would be above it."""
    assert where_threshold("sorm", [SECOND, RIGHT], [[1.0] * 3] * 2, ()) <= 1.0
    assert final_threshold([SECOND, SECOND, RIGHT], [[1.0] * 3] * 3) == 1.0
    assert all(0 < one < 1 for one in by_position(1.0, (1e-9, 0.5)))
    assert not math.isnan(by_position(0.0, (0.5,))[0])


def test_both_are_saved_and_opened(tmp_path):
    path = save_reward(tmp_path / "two", "sorm", threshold=(0.25, 0.5, 0.75), final_threshold=0.6)
    scorer = load_scorer(path, device="cpu")
    assert list(scorer.threshold) == [0.25, 0.5, 0.75] and scorer.final_threshold == 0.6


def test_a_folder_of_one_threshold_has_it_for_both(tmp_path):
    path = save_reward(tmp_path / "old", "orm", threshold=0.375)
    file = tmp_path / "old" / "config.json"
    config = json.loads(file.read_text())
    del config["stepwise"]["final_threshold"]
    file.write_text(json.dumps(config))
    scorer = load_scorer(path, device="cpu")
    assert scorer.threshold == scorer.final_threshold == 0.375
    for name, value in (("final_threshold", 1.5), ("threshold", [0.5, "x"]), ("threshold", []), ("threshold", None)):
        broken = json.loads(json.dumps(config))
        broken["stepwise"][name] = value
        file.write_text(json.dumps(broken))
        with pytest.raises(ValueError, match=r"thresholds in \[0, 1\]"):
            read_facts(path)
