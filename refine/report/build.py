"""The numbers of a finished run: one dict with stable keys, made from the records and nothing else.

Shares are from 0 to 1; an estimate is a dict of value, low, high (95%) and n, or None where it could not be measured.
What the refiners mend is in `refine/report/repairs.py`, how the reward models judge in `rewards/evaluate.py`; words and
pictures are in `experiments/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from refine.report.curves import curve_report
from refine.report.example import choose_example, describe_examples
from refine.report.inputs import ReportInputs
from refine.report.labels import label_accuracy, labelled_steps
from refine.report.repairs import count_errors, repair_report, share
from refine.rerank import WHEN
from refine.revise import WHERE
from refine.selection import EQUAL, SCORED, SEARCHES, is_control, offers_refinements
from refine.selection import SELECTORS as OFFERS
from rewards.evaluate import IMPLICIT, judge_report, scorers_of
from rewards.intervals import Estimate, Tally, mcnemar, resample, wilson
from rewards.metrics import threshold_at
from rollouts.records import Candidate, CandidateKey, Choice, Judgement, identity

T = TypeVar("T")
Arm = tuple[str, str, str, str]  # selector, scorer, where, when

# selector → (has an arm for each place, asks a reward model, has an arm for each gate)
SELECTORS = {
    name: (
        "local" in kinds or name == EQUAL,
        rule in SCORED and (len(kinds) > 1 or kinds in (("sample",), ("beam",))),
        offers_refinements(name) or name == EQUAL,
    )
    for name, (kinds, rule) in OFFERS.items()
}
DIFFERENCES = (
    ("reranked", "draft"),
    ("reranked", "best_of_n"),
    ("reranked", "majority_of_n"),
    ("reranked", "control"),
    ("reranked", "draft_control"),
    ("reranked", "shuffled"),
    ("reranked", "draft_shuffled"),
    ("reranked", "best_of_n_with_draft"),
    ("reranked", EQUAL),
    ("reranked", "beam"),
    ("reranked", "until"),
    ("reranked", "random"),
    ("reranked", "global"),
    ("reranked", "local"),
    ("reranked", "draft_global"),
    ("reranked", "draft_local"),
    ("best_of_n", "draft"),
    ("beam", "best_of_n"),
    ("until", "draft"),
    ("global", "draft"),
    ("local", "draft"),
    ("control", "draft"),
    ("shuffled", "draft"),
    ("global", "control"),
    ("global", "shuffled"),
    ("local", "control"),
    ("draft_global", "draft_control"),
    ("oracle", "reranked"),
)

STRONGEST = "reranked_minus_strongest_control"

# GLoRe (arXiv 2402.10963), Llama-2 13B on GSM8K, step accuracy of the 7B; "(2nd)": from secondary summaries
PAPER = {
    "accuracy": {"draft": (0.53, ""), "reranked": (0.65, ""), "best_of_n": (0.58, "(2nd)")},
    "fixed": {"global": (0.28, "(2nd)"), "local": (0.28, "(2nd)"), "either": (0.41, "(2nd)")},
    "step_accuracy": {"orm": (0.73, "(2nd)"), "sorm": (0.81, "(2nd)")},
    "labelled_step_accuracy": {"orm": (0.73, "(2nd)"), "sorm": (0.81, "(2nd)")},
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
    thresholds = {
        name: (where, inputs.final_thresholds.get(name, threshold_at(where, -1)))
        for name, where in inputs.thresholds.items()
    }
    judged = judge_report(inputs.judgements, thresholds, inputs.step_truth, inputs.where, rows, candidates, counts)
    labelled, labelled_differences = labelled_steps(inputs, rows, counts)
    fixed, broken, repair_differences, by_where = repair_report(inputs.where, rows, candidates, counts)
    headline = {name: _find_arm(arms, name, inputs.scorer, inputs.where, inputs.when) for name in SELECTORS}
    strongest = _strongest_control(headline)
    ablation = _ablation(arms, candidates, scorers_of(inputs.judgements))
    report = {
        "title": inputs.title,
        "model": inputs.model,
        "source": inputs.source,
        "seed": inputs.seed,
        "problems": len(rows),
        "splits": sorted({problem.split for problem in inputs.problems}),
        "headline": {name: getattr(inputs, name) for name in ("scorer", "where", "when", "aggregate")},
        "samples": inputs.samples,
        "accuracy": {name: arm and _accuracy(arm) for name, arm in headline.items()},
        "tokens": {name: arm and _mean(arm, "completion_tokens") for name, arm in headline.items()},
        "tokens_read": {name: arm and _mean(arm, "read_tokens") for name, arm in headline.items()},
        "samples_equal_tokens": max((one.offered for one in (headline[EQUAL] or {}).values()), default=None),
        "strongest_control": strongest,
        "difference": {
            **_differences(headline, strongest, rows, counts),
            **repair_differences,
            **judged.pop("difference"),
            **labelled_differences,
        },
        "fixed": fixed,
        "broken": broken,
        "errors": count_errors(inputs.error_kinds, rows, counts),
        "by_where": by_where,
        "ablation": ablation.get(inputs.when, {}),
        "ablation_when": ablation,
        "kept": _kept(arms, rows),
        **curve_report(inputs.candidates, inputs.judgements, inputs.problems, counts),
        "label_accuracy": label_accuracy(inputs.label_truth, inputs),
        "label_accuracy_strict": label_accuracy(inputs.strict_label_truth, inputs),
        **judged,
        **labelled,
        "thresholds": {name: {"where": where, "when": when} for name, (where, when) in thresholds.items()},
        "stages": {name: dict(stage) for name, stage in inputs.stages.items()},
        "given": dict(inputs.given),
        "ungraded": sum(candidate.correct is None for candidate in inputs.candidates),
        "too_long": {name: _too_long(inputs.judgements, candidates, name) for name in scorers_of(inputs.judgements)},
        "paper": _paper(inputs.samples),
        "example": choose_example(describe_examples(inputs)),
    }
    report["notes"] = _notes(inputs, report)
    return _rounded(report)


def _paper(samples: int) -> dict[str, Any]:
    """The paper's figures, of which that of best-of-n goes with 3 samples only."""
    accuracy = {name: found for name, found in PAPER["accuracy"].items() if name != "best_of_n" or samples == 3}
    return PAPER | {"accuracy": accuracy}


