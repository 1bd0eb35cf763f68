"""Accuracy on labelled steps, right and wrong ones alike at each position, by hand and against drawing them."""

from __future__ import annotations

import random

import numpy as np
import pytest

from rewards.intervals import resample
from rewards.labelled import balanced_accuracy, labelled_report, match_labels
from rollouts.records import Candidate, Judgement, StepLabels


def test_as_many_right_as_wrong_steps_of_each_position_count():
    # position 0: four right steps, of which two are judged rightly, one wrong that is; position 1: one of each, both
    # missed; position 2: only right steps, which cannot be balanced
    hits = [(0, 0, True, True), (1, 0, True, True), (2, 0, True, False), (3, 0, True, False), (3, 0, False, True)]
    hits += [(0, 1, True, False), (1, 1, False, False), (0, 2, True, True)]
    value, spread, n = balanced_accuracy(hits, resample(4, 200))
    assert (value, n) == ((1 * (2 / 4 + 1) + 1 * (0 + 0)) / 4, 4)
    assert len(spread) == 200 and np.nanmin(spread) >= 0 and np.nanmax(spread) <= 1
    assert balanced_accuracy([], resample(2, 5))[2] == balanced_accuracy(hits[:3], resample(4, 5))[2] == 0


def test_it_is_the_mean_of_balanced_draws_and_each_resample_is_measured_anew():
    rng = random.Random(0)
    hits = [(rng.randrange(20), rng.randrange(3), rng.random() < 0.8, rng.random() < 0.7) for _ in range(300)]
    counts = resample(20, 40)
    value, spread, n = balanced_accuracy(hits, counts)
    drawn = []
    for _ in range(2000):
        own = []
        for at in range(3):
            right, wrong = (
                [hit for _, place, label, hit in hits if (place, label) == (at, kind)] for kind in (True, False)
            )
            size = min(len(right), len(wrong))
            own += rng.sample(right, size) + rng.sample(wrong, size)
        drawn.append(np.mean(own))
    assert value == pytest.approx(np.mean(drawn), abs=0.01) and n == len(own)
    repeated = [one for one in hits for _ in range(counts[7][one[0]])]
    assert spread[7] == pytest.approx(balanced_accuracy(repeated, counts)[0])


def test_a_judge_that_knows_the_position_only_gets_a_half():
    """Unbalanced it would get 0.9."""
    hits = []
    for at, share in ((0, 0.9), (1, 0.1)):
        for row in range(10):
            label = row < 10 * share
            hits.append((row, at, label, label == (at == 0)))
    assert np.mean([hit for *_, hit in hits]) == 0.9
    assert balanced_accuracy(hits, resample(10, 10))[0] == 0.5


def labelled(name: str, steps: tuple[str, ...], labels: tuple[bool | None, ...]) -> StepLabels:
    return StepLabels(f"{name}#0", name, steps, False, labels, (0,) * 3, (32,) * 3, None, (), "posterior")


def draft(name: str, steps: tuple[str, ...], kind: str = "draft", sample: int = 0) -> Candidate:
    return Candidate(name, kind, "none", None, sample, "", steps, None, False, 1)


STEPS = ("a", "b", "c")


def test_labels_go_to_the_drafts_and_samples_with_the_same_steps():
    candidates = [draft("p", STEPS), draft("q", STEPS), draft("p", STEPS, "sample", 4), draft("p", ("x",), "sample")]
    candidates.append(draft("p", STEPS, "global"))
    labels = [labelled("p", STEPS, (True, False, False))]
    assert match_labels(candidates, labels) == {
        ("p", "draft", "none", 0): (True, False, False),
        ("p", "sample", "none", 4): (True, False, False),
    }
    with pytest.raises(ValueError, match="none of the 1 labelled solutions is among the drafts and samples"):
        match_labels(candidates[1:2], labels)


def test_both_thresholds_and_the_difference():
    """The last step is left out, and so is one without a label; a solution that could not be read does not count."""
    key = {name: (name, "draft", "none", 0) for name in "pqr"}
    labels = {key["p"]: (True, False, False), key["q"]: (False, True, None), key["r"]: (True, None, True)}
    scores = {"orm": {"p": (0.4, 0.4, 0.9), "q": (0.4, 0.4, 0.9), "r": ()}}
    scores["sorm"] = {"p": (0.9, 0.4, 0.0), "q": (0.1, 0.6, 0.0), "r": (0.9, 0.0, 0.0)}
    judgements = [Judgement(*key[name], scorer, own) for scorer, all_ in scores.items() for name, own in all_.items()]
    rows, counts = {"p": 0, "q": 1, "r": 2}, resample(3, 300)
    report = labelled_report(judgements, {"orm": 0.3, "sorm": (0.95, 0.5)}, labels, rows, counts)
    found = {name: (one["orm"]["value"], one["sorm"]["value"]) for name, one in report.items() if name != "difference"}
    # at a half the ORM calls all four wrong, at 0.3 right; the SORM all rightly, but at .95 no first step is right
    assert found == {"labelled_step_accuracy": (0.5, 1.0), "labelled_step_accuracy_own": (0.5, 0.75)}
    assert report["labelled_step_accuracy"]["orm"]["n"] == report["labelled_step_accuracy"]["sorm"]["n"] == 4
    change = report["difference"]["sorm_minus_orm_labelled_step_accuracy"]
    assert change["value"] == 0.5 and change["low"] <= 0.5 <= change["high"]
    nothing = labelled_report(judgements, {}, None, rows, counts)
    assert nothing["labelled_step_accuracy"] == {"orm": None, "sorm": None}
    assert set(nothing["difference"].values()) == {None}
