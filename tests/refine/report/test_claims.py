"""Verdicts on made-up runs of which the truth is known: an effect, its opposite, none, and one lucky training."""

from __future__ import annotations

import numpy as np
import pytest

from refine.report.claims import CLAIMS, Claim, check_claims
from refine.report.outcomes import Outcome

PROBLEMS = 300


def run_of(rights: dict[str, np.ndarray], more: tuple[Outcome, ...] = ()) -> list[Outcome]:
    """A run in which each selector is right where its array says so."""
    return [
        *(
            Outcome(f"right {name}", f"p{i}", float(hit), 1.0)
            for name, own in rights.items()
            for i, hit in enumerate(own)
        ),
        *more,
    ]


def made_up(gains: list[float], seed: int = 0) -> dict[str, list[Outcome]]:
    """Runs whose drafts are right on about half of the problems, and reranking on so much more (or less)."""
    rng = np.random.default_rng(seed)
    hard = rng.random(PROBLEMS)
    runs = {}
    for number, gain in enumerate(gains):
        drafts = rng.random(PROBLEMS) < np.clip(0.5 + (hard - 0.5), 0.05, 0.95)
        changed = rng.random(PROBLEMS) < abs(gain) / 0.5
        runs[f"seed {number}"] = run_of({"draft": drafts, "reranked": np.where(changed, gain > 0, drafts)})
    return runs


def verdicts(runs: dict[str, list[Outcome]]) -> dict[tuple[str, str], str]:
    return {(one["source"], one["claim"]): one["verdict"] for one in check_claims(runs, 500)}


BEATS = ("GLoRe", "reranking beats the draft")
TEN = ("ours", "reranking 10 points above the draft, surely 5")


@pytest.mark.parametrize(
    ("gains", "beats", "ten"),
    [
        ([0.15, 0.13, 0.16, 0.14, 0.15], "supported", "supported"),
        ([0.06, 0.07, 0.06, 0.08, 0.07], "supported", "not shown"),
        ([-0.1, -0.12, -0.1, -0.09, -0.11], "opposite", "opposite"),
        # one lucky training of five: 300 problems of that run alone would leave no doubt
        ([0.4, 0.0, 0.0, 0.0, 0.0], "not shown", "not shown"),
    ],
)
def test_verdicts(gains, beats, ten):
    found = verdicts(made_up(gains))
    assert (found[BEATS], found[TEN]) == (beats, ten)
    assert found["GLoRe", "reranking beats the best of n samples"] == "not run"


def test_no_effect_is_seldom_called_one():
    found = [verdicts(made_up(list(np.random.default_rng(seed).normal(0, 0.03, 5)), seed))[BEATS] for seed in range(60)]
    assert found.count("not shown") >= 52


def test_the_value_is_the_mean_of_the_runs_and_each_is_told():
    runs = made_up([0.1, 0.2, 0.3])
    claim = next(one for one in check_claims(runs, 200) if one["claim"] == BEATS[1])
    assert claim["estimate"]["value"] == pytest.approx(np.mean(claim["runs"])) and claim["estimate"]["n"] == PROBLEMS
    shares = [
        np.mean([one.hits for one in run if one.measure == "right reranked"])
        - np.mean([one.hits for one in run if one.measure == "right draft"])
        for run in runs.values()
    ]
    assert claim["runs"] == pytest.approx(shares)


def test_problems_are_paired_by_name_and_not_by_place():
    drafts, better = np.arange(PROBLEMS) % 2 == 0, np.arange(PROBLEMS) % 10 != 1
    runs = {name: run_of({"draft": drafts, "reranked": better | drafts}) for name in ("a", "b")}
    one = check_claims(runs, 300)
    runs["b"] = runs["b"][::-1]
    assert check_claims(runs, 300) == one


def test_a_run_with_more_wrong_drafts_weighs_no_more():
    base = {name: run_of({"draft": np.zeros(PROBLEMS)}) for name in ("few", "many")}
    for name, wrong, either in (("few", 20, 10), ("many", 200, 200)):
        for i in range(wrong):
            base[name] += [
                Outcome("fixed either", f"p{i}", float(i < either), 1.0),
                Outcome("fixed global", f"p{i}", 0.0, 1.0),
            ]
    claim = next(one for one in check_claims(base, 300) if one["second"] == ["fixed global"])
    assert claim["runs"] == [0.5, 1.0] and claim["estimate"]["value"] == 0.75


def test_labels_are_of_training_problems_that_may_differ():
    runs = made_up([0.1, 0.1])
    for (name, outcomes), start in zip(runs.items(), (0, 50), strict=True):
        runs[name] = [*outcomes, *(Outcome("labels", f"t{i}", 9.9, 10.0) for i in range(start, start + 100))]
    claim = next(one for one in check_claims(runs, 300) if one["first"] == ["labels"])
    assert claim["verdict"] == "supported" and claim["estimate"]["value"] == pytest.approx(0.99)
    assert claim["estimate"]["n"] == 150


def test_what_cannot_be_compared_is_refused():
    runs = made_up([0.1, 0.1])
    with pytest.raises(ValueError, match="seed 0: a claim over the luck of training needs two or more runs"):
        check_claims({"seed 0": runs["seed 0"]})
    other = [one for one in runs["seed 1"] if one.problem != "p7"]
    with pytest.raises(ValueError, match=r"seed 0 and seed 1 have not the same test problems \(p7 is of one only\)"):
        check_claims({"seed 0": runs["seed 0"], "seed 1": other})
    with pytest.raises(ValueError, match="a has no outcomes of 'right draft'"):
        check_claims({"a": [], "b": []})


@pytest.mark.parametrize(
    ("low", "value", "high", "verdict"),
    [
        (-0.01, 0.0, 0.01, "supported"),
        (-0.03, 0.0, 0.03, "not shown"),
        (0.03, 0.04, 0.05, "opposite"),
        (-0.05, -0.04, -0.03, "opposite"),
    ],
)
def test_a_claim_of_no_difference_needs_the_whole_interval(low, value, high, verdict):
    claim = Claim("ours", "within 2 points", ("a",), ("b",), above=-0.02, below=0.02)
    assert claim.verdict({"low": low, "value": value, "high": high, "n": 9}) == verdict


def test_no_difference_at_all_is_not_the_opposite():
    assert CLAIMS[0].verdict({"low": 0.0, "value": 0.0, "high": 0.0, "n": 9}) == "not shown"
    assert {one.verdict(None) for one in CLAIMS} == {"not run"}
