"""Drafts into candidates: the global, the local and the control refiners each rewrite every draft, greedily.

The local refiner is told where the first error is, by nobody (`none`: everything is rewritten), by a reward model's
first step under its threshold (`orm`, `sorm`), or by the truth (`oracle`, in the embedded world only).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from refine.prompts import kept_steps, render_refinement
from rollouts.grading.answers import grade
from rollouts.prompts import PLAIN, PromptArgs, Template
from rollouts.records import Candidate, Mistake, Problem, Rollout
from rollouts.sampling.args import SamplerArgs
from rollouts.sampling.collect import collect
from rollouts.sampling.policies import own_device_class
from rollouts.sampling.protocol import REFUSED, Request, Sampler, load_sampler
from rollouts.solution import cut_solution
from rollouts.steps import cut_text, join_steps
from rollouts.world.args import SOURCE as WORLD
from stages.stage import Stage, parent, resolved, runtime
from stages.workspace import Workspace

if TYPE_CHECKING:
    from rewards.scorer import Scorer

WHERE = ("none", "orm", "sorm", "oracle")


@dataclass
class ReviseArgs:
    """Arguments of the stage `revise`. `drafts` are one rollout a problem (of several the first that was not refused),
    `samples` those that best-of-n chooses from. The reward models run on `device`."""

    drafts: str = parent("sample")  #: an artifact of sample
    samples: str | None = parent("sample", default=None)  #: an artifact of sample, for best of n
    global_refiner: str = parent("train_policy", any_path=True)  #: a policy trained on global pairs
    local_refiner: str = parent("train_policy", any_path=True)  #: a policy trained on local pairs
    control: str | None = parent("train_policy", any_path=True, default=None)  #: a policy trained on control pairs
    shuffled: str | None = parent("train_policy", any_path=True, default=None)  #: a policy trained on shuffled pairs
    orm: str | None = parent("train_reward", default=None)  #: an artifact of train_reward
    sorm: str | None = parent("train_reward", default=None)  #: an artifact of train_reward
    where: list[str] = field(default_factory=lambda: ["none", "orm", "sorm"])  #: who says where the error is
    sampler: SamplerArgs = field(default_factory=lambda: SamplerArgs(temperature=0.0))  #: how to sample
    prompt: PromptArgs = field(default_factory=PromptArgs)
    seed: int = 0  #: of the samples
    batch_tokens: int = runtime(16384)
    device: str = resolved("auto", own_device_class)

    def validate(self) -> None:
        """Raise ValueError where a place is unknown, or is to be found by a model that is not given."""
        unknown = set(self.where) - set(WHERE)
        if unknown or not self.where:
            raise ValueError(f"where={list(self.where)} must be some of {', '.join(WHERE)}")
        for name in ("orm", "sorm"):
            if name in self.where and getattr(self, name) is None:
                raise ValueError(f"where={list(self.where)} needs {name}, the folder of a reward model")


class Judges(Protocol):
    """Arguments that say which reward models there are, and how they are run."""

    orm: str | None
    sorm: str | None
    device: str
    batch_tokens: int


class Locating(Judges, Protocol):
    """Those that say also how a solution is read."""

    prompt: PromptArgs


def open_judge(args: Judges, name: str, template: Template | None = None) -> Scorer:
    """The reward model that the argument `name` (orm or sorm) gives.

    Raises:
        ValueError: it is of the other kind, or see `load_scorer`.
    """
    from rewards.scorer import load_scorer

    path = getattr(args, name)
    scorer = load_scorer(path, device=args.device, batch_tokens=args.batch_tokens, template=template)
    if scorer.kind != name:
        raise ValueError(f"{name}={path} is a reward model of kind {scorer.kind}")
    return scorer


def locate(
    args: Locating, where: str, problems: Sequence[Problem], drafts: Sequence[Rollout | Mistake], work: Workspace
) -> list[int | None]:
    """The first wrong step of every draft (0-based) as `where` sees it, or None where it sees none or cannot read so
    long a draft. To the oracle a needless step is one too.

    Raises:
        ValueError: the reward model is of the other kind, or the truth is asked for where nobody knows it.
    """
    if where == "none":
        return [0 if draft.steps else None for draft in drafts]
    if where == "oracle":
        from rollouts.world.oracle import true_first_error

        if other := next((problem.source for problem in problems if problem.source != WORLD), None):
            raise ValueError(f"where=oracle: nobody knows the first error of a {other} solution")
        return [true_first_error(problem, draft.steps) for problem, draft in zip(problems, drafts, strict=True)]
    from rewards.metrics import first_error
    from rewards.scorer import score_all

    scorer = open_judge(args, where, args.prompt.template())
    steps = [draft.steps for draft in drafts]
    scores = score_all(scorer, [draft.id for draft in drafts], problems, steps, work, f"score {where}")
    return [None if own is None else first_error(own, scorer.threshold) for own in scores]


def choose_drafts(problems: Sequence[Problem], rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The draft of every problem: the first that was drawn; one that was refused only where there is no other."""
    by_problem: dict[str, Rollout] = {}
    for rollout in rollouts:
        if by_problem.setdefault(rollout.problem_id, rollout).finish_reason == REFUSED:
            by_problem[rollout.problem_id] = rollout
    return [by_problem[problem.id] for problem in problems]


