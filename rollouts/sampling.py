"""Sampling solutions: requests, seeds, the Sampler protocol, and the stage that turns problems into rollouts.

The backends are in `rollouts/backends/`, one file each, named in `BACKENDS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Protocol

from rollouts.answers import grade
from rollouts.artifacts import Stage, Workspace, parent, runtime
from rollouts.problems import load_problems
from rollouts.problems.source import ProblemArgs
from rollouts.prompts import parse_solution, render_prompt
from rollouts.types import Problem, Rollout

# name -> module with `load(policy: str, args: SamplerArgs) -> Sampler`; a new backend is one file and one line
BACKENDS = {"hf": "rollouts.backends.hf", "scripted": "rollouts.backends.scripted"}


@dataclass
class SamplerArgs:
    """How to sample. `temperature` 0 is greedy; `max_tokens` bounds a completion, in the policy's tokens."""

    backend: str = "hf"
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256
    dtype: str = "auto"
    batch_size: int = runtime(256)
    device: str = runtime("auto")

    def validate(self) -> None:
        """Raise ValueError naming the first setting out of range."""
        if self.backend not in BACKENDS:
            raise ValueError(f"backend={self.backend!r} is none of {', '.join(sorted(BACKENDS))}")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be finite and at least 0, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], not {self.top_p}")
        if self.max_tokens < 1 or self.batch_size < 1:
            raise ValueError(f"max_tokens and batch_size must be at least 1: {self.max_tokens}, {self.batch_size}")


@dataclass(frozen=True, slots=True)
class Request:
    """Ask for `n` completions of `prompt` followed by `prefix`, the steps of a solution already written.

    Prompt and prefix are encoded apart, as they are in training. `seed` is the run's; each sample gets its own.
    """

    id: str
    prompt: str
    prefix: str = ""
    n: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion. `finish_reason` is stop (the policy ended it) or length (`max_tokens` did)."""

    request_id: str
    index: int
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    seed: int


class Sampler(Protocol):
    """A policy that can be sampled. The same requests give the same text in whatever order and batches they come."""

    def sample(self, requests: Sequence[Request]) -> Iterator[Sample]:
        """Yield every sample of every request, in any order, as they finish."""
        ...


def sample_seed(run_seed: int, request_id: str, index: int) -> int:
    """The seed of one sample, a function of what it is and not of when it is drawn (63 bits)."""
    digest = hashlib.sha256(f"{run_seed}\x00{request_id}\x00{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def load_sampler(policy: str, args: SamplerArgs) -> Sampler:
    """Open a policy's folder with the backend that `args` names.

    Raises:
        ValueError: the backend is unknown, or the folder is not a policy's.
    """
    args.validate()
    return import_module(BACKENDS[args.backend]).load(policy, args)


def grade_sample(problem: Problem, sample: Sample, index: int, last_number: bool = False) -> Rollout:
    """Turn one sample of a problem's solution into a graded rollout. A truncated text is graded like any other."""
    verdict = grade(sample.text, problem.answer, last_number=last_number)
    return Rollout(
        id=f"{problem.id}#{index}",
        problem_id=problem.id,
        sample=index,
        text=sample.text,
        steps=parse_solution(sample.text),
        answer=verdict.answer,
        correct=verdict.correct if verdict.graded else None,
        rule=verdict.rule,
        finish_reason=sample.finish_reason,
        prompt_tokens=sample.prompt_tokens,
        completion_tokens=sample.completion_tokens,
        seed=sample.seed,
    )


@dataclass
class SampleArgs:
    """Arguments of the stage `sample`: `n` rollouts of every problem."""

    policy: str = parent("train_policy", plain=True)
    problems: ProblemArgs = field(default_factory=ProblemArgs)
    sampler: SamplerArgs = field(default_factory=SamplerArgs)
    n: int = 8
    seed: int = 0
    # a number that merely stands last is taken for the answer; never for rollouts that train a model
    last_number: bool = False

    def validate(self) -> None:
        """Raise ValueError naming the first setting out of range."""
        if self.n < 1:
            raise ValueError(f"n must be at least 1, not {self.n}")
        if self.n > 1 and self.sampler.temperature == 0:
            raise ValueError(f"n={self.n} greedy samples would all be the same: set sampler.temperature, or n=1")


def sample_rollouts(args: SampleArgs, work: Workspace) -> None:
    """Sample and grade `args.n` rollouts of every problem; writes `rows` (Rollout) and `problems` (Problem)."""
    problems = load_problems(args.problems)
    by_id = {problem.id: problem for problem in problems}
    sampler = load_sampler(args.policy, args.sampler)
    requests = [Request(p.id, render_prompt(p.question), n=args.n, seed=args.seed) for p in problems]
    samples = collect(sampler, requests, work, label="sample")
    rollouts = [grade_sample(by_id[request.id], s, s.index) for request in requests for s in samples[request.id]]
    work.write_rows("problems", problems)
    work.write_rows("rows", rollouts)
    work.count(**count_rollouts(rollouts))


def collect(sampler: Sampler, requests: Sequence[Request], work: Workspace, label: str) -> dict[str, list[Sample]]:
    """Run all requests under one progress bar; samples come back by request, in the order of their index."""
    samples: dict[str, list[Sample]] = {request.id: [] for request in requests}
    if len(samples) != len(requests):
        raise ValueError("two requests have the same id")
    with work.progress(sum(request.n for request in requests), "samples", label) as bar:
        for sample in sampler.sample(requests):
            samples[sample.request_id].append(sample)
            work.spend(sample.completion_tokens)
            bar.advance(1)
    for request in requests:
        samples[request.id].sort(key=lambda sample: sample.index)
        if [sample.index for sample in samples[request.id]] != list(range(request.n)):
            raise RuntimeError(f"the sampler gave {len(samples[request.id])} of {request.n} samples of {request.id}")
    return samples


def count_rollouts(rollouts: Iterable[Rollout]) -> dict[str, float]:
    """What one wants to know of a set of rollouts: accuracy, variety, and how many problems have both outcomes.

    `mixed_problems` is the share of problems with right and wrong rollouts; `distinct_correct` the mean number of
    different right solutions a problem; `ungraded` and `truncated` are counts.
    """
    rollouts = list(rollouts)
    by_problem: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        by_problem.setdefault(rollout.problem_id, []).append(rollout)
    groups = list(by_problem.values())
    return {
        "problems": len(groups),
        "rollouts": len(rollouts),
        "accuracy": sum(r.correct is True for r in rollouts) / len(rollouts),
        "solved_problems": sum(any(r.correct for r in g) for g in groups) / len(groups),
        "mixed_problems": sum(len({r.correct for r in g if r.correct is not None}) == 2 for g in groups) / len(groups),
        "distinct_correct": sum(len({r.steps for r in g if r.correct}) for g in groups) / len(groups),
        "ungraded": sum(r.correct is None for r in rollouts),
        "truncated": sum(r.finish_reason == "length" for r in rollouts),
    }


SAMPLE = Stage("sample", 2, SampleArgs, sample_rollouts)
