"""A policy whose values are known exactly: for tests of the labeller over thousands of solutions in seconds.

A problem has an ease, the chance to do one more step right; a chain of right steps ends at the first wrong one. From a
wrong step a right answer is still reached at the recovery rate, and not more often. So the first wrong step of every
solution and the value of every prefix are known, and a step says what it is: `right 3/b 7` or `wrong 3/a 2`, where the
letter is how it is worded and the number its result, which the next step names.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rewards.labels.labeller import Labeller
from rewards.labels.prefixes import open_prefixes
from rewards.labels.search import SearchArgs
from rewards.labels.traces import Trace, grade_trace
from rollouts.records import Problem, Rollout, StepLabels
from rollouts.sampling.protocol import Request, Sample, sample_seed
from rollouts.steps import join_steps, split_steps

STEP_TOKENS = 15
ANSWER_TOKENS = 5


@dataclass(frozen=True)
class SimArgs:
    """`steps` is the mean length before the answer line; `ease` the mean chance of a right step (None: what makes half
    of all solutions wrong), `spread` how alike problems are; `before`, where given, is the value of every right prefix
    instead. `wordings` is in how many ways a step can be written."""

    problems: int = 500
    steps: float = 4.6
    samples: int = 8
    recovery: float = 0.04
    ease: float | None = None
    spread: float = 30.0
    before: float | None = None
    wordings: int = 3
    seed: int = 0


class SimulatedPolicy:
    """A sampler of this policy: continues any prefix of its own solutions."""

    promise = "the same texts, whatever the order"

    def __init__(self, args: SimArgs) -> None:
        self.args, self.tokens, self.samples = args, 0, 0
        rng = random.Random(f"simulator/{args.seed}")
        self.lengths = [
            min(max(2, round(rng.gauss(args.steps, 0.7 * args.steps**0.5))), int(2 * args.steps))
            for _ in range(args.problems)
        ]
        mean = _half_right(self.lengths, args.spread) if args.ease is None else args.ease
        self.eases = [rng.betavariate(mean * args.spread, (1 - mean) * args.spread) for _ in self.lengths]
        self.problems = [Problem(f"sim/{i}", f"problem {i}", "1", None, "sim", "train") for i in range(args.problems)]

    def value(self, problem: int, steps: Sequence[str]) -> float:
        """The chance of a right answer from this prefix."""
        recovery = self.args.recovery
        if steps and any(step.startswith("wrong") for step in steps):
            return recovery
        right = self.args.before
        if right is None:
            right = self.eases[problem] ** (self.lengths[problem] - len(steps))
        return right + (1 - right) * recovery if self.args.before is None else right

    def sample(self, requests: Sequence[Request]) -> Iterator[Sample]:
        """Yield the samples of all requests in order."""
        for request in requests:
            for index in request.indices:
                seed = sample_seed(request.seed, request.id, index)
                steps = self.continue_(int(request.prompt.split()[-1]), split_steps(request.prefix), seed)
                tokens = STEP_TOKENS * (len(steps) - 1) + ANSWER_TOKENS
                self.tokens += tokens
                self.samples += 1
                yield Sample(request.id, index, join_steps(steps), "stop", 1, tokens, seed)

    def close(self) -> None:
        """There is nothing to give back."""

    def continue_(self, problem: int, prefix: Sequence[str], seed: int) -> list[str]:
        """Steps after a prefix, and the answer line."""
        rng = random.Random(seed)
        length, going = self.lengths[problem], not any(step.startswith("wrong") for step in prefix)
        reached = rng.random() < self.value(problem, prefix)
        # where a chain of right steps breaks, given that it does
        breaks = length + 1
        if not going:
            breaks = len(prefix) + 1
        elif not reached or rng.random() < self._mended(problem, prefix):
            breaks = self._break(problem, len(prefix), rng)
        steps = []
        for place in range(len(prefix) + 1, length + 1):
            kind = "right" if place < breaks else "wrong"
            word, result = rng.randrange(self.args.wordings), 10 * place + rng.randrange(3) * (kind == "wrong")
            last = (list(prefix) + steps)[-1].split()[-1] if prefix or steps else "0"
            steps.append(f"{kind} {place}/{word} {last} = {result}")
        return [*steps, f"#### {int(reached)}"]

    def _mended(self, problem: int, prefix: Sequence[str]) -> float:
        """Of the right answers from a right prefix, the share that went wrong on the way and recovered."""
        if self.args.before is not None:
            return 0.0
        clean = self.eases[problem] ** (self.lengths[problem] - len(prefix))
        return 1 - clean / self.value(problem, prefix)

    def _break(self, problem: int, done: int, rng: random.Random) -> int:
        """The place of the first wrong step, after `done` right ones, given that there is one."""
        length, ease = self.lengths[problem], self.eases[problem]
        if done >= length:
            return length + 1
        weights = [ease**i if self.args.before is None else 1.0 for i in range(length - done)]
        return done + 1 + rng.choices(range(length - done), weights)[0]

    def rollouts(self) -> list[Rollout]:
        """`samples` graded rollouts of every problem."""
        rows = []
        for i, problem in enumerate(self.problems):
            for number in range(self.args.samples):
                steps = tuple(self.continue_(i, (), sample_seed(self.args.seed, problem.id, number)))
                correct, answer = steps[-1] == "#### 1", steps[-1].split()[-1]
                text = join_steps(steps)
                rows.append(
                    Rollout(
                        f"{problem.id}#{number}", problem.id, number, text, steps, answer, correct, "mark", "stop", 1,
                        STEP_TOKENS * (len(steps) - 1) + ANSWER_TOKENS, 0,
                    )
                )  # fmt: skip
        return rows


def _half_right(lengths: Sequence[int], spread: float) -> float:
    """The mean ease at which half of all solutions are right: the moments of a beta distribution are known."""

    def share(mean: float) -> float:
        moments = [1.0]
        for i in range(max(lengths)):
            moments.append(moments[-1] * (mean * spread + i) / (spread + i))
        return sum(moments[length] for length in lengths) / len(lengths)

    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle) < 0.5 else (low, middle)
    return low


def first_wrong(steps: Sequence[str]) -> int | None:
    """The 0-based place of a simulated solution's first wrong step."""
    return next((i for i, step in enumerate(steps) if step.startswith("wrong")), None)


