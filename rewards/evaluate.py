"""How well the ORM and the SORM judge the student's own solutions: every measure of `rewards/metrics.py` with its
interval over problems.

The solutions are the drafts and the samples. Refinements come from another policy; they are used only where the measure
is about what the reranker was offered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from rewards import metrics
from rewards.intervals import Estimate, Tally, auroc_replicates, estimate, join_ratios
from rollouts.records import Candidate, CandidateKey, Judgement, identity

SCORERS = ("orm", "sorm")
IMPLICIT = "implicit"  # a baseline of theirs, where it was asked for
COMPARED = ("step_accuracy", "step_balanced_accuracy", "final_accuracy", "first_error_accuracy", "pairwise_accuracy")
MEASURES = (
    *COMPARED,
    "first_error_located",
    "first_error_passed",
    "first_error_f1",
    "pairwise_accuracy_offered",
    "step_auroc",
    "auroc",
    "calibration",
    "step_accuracy_by_position",
    "reliability",
    "reliability_steps",
)

Probabilities = dict[CandidateKey, tuple[float, ...]]


def scorers_of(judgements: Sequence[Judgement]) -> tuple[str, ...]:
    """Who is in the report: ORM and SORM always, the implicit reward model where it judged anything."""
    return (*SCORERS, IMPLICIT) if any(one.scorer == IMPLICIT for one in judgements) else SCORERS


@dataclass(frozen=True)
class _Judged:
    """The solutions that one scorer could read: row of the problem, outcome, probabilities, and true labels of the
    prefixes where an oracle knows them."""

    owners: list[int]
    correct: list[bool | None]
    probabilities: list[tuple[float, ...]]
    truth: list[list[bool]] | None
    threshold: metrics.Threshold
    final_threshold: float


def judge_report(
    judgements: Sequence[Judgement],
    thresholds: dict[str, tuple[metrics.Threshold, float]],
    step_truth: dict[CandidateKey, list[bool]] | None,
    where: str,
    rows: dict[str, int],
    candidates: dict[CandidateKey, Candidate],
    counts: np.ndarray,
) -> dict[str, Any]:
    """Every measure by scorer, and the paired differences SORM minus each other; None for a scorer that judged nothing.

    A solution that a scorer could not read (it has steps and no probabilities) is left out of its measures.
    `thresholds` (where the first error is, when a solution is right) are by scorer, `step_truth` as the oracle has it
    (None: there is none), and `where` names the local refinements on offer. `rows` numbers the problems; `counts`
    (resamples, problems) says how often each was drawn.

    Raises:
        ValueError: a scorer judged what is no candidate, left out a draft or sample, or gave it another number of
            scores than it has steps.
    """
    scorers = scorers_of(judgements)
    report: dict[str, Any] = {name: dict.fromkeys(scorers) for name in MEASURES} | {"steps_right": None}
    spreads: dict[str, dict[str, np.ndarray]] = {}
    for scorer in scorers:
        given = {identity(one): one.probabilities for one in judgements if one.scorer == scorer}
        if not given:
            continue
        if stray := given.keys() - candidates.keys():
            raise ValueError(f"the {scorer} judged {min(stray)}, which is no candidate")
        judged = _solutions(scorer, given, thresholds[scorer], step_truth, rows, candidates)
        found, spreads[scorer] = _whole_measures(judged, counts)
        if judged.truth is not None:
            more, more_spreads = _step_measures(judged, counts)
            found, spreads[scorer] = found | more, spreads[scorer] | more_spreads
            report["steps_right"] = found.pop("steps_right")
        found["pairwise_accuracy_offered"] = _offered(given, where, rows, candidates, counts)
        for name, value in found.items():
            report[name][scorer] = value
    report["difference"] = {}
    for other, name in product((one for one in scorers if one != "sorm"), COMPARED):
        theirs, sorm, found = report[name][other], report[name]["sorm"], None
        if theirs is not None and sorm is not None:
            spread = spreads["sorm"][name] - spreads[other][name]
            found = estimate(sorm["value"] - theirs["value"], spread, counts.shape[1])
        report["difference"][f"sorm_minus_{other}_{name}"] = found
    return report


def _solutions(
    scorer: str,
    given: Probabilities,
    thresholds: tuple[metrics.Threshold, float],
    step_truth: dict[CandidateKey, list[bool]] | None,
    rows: dict[str, int],
    candidates: dict[CandidateKey, Candidate],
) -> _Judged:
    judged = _Judged([], [], [], None if step_truth is None else [], *thresholds)
    for key, candidate in candidates.items():
        if candidate.kind not in ("draft", "sample"):
            continue
        if key not in given:
            raise ValueError(f"the {scorer} did not judge {key}")
        if candidate.steps and not given[key]:
            continue  # too long for the scorer
        if len(given[key]) != len(candidate.steps):
            raise ValueError(
                f"the {scorer} gave {len(given[key])} scores for the {len(candidate.steps)} steps of {key}"
            )
        judged.owners.append(rows[candidate.problem_id])
        judged.correct.append(candidate.correct)
        judged.probabilities.append(given[key])
        if judged.truth is not None:
            judged.truth.append(step_truth[key])
    return judged


def _whole_measures(judged: _Judged, counts: np.ndarray) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Measures of the score after the last step, against whether the answer is right; and what was compared in each
    resample, (resamples,) by name."""
    ended = [i for i, p in enumerate(judged.probabilities) if p and judged.correct[i] is not None]
    owners = np.array([judged.owners[i] for i in ended], dtype=int)
    labels = np.array([judged.correct[i] for i in ended], dtype=bool)
    scores = np.array([judged.probabilities[i][-1] for i in ended], dtype=float)
    final = Tally.of(owners, (scores >= judged.final_threshold) == labels, counts.shape[1])
    pairwise = _pairwise(owners, labels, scores, counts.shape[1])
    found = {
        "final_accuracy": final.estimate(counts),
        "pairwise_accuracy": pairwise.estimate(counts),
        "auroc": _auroc(counts, owners, labels, scores),
        "reliability": metrics.reliability_bins(labels, scores),
        "calibration": {
            "brier": metrics.brier(labels, scores),
            "ece": metrics.expected_calibration_error(labels, scores),
        },
    }
    return found, {"final_accuracy": final.replicates(counts), "pairwise_accuracy": pairwise.replicates(counts)}


