"""How well reward models judge the steps of drafts and samples where no oracle knows them: against step labels that
many continuations gave (GLoRe: ORM about 73%, SORM about 81% on GSM8K).

Right and wrong steps weigh alike at each position: among the first steps nearly all are right, among the last many are
wrong, so that a judge could otherwise go by the position alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from rewards.evaluate import scorers_of
from rewards.intervals import estimate, sums_of_resamples
from rewards.metrics import Threshold, threshold_at
from rollouts.records import Candidate, CandidateKey, Judgement, StepLabels, identity

HALF = 0.5  # the threshold that labels balanced like these call for
MEASURES = ("labelled_step_accuracy", "labelled_step_accuracy_own")

Labels = dict[CandidateKey, tuple[bool | None, ...]]


def match_labels(candidates: Sequence[Candidate], labels: Sequence[StepLabels]) -> Labels:
    """The labels of every draft and sample that has the same steps as a labelled solution of its problem.

    Raises:
        ValueError: there is none.
    """
    known = {(row.problem_id, row.steps): row.labels for row in labels}
    found = {
        identity(one): known[one.problem_id, one.steps]
        for one in candidates
        if one.kind in ("draft", "sample") and (one.problem_id, one.steps) in known
    }
    if not found:
        raise ValueError(f"none of the {len(labels)} labelled solutions is among the drafts and samples")
    return found


def labelled_report(
    judgements: Sequence[Judgement],
    thresholds: dict[str, Threshold],
    labels: Labels | None,
    rows: dict[str, int],
    counts: np.ndarray,
) -> dict[str, Any]:
    """Accuracy on intermediate steps by scorer, balanced at each position: at a threshold of one half, and at the
    model's own (`thresholds`, of where the first error is); and `difference`, SORM minus each other of both. All None
    where there are no labels.

    `rows` numbers the problems; `counts` (resamples, problems) says how often each was drawn. The last step of a
    solution, on which an ORM was trained to be right, is left out, and so are steps without a label.
    """
    scorers = scorers_of(judgements)
    report: dict[str, Any] = {name: dict.fromkeys(scorers) for name in MEASURES}
    spreads: dict[tuple[str, str], np.ndarray] = {}
    for scorer in scorers:
        own = [
            one for one in judgements if one.scorer == scorer and one.probabilities and identity(one) in (labels or {})
        ]
        steps = [
            (rows[one.problem_id], place, label, score)
            for one in own
            for place, (label, score) in enumerate(zip(labels[identity(one)], one.probabilities, strict=True))
            if label is not None and place < len(one.probabilities) - 1
        ]
        for name, threshold in zip(MEASURES, (HALF, thresholds.get(scorer, HALF)), strict=True):
            hits = [
                (row, at, label, (score >= threshold_at(threshold, at)) == label) for row, at, label, score in steps
            ]
            value, spread, n = balanced_accuracy(hits, counts)
            if n:
                report[name][scorer] = estimate(value, spread, n)
                spreads[name, scorer] = spread
    report["difference"] = {}
    for other, name in product((one for one in scorers if one != "sorm"), MEASURES):
        theirs, sorm, found = report[name][other], report[name]["sorm"], None
        if theirs is not None and sorm is not None:
            spread = spreads[name, "sorm"] - spreads[name, other]
            found = estimate(sorm["value"] - theirs["value"], spread, counts.shape[1])
        report["difference"][f"sorm_minus_{other}_{name}"] = found
    return report


def balanced_accuracy(hits: Sequence[tuple[int, int, bool, bool]], counts: np.ndarray) -> tuple[float, np.ndarray, int]:
    """The accuracy on as many right as wrong steps of each position, drawn at random: its expectation; the same in each
    resample of the problems, (resamples,), NaN where no position has both; and how many steps that are.

    `hits` has a step's problem (its row), its position, its label, and whether it was judged rightly. Where a position
    has P right and N wrong steps, min(P, N) of each are drawn.
    """
    if not hits:
        return float("nan"), np.full(len(counts), np.nan), 0
    owners, places, labels, right = map(np.array, zip(*hits, strict=True))
    columns = np.zeros((counts.shape[1], places.max() + 1, 2, 2))  # (problems, positions, label, steps and hits)
    np.add.at(columns, (owners, places, labels.astype(int), 0), 1.0)
    np.add.at(columns, (owners, places, labels.astype(int), 1), right)
    flat = columns.reshape(len(columns), -1)
    value, steps = _balanced(flat.sum(axis=0, keepdims=True))
    return float(value[0]), _balanced(sums_of_resamples(flat, counts))[0], round(float(steps[0]))


def _balanced(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The balanced accuracy and its number of steps, (rows,) each; sums are (rows, positions x label x steps, hits)."""
    steps, hits = np.moveaxis(sums.reshape(len(sums), -1, 2, 2), -1, 0)  # (rows, positions, label) each
    drawn = steps.min(axis=2)
    shares = np.divide(hits, steps, out=np.zeros_like(hits), where=steps > 0).sum(axis=2)
    total = 2 * drawn.sum(axis=1)
    value = np.divide((drawn * shares).sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0)
    return value, total
