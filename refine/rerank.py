"""Choosing among candidates: the rules, the selectors of GLoRe's tables, and the stage that applies them all.

A gate says *when* drafts are refined: where it keeps a draft, every selector that offers refinements chooses the draft.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

from refine.prompts import KINDS
from rollouts.grading.answers import canonical
from rollouts.records import Candidate, CandidateKey, Choice, Judgement, Problem, identity
from rollouts.sampling.policies import own_device_class
from stages.checks import check_least
from stages.stage import Stage, parent, resolved, runtime
from stages.workspace import Workspace

if TYPE_CHECKING:
    from rewards.scorer import Scorer

WHEN = ("always", "orm", "sorm", "oracle")  # who says when a draft is refined


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

# selector -> (the kinds of candidates on offer, in the order that breaks ties; the rule)
SELECTORS = {
    "draft": (("draft",), "best"),
    "global": (("global",), "best"),
    "local": (("local",), "best"),
    "draft_global": (("draft", "global"), "best"),
    "draft_local": (("draft", "local"), "best"),
    "reranked": (("draft", "global", "local"), "best"),
    "best_of_n": (("sample",), "best"),
    "majority_of_n": (("sample",), "majority"),
    "weighted_of_n": (("sample",), "weighted"),
    "random": (("draft", "global", "local"), "random"),
    "oracle": (("draft", "global", "local"), "oracle"),
    "control": (("control",), "best"),
    "draft_control": (("draft", "control"), "best"),
}


def offers_refinements(selector: str) -> bool:
    """Whether a selector has what a gate can spare: refinements, or what a control writes in their place."""
    return any(kind in KINDS for kind in SELECTORS[selector][0])


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
    it), `random` (a function of `seed` and problem), `oracle` (a right one if
    any).

    Raises:
        ValueError: there is no candidate, the lists differ in length, or the rule is unknown.
    """
    if not candidates or len(candidates) != len(scores):
        raise ValueError(f"{len(candidates)} candidates with {len(scores)} scores: nothing to select from")
    if rule not in RULES:
        raise ValueError(f"rule={rule!r} is none of {', '.join(RULES)}")
    return candidates[RULES[rule](candidates, scores, problem, seed)]


@dataclass
class RerankArgs:
    """Arguments of the stage `rerank`. `samples` is the n of best-of-n and majority-of-n: they choose among the first
    `samples` of the sampled solutions (None: among all). `when` names the gates: a draft is refined always, where a
    reward model's final score is under its threshold, or where it is wrong (oracle). `seed` is that of `random`."""

    candidates: str = parent("revise")  #: an artifact of revise
    orm: str = parent("train_reward")  #: an artifact of train_reward
    sorm: str = parent("train_reward")  #: an artifact of train_reward
    samples: int | None = None  #: how many best-of-n chooses from
    when: list[str] = field(default_factory=lambda: ["always"])  #: who says when to refine: always, orm, sorm, oracle
    seed: int = 0  #: of the random choice
    batch_tokens: int = runtime(16384)  #: tokens of a forward pass
    device: str = resolved("auto", own_device_class)

    def validate(self) -> None:
        """Raise ValueError where there would be no samples to choose from, or a gate is unknown."""
        check_least(self, samples=1)
        if set(self.when) - set(WHEN) or not self.when:
            raise ValueError(f"when={list(self.when)} must be some of {', '.join(WHEN)}")


def keep_threshold(scorer: Scorer) -> float:
    """The final score from which on a reward model's gate keeps a draft."""
    return scorer.threshold


def keeps(
    when: str, draft: Candidate, finals: dict[str, dict[CandidateKey, float]], thresholds: dict[str, float]
) -> bool:
    """Whether a gate keeps a draft as it is, so that nobody refines it; `finals` and `thresholds` are by scorer."""
    if when == "always":
        return False
    if when == "oracle":
        return draft.correct is True
    return finals[when][identity(draft)] >= thresholds[when]


def cost(offered: Sequence[Candidate], drafts: Sequence[Candidate], gated: bool = False) -> int:
    """Completion tokens behind a choice: all candidates on offer, and the draft that a refiner or a gate has read."""
    reads = gated or any(c.kind in ("global", "local") for c in offered)
    unseen = drafts[0].completion_tokens if drafts and reads and all(c.kind != "draft" for c in offered) else 0
    return sum(c.completion_tokens for c in offered) + unseen


