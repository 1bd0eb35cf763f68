"""The two thresholds of a reward model, chosen on validation problems: *where* the first error is, and *when* a whole
solution is right. One for both fits neither: few steps are wrong, and most at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rewards.encode import LabelledSolution
from rewards.metrics import Threshold, best_threshold
from rewards.processbench import Judged, ProtocolError, choose_threshold

TOGETHER = 10  # from which on positions are taken together
LEAST = 1e-7  # probabilities stay so far from 0 and 1: a float32 rounds there, and the logarithm would be infinite


def position_priors(solutions: Sequence[LabelledSolution]) -> tuple[float, ...]:
    """The share of positive labels at each position, the last one for all that follow; two made-up labels, one of each
    kind, keep a share from 0 and 1."""
    counts: list[list[float]] = []
    for solution in solutions:
        for place, label in enumerate(solution.labels):
            place = min(place, TOGETHER - 1)
            counts += [[1.0, 2.0] for _ in range(place + 1 - len(counts))]
            if label is not None:
                counts[place][0] += label > 0.5
                counts[place][1] += 1
    return tuple(positive / number for positive, number in counts)


def by_position(threshold: float, priors: Sequence[float]) -> Threshold:
    """Where a model trained on labels balanced at each position sees an error: a score that is corrected by the prior
    there, logit(score) + logit(prior), is below `threshold`. That is a threshold of each position's own for the score
    itself. Without priors it is the same everywhere."""
    return tuple(_sigmoid(_logit(threshold) - _logit(prior)) for prior in priors) or threshold


def where_threshold(
    kind: str, solutions: Sequence[LabelledSolution], scores: Sequence[Sequence[float]], priors: Sequence[float]
) -> float:
    """The threshold of highest first-error F1 for scores corrected by `priors` (`by_position`).

    An ORM's labels say only whether a solution is wrong: there any step below the threshold is a hit. 0.5 where there
    is no solution with, or none without an error; those whose first error is not known are left out.
    """
    judged = []
    for solution, own in zip(solutions, scores, strict=True):
        known, wrong = first_wrong(solution.labels)
        if not known or not own:
            continue
        if kind == "orm":
            own, wrong = (min(own),), None if wrong is None else 0
        corrected = [
            _sigmoid(_logit(score) + _logit(priors[min(place, len(priors) - 1)])) if priors else score
            for place, score in enumerate(own)
        ]
        judged.append(Judged(solution.problem_id, solution.problem_id, wrong, tuple(corrected)))
    try:
        return min(1.0, choose_threshold(judged))
    except ProtocolError:
        return 0.5


def final_threshold(solutions: Sequence[LabelledSolution], scores: Sequence[Sequence[float]]) -> float:
    """The threshold that tells most whole solutions right from wrong by their last score; 0.5 where all are alike."""
    finals = [(s.labels[-1] > 0.5, own[-1]) for s, own in zip(solutions, scores, strict=True) if is_final(s)]
    return min(1.0, best_threshold([label for label, _ in finals], [score for _, score in finals]))


def is_final(solution: LabelledSolution) -> bool:
    """Whether there is a label of the whole solution."""
    return bool(solution.labels) and solution.labels[-1] is not None


def first_wrong(labels: Sequence[float | None]) -> tuple[bool, int | None]:
    """Whether the first wrong step is known, and which one it is; None: there is none."""
    right = [None if label is None else label > 0.5 for label in labels]
    wrong = right.index(False) if False in right else None
    return None not in right[:wrong], wrong


def _logit(probability: float) -> float:
    sure = min(max(probability, LEAST), 1 - LEAST)
    return math.log(sure / (1 - sure))


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))
