"""What is known of every prefix of the solutions to label: graded continuations, each counted wherever it passes.

A continuation of one prefix that writes the next step word for word is a continuation of the longer prefix as well,
drawn from the same distribution; so is a whole rollout of the problem. None of them is sampled twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from rewards.labels.traces import Trace, vouches
from rollouts.records import Rollout
from rollouts.steps import ANSWER_MARK

Prefix = tuple[str, tuple[str, ...]]  # a problem's id, and the first steps of a solution


@dataclass(slots=True)
class Evidence:
    """Of one prefix: how many continuations are known and how many of them vouch for it; of all, of those that were
    sampled of shorter prefixes and came past (`passed`), and of whole rollouts (`rolled`); and the first that vouches
    and writes something (a local refiner's target).
    `sampled` of them were asked for here, `refused` in vain. `correct` counts those that are right, whether or not they
    vouch."""

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
    return sum(not step.startswith(ANSWER_MARK) for step in steps)


@dataclass
class Knowledge:
    """The evidence of all prefixes of some wrong solutions.

    With `share`, continuations count wherever they pass; without, only where they were asked for.
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
        """Count whole rollouts, drawn as continuations are, of their problem and of every prefix they pass."""
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
        """Count a continuation for the longer prefixes that it passes; yields each, and whether it vouches for it."""
        problem, steps = prefix
        for length in range(1, len(trace.steps)):
            longer = steps + trace.steps[:length]
            here = self.found.get((problem, longer))
            if here is None:
                break  # of a prefix that is watched every shorter one is, too
            rest = Trace(trace.steps[length:], trace.correct)
            vouching = vouches(longer, rest, self.consistency)
            here.add(rest, vouching)
            yield here, vouching
