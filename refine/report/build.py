"""The numbers of a finished run: one dict with stable keys, made from the records and nothing else.

Shares are from 0 to 1; an estimate is a dict of value, low, high (95%) and n, or None where it could not be measured.
What the refiners mend is in `refine/report/repairs.py`, how the reward models judge in `rewards/evaluate.py`; words and
pictures are in `experiments/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from refine.report.example import choose_example
from refine.report.inputs import ReportInputs
from refine.report.repairs import WHERES, repair_report
from refine.rerank import SCORED
from refine.rerank import SELECTORS as OFFERS
from rewards.evaluate import SCORERS, judge_report
from rewards.intervals import Estimate, Tally, mcnemar, resample
from rollouts.records import Candidate, CandidateKey, Choice, Judgement, identity

# selector → (needs local refinements, asks a reward model)
SELECTORS = {
    name: ("local" in kinds, rule in SCORED and (len(kinds) > 1 or "sample" in kinds))
    for name, (kinds, rule) in OFFERS.items()
}
DIFFERENCES = (
    ("reranked", "draft"),
    ("reranked", "best_of_n"),
    ("reranked", "majority_of_n"),
    ("reranked", "control"),
    ("reranked", "draft_control"),
    ("reranked", "random"),
    ("reranked", "global"),
    ("reranked", "local"),
    ("reranked", "draft_global"),
    ("reranked", "draft_local"),
    ("best_of_n", "draft"),
    ("global", "draft"),
    ("local", "draft"),
    ("control", "draft"),
    ("global", "control"),
    ("local", "control"),
    ("draft_global", "draft_control"),
    ("oracle", "reranked"),
)

# GLoRe (arXiv 2402.10963), Llama-2 13B on GSM8K, step accuracy of the 7B; "(2nd)": from secondary summaries
PAPER = {
    "accuracy": {"draft": (0.53, ""), "reranked": (0.65, ""), "best_of_n": (0.58, "(2nd)")},
    "fixed": {"global": (0.28, "(2nd)"), "local": (0.28, "(2nd)"), "either": (0.41, "(2nd)")},
    "step_accuracy": {"orm": (0.73, "(2nd)"), "sorm": (0.81, "(2nd)")},
    "label_accuracy": (0.94, "(2nd)"),
}


def build_report(inputs: ReportInputs) -> dict[str, Any]:
    """Compute every number of the report; the same inputs give the same dict, `stages` aside.

    Raises:
        ValueError: there is no problem; a selector did not choose for every one, or chose twice; a draft or sample
            without judgement, or with another number of scores than it has steps.
    """
    rows = {problem.id: row for row, problem in enumerate(inputs.problems)}
    candidates = {identity(candidate): candidate for candidate in inputs.candidates}
    counts = resample(len(rows), inputs.resamples, inputs.seed)
    arms = _arms(inputs.choices, rows)
    judged = judge_report(
        inputs.judgements, inputs.thresholds, inputs.step_truth, inputs.where, rows, candidates, counts
    )
    fixed, broken, repair_differences, by_where = repair_report(inputs.where, rows, candidates, counts)
    headline = {name: _find_arm(arms, name, inputs.scorer, inputs.where) for name in SELECTORS}
    report = {
        "title": inputs.title,
        "model": inputs.model,
        "source": inputs.source,
        "seed": inputs.seed,
        "problems": len(rows),
        "splits": sorted({problem.split for problem in inputs.problems}),
        "headline": {"scorer": inputs.scorer, "where": inputs.where},
        "samples": inputs.samples,
        "accuracy": {name: arm and _correct(arm, rows).estimate(counts) for name, arm in headline.items()},
        "tokens": {
            name: arm and float(np.mean([choice.completion_tokens for choice in arm.values()]))
            for name, arm in headline.items()
        },
        "difference": _differences(headline, rows, counts) | repair_differences | judged.pop("difference"),
        "fixed": fixed,
        "broken": broken,
        "by_where": by_where,
        "ablation": _ablation(arms, candidates, rows, counts),
        "label_accuracy": _label_accuracy(inputs),
        **judged,
        "thresholds": dict(inputs.thresholds),
        "stages": {name: dict(stage) for name, stage in inputs.stages.items()},
        "given": dict(inputs.given),
        "ungraded": sum(candidate.correct is None for candidate in inputs.candidates),
        "too_long": {name: _too_long(inputs.judgements, candidates, name) for name in SCORERS},
        "paper": _paper(inputs.samples),
        "example": choose_example(inputs, candidates),
    }
    report["notes"] = _notes(inputs, report)
    return _rounded(report)


def _paper(samples: int) -> dict[str, Any]:
    """The paper's figures, of which that of best-of-n goes with 3 samples only."""
    accuracy = {name: found for name, found in PAPER["accuracy"].items() if name != "best_of_n" or samples == 3}
    return PAPER | {"accuracy": accuracy}


