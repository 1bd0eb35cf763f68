"""What the report says of step labels: how many are right by the oracle, and how the reward models judge the steps of
test solutions that continuations labelled."""

from __future__ import annotations

from typing import Any

import numpy as np

from refine.report.inputs import ReportInputs
from refine.report.truth import judge_labels
from rewards.intervals import Estimate, Tally, resample
from rewards.labelled import labelled_report, match_labels


def label_accuracy(truth: dict[str, tuple[int, int]] | None, inputs: ReportInputs) -> Estimate | None:
    """Share of the step labels that are right, with its interval over training problems: one problem's labels depend on
    each other."""
    if not truth:
        return None
    tally = Tally(*np.array(list(truth.values()), dtype=float).T)
    return tally.estimate(resample(len(truth), inputs.resamples, inputs.seed))


def labelled_steps(
    inputs: ReportInputs, rows: dict[str, int], counts: np.ndarray
) -> tuple[dict[str, Any], dict[str, Estimate | None]]:
    """How the reward models judge the steps that were labelled by continuations, with what is known of these labels;
    and the differences."""
    labels = inputs.test_labels
    matched = None if labels is None else match_labels(inputs.candidates, labels)
    found = labelled_report(inputs.judgements, inputs.thresholds, matched, rows, counts)
    differences = found.pop("difference")
    if labels is None:
        return found | {"test_labels": None}, differences
    flat = [label for row in labels for label in row.labels[:-1]]
    wrong = [row for row in labels if not row.correct]
    facts = {
        "solutions": len(labels),
        "wrong_solutions": len(wrong),
        "positive": flat.count(True),
        "negative": flat.count(False),
        "rule": next((row.rule for row in wrong), ""),
        "continuations": max((number for row in wrong for number in row.trials), default=0),
        "accuracy": label_accuracy(judge_labels({one.id: one for one in inputs.problems}, labels), inputs),
    }
    return found | {"test_labels": facts}, differences