def from_rollout(rollout: Rollout | Candidate, kind: str) -> Candidate:
    """A draft or a sample as a candidate, graded as it was."""
    return Candidate(
        problem_id=rollout.problem_id,
        kind=kind,
        where="none",
        error_step=None,
        sample=rollout.sample if kind == "sample" else 0,
        text=rollout.text,
        steps=rollout.steps,
        answer=rollout.answer,
        correct=rollout.correct,
        completion_tokens=rollout.completion_tokens,
        prompt_tokens=rollout.prompt_tokens,
    )


def candidate(
    problem: Problem,
    kind: str,
    where: str,
    error_step: int | None,
    text: str,
    completion_tokens: int,
    prompt_tokens: int,
    kept: Sequence[str] = (),
) -> Candidate:
    """A text that was written after the steps `kept`, as a graded candidate. One that the grader could not decide has
    `correct` None."""
    solution = cut_solution(text, kept)
    verdict = grade(solution, problem.answer)
    return Candidate(
        problem_id=problem.id,
        kind=kind,
        where=where,
        error_step=error_step,
        sample=0,
        text=join_steps(kept) + text,
        steps=solution.steps,
        answer=verdict.answer,
        correct=verdict.correct if verdict.graded else None,
        completion_tokens=completion_tokens,
        prompt_tokens=prompt_tokens,
    )


def shuffle_drafts(drafts: Sequence[Rollout], seed: int) -> list[Rollout]:
    """For every problem the draft of another one, each draft once.

    Raises:
        ValueError: there is no other problem.
    """
    if len(drafts) < 2:
        raise ValueError(f"shuffled needs drafts of 2 problems at least, not {len(drafts)}: shuffled=null does without")
    order = list(range(len(drafts)))
    random.Random(f"shuffled/{seed}").shuffle(order)
    others = dict(zip(order, [*order[1:], order[0]], strict=True))
    return [drafts[others[i]] for i in range(len(drafts))]


def refine_all(
    kind: str,
    where: str,
    sampler: Sampler,
    problems: Sequence[Problem],
    drafts: Sequence[Rollout | Candidate],
    errors: Sequence[int | None],
    seed: int,
    work: Workspace,
    template: Template = PLAIN,
    shown: Sequence[Rollout] | None = None,
    round_number: int = 0,
) -> list[Candidate]:
    """One refinement of every draft; the refiner reads the drafts `shown` (None: these).

    A local refiner that is told of no error leaves the draft as it is; so does one whose prompt is too long for it.
    What is cut, since it is longer than `rollouts.steps` allows, is counted. Of several rounds each has its
    `round_number`, from 1.
    """
    requests = []
    for problem, draft, error in zip(problems, shown or drafts, errors, strict=True):
        if kind != "local" or error is not None:
            prompt = render_refinement(kind, problem.question, draft.steps, error, template)
            requests.append(Request(problem.id, prompt, seed=seed))
    # a local refiner may be told of a few errors only, and all of those drafts may be too long for it
    label = kind if kind != "local" else f"local ({where})"
    label = f"{label}/{round_number}" if round_number else label
    samples = collect(sampler, requests, work, label, need_some=kind != "local" and round_number <= 1)
    refined, cut = [], 0
    for problem, draft, error in zip(problems, drafts, errors, strict=True):
        sample = samples[problem.id][0] if problem.id in samples else None
        if sample is None or sample.finish_reason == REFUSED:  # not asked; or named in quarantine.parquet
            refined.append(replace(from_rollout(draft, kind), where=where, completion_tokens=0, prompt_tokens=0))
            continue
        written = cut_text(sample.text)
        cut += len(written) < len(sample.text)
        kept, place = kept_steps(kind, draft.steps, error), error if kind == "local" else None
        tokens = sample.completion_tokens, sample.prompt_tokens
        refined.append(candidate(problem, kind, where, place, written, *tokens, kept))
    if cut:
        name = f"{kind}_{where}_cut" if kind == "local" else f"{kind}_cut"
        work.count(**{f"{name}_{round_number}" if round_number else name: cut})
    return refined


def revise(args: ReviseArgs, work: Workspace) -> None:
    """Write `rows` (Candidate): drafts, samples, and the refinements of every kind and place; and `problems`.

    Raises:
        ValueError: a sample's problem has no draft, or see `locate`.
    """
    source = work.parents["drafts"]
    problems = source.rows(Problem, "problems")
    drafts = choose_drafts(problems, source.rows(Rollout))
    known = {problem.id for problem in problems}
    rows = [from_rollout(draft, "draft") for draft in drafts]
    if args.samples is not None:
        for rollout in work.parents["samples"].rows(Rollout):
            if rollout.problem_id not in known:
                raise ValueError(f"samples has problem {rollout.problem_id}, of which there is no draft")
            rows.append(from_rollout(rollout, "sample"))
    nowhere, template = [None] * len(drafts), args.prompt.template()
    errors = {where: locate(args, where, problems, drafts, work) for where in args.where}
    for kind, policy in (("global", args.global_refiner), ("control", args.control), ("shuffled", args.shuffled)):
        if policy is not None:
            shown = shuffle_drafts(drafts, args.seed) if kind == "shuffled" else drafts
            with closing(load_sampler(policy, args.sampler, template.stop)) as sampler:
                rows += refine_all(kind, "none", sampler, problems, drafts, nowhere, args.seed, work, template, shown)
    with closing(load_sampler(args.local_refiner, args.sampler, template.stop)) as local:
        for where in args.where:
            rows += refine_all("local", where, local, problems, drafts, errors[where], args.seed, work, template)
    work.write_rows("problems", problems)
    work.write_rows("rows", rows)


REVISE = Stage("revise", 6, ReviseArgs, revise)
