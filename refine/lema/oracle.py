"""The embedded world's corrector: it knows the truth, and errs as often as it is told to.

Its replies are drawn from the seed of each sample, so they do not depend on what else is asked for.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

from refine.lema.reply import render_correction
from rewards.labels.corruption import KINDS, Limits, Unfit, numbers, parse_solution
from rollouts.records import Mistake, Problem
from rollouts.sampling.protocol import Request, Sample, sample_seed
from rollouts.steps import ANSWER_MARK
from rollouts.world.claims import Verdict, parse_question
from rollouts.world.continuation import continue_rightly
from rollouts.world.facts import render_fact
from rollouts.world.oracle import judge_steps
from stages.checks import check_range

NO_STEP = "Incorrect Step: None\nExplanation: Every step is right.\nCorrect Solution:\n"


@dataclass
class OracleArgs:
    """How often the oracle errs, each a share of its replies, drawn one by one.

    `wrong_step`: it names another step that is there, and goes on from that one, so that the mistake stays.
    `wrong_explanation`: it explains another kind of mistake. `wrong_correction`: a step of the new ones is wrong, and
    so is the answer. `hidden_error`: a step of the new ones is wrong, and the answer is right all the same, so that no
    filter by the answer sees it; it needs a new step beside the answer line.
    """

    wrong_step: float = 0.0  #: share of replies that name another step
    wrong_explanation: float = 0.0  #: share that explains another kind of mistake
    wrong_correction: float = 0.0  #: share with a wrong new step and a wrong answer
    hidden_error: float = 0.0  #: share with a wrong new step and the right answer

    def validate(self) -> None:
        """Raise ValueError naming the first share out of range."""
        check_range(self, "oracle.", **dict.fromkeys(ERRORS, "[0, 1]"))
        if self.wrong_correction + self.hidden_error > 1:
            raise ValueError(
                f"oracle.wrong_correction={self.wrong_correction} and oracle.hidden_error={self.hidden_error} are of "
                "different replies: together they must not be over 1"
            )


ERRORS = tuple(one.name for one in fields(OracleArgs))


class Truth(NamedTuple):
    """The first wrong step of a mistake (from 1) and what it is."""

    step: int
    verdict: Verdict


class OracleSampler:
    """Answers each request, whose id is that of a mistake, with a correction. A word stands for a token."""

    promise = "the oracle gives the same replies for the same seeds, always"

    def __init__(self, problems: Mapping[str, Problem], mistakes: Mapping[str, Mistake], args: OracleArgs) -> None:
        self.problems, self.mistakes, self.args = problems, mistakes, args

    def sample(self, requests: Sequence[Request]) -> Iterator[Sample]:
        """Yield the samples of all requests in order."""
        for request in requests:
            mistake = self.mistakes[request.id]
            for index in request.indices:
                seed = sample_seed(request.seed, request.id, index)
                text = write_correction(self.problems[mistake.problem_id], mistake, self.args, random.Random(seed))
                yield Sample(
                    *(request.id, index, text, "stop"), len(str(request.prompt).split()), len(text.split()), seed
                )

    def close(self) -> None:
        """There is nothing to give back."""


def find_mistake(problem: Problem, mistake: Mistake) -> Truth | None:
    """The first step that is not right; None where the oracle finds none."""
    verdicts = judge_steps(problem, mistake.steps)
    return next((Truth(n, one) for n, one in enumerate(verdicts, start=1) if one is not Verdict.RIGHT), None)


def write_correction(problem: Problem, mistake: Mistake, args: OracleArgs, rng: random.Random) -> str:
    """The oracle's reply to one mistake. Whether it errs is drawn first, so that one share does not change how often
    another comes."""
    other, odd, spoilt = rng.random() < args.wrong_step, rng.random() < args.wrong_explanation, rng.random()
    truth = find_mistake(problem, mistake)
    if truth is None:
        return NO_STEP
    step = truth.step
    right = continue_rightly(problem, mistake.steps[: step - 1])
    if other and len(mistake.steps) > 1:
        step, right = _from_another(problem, mistake, truth.step, rng)
    explanation = explain(problem, truth.verdict, step, right[0])
    if odd:
        kinds = [one for one in Verdict if one not in (Verdict.RIGHT, truth.verdict)]
        told = (explain(problem, one, step, right[0]) for one in rng.sample(kinds, len(kinds)))
        explanation = next(text for text in told if text != explanation)
    if spoilt < args.wrong_correction:
        right = _spoil(problem, right, rng)
    elif spoilt < args.wrong_correction + args.hidden_error:
        right = [*_spoil(problem, right, rng)[:-1], right[-1]]
    return render_correction(step, explanation, right)


def _from_another(problem: Problem, mistake: Mistake, true: int, rng: random.Random) -> tuple[int, list[str]]:
    """Another step than the wrong one and how it goes on there: one that it would write otherwise, where there is any,
    since what changes nothing is dropped."""
    others = [n for n in range(1, len(mistake.steps) + 1) if n != true]
    found = {n: continue_rightly(problem, mistake.steps[: min(n, true) - 1]) for n in others}
    changed = [n for n in others if found[n][0] != mistake.steps[n - 1]]
    step = rng.choice(changed or others)
    return step, found[step]


def explain(problem: Problem, verdict: Verdict, step: int, right: str) -> str:
    """One sentence on what is wrong with a step; `right` is the line that should stand there."""
    world = parse_question(problem.question)
    if verdict is Verdict.ARITHMETIC:
        found = right.partition("<<")[2].partition(">>")[0]
        return f"The result of step {step} is wrong, it should be {found or right.removeprefix(ANSWER_MARK).strip()}."
    if verdict is Verdict.LOOKUP:
        told = [render_fact(fact, world.item) for fact in world.facts.values() if fact.others]
        fact = next((fact for fact in told if fact[:-1] in right), f"the result is {numbers(right)[-1]}.")
        return f"Step {step} takes a wrong number, since {fact}"
    if verdict is Verdict.SIDE:
        return f"Step {step} is about somebody who is not needed for the answer."
    if verdict is Verdict.LATE:
        return f"Step {step} goes on after the answer was found."
    if verdict is Verdict.EARLY:
        return f"Step {step} gives an answer, but a step is missing before it."
    return f"Step {step} is no step of a solution."


def _spoil(problem: Problem, steps: Sequence[str], rng: random.Random) -> list[str]:
    """New steps with a mistake in one of them, from which the answer follows."""
    limits = Limits(None, 0)
    if len(steps) > 1:
        worked = parse_solution(problem.question, steps)
        for kind in rng.sample(("operand", "operation", "result"), 3):
            try:
                return list(KINDS[kind](worked, limits, rng).steps)
            except Unfit:
                continue
    value = int(numbers(steps[-1])[0])
    return [*steps[:-1], f"{ANSWER_MARK} {value + rng.choice((1, 2, 10))}"]
