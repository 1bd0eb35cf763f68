"""How well the ORM and the SORM judge the student's own solutions: every measure of `rewards/metrics.py` with its
interval over problems. The solutions are the drafts and the samples; refinements come from another policy and are
used only where what the reranker was offered is asked about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewards import metrics
from rewards.intervals import Estimate, auroc_replicates, estimate, ratio, ratio_difference, ratio_replicates
from rewards.scorer import first_error
from rollouts.records import Candidate, CandidateKey, Judgement

SCORERS = ("orm", "sorm")
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
)


@dataclass(frozen=True)
class _Judged:
    """The solutions that one scorer judged: row of the problem, outcome, probabilities, and truths where known."""

    owners: list[int]
    correct: list[bool | None]
    probabilities: list[tuple[float, ...]]
    truth: list[list[bool]] | None
    threshold: float


@dataclass
class _Tally:
    """Sums over the items of each problem, (problems,): a ratio to be resampled."""

    numerators: np.ndarray
    denominators: np.ndarray

    @classmethod
    def of(cls, owners: Sequence[int], hits: Any, problems: int, among: Any = None) -> _Tally:
        weights = np.ones(len(owners)) if among is None else np.asarray(among, dtype=float)
        where = np.asarray(owners, dtype=int)
        above = np.bincount(where, np.asarray(hits, dtype=float) * weights, problems)
        return cls(above, np.bincount(where, weights, problems))

    def estimate(self, counts: np.ndarray) -> Estimate | None:
        return ratio(counts, self.numerators, self.denominators)

    def replicates(self, counts: np.ndarray) -> np.ndarray:
        return ratio_replicates(counts, self.numerators, self.denominators)


def judge_report(
    judgements: Sequence[Judgement],
    thresholds: dict[str, float],
    step_truth: dict[CandidateKey, list[bool]] | None,
    where: str,
    rows: dict[str, int],
    candidates: dict[CandidateKey, Candidate],
    counts: np.ndarray,
) -> dict[str, Any]:
    """Every measure by scorer, and the paired differences SORM minus ORM; None for a scorer that judged nothing.

    A solution that a scorer could not read (it has steps and no probabilities) is left out of its measures.
    `thresholds` are by scorer, `step_truth` as the oracle has it (None: there is none), and `where` names the local
    refinements on offer. `rows` numbers the problems, `counts` (resamples, problems) is how often each was drawn.

    Raises:
        ValueError: a judgement of no candidate, twice, of another number of steps or with a score that is no
            probability; a draft or sample that a scorer or the oracle left out; a scorer without threshold.
    """
    given = _judgements(judgements, candidates)
    report: dict[str, Any] = {name: dict.fromkeys(SCORERS) for name in MEASURES}
    report |= {name: dict.fromkeys(SCORERS) for name in ("step_accuracy_by_position", "reliability")}
    report |= {"reliability_steps": dict.fromkeys(SCORERS), "steps_right": None}
    tallies: dict[str, dict[str, _Tally]] = {}
    for scorer in [name for name in SCORERS if any(name == its for its, _ in given)]:
        judged = _solutions(thresholds, step_truth, scorer, rows, candidates, given)
        found, tallies[scorer] = _whole_measures(judged, counts)
        if judged.truth is not None:
            more, more_tallies = _step_measures(judged, counts)
            found, tallies[scorer] = found | more, tallies[scorer] | more_tallies
            report["steps_right"] = found.pop("steps_right")
        found["pairwise_accuracy_offered"] = _offered(where, scorer, rows, candidates, given, counts)
        for name, value in found.items():
            report[name][scorer] = value
    report["difference"] = {
        f"sorm_minus_orm_{name}": _difference(tallies, name, report[name], counts) for name in COMPARED
    }
    return report


def _judgements(
    judgements: Sequence[Judgement], candidates: dict[CandidateKey, Candidate]
) -> dict[tuple[str, CandidateKey], tuple[float, ...]]:
    given: dict[tuple[str, CandidateKey], tuple[float, ...]] = {}
    for judgement in judgements:
        key = (judgement.problem_id, judgement.kind, judgement.where, judgement.sample)
        if judgement.scorer not in SCORERS:
            raise ValueError(f"unknown scorer {judgement.scorer!r} of candidate {key}; there are orm and sorm")
        if key not in candidates:
            raise ValueError(f"the {judgement.scorer} judged {key}, which is no candidate")
        if (judgement.scorer, key) in given:
            raise ValueError(f"the {judgement.scorer} judged {key} twice")
        steps = len(candidates[key].steps)
        if judgement.probabilities and len(judgement.probabilities) != steps:
            raise ValueError(
                f"the {judgement.scorer} gave {len(judgement.probabilities)} scores for the {steps} steps of {key}"
            )
        for step, value in enumerate(judgement.probabilities):
            if not (math.isfinite(value) and 0 <= value <= 1):
                raise ValueError(f"the {judgement.scorer} gave step {step} of {key} the score {value}")
        given[judgement.scorer, key] = judgement.probabilities
    return given


def _solutions(
    thresholds: dict[str, float],
    step_truth: dict[CandidateKey, list[bool]] | None,
    scorer: str,
    rows: dict[str, int],
    candidates: dict[CandidateKey, Candidate],
    given: dict[tuple[str, CandidateKey], tuple[float, ...]],
) -> _Judged:
    threshold = thresholds.get(scorer)
    if threshold is None or not math.isfinite(threshold):
        raise ValueError(f"no threshold for the {scorer}: {thresholds}")
    truth = None if step_truth is None else []
    judged = _Judged([], [], [], truth, threshold)
    for key, candidate in candidates.items():
        if candidate.kind not in ("draft", "sample"):
            continue
        if (scorer, key) not in given:
            raise ValueError(f"the {scorer} did not judge {key}")
        if candidate.steps and not given[scorer, key]:
            continue  # too long for the scorer
        judged.owners.append(rows[candidate.problem_id])
        judged.correct.append(candidate.correct)
        judged.probabilities.append(given[scorer, key])
        if truth is not None:
            right = step_truth.get(key)
            if right is None or len(right) != len(candidate.steps):
                raise ValueError(f"the oracle says {right} of the {len(candidate.steps)} steps of {key}")
            # a prefix is right when no step of it is wrong: right steps after a wrong one do not mend it
            truth.append([bool(good) for good in np.logical_and.accumulate(np.asarray(right, dtype=bool))])
    return judged


def _whole_measures(judged: _Judged, counts: np.ndarray) -> tuple[dict[str, Any], dict[str, _Tally]]:
    """Measures of the score after the last step, against whether the answer is right."""
    ended = [i for i, p in enumerate(judged.probabilities) if p and judged.correct[i] is not None]
    owners = np.array([judged.owners[i] for i in ended], dtype=int)
    labels = np.array([judged.correct[i] for i in ended], dtype=bool)
    scores = np.array([judged.probabilities[i][-1] for i in ended], dtype=float)
    problems = counts.shape[1]
    final = _Tally.of(owners, (scores >= judged.threshold) == labels, problems)
    pairwise = _pairwise(owners, labels, scores, problems)
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
    return found, {"final_accuracy": final, "pairwise_accuracy": pairwise}


def _auroc(counts: np.ndarray, owners: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> Estimate | None:
    area = metrics.auroc(labels, scores)
    return None if area is None else estimate(area, auroc_replicates(counts, owners, labels, scores), len(labels))


def _pairwise(owners: np.ndarray, labels: np.ndarray, scores: np.ndarray, problems: int) -> _Tally:
    shares = metrics.pairwise_by_problem(owners.tolist(), labels, scores)
    return _Tally.of(list(shares), list(shares.values()), problems)


def _step_measures(judged: _Judged, counts: np.ndarray) -> tuple[dict[str, Any], dict[str, _Tally]]:
    """Measures of the scores after intermediate steps, and of the first error, against the oracle."""
    problems = counts.shape[1]
    labels, values, positions, solutions = metrics.flatten_steps(judged.truth, judged.probabilities, True)
    owners = np.asarray(judged.owners, dtype=int)[solutions]
    hits = (values >= judged.threshold) == labels
    steps = _Tally.of(owners, hits, problems)
    truth = [next((i for i, good in enumerate(right) if not good), None) for right in judged.truth]
    predicted = [first_error(given, judged.threshold) for given in judged.probabilities]
    named = np.array([a == b for a, b in zip(truth, predicted, strict=True)], dtype=bool)
    wrong = np.array([error is not None for error in truth], dtype=bool)
    first = _Tally.of(judged.owners, named, problems)
    located = _Tally.of(judged.owners, named, problems, wrong)
    passed = _Tally.of(judged.owners, named, problems, ~wrong)
    good, bad = (_Tally.of(owners, hits, problems, kind) for kind in (labels, ~labels))
    balanced = metrics.balanced_step_accuracy(judged.truth, judged.probabilities, judged.threshold)
    f1 = metrics.first_error_f1(truth, predicted)
    spread = (good.replicates(counts) + bad.replicates(counts)) / 2
    f1_spread = metrics.harmonic_mean(located.replicates(counts), passed.replicates(counts))
    found = {
        "step_accuracy": steps.estimate(counts),
        "step_balanced_accuracy": None if balanced is None else estimate(balanced, spread, len(labels)),
        "step_auroc": _auroc(counts, owners, labels, values),
        "step_accuracy_by_position": [
            {"position": int(at)} | _Tally.of(owners, hits, problems, positions == at).estimate(counts)
            for at in np.unique(positions)
        ],
        "steps_right": _Tally.of(owners, labels, problems).estimate(counts),
        "reliability_steps": metrics.reliability_bins(labels, values),
        "first_error_accuracy": first.estimate(counts),
        "first_error_located": located.estimate(counts),
        "first_error_passed": passed.estimate(counts),
        "first_error_f1": None if f1 is None else estimate(f1, f1_spread, len(truth)),
    }
    return found, {"step_accuracy": steps, "first_error_accuracy": first, "good": good, "bad": bad}


def _offered(
    where: str,
    scorer: str,
    rows: dict[str, int],
    candidates: dict[CandidateKey, Candidate],
    given: dict[tuple[str, CandidateKey], tuple[float, ...]],
    counts: np.ndarray,
) -> Estimate | None:
    """Pairwise accuracy among draft, global and local refinement: the choice that the reranker really has."""
    offers = {("draft", "none"), ("global", "none"), ("local", where)}
    owners, labels, scores = [], [], []
    for (its, key), probabilities in given.items():
        candidate = candidates[key]
        if its == scorer and key[1:3] in offers and probabilities and candidate.correct is not None:
            owners.append(rows[candidate.problem_id])
            labels.append(candidate.correct)
            scores.append(probabilities[-1])
    return _pairwise(np.array(owners), np.array(labels), np.array(scores), counts.shape[1]).estimate(counts)


def _difference(
    tallies: dict[str, dict[str, _Tally]], name: str, values: dict[str, Estimate | None], counts: np.ndarray
) -> Estimate | None:
    if any(values[scorer] is None for scorer in SCORERS):
        return None
    if name == "step_balanced_accuracy":
        orm, sorm = (
            (tallies[scorer]["good"].replicates(counts) + tallies[scorer]["bad"].replicates(counts)) / 2
            for scorer in SCORERS
        )
        return estimate(values["sorm"]["value"] - values["orm"]["value"], sorm - orm, counts.shape[1])
    sorm, orm = tallies["sorm"][name], tallies["orm"][name]
    return ratio_difference(counts, (sorm.numerators, sorm.denominators), (orm.numerators, orm.denominators))
