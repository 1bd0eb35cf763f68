"""The stage that scores candidates and chooses by every selector, and what each choice costs.

A gate says *when* drafts are refined: where it keeps a draft, every selector that offers refinements chooses the draft.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from refine.prompts import KINDS
from refine.revise import open_judge
from refine.selection import EQUAL, SCORED, SELECTORS, offers_refinements, select
from rewards.aggregate import AGGREGATES, aggregate
from rewards.evaluate import IMPLICIT, SCORERS
from rollouts.records import Candidate, CandidateKey, Choice, Judgement, Problem, identity
from rollouts.sampling.policies import own_device_class
from stages.artifacts import Artifact
from stages.checks import check_choices, check_least
from stages.stage import Stage, only_when, parent, resolved, runtime
from stages.workspace import Workspace

if TYPE_CHECKING:
    from rewards.scorer import Scorer

WHEN = ("always", *SCORERS, IMPLICIT, "oracle")  # who says when a draft is refined


@dataclass
class RerankArgs:
    """Arguments of the stage `rerank`. `samples` is the n of best-of-n and majority-of-n: they choose among the first
    `samples` of the sampled solutions (None: among all). `when` names the gates: a draft is refined always, where a
    reward model's final score is under its threshold, or where it is wrong (oracle). `more` are artifacts of
    `beam_search` and `refine_until`, one of each at most, of the same problems. `implicit` scores and chooses beside
    the two, as a baseline; it is read together with its `reference`, at the price of both. `aggregate` makes the one
    score by which is chosen of those after the steps; a gate goes by the last in any case, which its threshold is for.
    `seed` is that of `random`."""

    candidates: str = parent("revise")  #: an artifact of revise
    orm: str = parent("train_reward")  #: an artifact of train_reward
    sorm: str = parent("train_reward")  #: an artifact of train_reward
    # an artifact of train_implicit, and what it was trained from
    implicit: str | None = only_when(parent("train_implicit", default=None), "compared", True)
    reference: str | None = only_when(parent("train_policy", any_path=True, default=None), "compared", True)
    more: list[str] = only_when(parent("beam_search", "refine_until", default=[]), "searched", True)  #: searches
    samples: int | None = None  #: how many best-of-n chooses from
    aggregate: str = only_when("last", "aggregated", True)  #: of the scores of steps: last, min, product, mean
    when: list[str] = field(default_factory=lambda: ["always"])  #: who says when to refine: always, orm, sorm …
    seed: int = 0  #: of the random choice
    batch_tokens: int = runtime(16384)  #: tokens of a forward pass
    device: str = resolved("auto", own_device_class)

    def validate(self) -> None:
        """Raise ValueError where there would be no samples to choose from, or a gate is unknown."""
        check_least(self, samples=1)
        check_choices(self, aggregate=tuple(AGGREGATES))
        if set(self.when) - set(WHEN) or not self.when:
            raise ValueError(f"when={list(self.when)} must be some of {', '.join(WHEN)}")

        if (self.implicit is None) != (self.reference is None):
            raise ValueError(f"implicit={self.implicit} with reference={self.reference}: give both or neither")

    @property
    def compared(self) -> bool:
        return self.implicit is not None or self.reference is not None

    @property
    def searched(self) -> bool:
        return bool(self.more)

    @property
    def aggregated(self) -> bool:
        return self.aggregate != "last"


class Arm(NamedTuple):
    """Who scores, who located the errors for the local refiner, and who says when drafts are refined."""

    scorer: str
    where: str
    when: str = "always"


@dataclass
class Scores:
    """What the reward models say, by scorer: the score of each candidate by which is chosen, the tokens that each reads
    of it, and for its gate the score after the last step, and that from which on a draft is kept."""

    finals: dict[str, dict[CandidateKey, float]] = field(default_factory=dict)
    tokens: dict[str, dict[CandidateKey, int]] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    lasts: dict[str, dict[CandidateKey, float]] = field(default_factory=dict)


def keeps(when: str, draft: Candidate, scores: Scores) -> bool:
    """Whether a gate keeps a draft as it is, so that nobody refines it."""
    if when == "always":
        return False
    if when == "oracle":
        return draft.correct is True
    return scores.lasts[when][identity(draft)] >= scores.thresholds[when]


def cost(
    offered: Sequence[Candidate], drafts: Sequence[Candidate], arm: Arm, asks: bool, scores: Scores
) -> tuple[int, int]:
    """Tokens sampled, and tokens read, for a choice among `offered`.

    Sampled are the candidates on offer, and the draft where a refiner or a gate has read it. Read are their prompts,
    and whatever a reward model reads: what it chooses from (where the choice `asks` it), and the draft, in which it
    locates an error or which it may keep. A model reads a text once.
    """
    own = drafts[:1]
    refined = [c for c in offered if c.kind in KINDS]
    sampled = list(offered)
    if (arm.when != "always" or any(c.kind != "control" for c in refined)) and all(c.kind != "draft" for c in offered):
        sampled += own
    read = {(arm.scorer, identity(c)) for c in offered if asks}
    read |= {(arm.where, identity(c)) for c in own if any(one.kind == "local" for one in offered)}
    read |= {(arm.when, identity(c)) for c in own}
    judged = sum(scores.tokens.get(name, {}).get(key, 0) for name, key in read)
    return sum(c.completion_tokens for c in sampled), sum(c.prompt_tokens for c in sampled) + judged


def _pick(
    name: str,
    offered: list[Candidate],
    drafts: list[Candidate],
    scores: Scores,
    arm: Arm,
    problem: Problem | None,
    seed: int,
) -> Choice:
    """What a selector chooses among what its kinds offer; the draft, where the arm's gate keeps it."""
    kinds, rule = SELECTORS[name]
    asks = rule in SCORED and len(offered) > 1  # of the whole arm, also where a gate keeps the draft
    gate = arm if offers_refinements(name) else arm._replace(when="always")
    kept = gate.when != "always" and keeps(gate.when, drafts[0], scores)
    if kept:
        offered = drafts[:1]
    finals = scores.finals[arm.scorer]
    chosen = select(offered, [finals[identity(c)] for c in offered], rule, problem, seed)
    sampled, read = cost(offered, drafts, gate, asks and not kept, scores)
    return Choice(
        problem_id=chosen.problem_id,
        selector=name,
        # of a search so many solutions are left as may be: one alone needs no choice, but the arm is the same
        scorer=arm.scorer if asks or kinds == ("beam",) else "none",
        where=arm.where if "local" in kinds or name == EQUAL else "none",
        kind=chosen.kind,
        sample=chosen.sample,
        answer=chosen.answer,
        correct=chosen.correct is True,
        completion_tokens=sampled,
        when=arm.when,
        offered=len(offered),
        read_tokens=read,
    )


