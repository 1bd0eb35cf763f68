"""The numbers of a run of LeMa: how often each arm is right, and its paired difference to CoT alone.

Left out: words and tables (`experiments/report/lema.py`), and claims over several runs (`refine/report/claims.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from refine.report.claims import Claim
from refine.report.outcomes import Outcome, problem_name
from rewards.intervals import RESAMPLES, Tally, mcnemar, resample, wilson
from rollouts.records import Problem, Rollout

START = "student"  # before any training
CONTROL = "cot"  # trained on CoT data alone
# the arms that show whether corrections help at equal size, the first that was run is the headline
HEADLINES = ("equal_examples", "equal_tokens")


def arm_outcomes(problems: Sequence[Problem], arms: Mapping[str, Sequence[Rollout]]) -> list[Outcome]:
    """How often each arm solves each problem: measure `right ARM`, hits among its samples; one that was not graded is
    no hit.

    Raises:
        ValueError: an arm has not the same problems.
    """
    names = {problem.id: problem_name(problem.id, problem.question) for problem in problems}
    found = []
    for arm, rows in arms.items():
        hits = dict.fromkeys(names, 0)
        of = dict.fromkeys(names, 0)
        for row in rows:
            if row.problem_id not in names:
                raise ValueError(f"arm {arm} has a solution of {row.problem_id}, which is none of the test problems")
            hits[row.problem_id] += row.correct is True
            of[row.problem_id] += 1
        if missing := next((name for name, count in of.items() if not count), None):
            raise ValueError(f"arm {arm} has no solution of {missing}")
        found += [Outcome(f"right {arm}", names[one], float(hits[one]), float(of[one])) for one in names]
    return found


def build_arms(outcomes: Sequence[Outcome], seed: int, resamples: int = RESAMPLES) -> dict[str, Any]:
    """`accuracy` of each arm (Wilson's interval, or the bootstrap's with several samples a problem), and `difference`
    to CoT alone on the same problems (bootstrap over problems; with McNemar's p where each problem has one sample)."""
    problems = list(dict.fromkeys(one.problem for one in outcomes))
    rows = {name: place for place, name in enumerate(problems)}
    tallies: dict[str, Tally] = {}
    for one in outcomes:
        arm = one.measure.removeprefix("right ")
        tally = tallies.setdefault(arm, Tally(np.zeros(len(rows)), np.zeros(len(rows))))
        tally.numerators[rows[one.problem]] += one.hits
        tally.denominators[rows[one.problem]] += one.of
    counts = resample(len(problems), resamples, seed)
    single = all((tally.denominators == 1).all() for tally in tallies.values())
    accuracy, difference, control = {}, {}, tallies[CONTROL]
    for arm, tally in tallies.items():
        right = int(tally.numerators.sum())
        accuracy[arm] = wilson(right, len(problems)) if single else tally.estimate(counts)
        if arm != CONTROL:
            difference[arm] = tally.minus(control, counts)
            if single:
                difference[arm]["mcnemar_p"] = mcnemar(tally.numerators, control.numerators)
    return {"accuracy": accuracy, "difference": difference}


def headline(arms: Sequence[str]) -> str:
    """The arm that says whether corrections help."""
    trained = [arm for arm in arms if arm not in (START, CONTROL)]
    return next((arm for arm in HEADLINES if arm in trained), trained[0])


def arm_claims(arms: Sequence[str], words: Mapping[str, str]) -> tuple[list[Claim], list[Claim]]:
    """How often each arm is right, of which nothing is claimed; and that each arm is right more often than CoT alone,
    and CoT alone more often than the student."""
    rights = [Claim("LeMa", words[arm], (f"right {arm}",)) for arm in arms]
    pairs = [("LeMa", arm, CONTROL) for arm in arms if arm not in (START, CONTROL)] + [("ours", CONTROL, START)]
    return rights, [
        Claim(source, f"{words[arm]} beats {words[other]}", (f"right {arm}",), (f"right {other}",), above=0.0)
        for source, arm, other in pairs
    ]
