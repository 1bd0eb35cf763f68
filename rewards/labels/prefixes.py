"""What is known of every prefix of the solutions to label: graded continuations, each counted for every prefix that it
goes through.

A continuation of [a] that writes b, c, d is a continuation of [a, b] as well, namely c, d, drawn from the same
distribution. So is a whole rollout a, b, c, d, drawn as continuations are. What is known so is not sampled again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from rewards.labels.traces import Trace, vouches
from rollouts.grading.statements import states_answer
from rollouts.records import Rollout

Prefix = tuple[str, tuple[str, ...]]  # a problem's id, and the first steps of a solution


@dataclass(slots=True)
class Evidence:
    """What is known of one prefix.

    `trials` continuations of it are known. `correct` of them are right, and `successes` vouch for it (`vouches`).
    `sampled` were asked for here, of which `refused` gave nothing. `passed` were sampled of a shorter prefix and went
    through this one; `rolled` are whole rollouts that went through it. `right` is the first continuation that vouches
    and writes a step: a local refiner's target.
    """

    successes: int = 0
    trials: int = 0
    correct: int = 0
    passed_successes: int = 0
    passed: int = 0
    rolled_successes: int = 0
    rolled: int = 0
    sampled: int = 0
    refused: int = 0
    right: Trace | None = None

    def add(self, trace: Trace, vouching: bool) -> None:
        """Count one continuation."""
        self.trials += 1
        self.correct += trace.correct
        self.successes += vouching
        if vouching and trace.steps and self.right is None:
            self.right = trace


def open_prefixes(steps: Sequence[str]) -> int:
    """How many prefixes of a solution can be continued: all but the one that ends in the answer line."""
    return len(steps) - bool(steps and states_answer(steps[-1]))


@dataclass
class Knowledge:
    """The evidence of all prefixes of some wrong solutions.

    With `share`, a continuation counts for every prefix that it goes through; without, only where it was asked for.
    """

    consistency: bool
    share: bool
    found: dict[Prefix, Evidence] = field(default_factory=dict)
    solved: dict[str, tuple[int, int]] = field(default_factory=dict)  # right rollouts and all, by problem

    def watch(self, rollouts: Iterable[Rollout]) -> None:
        """Count the evidence of every prefix of these solutions from now on."""
        for rollout in rollouts:
            for length in range(1, open_prefixes(rollout.steps) + 1):
                self.found.setdefault((rollout.problem_id, rollout.steps[:length]), Evidence())

    def of(self, rollout: Rollout) -> list[Evidence]:
        """The evidence of each prefix of a watched solution that can be continued."""
        lengths = range(1, open_prefixes(rollout.steps) + 1)
        return [self.found[rollout.problem_id, rollout.steps[:length]] for length in lengths]

    def add(self, prefix: Prefix, traces: Sequence[Trace | None]) -> None:
        """Count continuations that were asked for; None is one that could not be drawn or graded."""
        here = self.found[prefix]
        for trace in traces:
            here.sampled += 1
            if trace is None:
                here.refused += 1
                continue
            here.add(trace, vouches(prefix[1], trace, self.consistency))
            if self.share:
                for longer, vouching in self._pass(prefix, trace):
                    longer.passed += 1
                    longer.passed_successes += vouching

    def add_rollouts(self, rollouts: Iterable[Rollout]) -> None:
        """Count whole rollouts, drawn as continuations are, for their problem and every prefix that they go through."""
        for rollout in rollouts:
            if rollout.correct is None or not rollout.steps:
                continue
            right, all_ = self.solved.get(rollout.problem_id, (0, 0))
            self.solved[rollout.problem_id] = (right + rollout.correct, all_ + 1)
            for longer, vouching in self._pass((rollout.problem_id, ()), Trace(rollout.steps, rollout.correct)):
                longer.rolled += 1
                longer.rolled_successes += vouching

    def inconsistent(self) -> int:
        """How many prefixes have right continuations of which none vouches for them (rule 2)."""
        return sum(here.correct > 0 and here.successes == 0 for here in self.found.values())

    def _pass(self, prefix: Prefix, trace: Trace) -> Iterator[tuple[Evidence, bool]]:
        """Count a continuation for the longer prefixes that it goes through; yields each, and whether it vouches."""
        problem, steps = prefix
        for length in range(1, len(trace.steps)):
            longer = steps + trace.steps[:length]
            here = self.found.get((problem, longer))
            if here is None:
                break  # nor is any longer one watched
            rest = Trace(trace.steps[length:], trace.correct)
            vouching = vouches(longer, rest, self.consistency)
            here.add(rest, vouching)
            yield here, vouching