def choose(
    candidates: Sequence[Candidate],
    scores: Scores,
    arm: Arm,
    samples: int,
    problem: Problem | None = None,
    seed: int = 0,
) -> list[Choice]:
    """What every selector but `EQUAL` chooses for one problem.

    Selectors that offer no refinement have no gate, and are there only for `always`. Selectors that lack candidates of
    a kind are left out.

    Raises:
        ValueError: there are samples, but fewer than `samples`.
    """
    by_kind: dict[str, list[Candidate]] = {}
    for candidate in sorted(candidates, key=lambda one: one.sample):
        if candidate.kind != "local" or candidate.where == arm.where:
            by_kind.setdefault(candidate.kind, []).append(candidate)
    if 0 < len(by_kind.get("sample", [])) < samples:
        have, name = len(by_kind["sample"]), candidates[0].problem_id
        raise ValueError(f"the best of {samples} samples is asked for, but problem {name} has only {have}")
    choices, drafts = [], by_kind.get("draft", [])
    for name, (kinds, _) in SELECTORS.items():
        gated = arm.when == "always" or offers_refinements(name)
        if name != EQUAL and gated and all(kind in by_kind for kind in kinds):
            offered = [c for kind in kinds for c in by_kind[kind]]
            if "sample" in kinds:
                offered = offered[:samples]
            choices.append(_pick(name, offered, drafts, scores, arm, problem, seed))
    return choices


def choose_equal(
    groups: Sequence[Sequence[Candidate]], reranked: Sequence[Choice], scores: Scores, arm: Arm
) -> list[Choice]:
    """The best of so many samples as cost at least what `reranked` does, both as means over problems, with all that is
    sampled and read; nothing where there are not so many. `groups[i]` are the candidates of problem i."""
    samples = [sorted((c for c in group if c.kind == "sample"), key=lambda c: c.sample) for group in groups]
    wanted = sum(choice.completion_tokens + choice.read_tokens for choice in reranked)
    for n in range(1, min(map(len, samples), default=0) + 1):
        own = [_pick(EQUAL, drawn[:n], [], scores, arm, None, 0) for drawn in samples]
        if sum(choice.completion_tokens + choice.read_tokens for choice in own) >= wanted:
            return own
    return []


