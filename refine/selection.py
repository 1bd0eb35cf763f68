"""Selectors: which kinds of candidates are on offer, and the rule that chooses one of them."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence

from refine.prompts import KINDS
from rollouts.grading.answers import canonical
from rollouts.records import Candidate, Problem


def _best(candidates: Sequence[Candidate], scores: Sequence[float], problem: Problem | None, seed: int) -> int:
    # what is no finite number is the worst there is; among equals the first wins, which keeps the draft
    ranked = [score if math.isfinite(score) else -math.inf for score in scores]
    return ranked.index(max(ranked))


def _majority(candidates: Sequence[Candidate], scores: Sequence[float], problem: Problem | None, seed: int) -> int:
    answers = _answers(candidates, problem)
    votes = Counter(answer for answer in answers if answer is not None)
    return answers.index(votes.most_common(1)[0][0]) if votes else 0


def _weighted(candidates: Sequence[Candidate], scores: Sequence[float], problem: Problem | None, seed: int) -> int:
    answers = _answers(candidates, problem)
    votes: Counter[str] = Counter()
    for answer, score in zip(answers, scores, strict=True):
        if answer is not None:
            votes[answer] += score if math.isfinite(score) else 0.0
    return answers.index(votes.most_common(1)[0][0]) if votes else 0


def _answers(candidates: Sequence[Candidate], problem: Problem | None) -> list[str | None]:
    """What each votes for: equal values are one, however they are written."""
    return [None if one.answer is None else canonical(one.answer, problem) for one in candidates]


def _random(candidates: Sequence[Candidate], scores: Sequence[float], problem: Problem | None, seed: int) -> int:
    # a function of seed and problem, so that the choice does not depend on which problems are beside it
    digest = hashlib.sha256(f"random/{seed}/{candidates[0].problem_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % len(candidates)


def _oracle(candidates: Sequence[Candidate], scores: Sequence[float], problem: Problem | None, seed: int) -> int:
    return next((i for i, c in enumerate(candidates) if c.correct), 0)


# name -> index of the chosen candidate; a new rule is a function and a line
RULES = {"best": _best, "majority": _majority, "weighted": _weighted, "random": _random, "oracle": _oracle}

SCORED = ("best", "weighted")  # the rules that ask a reward model

EQUAL = "best_of_n_equal_tokens"
SEARCHES = ("beam", "until")  # selectors of searches of their own, which are there only where they were asked for

# selector -> (the kinds of candidates on offer, in the order that breaks ties; the rule)
SELECTORS = {
    "draft": (("draft",), "best"),
    "global": (("global",), "best"),
    "local": (("local",), "best"),
    "draft_global": (("draft", "global"), "best"),
    "draft_local": (("draft", "local"), "best"),
    "reranked": (("draft", "global", "local"), "best"),
    "control": (("control",), "best"),
    "draft_control": (("draft", "control"), "best"),
    "shuffled": (("shuffled",), "best"),
    "draft_shuffled": (("draft", "shuffled"), "best"),
    "best_of_n": (("sample",), "best"),
    "best_of_n_with_draft": (("draft", "sample"), "best"),  # n in all
    EQUAL: (("sample",), "best"),  # as many samples as cost what `reranked` does
    "majority_of_n": (("sample",), "majority"),
    "weighted_of_n": (("sample",), "weighted"),
    "beam": (("beam",), "best"),  # step beam search
    "until": (("until",), "best"),  # refined until a reward model accepts it
    "random": (("draft", "global", "local"), "random"),
    "oracle": (("draft", "global", "local"), "oracle"),
}


def offers_refinements(selector: str) -> bool:
    """Whether a selector has what a gate can spare: refinements, or what a control writes in their place."""
    return any(kind in KINDS for kind in SELECTORS[selector][0])


def is_control(selector: str) -> bool:
    """Whether a selector does without both refiners, so that refining must do better than it."""
    return not {"global", "local", "until"} & set(SELECTORS[selector][0])


def select(
    candidates: Sequence[Candidate],
    scores: Sequence[float],
    rule: str,
    problem: Problem | None = None,
    seed: int = 0,
) -> Candidate:
    """Choose one candidate of one problem, which tells a vote what its choices are (see `canonical`).

    Rules: `best` (highest score; a score that is not a number is never first; the first among equals), `majority`
    (commonest answer; the first among equals), `weighted` (the answer whose scores sum to most; the first that gives
    it), `random` (a function of `seed` and problem), `oracle` (a right one if any).

    Raises:
        ValueError: there is no candidate, the lists differ in length, or the rule is unknown.
    """
    if not candidates or len(candidates) != len(scores):
        raise ValueError(f"{len(candidates)} candidates with {len(scores)} scores: nothing to select from")
    if rule not in RULES:
        raise ValueError(f"rule={rule!r} is none of {', '.join(RULES)}")
    return candidates[RULES[rule](candidates, scores, problem, seed)]