def _arms(choices: Sequence[Choice], rows: dict[str, int]) -> dict[Arm, dict[str, Choice]]:
    """Group the choices by arm; each must choose once for every problem.

    A choice that asks no reward model may be there again, unchanged, for each of them.
    """
    arms: dict[Arm, dict[str, Choice]] = {}
    for choice in choices:
        name = (choice.selector, choice.scorer, choice.where, choice.when)
        arm = arms.setdefault(name, {})
        if arm.get(choice.problem_id, choice) != choice:
            raise ValueError(f"{name} chose twice, and differently, for problem {choice.problem_id!r}")
        arm[choice.problem_id] = choice
    for name, arm in arms.items():
        if odd := sorted(arm.keys() ^ rows.keys()):
            raise ValueError(f"{name} chose for {len(arm)} problems, the report has {len(rows)}; see {odd[0]!r}")
    return arms


def _find_arm(arms: dict[Arm, T], selector: str, scorer: str, where: str, when: str) -> T | None:
    needs_local, asks, gated = SELECTORS[selector]
    # with a single candidate on offer nobody is asked; without local refinements an arm may be filed under none
    scorers = (scorer, "none") if asks else ("none",)
    wheres = (where,) if needs_local else (where, "none")
    names = ((selector, s, w, when if gated else "always") for s in scorers for w in wheres)
    return next((arms[name] for name in names if name in arms), None)


def _accuracy(arm: dict[str, Choice]) -> Estimate | None:
    return wilson(sum(choice.correct for choice in arm.values()), len(arm))


def _mean(arm: dict[str, Choice], tokens: str) -> float:
    return float(np.mean([getattr(choice, tokens) for choice in arm.values()]))


def headline_arms(inputs: ReportInputs) -> dict[str, dict[str, Choice] | None]:
    """What each selector chose in the headline, by problem; None for a selector that was not run."""
    arms = _arms(inputs.choices, {problem.id: row for row, problem in enumerate(inputs.problems)})
    return {name: _find_arm(arms, name, inputs.scorer, inputs.where, inputs.when) for name in SELECTORS}


