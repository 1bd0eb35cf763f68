"""How often best of n and votes of n are right, for n up to all samples that there are, and what they cost.

Every value is a mean over subsets of a problem's samples, so that no sample counts more than another: over all subsets
of n for best of n and the oracle, over random orders for votes (over all orders of up to 6 samples).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np

from rewards.aggregate import AGGREGATES, aggregate
from rewards.evaluate import IMPLICIT, SCORERS, scorers_of
from rewards.intervals import Estimate, Tally, estimate, replicate
from rollouts.grading.answers import canonical
from rollouts.records import Candidate, CandidateKey, Judgement, Problem, identity

ORDERS = 100  # of the samples of a problem, at least, for votes of more than 6
SCORED = (*SCORERS, IMPLICIT)
CURVES = (*SCORED, *(f"weighted_{name}" for name in SCORED), "majority", "oracle")


@dataclass(frozen=True)
class _Drawn:
    """The samples of one problem: right or not, a number for each answer (-1: none), scores by scorer and how they are
    aggregated, orders in which a vote counts them, and the mean tokens of a sample by who reads it."""

    right: np.ndarray
    answers: np.ndarray
    scores: dict[tuple[str, str], np.ndarray]
    orders: np.ndarray
    sampled: float
    read: dict[str, float]


def curve_report(
    candidates: Sequence[Candidate], judgements: Sequence[Judgement], problems: Sequence[Problem], counts: np.ndarray
) -> dict[str, Any]:
    """`curves`: a list of points by name in CURVES, each the accuracy with its interval over problems, `samples` (the
    n), and `tokens` and `tokens_read` as means over problems. `aggregation`: the accuracy by scorer, aggregate and rule
    (best, weighted) with all samples. Both are empty where a problem has fewer than two samples.

    Votes go to the answer that was given first among equals, as `refine.selection` has it.
    """
    own: dict[str, list[Candidate]] = {problem.id: [] for problem in problems}
    for candidate in sorted((c for c in candidates if c.kind == "sample"), key=lambda c: c.sample):
        own[candidate.problem_id].append(candidate)
    most = min(map(len, own.values()), default=0)
    if most < 2:
        return {"curves": {}, "aggregation": {}}
    known = {(one.scorer, identity(one)): one for one in judgements if one.kind == "sample"}
    scorers = [name for name in scorers_of(judgements) if any(scorer == name for scorer, _ in known)]
    drawn = [_draw(problem, own[problem.id], known, scorers) for problem in problems]
    sizes = points(most)
    curves = {}
    for name in CURVES:
        scorer = name.removeprefix("weighted_")
        if scorer in scorers or scorer not in SCORED:
            right = np.array([_rule(name)(one, sizes) for one in drawn])  # (problems, sizes)
            curves[name] = _curve(right, sizes, drawn, scorer, counts)
    table: dict[str, dict[str, dict[str, Estimate]]] = {}
    for scorer, how in itertools.product(scorers, AGGREGATES):
        rules = {"best": _best(scorer, how), "weighted": _weighted(scorer, how)}
        right = np.array([[of(one, [most])[0] for of in rules.values()] for one in drawn])
        table.setdefault(scorer, {})[how] = dict(zip(rules, _estimates(right, counts), strict=True))
    return {"curves": curves, "aggregation": table}


def points(most: int) -> list[int]:
    """The n of a curve: every one up to 8, then four more between each power of two and the next, and `most`."""
    shown = [n for n in range(1, most + 1) if n <= 8 or n % (1 << (n.bit_length() - 3)) == 0]
    return sorted({*shown, most})


def _draw(
    problem: Problem,
    samples: Sequence[Candidate],
    known: dict[tuple[str, CandidateKey], Judgement],
    scorers: Sequence[str],
) -> _Drawn:
    judged = {scorer: [known[scorer, identity(one)] for one in samples] for scorer in scorers}
    numbers: dict[Hashable, int] = {}
    answers = [
        -1 if one.answer is None else numbers.setdefault(canonical(one.answer, problem), len(numbers))
        for one in samples
    ]
    places = list(range(len(samples)))
    if len(places) <= 6:
        orders = list(itertools.permutations(places))
    else:
        # turned round, an order begins with each sample once: then n = 1 is exact for votes too
        rng, count = random.Random(f"orders/{problem.id}"), len(places)
        mixed = [rng.sample(places, count) for _ in range(-(-ORDERS // count))]
        orders = [order[at:] + order[:at] for order in mixed for at in places]
    return _Drawn(
        right=np.array([one.correct is True for one in samples], dtype=float),
        answers=np.array(answers),
        scores={
            (scorer, how): np.array([aggregate(one.probabilities, how) for one in own])
            for scorer, own in judged.items()
            for how in AGGREGATES
        },
        orders=np.array(orders),
        sampled=float(np.mean([one.completion_tokens for one in samples])),
        read={
            "": float(np.mean([one.prompt_tokens for one in samples])),
            **{scorer: float(np.mean([one.tokens for one in own])) for scorer, own in judged.items()},
        },
    )


Rule = Callable[[_Drawn, Sequence[int]], list[float]]  # the chance to be right, for each size of the subsets


def _rule(name: str) -> Rule:
    if name == "oracle":
        return lambda one, sizes: best_of_subsets(one.right, one.right, sizes)
    if name == "majority":
        return lambda one, sizes: vote_of_subsets(one.right, one.answers, np.ones(len(one.right)), one.orders, sizes)
    scorer = name.removeprefix("weighted_")
    return _best(scorer, "last") if scorer == name else _weighted(scorer, "last")


def _best(scorer: str, how: str) -> Rule:
    return lambda one, sizes: best_of_subsets(one.right, one.scores[scorer, how], sizes)


def _weighted(scorer: str, how: str) -> Rule:
    return lambda one, sizes: vote_of_subsets(
        one.right, one.answers, np.maximum(one.scores[scorer, how], 0), one.orders, sizes
    )


def best_of_subsets(right: np.ndarray, scores: np.ndarray, sizes: Sequence[int]) -> list[float]:
    """The share of all subsets of each size whose highest score is that of a right sample; of equal scores the first
    sample counts. `right` and `scores` are (samples,).

    The sample of rank r (0: the highest) is the best of C(m - 1 - r, n - 1) of the C(m, n) subsets of n of m.
    """
    m, ranked = len(right), right[np.argsort(-scores, kind="stable")]
    return [sum(comb(m - 1 - rank, n - 1) for rank in np.flatnonzero(ranked).tolist()) / comb(m, n) for n in sizes]


def vote_of_subsets(
    right: np.ndarray, answers: np.ndarray, weights: np.ndarray, orders: np.ndarray, sizes: Sequence[int]
) -> list[float]:
    """The share of the `orders`, (orders, samples), whose first n samples vote for a right answer, for each size n.

    `weights` (samples,) are the votes, `answers` (samples,) number the answers; -1 has none and no vote. Of equal votes
    the answer that came first counts, with its first sample; where there is no answer at all, the first sample.
    """
    ordered = answers[orders]
    is_it = ordered[:, :, None] == np.arange(answers.max(initial=0) + 1)  # (orders, samples, answers)
    first = np.where(is_it.any(axis=1), is_it.argmax(axis=1), len(right))  # (orders, answers): where each comes up
    sums = np.cumsum(is_it * weights[orders][:, :, None], axis=1)
    rows, found = np.arange(len(orders)), []
    for n in sizes:
        votes = np.where(first < n, sums[:, n - 1], -1.0)
        top = votes.max(axis=1, keepdims=True)
        winner = np.where(votes >= top - 1e-12 * np.abs(top), first, len(right)).argmin(axis=1)
        place = np.where(first[rows, winner] < n, first[rows, winner], 0)
        found.append(float(right[orders[rows, place]].mean()))
    return found


def _curve(
    right: np.ndarray, sizes: Sequence[int], drawn: Sequence[_Drawn], reader: str, counts: np.ndarray
) -> list[dict[str, Any]]:
    """The points of one curve. Tokens as in `refine.rerank.cost`: a model is not asked of a single sample."""
    sampled = float(np.mean([one.sampled for one in drawn]))
    prompts, judged = (float(np.mean([one.read.get(name, 0.0) for one in drawn])) for name in ("", reader))
    return [
        {"samples": n, **found, "tokens": n * sampled, "tokens_read": n * (prompts + (judged if n > 1 else 0.0))}
        for n, found in zip(sizes, _estimates(right, counts), strict=True)
    ]


def _estimates(right: np.ndarray, counts: np.ndarray) -> list[Estimate]:
    """The mean of each column of (problems, columns) with its interval over problems."""
    spreads = replicate([Tally(column, np.ones(len(column))) for column in right.T], counts)
    return [estimate(column.mean(), spread, len(column)) for column, spread in zip(right.T, spreads, strict=True)]
