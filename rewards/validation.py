"""What a reward model is worth on the problems that are held out while it is trained: measures and thresholds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rewards.encode import LabelledSolution
from rewards.held_out import held_out_intervals
from rewards.metrics import (
    Threshold,
    auroc,
    brier,
    expected_calibration_error,
    first_error,
    harmonic_mean,
    pairwise_accuracy,
    threshold_at,
)
from rewards.thresholds import (
    LEAST,
    TOGETHER,
    by_position,
    final_threshold,
    first_wrong,
    is_final,
    where_threshold,
)


def validate_scores(
    kind: str,
    solutions: Sequence[LabelledSolution],
    scores: Sequence[Sequence[float]],
    priors: Sequence[float] = (),
) -> dict[str, float]:
    """What a model is worth on the held-out problems, by their labels; a soft label above 0.5 counts as right.

    Cross-entropy (of the labels as they are), AUROC, Brier score, expected calibration error, and accuracy over all
    steps and at each position (`accuracy_at_1` is the first step, `accuracy_at_10` all from the tenth on). `threshold`
    is that of `where_threshold`, by which steps are judged with the `priors`, and `final_threshold` the one by which
    `final_accuracy` says whether whole solutions are right. For a SORM also how often the first wrong step is found;
    for an ORM AUROC and within-problem pairwise accuracy of the scores of full solutions. What the labels cannot give
    is left out. Shares and AUROCs have a 95% interval over problems, `<name>_low` and `<name>_high`.
    """
    threshold, when = where_threshold(kind, solutions, scores, priors), final_threshold(solutions, scores)
    where = by_position(threshold, priors)
    known = [
        (label, score, step)
        for solution, own in zip(solutions, scores, strict=True)
        for step, (label, score) in enumerate(zip(solution.labels, own, strict=True))
        if label is not None
    ]
    right, values = [label > 0.5 for label, *_ in known], [score for _, score, _ in known]
    hits = [(score >= threshold_at(where, step)) == (label > 0.5) for label, score, step in known]
    found = {
        "cross_entropy": sum(cross_entropy(label, score) for label, score, _ in known) / len(known),
        "auroc": auroc(right, values),
        "brier": brier(right, values),
        "calibration_error": expected_calibration_error(right, values),
        "accuracy": sum(hits) / len(hits),
        "threshold": threshold,
        "final_threshold": when,
    }
    places: dict[int, list[bool]] = {}
    for hit, (_, _, step) in zip(hits, known, strict=True):
        places.setdefault(min(step + 1, TOGETHER), []).append(hit)
    found |= {f"accuracy_at_{place}": sum(own) / len(own) for place, own in sorted(places.items())}
    finals = [
        (s.problem_id, s.labels[-1] > 0.5, own[-1]) for s, own in zip(solutions, scores, strict=True) if is_final(s)
    ]
    if finals:
        found["final_accuracy"] = sum((score >= when) == label for _, label, score in finals) / len(finals)
    if kind == "orm":
        found["pairwise_accuracy"] = pairwise_accuracy(*map(list, zip(*finals, strict=True)))
        found["final_auroc"] = auroc([label for _, label, _ in finals], [score for *_, score in finals])
    else:
        found |= found_errors(solutions, scores, where)
    for name, ends in held_out_intervals(solutions, scores, where, when).items():
        if found.get(name) is not None:
            found |= dict(zip((f"{name}_low", f"{name}_high"), ends, strict=True))
    return {name: value for name, value in found.items() if value is not None}


def cross_entropy(label: float, probability: float) -> float:
    """Binary cross-entropy of one step in nats; its label is in [0, 1]."""
    sure = min(max(probability, LEAST), 1 - LEAST)
    return -label * math.log(sure) - (1 - label) * math.log(1 - sure)


def found_errors(
    solutions: Sequence[LabelledSolution], scores: Sequence[Sequence[float]], threshold: Threshold
) -> dict[str, float]:
    """`first_error_accuracy`: how often the scores name the first wrong step, or say that there is none, among the
    solutions whose labels up to there are all known. `first_error_f1`: the harmonic mean over those with and without
    an error. Left out where there is no such solution."""
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for solution, own in zip(solutions, scores, strict=True):
        known, wrong = first_wrong(solution.labels)
        if known:
            hits[wrong is None].append(first_error(own, threshold) == wrong)
    every = hits[True] + hits[False]
    found = {"first_error_accuracy": sum(every) / len(every)} if every else {}
    if hits[True] and hits[False]:
        found["first_error_f1"] = harmonic_mean(*(sum(own) / len(own) for own in hits.values()))
    return found
