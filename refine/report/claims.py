"""The claims of GLoRe and of this project, checked on several runs that differ in the luck of training alone.

Each claim is about a mean over runs: of one measure of `refine/report/outcomes.py`, or of the difference of two on the
same problems. Left out: reading runs and writing the table (`experiments/claims.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refine.report.outcomes import LABELS, Outcome
from rewards.intervals import RESAMPLES, Tally, over_trainings, replicate, resample


@dataclass(frozen=True)
class Claim:
    """That `first` minus `second` is above `above` and below `below`, and is at least `least` in the runs at hand.

    `first` and `second` name measures; of several, their mean is taken. Without `second` it is about `first` itself.
    """

    source: str  # GLoRe (arXiv 2402.10963), or ours
    words: str
    first: tuple[str, ...]
    second: tuple[str, ...] = ()
    above: float = -math.inf
    below: float = math.inf
    least: float = -math.inf

    def verdict(self, found: dict[str, Any] | None) -> str:
        """`supported`: the whole 95% interval agrees with the claim, and the value reaches `least`. `opposite`: the
        whole interval contradicts it. `not shown` is all between, and `not run` where a measure is missing."""
        if found is None or found["low"] is None:
            return "not run"
        if found["high"] < self.above or found["low"] > self.below:
            return "opposite"
        agrees = found["low"] > self.above and found["high"] < self.below and found["value"] >= self.least
        return "supported" if agrees else "not shown"


def _more(source: str, words: str, first: str, second: str, least: float = 0.0, above: float = 0.0) -> Claim:
    return Claim(source, words, (first,), (second,), above=above, least=least)


CLAIMS = (
    _more("GLoRe", "reranking beats the draft", "right reranked", "right draft"),
    _more("GLoRe", "reranking beats the best of n samples", "right reranked", "right best_of_n"),
    _more("GLoRe", "either refiner fixes more than global", "fixed either", "fixed global"),
    _more("GLoRe", "either refiner fixes more than local", "fixed either", "fixed local"),
    _more("GLoRe", "global alone does not know when: choosing beats it", "right draft_global", "right global"),
    _more("GLoRe", "local alone does not know when: choosing beats it", "right draft_local", "right local"),
    _more("GLoRe", "local fixes more told the error by the SORM", "fixed local sorm", "fixed local none"),
    _more("GLoRe", "SORM above ORM on steps", "steps sorm", "steps orm"),
    _more("GLoRe", "SORM above ORM on the first error", "first error sorm", "first error orm"),
    Claim("GLoRe", "SORM below ORM on final answers", ("finals sorm",), ("finals orm",), below=0.0),
    Claim("GLoRe", "step labels are right on 94% or more", (LABELS,), above=0.94),
    Claim("ours", "the draft is right on 45 to 60%", ("right draft",), above=0.45, below=0.60),
    Claim("ours", "control within 2 points of the draft", ("right control",), ("right draft",), -0.02, 0.02),
    Claim("ours", "shuffled draft within 2 points of the draft", ("right shuffled",), ("right draft",), -0.02, 0.02),
    _more("ours", "reranking 10 points above the draft, surely 5", "right reranked", "right draft", 0.10, 0.05),
    _more("ours", "reranking 8 points above the control, surely 5", "right reranked", "right control", 0.08, 0.05),
    _more("ours", "reranking 4 points above the best of n", "right reranked", "right best_of_n", 0.04),
    _more("ours", "local adds to draft and global", "right reranked", "right draft_global"),
    _more("ours", "global adds to draft and local", "right reranked", "right draft_local"),
    Claim("ours", "ORM: right above wrong, same problem, on 80%", ("pairs orm",), above=0.80),
    Claim("ours", "ORM: the same among what is offered, on 75%", ("offered orm",), above=0.75),
    Claim(
        "ours", "SORM above ORM on steps, right and wrong alike", ("right steps sorm", "wrong steps sorm"),
        ("right steps orm", "wrong steps orm"), above=0.0,
    ),
)  # fmt: skip


def check_claims(
    runs: Mapping[str, Sequence[Outcome]],
    resamples: int = RESAMPLES,
    seed: int = 0,
    claims: Sequence[Claim] = CLAIMS,
    whole: str = "right draft",
) -> list[dict[str, Any]]:
    """Every claim with its estimate over the runs, the value of each run, and the verdict. `whole` is a measure that
    has every test problem.

    The runs are paired: they must have the same test problems, and each resample draws the same ones for all of them.
    The value is the mean of the runs' values, so that a run with more wrong drafts weighs no more than another. Step
    labels are of training problems, of which a run may have labelled others than the next: one that it did not label
    adds nothing to it.

    Raises:
        ValueError: there are fewer than two runs, or two have not the same test problems.
    """
    if len(runs) < 2:
        raise ValueError(f"{', '.join(runs) or 'nothing'}: a claim over the luck of training needs two or more runs")
    known = {one.measure for own in runs.values() for one in own}
    problems = same_problems(runs, whole)
    measured = _measures(runs, problems, resample(len(problems), resamples, seed), known - {LABELS})
    if LABELS in known:
        labelled = sorted({one.problem for own in runs.values() for one in own if one.measure == LABELS})
        measured |= _measures(runs, labelled, resample(len(labelled), resamples, seed), {LABELS})
    return [_check(claim, measured, seed) for claim in claims]


def same_problems(runs: Mapping[str, Sequence[Outcome]], whole: str) -> list[str]:
    """The test problems that all runs have; `whole` is a measure that has every one.

    Raises:
        ValueError: two runs have not the same, or there is none.
    """
    own = {name: {one.problem for one in run if one.measure == whole} for name, run in runs.items()}
    (name, first), *others = own.items()
    if not first:
        raise ValueError(f"{name} has no outcomes of '{whole}' to compare with")
    for other, theirs in others:
        if odd := sorted(first ^ theirs):
            raise ValueError(f"{name} and {other} have not the same test problems ({odd[0]} is of one only)")
    return sorted(first)


def tally_runs(
    runs: Mapping[str, Sequence[Outcome]], problems: Sequence[str], wanted: set[str]
) -> dict[str, dict[str, Tally]]:
    """The wanted measures that every run has: of each, what the problems of each run add to it."""
    rows = {problem: row for row, problem in enumerate(problems)}
    tallies: dict[str, dict[str, Tally]] = {name: {} for name in sorted(wanted)}
    for run, outcomes in runs.items():
        for one in outcomes:
            if one.measure in wanted:
                zeros = (np.zeros(len(rows)), np.zeros(len(rows)))
                tally = tallies[one.measure].setdefault(run, Tally(*zeros))
                tally.numerators[rows[one.problem]] += one.hits
                tally.denominators[rows[one.problem]] += one.of
    return {name: own for name, own in tallies.items() if len(own) == len(runs)}


Measured = dict[str, tuple[np.ndarray, np.ndarray, int]]  # values (runs,), replicates (runs, resamples), problems


def _measures(
    runs: Mapping[str, Sequence[Outcome]], problems: list[str], counts: np.ndarray, wanted: set[str]
) -> Measured:
    """The wanted measures that every run has, in each resample of these problems."""
    whole = tally_runs(runs, problems, wanted)
    flat = [own[run] for own in whole.values() for run in runs]
    if not flat:
        return {}
    values = np.array([one.value for one in flat]).reshape(len(whole), len(runs))
    replicates = replicate(flat, counts).reshape(len(whole), len(runs), len(counts))
    return {name: (values[i], replicates[i], len(problems)) for i, name in enumerate(whole)}


def _check(claim: Claim, measured: Measured, seed: int) -> dict[str, Any]:
    found, values = None, []
    if all(name in measured for name in (*claim.first, *claim.second)):
        own, replicates = (
            _mean(measured, claim.first, part) - (_mean(measured, claim.second, part) if claim.second else 0)
            for part in (0, 1)
        )
        found, values = over_trainings(own, replicates, measured[claim.first[0]][2], seed), own.tolist()
    return {
        "source": claim.source,
        "claim": claim.words,
        "first": list(claim.first),
        "second": list(claim.second),
        "estimate": found,
        "runs": values,
        "verdict": claim.verdict(found),
    }


def _mean(measured: Measured, names: tuple[str, ...], part: int) -> np.ndarray:
    return np.mean([measured[name][part] for name in names], axis=0)
