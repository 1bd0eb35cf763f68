"""Curves over the number of samples against what the selectors choose from every subset."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from refine.report.curves import CURVES, SCORED, curve_report, points
from refine.rerank import Arm, Scores, choose
from refine.selection import select
from rewards.aggregate import AGGREGATES, aggregate
from rewards.intervals import resample
from rollouts.records import Candidate, Judgement, identity
from tests.tiny import problem

RULES = dict.fromkeys(SCORED, "best") | {f"weighted_{name}": "weighted" for name in SCORED} | {"majority": "majority"}


def drawn(samples: int = 5, problems: int = 3, seed: int = 0):
    """Problems with samples of few different answers, some without any, and scores among which there are ties."""
    rng, asked, candidates, judgements = random.Random(seed), [], [], []
    for number in range(problems):
        asked.append(problem(f"p{number}", answer="1"))
        for at in range(samples):
            answer = rng.choice(["1", "1.0", "2", "3", None])
            steps = ("a", "b") if answer else ()
            one = Candidate(
                f"p{number}", "sample", "none", None, at, "", steps, answer, answer in ("1", "1.0"), 10 + at, 7
            )
            candidates.append(one)
            for scorer in SCORED:
                scores = tuple(rng.choice([0.25, 0.5, 0.75]) for _ in steps)
                judgements.append(Judgement(*identity(one), scorer, scores, 20 if scorer == "orm" else 30))
    rng.shuffle(candidates)
    return asked, candidates, judgements


def expected(rule: str, own: list[Candidate], scores: dict, n: int, asked) -> float:
    """The mean over all ordered subsets of n of what the selector of `refine.selection` chooses from them."""
    subsets = list(itertools.permutations(own, n)) if rule != "best" else list(itertools.combinations(own, n))
    return np.mean([select(one, [scores[identity(c)] for c in one], rule, asked).correct for one in subsets])


@pytest.mark.parametrize("seed", range(4))
def test_every_point_is_the_mean_over_all_subsets_of_what_the_selector_chooses(seed):
    asked, candidates, judgements = drawn(seed=seed)
    report = curve_report(candidates, judgements, asked, resample(3, 50))
    assert tuple(report["curves"]) == CURVES
    groups = {
        one.id: sorted((c for c in candidates if c.problem_id == one.id), key=lambda c: c.sample) for one in asked
    }
    for how in AGGREGATES:
        scores = {
            name: {identity(j): aggregate(j.probabilities, how) for j in judgements if j.scorer == name}
            for name in SCORED
        }
        for name, rule in RULES.items():
            own = scores[name.removeprefix("weighted_") if name != "majority" else "orm"]
            for n in range(1, 6):
                want = np.mean([expected(rule, groups[one.id], own, n, one) for one in asked])
                if how == "last":
                    point = report["curves"][name][n - 1]
                    assert (point["samples"], point["n"]) == (n, 3) and point["value"] == pytest.approx(want), name
                    assert point["low"] <= point["value"] <= point["high"]
                if n == 5 and name != "majority":
                    found = report["aggregation"][name.removeprefix("weighted_")][how][rule]
                    assert found["value"] == pytest.approx(want), (name, how)
    for n in range(1, 6):
        any_right = np.mean(
            [
                np.mean([any(c.correct for c in one) for one in itertools.combinations(own, n)])
                for own in groups.values()
            ]
        )
        assert report["curves"]["oracle"][n - 1]["value"] == pytest.approx(any_right)


def test_the_first_samples_count_no_more_than_the_last():
    """A right sample that stands first: best of one would always be right by the first sample alone."""
    asked, candidates, judgements = drawn(problems=1)
    ordered = sorted(candidates, key=lambda c: c.sample)
    candidates = [
        Candidate("p0", "sample", "none", None, c.sample, "", ("a",), "1" if i == 0 else "2", i == 0, 10)
        for i, c in enumerate(ordered)
    ]
    judgements = [Judgement(*identity(c), "orm", (0.5,)) for c in candidates]
    curves = curve_report(candidates, judgements, asked, resample(1, 10))["curves"]
    assert [curve[0]["value"] for curve in curves.values()] == [pytest.approx(0.2)] * len(curves)
    assert list(curves) == ["orm", "weighted_orm", "majority", "oracle"]  # the others judged nothing


def test_tokens_are_those_that_the_reranker_counts():
    asked, candidates, judgements = drawn(samples=4)
    curves = curve_report(candidates, judgements, asked, resample(3, 10))["curves"]
    scores = Scores()
    for name in SCORED:
        own = [j for j in judgements if j.scorer == name]
        scores.finals[name] = {identity(j): aggregate(j.probabilities) for j in own}
        scores.tokens[name] = {identity(j): j.tokens for j in own}
    for name, selector, scorer in (
        *((one, "best_of_n", one) for one in SCORED),
        ("majority", "majority_of_n", "orm"),
        ("weighted_sorm", "weighted_of_n", "sorm"),
    ):
        for n in (1, 4):
            arm = Arm(scorer, "none")
            chosen = [
                c
                for one in asked
                for c in choose([c for c in candidates if c.problem_id == one.id], scores, arm, n)
                if c.selector == selector
            ]
            point = curves[name][n - 1]
            if n == 4:  # for fewer the first ones have other numbers of tokens than the mean sample
                assert point["tokens"] == pytest.approx(np.mean([c.completion_tokens for c in chosen]))
            assert point["tokens_read"] == pytest.approx(np.mean([c.read_tokens for c in chosen])), (name, n)


def test_votes_of_many_samples_are_close_to_all_subsets():
    """The chance that 1 of 8, drawn 3 at a time, has the majority, worked out by the selector over all subsets."""
    asked, candidates, judgements = drawn(samples=8, problems=4, seed=3)
    point = curve_report(candidates, judgements, asked, resample(4, 10))["curves"]["majority"][2]
    flat = {identity(c): 1.0 for c in candidates}
    groups = [sorted((c for c in candidates if c.problem_id == one.id), key=lambda c: c.sample) for one in asked]
    want = np.mean([expected("majority", own, flat, 3, None) for own in groups])
    assert point["value"] == pytest.approx(want, abs=0.08)


def test_of_a_single_sample_every_rule_makes_the_same():
    asked, candidates, judgements = drawn(samples=9, problems=3, seed=1)
    curves = curve_report(candidates, judgements, asked, resample(3, 10))["curves"]
    share = np.mean([c.correct for c in candidates])
    assert [curve[0]["value"] for curve in curves.values()] == [pytest.approx(share)] * len(CURVES)


def test_where_there_is_nothing_to_choose_from():
    asked, candidates, judgements = drawn(samples=1)
    assert curve_report(candidates, judgements, asked, resample(3, 10)) == {"curves": {}, "aggregation": {}}
    lacking = [problem("none"), *asked]
    _, many, more = drawn()
    assert curve_report(many, more, lacking, resample(4, 10))["curves"] == {}


def test_points_of_a_curve():
    assert points(6) == [1, 2, 3, 4, 5, 6] and points(9)[-2:] == [8, 9]
    assert points(96) == [*range(1, 9), 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96]