@dataclass(frozen=True)
class Study:
    """How a way of labelling did: labelled rows, share of first errors found, and tokens beside the exhaustive ones.

    `cost` is the tokens sampled over those of 8 continuations of every prefix of every solution; `cost_of_wrong` over
    those of the wrong solutions only.
    """

    rows: list[StepLabels]
    accuracy: float
    cost: float
    cost_of_wrong: float
    samples: float
    waves: int


def study(policy: SimulatedPolicy, args: SearchArgs, rollouts: Sequence[Rollout], most: int = 2) -> Study:
    """Label at most `most` wrong rollouts of each problem, and as many right ones as there are for so many wrong."""
    taken: Counter[str] = Counter()
    wrong = []
    for rollout in rollouts:
        if not rollout.correct and taken[rollout.problem_id] < most:
            taken[rollout.problem_id] += 1
            wrong.append(rollout)
    # the answer line of a simulated solution repeats no result, so there is no consistency to look for
    labeller = Labeller(wrong, args, consistency=False, drawn_alike=rollouts)
    problems = {problem.id: problem for problem in policy.problems}
    policy.tokens = policy.samples = 0
    while wanted := labeller.wave():
        requests = {}
        for prefix, number in wanted.items():
            problem_id, steps = prefix
            name = f"{problem_id}/{'/'.join(steps)}/{labeller.known.found[prefix].sampled}"
            request = Request(name, problems[problem_id].question, join_steps(steps), number, args.continuations)
            requests[name] = request, prefix
        drawn: dict[str, list[Trace | None]] = {name: [] for name in requests}
        for sample in policy.sample([request for request, _ in requests.values()]):
            problem_id, steps = requests[sample.request_id][1]
            drawn[sample.request_id].append(grade_trace(problems[problem_id], steps, sample))
        for name, traces in drawn.items():
            labeller.add(requests[name][1], traces)
    rows = labeller.label()
    found = [next((i for i, label in enumerate(row.labels) if label is False), None) for row in rows]
    hits = sum(a == first_wrong(row.steps) for a, row in zip(found, rows, strict=True))
    spent = sum(8 * (STEP_TOKENS * left + ANSWER_TOKENS) for row in rows for left in range(open_prefixes(row.steps)))
    share = sum(not rollout.correct for rollout in rollouts) / len(rollouts)
    return Study(
        rows, hits / len(rows), policy.tokens * share / spent, policy.tokens / spent, policy.samples / len(rows),
        labeller.waves,
    )  # fmt: skip