def _correct(arm: dict[str, Choice], rows: dict[str, int]) -> Tally:
    return Tally(np.array([arm[problem_id].correct for problem_id in rows], dtype=float), np.ones(len(rows)))


def _strongest_control(headline: dict[str, dict[str, Choice] | None]) -> str | None:
    """The selector that is most often right without the refiners; the first of equals."""
    right = {
        name: sum(choice.correct for choice in arm.values())
        for name, arm in headline.items()
        if arm is not None and is_control(name)
    }
    return max(right, key=lambda name: right[name], default=None)


def _differences(
    arms: dict[str, dict[str, Choice] | None], strongest: str | None, rows: dict[str, int], counts: np.ndarray
) -> dict[str, Estimate | None]:
    """Every pair of `DIFFERENCES`, and reranked minus the strongest control, on the same problems; with McNemar's exact
    p."""
    pairs = {f"{a}_minus_{b}": (a, b) for a, b in DIFFERENCES} | {STRONGEST: ("reranked", strongest)}
    found = dict.fromkeys(pairs)
    for name, (a, b) in pairs.items():
        one, other = arms[a], arms.get(b)
        if one is not None and other is not None:
            first, second = _correct(one, rows), _correct(other, rows)
            pair = {"mcnemar_p": mcnemar(first.numerators, second.numerators)}
            found[name] = first.minus(second, counts) | pair
    return found


def _ablation(
    arms: dict[Arm, dict[str, Choice]], candidates: dict[CandidateKey, Candidate], scorers: Sequence[str]
) -> dict[str, dict[str, dict[str, dict[str, Estimate]]]]:
    """Accuracy of every selector there is, by gate, by what located the error and by who scored."""
    located = {where for _, kind, where, _ in candidates if kind == "local"}
    estimates = {name: _accuracy(arm) for name, arm in arms.items()}
    table: dict[str, dict[str, dict[str, dict[str, Estimate]]]] = {}
    for when in _gates(arms):
        for where in [name for name in WHERE if name in located]:
            for scorer in scorers:
                found = {name: _find_arm(estimates, name, scorer, where, when) for name in SELECTORS}
                cell = {name: one for name, one in found.items() if one is not None}
                table.setdefault(when, {}).setdefault(where, {})[scorer] = cell
    return table


def _gates(arms: dict[Arm, Any]) -> list[str]:
    present = {when for *_, when in arms}
    return [when for when in WHEN if when in present]


def _kept(arms: dict[Arm, dict[str, Choice]], rows: dict[str, int]) -> dict[str, dict[str, Estimate | None]]:
    """What each gate keeps of all, the right and the wrong drafts: those that `global` chose."""
    drafts, table = _find_arm(arms, "draft", "none", "none", "always"), {}
    for when in _gates(arms):
        arm = _find_arm(arms, "global", "none", "none", when)
        if when == "always" or arm is None or drafts is None:
            continue
        right, kept = _correct(drafts, rows).numerators, np.array([arm[name].kind == "draft" for name in rows])
        groups = {"all": np.ones(len(rows)), "right": right, "wrong": 1 - right}
        table[when] = {name: share(kept, group) for name, group in groups.items()}
    return table


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
    absent = [name for name, found in report["accuracy"].items() if found is None and name not in SEARCHES]
    drawn = max((c.sample + 1 for c in inputs.candidates if c.kind == "sample"), default=0)
    if EQUAL in absent and "reranked" not in absent and drawn:
        absent.remove(EQUAL)
        notes.append(f"The best of all {drawn} samples costs less than reranking: there is none at equal tokens.")
    if absent:
        notes.append(f"Not run, hence empty: {', '.join(absent)}.")
    if inputs.step_truth is None:
        instead = "" if inputs.test_labels is None else "; steps are judged by the labels that continuations gave them"
        notes.append(f"This source has no oracle, so step accuracy and first-error accuracy are not measured{instead}.")
    if inputs.label_truth is None:
        notes.append("The step labels could not be checked against the truth.")
    if report["ungraded"]:
        notes.append(f"{report['ungraded']} candidates could not be graded in time; none of them counts as right.")
    for name, number in report["too_long"].items():
        if number:
            words = "implicit reward model" if name == IMPLICIT else name.upper()
            notes.append(
                f"{number} candidates are too long for the {words}: they have no score, none of its measures "
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
