"""The stage `beam_search`: solutions written step by step, of which a reward model keeps the best after each step.

In every wave the policy writes one more step of each solution that is still open, several times, and of all of them the
highest scores are kept. A step is a line. Left out: who chooses among the solutions that are left (`refine/rerank.py`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from refine.revise import candidate
from rewards.aggregate import AGGREGATES, aggregate
from rollouts.problems.args import ProblemArgs
from rollouts.problems.load import load_problems
from rollouts.prompts import PromptArgs, Template, render_prompt
from rollouts.records import Candidate, Problem
from rollouts.sampling.args import SamplerArgs, Sampling
from rollouts.sampling.collect import RowsByRequest, collect
from rollouts.sampling.policies import own_device_class
from rollouts.sampling.protocol import REFUSED, Request, Sample, load_sampler
from rollouts.solution import cut_solution
from rollouts.steps import MAX_STEPS, join_steps
from stages.bad_rows import BadRows
from stages.checks import check_choices, check_least
from stages.stage import Stage, parent, resolved, runtime
from stages.workspace import Workspace

if TYPE_CHECKING:
    from rewards.scorer import Scorer


@dataclass
class BeamArgs(Sampling):
    """Arguments of the stage `beam_search`. `sampler.max_tokens` bounds a step.

    `beams` solutions are kept, each of which gets `expand` next steps; the first step is drawn `beams` times `expand`
    times. `aggregate` makes one score of those after the steps so far: last, min, product, mean.
    """

    policy: str = parent("train_policy", any_path=True, or_name="served")  #: who writes: a folder, hub:…, shipped
    scorer: str = parent("train_reward")  #: who scores the steps: an artifact of train_reward
    problems: ProblemArgs = field(default_factory=ProblemArgs)  #: which problems
    sampler: SamplerArgs = field(default_factory=lambda: SamplerArgs(max_tokens=128))  #: how steps are sampled
    prompt: PromptArgs = field(default_factory=PromptArgs)
    beams: int = 4  #: solutions that are kept
    expand: int = 4  #: next steps drawn of each
    max_steps: int = 24  #: of a solution
    aggregate: str = "last"  #: of the scores of the steps so far: last, min, product, mean
    seed: int = 0  #: of the samples
    batch_tokens: int = runtime(16384)
    device: str = resolved("auto", own_device_class)

    def validate(self) -> None:
        """Raise ValueError naming the first setting out of range."""
        check_least(self, beams=1, expand=1, max_steps=1)
        check_choices(self, aggregate=tuple(AGGREGATES))
        if self.max_steps > MAX_STEPS:
            raise ValueError(f"max_steps={self.max_steps}: no more than {MAX_STEPS} steps are kept of a solution")
        if self.beams * self.expand > 1 and self.sampler.temperature == 0:
            raise ValueError("greedy steps would all be the same: set sampler.temperature, or beams=1 expand=1")


@dataclass(frozen=True)
class Beam:
    """A solution as far as it is written. It is `open` where more steps can follow, `answered` where it has its answer;
    with `blank` the policy wrote an empty line after its last step."""

    steps: tuple[str, ...] = ()
    score: float | None = None  # None: not known yet
    open: bool = True
    answered: bool = False
    blank: bool = False

    @property
    def text(self) -> str:
        return join_steps(self.steps) + ("\n" if self.blank else "")

    @property
    def rank(self) -> tuple[bool, float]:
        """What ended without an answer comes last, whatever its score."""
        return self.open or self.answered, -math.inf if self.score is None else self.score


def grow(beam: Beam, sample: Sample) -> Beam:
    """A beam with the line that was sampled; its score is not known yet where it has another step.

    An empty line may stand between two steps, but two of them, or a line of more than `max_tokens`, end a solution. One
    that has its answer is at its end too.
    """
    if sample.finish_reason == REFUSED:
        return replace(beam, open=False)
    solution = cut_solution(sample.text, beam.steps)
    if len(solution.steps) <= len(beam.steps):  # nothing that counts
        again = sample.finish_reason == "stop" and not beam.blank
        return replace(beam, blank=again, open=again)
    answered = solution.answer is not None
    return Beam(solution.steps, open=not answered and sample.finish_reason == "stop", answered=answered)


@dataclass
class Search:
    """The search of one problem: the beams that are kept, and the tokens sampled and read for all of it."""

    problem: Problem
    beams: list[Beam] = field(default_factory=lambda: [Beam()])
    sampled: int = 0
    read: int = 0

    def requests(self, args: BeamArgs, template: Template) -> Iterator[tuple[Request, Beam]]:
        """A request for the next steps of every open beam. It is named after what is written, so that its samples do
        not depend on anything else."""
        prompt, stop = render_prompt(self.problem.question, template), ("\n", *args.sampler.stop)
        for beam in self.beams:
            if beam.open:
                n = args.expand if beam.text else args.beams * args.expand
                name = f"{self.problem.id}/beam/{_digest(beam.text)}"
                yield Request(name, prompt, beam.text, n, args.seed, stop=stop), beam

    def keep(self, grown: Sequence[Beam], beams: int) -> None:
        """Keep the best of what is at its end and what was grown; of the same steps the first, of equal scores too."""
        pool: dict[tuple[str, ...], Beam] = {}
        for one in [*(one for one in self.beams if not one.open), *grown]:
            if one.steps not in pool or one.rank > pool[one.steps].rank:
                pool[one.steps] = one
        self.beams = sorted(pool.values(), key=lambda one: one.rank, reverse=True)[:beams]

    def candidates(self) -> list[Candidate]:
        """The solutions with an answer, or all where there is none; each has its part of the tokens of the search."""
        left = [one for one in self.beams if one.answered] or self.beams
        return [self._candidate(at, one, len(left)) for at, one in enumerate(left)]

    def _candidate(self, at: int, beam: Beam, count: int) -> Candidate:
        tokens = (total // count + (at < total % count) for total in (self.sampled, self.read))
        found = candidate(self.problem, "beam", "none", None, "", *tokens, beam.steps)
        return replace(found, sample=at, correct=found.correct if self.sampled else None)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def grow_all(
    asked: Sequence[tuple[Search, Request, Beam]], samples: RowsByRequest[Sample]
) -> dict[str, tuple[Search, list[Beam]]]:
    """What was grown in a wave, by problem, with the tokens of all its samples paid."""
    grown: dict[str, tuple[Search, list[Beam]]] = {}
    for search, request, beam in asked:
        own = grown.setdefault(search.problem.id, (search, []))[1]
        for sample in samples[request.id]:
            search.sampled += sample.completion_tokens
            search.read += sample.prompt_tokens
            own.append(grow(beam, sample))
    return grown


def score_beams(
    grown: Mapping[str, tuple[Search, list[Beam]]], scorer: Scorer, how: str, work: Workspace, wave: int
) -> int:
    """Score every beam that has a new step, once; returns how many are too long to be read. In the first wave some must
    not be."""
    from rewards.scorer import score_all

    new = {
        (name, one.steps): search
        for name, (search, beams) in grown.items()
        for one in beams
        if one.score is None and one.steps
    }
    names = [f"{name}/{_digest(join_steps(steps))}" for name, steps in new]
    problems, solutions = [search.problem for search in new.values()], [steps for _, steps in new]
    label, found = f"score beam/{wave}", []
    if new:
        found = score_all(scorer, names, problems, solutions, work, label, count=False, need_some=wave == 1)
    for (_, steps), search in new.items():
        search.read += scorer.length(search.problem, steps)
    scores = {key: aggregate(own or (), how) for key, own in zip(new, found, strict=True)}
    for name, (_, beams) in grown.items():
        beams[:] = [replace(one, score=scores.get((name, one.steps), one.score)) for one in beams]
    return found.count(None)


def beam_search(args: BeamArgs, work: Workspace) -> None:
    """Write `rows` (Candidate, of the kind beam, best first by the reward model's score) and `problems`.

    Every step and every score is kept as it comes; after a kill the waves are gone through again, and only what is
    missing is sampled and scored.
    """
    from rewards.scorer import load_scorer

    template = args.prompt.template()
    scorer = load_scorer(args.scorer, device=args.device, batch_tokens=args.batch_tokens, template=template)
    bad = BadRows(args.problems.bad_rows)
    searches, too_long = [Search(problem) for problem in load_problems(args.problems, bad)], 0
    with closing(load_sampler(args.policy, args.sampler, template.stop)) as sampler:
        for wave in range(1, args.max_steps + 1):
            asked = [(search, *one) for search in searches for one in search.requests(args, template)]
            if not asked:
                break
            samples = collect(sampler, [one for _, one, _ in asked], work, f"beam/{wave}", need_some=wave == 1)
            grown = grow_all(asked, samples)
            samples.close()
            too_long += score_beams(grown, scorer, args.aggregate, work, wave)
            for search, beams in grown.values():
                search.keep(beams, args.beams)
    rows = [row for search in searches for row in search.candidates()]
    work.write_rows("problems", [search.problem for search in searches])
    work.write_rows("rows", rows, Candidate)
    best = [one for one in rows if one.sample == 0]
    work.count(
        accuracy=sum(one.correct is True for one in best) / len(best),
        unanswered=sum(one.answer is None for one in best),
        too_long=too_long,
        sampled_tokens=sum(search.sampled for search in searches),
        read_tokens=sum(search.read for search in searches),
    )
    if work.processes.first:
        bad.record(work)


BEAM_SEARCH = Stage("beam_search", 2, BeamArgs, beam_search)