def rerank(args: RerankArgs, work: Workspace) -> None:
    """Score every candidate with every reward model and choose by every selector, gate and place; writes `judgements`
    (Judgement) and `rows` (Choice).

    Raises:
        ValueError: a gate is of the implicit reward model, and there is none.
    """
    if IMPLICIT in args.when and not args.compared:  # in a pipeline's config, where it is filled in later, it may be
        raise ValueError(f"when={list(args.when)} needs implicit, an artifact of train_implicit, and its reference")
    source = work.parents["candidates"]
    problems = {problem.id: problem for problem in source.rows(Problem, "problems")}
    candidates = read_candidates(source, work.parents.get("more") or [])
    judgements, scores = _score(args, work, problems, candidates)
    groups: dict[str, list[Candidate]] = {problem_id: [] for problem_id in problems}
    for candidate in candidates:
        groups[candidate.problem_id].append(candidate)
    drawn = max((sum(c.kind == "sample" for c in group) for group in groups.values()), default=0)
    samples = drawn if args.samples is None else args.samples
    places = sorted({c.where for c in candidates if c.kind == "local"}) or ["none"]
    choices: dict[Choice, None] = {}  # many are the same for all scorers or places
    for arm in map(Arm._make, product(scores.finals, places, args.when)):
        found = [
            choice
            for problem_id, group in groups.items()
            for choice in choose(group, scores, arm, samples, problems[problem_id], args.seed)
        ]
        reranked = [choice for choice in found if choice.selector == "reranked"]
        equal = choose_equal(list(groups.values()), reranked, scores, arm) if reranked else []
        choices |= dict.fromkeys([*found, *equal])
    work.write_rows("judgements", judgements)
    work.write_rows("rows", choices, Choice)
    work.count(samples=min(samples, drawn))  # the n of best_of_n


def read_candidates(source: Artifact, more: Sequence[Artifact]) -> list[Candidate]:
    """The candidates of `revise`, and those of searches over the same problems.

    Raises:
        ValueError: a search is of other problems, or two have the same candidates.
    """
    candidates, known = source.rows(Candidate), {problem.id for problem in source.rows(Problem, "problems")}
    for artifact in more:
        rows = artifact.rows(Candidate)
        if odd := sorted({one.problem_id for one in rows} ^ known):
            raise ValueError(f"more={artifact.path} and candidates are of other problems; see {odd[0]!r}")
        candidates += rows
    if len({identity(one) for one in candidates}) < len(candidates):
        raise ValueError(f"more={[str(artifact.path) for artifact in more]}: two artifacts of one kind of search")
    return candidates


def _open_implicit(args: RerankArgs, work: Workspace) -> Scorer:
    from rewards.implicit import load_implicit

    key = work.parents["reference"].key
    return load_implicit(args.implicit, args.reference, key, device=args.device, batch_tokens=args.batch_tokens)


def _score(
    args: RerankArgs, work: Workspace, problems: dict[str, Problem], candidates: Sequence[Candidate]
) -> tuple[list[Judgement], Scores]:
    from rewards.scorer import score_all

    judgements, scores = [], Scores()
    names = ["/".join(map(str, identity(c))) for c in candidates]
    asked, solutions = [problems[c.problem_id] for c in candidates], [c.steps for c in candidates]
    for name in (*SCORERS, IMPLICIT) if args.compared else SCORERS:
        scorer = open_judge(args, name) if name != IMPLICIT else _open_implicit(args, work)
        found = score_all(scorer, names, asked, solutions, work, f"score {name}")
        own = [
            Judgement(*identity(one), name, tuple(given or ()), scorer.length(problem, one.steps))
            for one, given, problem in zip(candidates, found, asked, strict=True)
        ]
        judgements += own
        # a text without a single step, or too long to be read, is worth nothing
        scores.finals[name] = {identity(j): aggregate(j.probabilities, args.aggregate) for j in own}
        scores.lasts[name] = {identity(j): aggregate(j.probabilities) for j in own}
        scores.tokens[name] = {identity(j): j.tokens for j in own}
        scores.thresholds[name] = scorer.final_threshold
    return judgements, scores


RERANK = Stage("rerank", 6, RerankArgs, rerank)