def _auroc(counts: np.ndarray, owners: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> Estimate | None:
    area = metrics.auroc(labels, scores)
    return None if area is None else estimate(area, auroc_replicates(counts, owners, labels, scores), len(labels))


def _pairwise(owners: np.ndarray, labels: np.ndarray, scores: np.ndarray, problems: int) -> Tally:
    shares = metrics.pairwise_by_problem(owners.tolist(), labels, scores)
    return Tally.of(list(shares), list(shares.values()), problems)


def _step_measures(judged: _Judged, counts: np.ndarray) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Measures of the scores after intermediate steps, and of the first error, against the oracle; the second dict is
    like that of `_whole_measures`."""
    problems = counts.shape[1]
    labels, values, positions, solutions = metrics.flatten_steps(judged.truth, judged.probabilities)
    owners = np.asarray(judged.owners, dtype=int)[solutions]
    least = np.array([metrics.threshold_at(judged.threshold, position - 1) for position in positions])
    hits = (values >= least) == labels
    steps, good, bad = (Tally.of(owners, hits, problems, among) for among in (None, labels, ~labels))
    truth = [right.index(False) if False in right else None for right in judged.truth]
    predicted = [metrics.first_error(given, judged.threshold) for given in judged.probabilities]
    named = np.array([a == b for a, b in zip(truth, predicted, strict=True)], dtype=bool)
    wrong = np.array([error is not None for error in truth], dtype=bool)
    first, located, passed = (Tally.of(judged.owners, named, problems, among) for among in (None, wrong, ~wrong))
    balanced, spread = join_ratios(counts, good, bad, lambda a, b: (a + b) / 2, len(labels))
    f1, _ = join_ratios(counts, located, passed, metrics.harmonic_mean, len(truth))
    found = {
        "step_accuracy": steps.estimate(counts),
        "step_balanced_accuracy": balanced,
        "step_auroc": _auroc(counts, owners, labels, values),
        "step_accuracy_by_position": [
            {"position": int(at)} | Tally.of(owners, hits, problems, positions == at).estimate(counts)
            for at in np.unique(positions)
        ],
        "steps_right": Tally.of(owners, labels, problems).estimate(counts),
        "reliability_steps": metrics.reliability_bins(labels, values),
        "first_error_accuracy": first.estimate(counts),
        "first_error_located": located.estimate(counts),
        "first_error_passed": passed.estimate(counts),
        "first_error_f1": f1,
    }
    spreads = {"step_accuracy": steps.replicates(counts), "first_error_accuracy": first.replicates(counts)}
    return found, spreads | {"step_balanced_accuracy": spread}


def _offered(
    given: Probabilities,
    where: str,
    rows: dict[str, int],
    candidates: dict[CandidateKey, Candidate],
    counts: np.ndarray,
) -> Estimate | None:
    """Pairwise accuracy among draft, global and local refinement: the choice that the reranker really has."""
    offers = {("draft", "none"), ("global", "none"), ("local", where)}
    owners, labels, scores = [], [], []
    for key, probabilities in given.items():
        candidate = candidates[key]
        if key[1:3] in offers and probabilities and candidate.correct is not None:
            owners.append(rows[candidate.problem_id])
            labels.append(candidate.correct)
            scores.append(probabilities[-1])
    return _pairwise(np.array(owners), np.array(labels), np.array(scores), counts.shape[1]).estimate(counts)
