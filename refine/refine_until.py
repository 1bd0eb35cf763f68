"""The stage `refine_until`: drafts that are refined again and again, until a reward model accepts them or the rounds
are over.

In every round the refiners write one refinement each of every solution that is not accepted yet; the one that the
reward model scores highest is refined next. What comes out is the first that was accepted, or the highest score.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from refine.revise import choose_drafts, from_rollout, open_judge, refine_all
from rewards.aggregate import aggregate
from rewards.evaluate import SCORERS
from rollouts.prompts import PromptArgs
from rollouts.records import Candidate, Problem, Rollout
from rollouts.sampling.args import SamplerArgs
from rollouts.sampling.policies import own_device_class
from rollouts.sampling.protocol import load_sampler
from stages.checks import check_choices, check_least
from stages.stage import Stage, parent, resolved, runtime
from stages.workspace import Workspace

if TYPE_CHECKING:
    from rewards.scorer import Scorer


@dataclass
class UntilArgs:
    """Arguments of the stage `refine_until`. `judge` accepts a solution whose final score reaches its threshold *when*;
    `where` tells the local refiner where the error is. Of the two refiners one may be left out."""

    drafts: str = parent("sample")  #: an artifact of sample
    global_refiner: str | None = parent("train_policy", any_path=True, default=None)  #: trained on global pairs
    local_refiner: str | None = parent("train_policy", any_path=True, default=None)  #: trained on local pairs
    orm: str | None = parent("train_reward", default=None)  #: an artifact of train_reward
    sorm: str | None = parent("train_reward", default=None)  #: an artifact of train_reward
    judge: str = "orm"  #: who accepts: orm or sorm
    where: str = "sorm"  #: who says where the error is: orm or sorm
    rounds: int = 3  #: of refinement, at most
    sampler: SamplerArgs = field(default_factory=lambda: SamplerArgs(temperature=0.0))  #: how to sample
    prompt: PromptArgs = field(default_factory=PromptArgs)
    seed: int = 0  #: of the samples
    batch_tokens: int = runtime(16384)
    device: str = resolved("auto", own_device_class)

    def validate(self) -> None:
        """Raise ValueError where there is no refiner, or a reward model that is asked is not given."""
        check_choices(self, judge=SCORERS, where=SCORERS)
        check_least(self, rounds=1)
        if self.global_refiner is None and self.local_refiner is None:
            raise ValueError("global_refiner, local_refiner or both must be given: nobody would refine")
        for name in self.asked:
            if getattr(self, name) is None:
                raise ValueError(f"judge={self.judge} where={self.where} needs {name}, the folder of a reward model")

    @property
    def asked(self) -> tuple[str, ...]:
        """The reward models that are needed, each once."""
        return tuple(dict.fromkeys([self.judge] + ([] if self.local_refiner is None else [self.where])))


@dataclass
class Refining:
    """One problem on its way: the solution to refine next, the best so far with its score, and the tokens of all that
    was sampled and read for it. It is `open` until it is accepted or the refiners have nothing new to offer."""

    problem: Problem
    current: Candidate
    best: Candidate
    score: float = -math.inf
    accepted: bool = False
    open: bool = True
    error: int | None = None  # where the first error of the current solution is
    sampled: int = 0
    read: int = 0
    seen: set[tuple[str, ...]] = field(default_factory=set)

    @classmethod
    def start(cls, problem: Problem, draft: Candidate) -> Refining:
        """A draft that has cost what was sampled and read for it."""
        tokens = {"sampled": draft.completion_tokens, "read": draft.prompt_tokens}
        return cls(problem, draft, draft, seen={draft.steps}, **tokens)

    def result(self) -> Candidate:
        """The solution that was accepted, or the best, at the price of all."""
        tokens = {"completion_tokens": self.sampled, "prompt_tokens": self.read}
        return replace(self.best, kind="until", where="none", error_step=None, sample=0, **tokens)


class Judging:
    """The reward models of the stage, which read every text once."""

    def __init__(self, args: UntilArgs, work: Workspace) -> None:
        self.args, self.work, self.too_long = args, work, 0
        template = args.prompt.template()
        self.scorers: dict[str, Scorer] = {name: open_judge(args, name, template) for name in args.asked}

    def take(self, offers: Sequence[tuple[Refining, Candidate]], number: int) -> None:
        """Score what is offered in a round, make the best of each problem its current solution, accept it where the
        judge does, and locate the error in it where not."""
        judge = self.scorers[self.args.judge]
        found = self._score(self.args.judge, offers, number)
        ranked: dict[str, tuple[Refining, Candidate, list[float]]] = {}
        for (refining, candidate), own in zip(offers, found, strict=True):
            known = ranked.get(refining.problem.id)
            if known is None or aggregate(own) > aggregate(known[2]):
                ranked[refining.problem.id] = refining, candidate, own
        for refining, candidate, own in ranked.values():
            refining.current = candidate
            final = aggregate(own)
            if final > refining.score:
                refining.best, refining.score = candidate, final
            if final >= judge.final_threshold:
                refining.accepted, refining.open = True, False
        if self.args.local_refiner is not None and number < self.args.rounds:
            self._locate([one for one in ranked.values() if one[0].open], number)

    def _locate(self, chosen: Sequence[tuple[Refining, Candidate, list[float]]], number: int) -> None:
        from rewards.metrics import first_error

        where, found = self.args.where, [own for *_, own in chosen]
        if where != self.args.judge:
            found = self._score(where, [(refining, candidate) for refining, candidate, _ in chosen], number)
        for (refining, *_), own in zip(chosen, found, strict=True):
            refining.error = first_error(own, self.scorers[where].threshold) if own else None

    def _score(self, name: str, offers: Sequence[tuple[Refining, Candidate]], number: int) -> list[list[float]]:
        from rewards.scorer import score_all

        if not offers:
            return []
        scorer, label = self.scorers[name], f"score {name}/{number}"
        names = [f"{refining.problem.id}/{number}/{candidate.kind}" for refining, candidate in offers]
        problems, steps = [one.problem for one, _ in offers], [candidate.steps for _, candidate in offers]
        some = number == 0 and name == self.args.judge  # later there may be a few left, all of them too long
        found = score_all(scorer, names, problems, steps, self.work, label, count=False, need_some=some)
        for refining, candidate in offers:
            refining.read += scorer.length(refining.problem, candidate.steps)
        self.too_long += found.count(None)
        return [own or [] for own in found]


def refine_round(
    args: UntilArgs, refining: Sequence[Refining], number: int, work: Workspace
) -> Iterator[tuple[Refining, Candidate]]:
    """What the refiners offer of the current solutions, but for what these problems have had before. The refiners are
    loaded one after the other: there may be one engine in a process."""
    template, problems = args.prompt.template(), [one.problem for one in refining]
    drafts, nowhere = [one.current for one in refining], [None] * len(refining)
    for kind, policy in (("global", args.global_refiner), ("local", args.local_refiner)):
        if policy is None or not refining:
            continue
        where, errors = ("none", nowhere) if kind == "global" else (args.where, [one.error for one in refining])
        with closing(load_sampler(policy, args.sampler, template.stop)) as sampler:
            written = refine_all(
                kind, where, sampler, problems, drafts, errors, args.seed, work, template, round_number=number
            )
        for one, candidate in zip(refining, written, strict=True):
            one.sampled += candidate.completion_tokens
            one.read += candidate.prompt_tokens
            if candidate.steps not in one.seen:
                one.seen.add(candidate.steps)
                yield one, candidate


def refine_until(args: UntilArgs, work: Workspace) -> None:
    """Write `rows` (Candidate, one a problem, of the kind until) and `problems`. The counts say how many problems were
    accepted, and how many were right, after so many rounds.

    What is sampled and scored is kept as it comes; after a kill only what is missing is made.
    """
    source = work.parents["drafts"]
    problems = source.rows(Problem, "problems")
    drafts = [from_rollout(draft, "draft") for draft in choose_drafts(problems, source.rows(Rollout))]
    refining = [Refining.start(problem, draft) for problem, draft in zip(problems, drafts, strict=True)]
    judging = Judging(args, work)
    judging.take([(one, one.current) for one in refining], 0)
    _count(refining, 0, work)
    for number in range(1, args.rounds + 1):
        left = [one for one in refining if one.open]
        offers = list(refine_round(args, left, number, work))
        offered = {one.problem.id for one, _ in offers}
        for one in left:
            one.open = one.problem.id in offered
        judging.take(offers, number)
        _count(refining, number, work)
    work.write_rows("problems", problems)
    work.write_rows("rows", [one.result() for one in refining], Candidate)
    work.count(
        too_long=judging.too_long,
        sampled_tokens=sum(one.sampled for one in refining),
        read_tokens=sum(one.read for one in refining),
    )


def _count(refining: Sequence[Refining], number: int, work: Workspace) -> None:
    right = sum(one.best.correct is True for one in refining)
    work.count(**{f"accepted_{number}": sum(one.accepted for one in refining), f"right_{number}": right})


REFINE_UNTIL = Stage("refine_until", 2, UntilArgs, refine_until)
