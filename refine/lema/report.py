"""The numbers of a run of LeMa: how often each arm is right, its paired difference to CoT alone, and how well each arm
corrects mistakes when it is asked to.

Left out: words and tables (`experiments/report/lema.py`), and claims over several runs (`refine/report/claims.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from refine.report.claims import Claim
from refine.report.outcomes import Outcome, problem_name
from rewards.intervals import RESAMPLES, Tally, mcnemar, resample, wilson
from rollouts.records import Correction, Problem, Rollout
from rollouts.world.args import SOURCE as WORLD
from rollouts.world.oracle import true_first_error

ASKED = ("read", "names", "mends")  # measures of a policy that is asked to correct
START = "student"  # before any training
EVOLVED = "evolve_"  # and where the new problems come from: all CoT data and corrections, those of new problems too
MORE = "more_data"  # the same without new problems
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


def asked_outcomes(
    problems: Sequence[Problem], asked: Mapping[str, tuple[Sequence[Correction], Mapping[str, Problem]]]
) -> list[Outcome]:
    """What each arm replied when it was asked to correct mistakes on test problems: measures `read ARM` (a step is
    named that is there), `names ARM` (the first wrong one; in the embedded world, where the oracle knows it) and
    `mends ARM` (the reply is kept: its solution is right), hits among the mistakes of a problem.

    Raises:
        ValueError: a mistake is of a problem that is none of the test problems.
    """
    names = {problem.id: problem_name(problem.id, problem.question) for problem in problems}
    found = []
    for arm, (rows, own) in asked.items():
        for row in rows:
            if row.problem_id not in names:
                raise ValueError(f"arm {arm} was asked about {row.problem_id}, which is none of the test problems")
            hits = {"read": row.wrong_step is not None, "mends": row.reason is None}
            problem = own[row.problem_id]
            if problem.source == WORLD and (truth := true_first_error(problem, row.mistake)) is not None:
                hits["names"] = row.wrong_step == truth + 1
            name = names[row.problem_id]
            found += [Outcome(f"{measure} {arm}", name, float(hit), 1.0) for measure, hit in hits.items()]
    return found


def build_asked(
    outcomes: Sequence[Outcome], chance: float | None, seed: int, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """The shares of `asked_outcomes` by arm and measure (Wilson's interval, or the bootstrap's with several mistakes a
    problem); `chance` is how often a step drawn at random is the wrong one."""
    own = [one for one in outcomes if one.measure.partition(" ")[0] in ASKED]
    if not own:
        return {}
    tallies, problems = _tallies(own)
    counts = resample(len(problems), resamples, seed)
    arms: dict[str, Any] = {}
    for measure, tally in tallies.items():
        what, _, arm = measure.partition(" ")
        hits, mistakes = int(tally.numerators.sum()), int(tally.denominators.sum())
        single = (tally.denominators <= 1).all()
        arms.setdefault(arm, {})[what] = wilson(hits, mistakes) if single else tally.estimate(counts)
    return {"arms": arms, "chance": chance}


def guess_rate(rows: Sequence[Correction]) -> float | None:
    """How often a step that is drawn at random would be the wrong one: the mean of 1 / steps over mistakes."""
    return float(np.mean([1 / len(row.mistake) for row in rows])) if rows else None


def _tallies(outcomes: Sequence[Outcome]) -> tuple[dict[str, Tally], list[str]]:
    """By measure, hits and denominators of each problem; and the problems."""
    problems = list(dict.fromkeys(one.problem for one in outcomes))
    rows = {name: place for place, name in enumerate(problems)}
    tallies: dict[str, Tally] = {}
    for one in outcomes:
        tally = tallies.setdefault(one.measure, Tally(np.zeros(len(rows)), np.zeros(len(rows))))
        tally.numerators[rows[one.problem]] += one.hits
        tally.denominators[rows[one.problem]] += one.of
    return tallies, problems


def build_arms(outcomes: Sequence[Outcome], seed: int, resamples: int = RESAMPLES) -> dict[str, Any]:
    """`accuracy` of each arm (Wilson's interval, or the bootstrap's with several samples a problem), and `difference`
    to CoT alone on the same problems (bootstrap over problems; with McNemar's p where each problem has one sample)."""
    found, problems = _tallies([one for one in outcomes if one.measure.startswith("right ")])
    tallies = {measure.removeprefix("right "): tally for measure, tally in found.items()}
    counts = resample(len(problems), resamples, seed)
    pairs = {f"{one}_minus_{other}": tallies[one].minus(tallies[other], counts) for one, other in arm_pairs([*tallies])}
    single = all((tally.denominators == 1).all() for tally in tallies.values())
    accuracy, difference, control = {}, {}, tallies[CONTROL]
    for arm, tally in tallies.items():
        right = int(tally.numerators.sum())
        accuracy[arm] = wilson(right, len(problems)) if single else tally.estimate(counts)
        if arm != CONTROL:
            difference[arm] = tally.minus(control, counts)
            if single:
                difference[arm]["mcnemar_p"] = mcnemar(tally.numerators, control.numerators)
    return {"accuracy": accuracy, "difference": difference, "pairs": pairs}


def arm_pairs(arms: Sequence[str]) -> list[tuple[str, str]]:
    """Arms that are to be held against each other and not only against CoT alone: with new problems from corrections
    against those from all, and each against the same without new problems."""
    evolved = [arm for arm in arms if arm.startswith(EVOLVED)]
    pairs = [(arm, MORE) for arm in evolved if MORE in arms]
    return pairs + [(evolved[0], arm) for arm in evolved[1:]]


def headline(arms: Sequence[str]) -> str:
    """The arm that says whether corrections help."""
    trained = [arm for arm in arms if arm not in (START, CONTROL)]
    return next((arm for arm in HEADLINES if arm in trained), trained[0])


def arm_claims(
    arms: Sequence[str], words: Mapping[str, str], asked: Sequence[str] = ()
) -> tuple[list[Claim], list[Claim]]:
    """How often each arm is right, of which nothing is claimed; and that each arm is right more often than CoT alone,
    CoT alone more often than the student, and that arms which were `asked` to correct name the wrong step more often
    than CoT alone does."""
    rights = [Claim("LeMa", words[arm], (f"right {arm}",)) for arm in arms]
    pairs = [("LeMa", *pair) for pair in arm_pairs(arms)]
    pairs += [("LeMa", arm, CONTROL) for arm in arms if arm not in (START, CONTROL)] + [("ours", CONTROL, START)]
    claims = [
        Claim(source, f"{words[arm]} beats {words[other]}", (f"right {arm}",), (f"right {other}",), above=0.0)
        for source, arm, other in pairs
    ]
    return rights, claims + [
        Claim(
            "ours", f"{words[arm]} names the wrong step more often than CoT alone", (f"names {arm}",),
            (f"names {CONTROL}",), above=0.0,
        )
        for arm in asked if arm != CONTROL
    ]  # fmt: skip
