"""Several arms on the same problems: how often each selector is right, and differences between arms, in pairs.

An arm is one setting with one run or more, which differ in their seed alone. Left out: reading runs and naming arms
(`experiments/report/runs.py`), words and pictures (`experiments/report/compared.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refine.report.claims import same_problems, tally_runs
from refine.report.outcomes import Outcome
from rewards.intervals import (
    RESAMPLES,
    Estimate,
    Tally,
    estimate,
    holm,
    mcnemar,
    over_trainings,
    resample,
    trainings_p,
    wilson,
)

RIGHT = "right "  # begins the measures of selectors
# how a reward model judges, as a report has it, and the measure of `refine/report/outcomes.py` that is the same
JUDGED = {
    "step_accuracy": "steps",
    "step_auroc": None,
    "first_error_accuracy": "first error",
    "first_error_f1": None,
    "final_accuracy": "finals",
    "auroc": None,
}
SINGLE = "draft"  # what the selector of a single arm is compared with first


@dataclass(frozen=True)
class Run:
    """A finished run: its folder as it was given, seed, the numbers of its report, and its outcomes."""

    name: str
    seed: int
    report: Mapping[str, Any]
    outcomes: Sequence[Outcome]


def compare_arms(
    arms: Mapping[str, Sequence[Run]], selector: str, reference: str, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Accuracy and tokens of every selector of every arm, and the difference of each arm to `reference` where both
    choose by `selector`; of a single arm, the differences of `selector` to its other selectors. `judges` has, by reward
    model, how it judges (`JUDGED`).

    All resamples draw the same problems for all runs. An arm of several runs has the mean over its runs; its interval
    is over problems and trainings (`over_trainings`). One of a single run has Wilson's (of several solutions a problem,
    the bootstrap's). Two arms are compared run by run: those of one seed with each other, or in the order of seeds
    where they share none; the p is McNemar's for one pair of runs, and that of `trainings_p` for several. `holm_p` is
    corrected for all differences of the table.

    Raises:
        ValueError: two runs have not the same problems, or are of one arm and one seed; or one has no outcomes of
            `selector`.
    """
    for runs in arms.values():
        check_seeds(runs)
        for run in runs:
            if all(one.measure != RIGHT + selector for one in run.outcomes):
                known = ", ".join(name for name, found in run.report["accuracy"].items() if found)
                raise ValueError(f"{run.name} has nothing chosen by {selector!r}; it has {known}")
    flat = {run.name: run.outcomes for runs in arms.values() for run in runs}
    problems = same_problems(flat, RIGHT + selector)
    counts = resample(len(problems), resamples, seed)
    tallies = {name: _tallies(runs, problems) for name, runs in arms.items()}
    if len(arms) == 1:
        ((only, own),) = tallies.items()
        others = sorted(own.keys() - {selector}, key=lambda name: (name != SINGLE, list(own).index(name)))
        pairs = [((only, selector), (only, other)) for other in others]
    else:
        pairs = [((name, selector), (reference, selector)) for name in arms if name != reference]
    differences = [_difference(arms, tallies, first, second, counts, seed) for first, second in pairs]
    for one, adjusted in zip(differences, holm([one["p"] for one in differences]), strict=True):
        one["holm_p"] = adjusted
    return {
        "selector": selector,
        "reference": reference,
        "problems": len(problems),
        "arms": [
            {
                "name": name,
                "runs": {run.name: run.seed for run in runs},
                "selectors": {one: _accuracy(runs, tallies[name][one], one, counts, seed) for one in tallies[name]},
                "judges": _judges(runs, problems, counts, seed),
            }
            for name, runs in arms.items()
        ],
        "differences": differences,
        "disagreements": _disagreements(tallies, selector, problems),
    }


def check_seeds(runs: Sequence[Run]) -> None:
    """See that the runs of one setting are different ones.

    Raises:
        ValueError: two are of one seed.
    """
    seen: dict[int, str] = {}
    for run in runs:
        if (other := seen.setdefault(run.seed, run.name)) != run.name:
            raise ValueError(f"{other} and {run.name} are both of seed {run.seed}: one run counted twice")


def _tallies(runs: Sequence[Run], problems: Sequence[str]) -> dict[str, list[Tally]]:
    """What each selector that all runs have adds to each, in the order of the first run's report."""
    named = {run.name: run.outcomes for run in runs}
    known = {one.measure for one in runs[0].outcomes if one.measure.startswith(RIGHT)}
    # `right steps orm` is of steps and not of problems
    found = {name.removeprefix(RIGHT): list(own.values()) for name, own in tally_runs(named, problems, known).items()}
    order = [name for name in runs[0].report["accuracy"] if name in found]
    return {name: found[name] for name in order}


def _accuracy(runs: Sequence[Run], own: Sequence[Tally], selector: str, counts: np.ndarray, seed: int) -> dict:
    spent = [_tokens(run.report, selector) for run in runs]
    tokens = None if None in spent else float(np.mean(spent))
    return {"estimate": _mean(own, counts, seed), "tokens": tokens, "each": [one.value for one in own]}