def choose(
    candidates: Sequence[Candidate],
    finals: dict[CandidateKey, float],
    scorer: str,
    where: str,
    samples: int,
    problem: Problem | None = None,
    seed: int = 0,
    when: str = "always",
    kept: bool = False,
) -> list[Choice]:
    """What every selector chooses for one problem, with local refinements located by `where`.

    `finals` are the scores of full solutions. `kept` says that the gate `when` keeps the draft; selectors that offer no
    refinement have no gate, and are there only for `always`. Selectors that lack candidates of a kind are left out.

    Raises:
        ValueError: there are samples, but fewer than `samples`.
    """
    by_kind: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        if candidate.kind != "local" or candidate.where == where:
            by_kind.setdefault(candidate.kind, []).append(candidate)
    by_kind.get("sample", []).sort(key=lambda candidate: candidate.sample)
    if 0 < len(by_kind.get("sample", [])) < samples:
        have, name = len(by_kind["sample"]), candidates[0].problem_id
        raise ValueError(f"the best of {samples} samples is asked for, but problem {name} has only {have}")
    choices, drafts = [], by_kind.get("draft", [])
    for name, (kinds, rule) in SELECTORS.items():
        if any(kind not in by_kind for kind in kinds) or not (when == "always" or offers_refinements(name)):
            continue
        offered = [c for kind in kinds for c in by_kind[kind][:samples]]
        asks = rule in SCORED and len(offered) > 1  # of the arm, also where its gate keeps the draft
        if kept:
            offered = drafts
        chosen = select(offered, [finals[identity(c)] for c in offered], rule, problem, seed)
        choices.append(
            Choice(
                chosen.problem_id,
                name,
                scorer if asks else "none",
                where if "local" in kinds else "none",
                chosen.kind,
                chosen.sample,
                chosen.answer,
                chosen.correct is True,
                cost(offered, drafts, when != "always"),
                when,
            )
        )
    return choices


def rerank(args: RerankArgs, work: Workspace) -> None:
    """Score every candidate with both reward models and choose by every selector, gate and place; writes `judgements`
    (Judgement) and `rows` (Choice)."""
    from rewards.scorer import load_scorer, score_all

    source = work.parents["candidates"]
    problems = {problem.id: problem for problem in source.rows(Problem, "problems")}
    candidates = source.rows(Candidate)
    judgements: list[Judgement] = []
    groups: dict[str, list[Candidate]] = {problem_id: [] for problem_id in problems}
    for candidate in candidates:
        groups[candidate.problem_id].append(candidate)
    drawn = max((sum(c.kind == "sample" for c in group) for group in groups.values()), default=0)
    samples = drawn if args.samples is None else args.samples
    finals: dict[str, dict[CandidateKey, float]] = {}
    thresholds: dict[str, float] = {}
    for name in ("orm", "sorm"):
        scorer = load_scorer(getattr(args, name), device=args.device, batch_tokens=args.batch_tokens)
        if scorer.kind != name:
            raise ValueError(f"{name}={getattr(args, name)} is a reward model of kind {scorer.kind}")
        names = ["/".join(map(str, identity(c))) for c in candidates]
        asked = [problems[c.problem_id] for c in candidates]
        scores = score_all(scorer, names, asked, [c.steps for c in candidates], work, f"score {name}")
        own = [Judgement(*identity(c), name, tuple(s or ())) for c, s in zip(candidates, scores, strict=True)]
        judgements.extend(own)
        # a text without a single step, or too long to be read, is worth nothing
        finals[name] = {identity(j): j.probabilities[-1] if j.probabilities else -math.inf for j in own}
        thresholds[name] = keep_threshold(scorer)
    places = sorted({c.where for c in candidates if c.kind == "local"}) or ["none"]
    choices: dict[Choice, None] = {}  # many are the same for all scorers or places
    for problem_id, group in groups.items():
        draft = next(c for c in group if c.kind == "draft")
        for when in args.when:
            kept = keeps(when, draft, finals, thresholds)
            for name, where in product(finals, places):
                problem = problems[problem_id]
                found = choose(group, finals[name], name, where, samples, problem, args.seed, when, kept)
                choices |= dict.fromkeys(found)
    work.write_rows("judgements", judgements)
    work.write_rows("rows", choices, Choice)
    work.count(samples=min(samples, drawn))  # the n of best_of_n


RERANK = Stage("rerank", 5, RerankArgs, rerank)