def _arms(choices: Sequence[Choice], rows: dict[str, int]) -> dict[tuple[str, str, str], dict[str, Choice]]:
    """Group the choices by (selector, scorer, where); each arm must choose once for every problem.

    A choice that asks no reward model may be there again, unchanged, for each of them.
    """
    arms: dict[tuple[str, str, str], dict[str, Choice]] = {}
    for choice in choices:
        name = (choice.selector, choice.scorer, choice.where)
        arm = arms.setdefault(name, {})
        if arm.get(choice.problem_id, choice) != choice:
            raise ValueError(f"{name} chose twice, and differently, for problem {choice.problem_id!r}")
        arm[choice.problem_id] = choice
    for name, arm in arms.items():
        if odd := sorted(arm.keys() ^ rows.keys()):
            raise ValueError(f"{name} chose for {len(arm)} problems, the report has {len(rows)}; see {odd[0]!r}")
    return arms


def _find_arm(
    arms: dict[tuple[str, str, str], dict[str, Choice]], selector: str, scorer: str, where: str
) -> dict[str, Choice] | None:
    needs_local, asks = SELECTORS[selector]
    # with a single candidate on offer nobody is asked; without local refinements an arm may be filed under none
    scorers = (scorer, "none") if asks else ("none",)
    wheres = (where,) if needs_local else (where, "none")
    return next((arms[selector, s, w] for s in scorers for w in wheres if (selector, s, w) in arms), None)


def headline_arms(inputs: ReportInputs) -> dict[str, dict[str, Choice] | None]:
    """What each selector chose in the headline, by problem; None for a selector that was not run."""
    arms = _arms(inputs.choices, {problem.id: row for row, problem in enumerate(inputs.problems)})
    return {name: _find_arm(arms, name, inputs.scorer, inputs.where) for name in SELECTORS}


def _correct(arm: dict[str, Choice], rows: dict[str, int]) -> Tally:
    return Tally(np.array([arm[problem_id].correct for problem_id in rows], dtype=float), np.ones(len(rows)))


def _differences(
    arms: dict[str, dict[str, Choice] | None], rows: dict[str, int], counts: np.ndarray
) -> dict[str, Estimate | None]:
    """Every pair of `DIFFERENCES` on the same problems, with McNemar's exact p."""
    found = dict.fromkeys(f"{a}_minus_{b}" for a, b in DIFFERENCES)
    for a, b in DIFFERENCES:
        if arms[a] is not None and arms[b] is not None:
            first, second = _correct(arms[a], rows), _correct(arms[b], rows)
            pair = {"mcnemar_p": mcnemar(first.numerators, second.numerators)}
            found[f"{a}_minus_{b}"] = first.minus(second, counts) | pair
    return found


def _ablation(
    arms: dict[tuple[str, str, str], dict[str, Choice]],
    candidates: dict[CandidateKey, Candidate],
    rows: dict[str, int],
    counts: np.ndarray,
) -> dict[str, dict[str, dict[str, Estimate]]]:
    """Accuracy of every selector there is, by what located the error and by who scored."""
    located = {where for _, kind, where, _ in candidates if kind == "local"}
    table: dict[str, dict[str, dict[str, Estimate]]] = {}
    for where in [name for name in WHERES if name in located]:
        for scorer in SCORERS:
            found = {name: _find_arm(arms, name, scorer, where) for name in SELECTORS}
            cell = {name: _correct(arm, rows).estimate(counts) for name, arm in found.items() if arm is not None}
            table.setdefault(where, {})[scorer] = cell
    return table


def _label_accuracy(inputs: ReportInputs) -> Estimate | None:
    """Share of the step labels that are right, with its interval over training problems: one problem's labels depend on
    each other."""
    if not inputs.label_truth:
        return None
    tally = Tally(*np.array(list(inputs.label_truth.values()), dtype=float).T)
    return tally.estimate(resample(len(inputs.label_truth), inputs.resamples, inputs.seed))


def _too_long(judgements: Sequence[Judgement], candidates: dict[CandidateKey, Candidate], scorer: str) -> int:
    """How many candidates a reward model could not read: they have steps and no score."""
    own = [identity(one) for one in judgements if one.scorer == scorer and not one.probabilities]
    return sum(bool(candidates[key].steps) for key in own)


def _notes(inputs: ReportInputs, report: dict[str, Any]) -> list[str]:
    """What could not be measured, and why, one sentence each."""
    notes = []
    if inputs.given:
        names = ", ".join(f"{name} {what}" for name, what in inputs.given.items())
        notes.append(f"Given, not made in this run: {names}. What they were trained on is not known here.")
    if not inputs.apart:
        notes.append("The test problems were not compared with those trained on, which are not known here.")
    absent = [name for name, found in report["accuracy"].items() if found is None]
    if absent:
        notes.append(f"Not run, hence empty: {', '.join(absent)}.")
    if inputs.step_truth is None:
        notes.append("This source has no oracle, so step accuracy and first-error accuracy are not measured.")
    if inputs.label_truth is None:
        notes.append("The step labels could not be checked against the truth.")
    if report["ungraded"]:
        notes.append(f"{report['ungraded']} candidates could not be graded in time; none of them counts as right.")
    for name, number in report["too_long"].items():
        if number:
            notes.append(
                f"{number} candidates are too long for the {name.upper()}: they have no score, none of its measures "
                "counts them, and it chooses them only where no other has a score."
            )
    return notes


def _rounded(value: Any) -> Any:
    """Six decimals: more would only show the order in which a processor adds."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, (list, tuple)) else value