def _mean(own: Sequence[Tally], counts: np.ndarray, seed: int) -> Estimate:
    """The mean over the runs of an arm; Wilson's interval, or the bootstrap's, for a single run."""
    if len(own) > 1:
        values, spread = np.array([one.value for one in own]), np.array([one.replicates(counts) for one in own])
        return over_trainings(values, spread, counts.shape[1], seed)
    if (own[0].denominators == 1).all():
        return wilson(round(own[0].numerators.sum()), len(own[0].numerators))
    return own[0].estimate(counts)


def _judges(
    runs: Sequence[Run], problems: Sequence[str], counts: np.ndarray, seed: int
) -> dict[str, dict[str, Estimate | None]]:
    """How each reward model judges that all runs of an arm have. What is no mean over problems has an interval only
    where there is a single run: its own."""
    reported = [run.report.get("final_accuracy", {}) for run in runs]
    scorers = [name for name in reported[0] if all(one.get(name) for one in reported)]
    named = {run.name: run.outcomes for run in runs}
    wanted = {f"{measure} {scorer}" for measure in filter(None, JUDGED.values()) for scorer in scorers}
    tallies = tally_runs(named, problems, wanted)
    table: dict[str, dict[str, Estimate | None]] = {scorer: {} for scorer in scorers}
    for scorer in scorers:
        for key, measure in JUDGED.items():
            own, found = [run.report[key][scorer] for run in runs], None
            if measure and (tally := tallies.get(f"{measure} {scorer}")):
                found = _mean(list(tally.values()), counts, seed)
            elif None not in own:
                mean = float(np.mean([one["value"] for one in own]))
                found = own[0] if len(own) == 1 else {"value": mean, "low": None, "high": None, "n": own[0]["n"]}
            table[scorer][key] = found
    return table


def _tokens(report: Mapping[str, Any], selector: str) -> float | None:
    """All tokens of a problem, sampled and read, as the report has them."""
    sampled, read = (report.get(name, {}).get(selector) for name in ("tokens", "tokens_read"))
    return None if sampled is None else sampled + (read or 0)


Side = tuple[str, str]  # arm, selector


def _difference(
    arms: Mapping[str, Sequence[Run]],
    tallies: Mapping[str, Mapping[str, Sequence[Tally]]],
    first: Side,
    second: Side,
    counts: np.ndarray,
    seed: int,
) -> dict[str, Any]:
    pairs = pair_runs(*([run.seed for run in arms[arm]] for arm, _ in (first, second)))
    one, other = (
        [tallies[arm][name][pair[side]] for pair in pairs] for side, (arm, name) in enumerate((first, second))
    )
    values = np.array([a.value - b.value for a, b in zip(one, other, strict=True)])
    spread = np.array([a.replicates(counts) - b.replicates(counts) for a, b in zip(one, other, strict=True)])
    chances = [mcnemar(_shares(a), _shares(b)) for a, b in zip(one, other, strict=True)]
    single = len(pairs) == 1
    found: Estimate = (
        estimate(values[0], spread[0], counts.shape[1])
        if single
        else over_trainings(values, spread, counts.shape[1], seed)
    )
    return {
        "first": list(first),
        "second": list(second),
        "seeds": [[arms[first[0]][i].seed, arms[second[0]][j].seed] for i, j in pairs],
        "estimate": found,
        "each": values.tolist(),
        "mcnemar_p": chances,
        "p": chances[0] if single else trainings_p(values, spread),
    }


def _shares(tally: Tally) -> np.ndarray:
    """How many solutions of each problem are right, (problems,): 0 or 1 where there is one."""
    return tally.numerators / tally.denominators


def pair_runs(first: Sequence[int], second: Sequence[int]) -> list[tuple[int, int]]:
    """Places of the runs of two arms that are compared with each other, from their seeds.

    Of seeds [0, 1, 2] and [2, 0] they are (0, 1) and (2, 0), of seed 0 and seed 2.
    """
    if shared := [seed for seed in first if seed in second]:
        return [(first.index(seed), second.index(seed)) for seed in shared]
    orders = (sorted(range(len(seeds)), key=lambda at: seeds[at]) for seeds in (first, second))
    return list(zip(*orders, strict=False))


def _disagreements(
    tallies: Mapping[str, Mapping[str, Sequence[Tally]]], selector: str, problems: Sequence[str]
) -> dict[str, list[float]]:
    """The problems on which arms differ: of each arm, the share of its runs that are right."""
    shares = np.array([np.mean([_shares(run) for run in own[selector]], axis=0) for own in tallies.values()])
    differ = shares.max(axis=0) > shares.min(axis=0)
    return {problems[at]: shares[:, at].tolist() for at in np.flatnonzero(differ)}
