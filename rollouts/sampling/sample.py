"""The stage `sample`: n graded rollouts of every problem."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from rollouts.grading.answers import grade
from rollouts.problems.args import ProblemArgs
from rollouts.problems.load import load_problems
from rollouts.prompts import PromptArgs, render_prompt
from rollouts.records import Problem, Rollout
from rollouts.sampling.args import SamplerArgs, Sampling
from rollouts.sampling.collect import collect
from rollouts.sampling.protocol import REFUSED, Request, Sample, load_sampler
from rollouts.solution import cut_solution
from rollouts.steps import cut_text
from stages.bad_rows import BadRows
from stages.checks import check_least
from stages.stage import Stage, parent
from stages.workspace import Workspace


def grade_sample(problem: Problem, sample: Sample, index: int, last_number: bool = False) -> Rollout:
    """Turn one sample of a problem's solution into a graded rollout. A truncated text is graded like any other; one
    that was refused is neither right nor wrong. A text beyond the limits of `rollouts.steps` is truncated there."""
    text = cut_text(sample.text)
    solution = cut_solution(text, last_number=last_number)
    verdict = grade(solution, problem.answer)
    refused = sample.finish_reason == REFUSED
    return Rollout(
        id=f"{problem.id}#{index}",
        problem_id=problem.id,
        sample=index,
        text=text,
        steps=solution.steps,
        answer=verdict.answer,
        correct=verdict.correct if verdict.graded and not refused else None,
        rule=REFUSED if refused else verdict.rule,
        finish_reason="length" if len(text) < len(sample.text) else sample.finish_reason,
        prompt_tokens=sample.prompt_tokens,
        completion_tokens=sample.completion_tokens,
        seed=sample.seed,
    )


@dataclass
class SampleArgs(Sampling):
    """Arguments of the stage `sample`: `n` rollouts of every problem."""

    policy: str = parent("train_policy", any_path=True, or_name="served")  #: who samples: a folder, hub:…, shipped
    problems: ProblemArgs = field(default_factory=ProblemArgs)  #: which problems
    sampler: SamplerArgs = field(default_factory=SamplerArgs)  #: how to sample
    prompt: PromptArgs = field(default_factory=PromptArgs)
    n: int = 8  #: samples of each problem
    seed: int = 0  #: of the samples
    # a number that merely stands last is taken for the answer; never for rollouts that train a model
    last_number: bool = False

    def validate(self) -> None:
        """Raise ValueError naming the first setting out of range."""
        check_least(self, n=1)
        if self.n > 1 and self.sampler.temperature == 0:
            raise ValueError(f"n={self.n} greedy samples would all be the same: set sampler.temperature, or n=1")


def sample_rollouts(args: SampleArgs, work: Workspace) -> None:
    """Sample and grade `args.n` rollouts of every problem; writes `rows` (Rollout) and `problems` (Problem)."""
    bad = BadRows(args.problems.bad_rows)
    problems = load_problems(args.problems, bad)
    by_id = {problem.id: problem for problem in problems}
    template = args.prompt.template()
    requests = [Request(p.id, render_prompt(p.question, template), n=args.n, seed=args.seed) for p in problems]

    def graded(request: Request, sample: Sample) -> Rollout:
        return grade_sample(by_id[request.id], sample, sample.index, args.last_number)

    with closing(load_sampler(args.policy, args.sampler, template.stop)) as sampler:
        found = collect(sampler, requests, work, "sample", graded, Rollout)
    work.write_rows("problems", problems)
    counts = RolloutCounts()
    work.write_rows("rows", counts.watch(found[problem.id] for problem in problems), Rollout)
    if work.processes.first:
        work.count(**counts.result())
        bad.record(work)


class RolloutCounts:
    """What one wants to know of a set of rollouts: accuracy, variety, and how many problems have both outcomes."""

    def __init__(self) -> None:
        self._sums: Counter[str] = Counter()

    def watch(self, problems: Iterable[Sequence[Rollout]]) -> Iterator[Rollout]:
        """The rollouts of each problem, one after the other, counted as they pass."""
        for own in problems:
            right = {rollout.steps for rollout in own if rollout.correct}
            verdicts = [rollout.correct for rollout in own if rollout.correct is not None]
            self._sums.update(
                problems=1,
                rollouts=len(own),
                graded=len(verdicts),
                graded_problems=bool(verdicts),
                correct=sum(verdicts),
                solved=bool(right),
                mixed=len(set(verdicts)) == 2,
                distinct=len(right),
                truncated=sum(rollout.finish_reason == "length" for rollout in own),
                refused=sum(rollout.finish_reason == REFUSED for rollout in own),
            )
            yield from own

    def result(self) -> dict[str, float]:
        """`accuracy` is a fraction of the graded rollouts: neither refused nor left undecided by the grader.

        `solved_problems` and `mixed_problems` (right and wrong rollouts) are fractions of the problems with a graded
        rollout, and `distinct_correct` is the mean number of different right solutions of these. Where nothing was
        graded, they are left out. The others are counts; `ungraded` counts the refused too.
        """
        sums = self._sums
        counts = {name: sums[name] for name in ("problems", "rollouts", "graded", "graded_problems")}
        counts |= {"ungraded": sums["rollouts"] - sums["graded"]}
        counts |= {name: sums[name] for name in ("truncated", "refused")}
        if not sums["graded"]:
            return counts
        return counts | {
            "accuracy": sums["correct"] / sums["graded"],
            "solved_problems": sums["solved"] / sums["graded_problems"],
            "mixed_problems": sums["mixed"] / sums["graded_problems"],
            "distinct_correct": sums["distinct"] / sums["graded_problems"],
        }


SAMPLE = Stage("sample", 5, SampleArgs, sample_rollouts)
