"""The labeller: which continuations to ask for next, of all open solutions together, and the labels in the end.

It samples nothing itself: `wave()` says what it wants, `add()` takes what came, until there is nothing more to want.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rewards.labels import search
from rewards.labels.cleaning import changed_labels, propagate_positives
from rewards.labels.prefixes import Evidence, Knowledge, Prefix
from rewards.labels.search import SearchArgs
from rewards.labels.traces import Trace
from rewards.labels.values import Belief, Counts, ValueModel, fit_model, infer
from rollouts.records import Rollout, StepLabels

_LEARN_FROM = 1024  # solutions: more do not make a few dozen numbers better known
_AT_ONCE = 4096  # solutions that the model looks at together
_LONG = 32  # open prefixes: longer solutions are looked at apart, since the longest of a part sets its memory
_TAIL = 16  # where less than 1/16 of the solutions are still open, a wave asks for more continuations of each prefix,
_MOST = 8  # but for at most so many


@dataclass
class _Solution:
    """A wrong rollout: the evidence of its open prefixes, in which it counts itself once (`own` 1) or not (0), and
    whether it is still being worked on."""

    rollout: Rollout
    evidence: list[Evidence]
    own: int
    asked: bool = True

    @property
    def open(self) -> int:
        return len(self.evidence)


_Place = tuple[_Solution, int, int]  # of a solution, the open prefix to sample next, and how often


def first_args(args: SearchArgs) -> SearchArgs:
    """The search that a labeller begins with: rule `auto` as `any` of 8."""
    if args.rule != search.AUTO:
        return args
    return replace(args, rule="any", continuations=min(search.PAPER_K, args.continuations))


class Labeller:
    """Labels wrong rollouts, all at once.

    `drawn_alike` are all rollouts of these problems, drawn from the same policy with the same settings as the
    continuations will be; with `share_traces` they are evidence that costs nothing. `propagate` and `consistency` are
    rules 1 and 2 of the paper.
    """

    def __init__(
        self,
        wrong: Sequence[Rollout],
        args: SearchArgs,
        consistency: bool = True,
        drawn_alike: Sequence[Rollout] = (),
        propagate: bool = True,
    ) -> None:
        self.propagate, self.wanted_args = propagate, args
        self.args = first_args(args)
        self.choosing, self.recovery = args.rule == search.AUTO, 0.0  # the rate by which the rule was chosen
        self.known = Knowledge(consistency, args.sharing)
        self.known.watch(wrong)
        drawn_alike = drawn_alike if args.sharing else ()
        self.known.add_rollouts(drawn_alike)
        alike = {rollout.id for rollout in drawn_alike}
        self.solutions = [_Solution(one, self.known.of(one), one.id in alike) for one in wrong]
        self.model: ValueModel | None = None
        opens = [solution.open for solution in self.solutions]
        self._short_columns = 1 + max((open_ for open_ in opens if open_ <= _LONG), default=0)
        self._columns = 1 + max(opens, default=0)
        self.waves = 0
        self.propagated = 0  # labels that rule 1 has changed

    def wave(self) -> dict[Prefix, int]:
        """How many continuations of which prefixes to sample next; nothing when all is decided.

        What two solutions share is asked for once.
        """
        wanted = self._next_wave()
        if not wanted and self.choosing:
            self._choose_rule()
            wanted = self._next_wave()
        self.waves += bool(wanted)
        return wanted

    def _next_wave(self) -> dict[Prefix, int]:
        solutions = self.solutions[: search.PILOT] if self.choosing else self.solutions
        active = [solution for solution in solutions if solution.asked and solution.open]
        if self.model is not None and 4 * len(active) < len(solutions):
            # what a model that knew less has decided may be open again; it goes with the last ones, since a wave takes
            # as long as its longest continuation
            active = [solution for solution in solutions if solution.open]
        return self._wanted(active)

    def _choose_rule(self) -> None:
        """What rule `auto` becomes, by the recovery rate of the solutions that have been labelled."""
        self.choosing = False
        if any(solution.open for solution in self.solutions):
            self.recovery = self._learn().recovery
        if self.recovery > search.RECOVERY:
            self.args = replace(self.wanted_args, rule="posterior")
        for solution in self.solutions:
            solution.asked = True

    def _wanted(self, active: Sequence[_Solution]) -> dict[Prefix, int]:
        if self.args.search == "exhaustive":
            places = [(s, p, self.args.continuations - s.evidence[p].sampled) for s in active for p in range(s.open)]
        elif self.args.rule == "posterior" or self.args.search == "adaptive":
            places = self._by_belief(active)
        else:
            places = [self._next(solution, self._decide(solution)) for solution in active]
        wanted: dict[Prefix, int] = {}
        for solution in active:
            solution.asked = False
        for solution, place, number in places:
            if number > 0:
                solution.asked = True
                wanted[solution.rollout.problem_id, solution.rollout.steps[: place + 1]] = number
        return wanted

    def add(self, prefix: Prefix, traces: Sequence[Trace | None]) -> None:
        """Take the continuations of one prefix; None stands for one that could not be drawn or graded."""
        self.known.add(prefix, traces)

    def _parts(self, solutions: Sequence[_Solution]) -> Iterator[tuple[list[_Solution], Counts]]:
        """Solutions that the model looks at together, and what is known of them."""
        for long, size, columns in ((False, _AT_ONCE, self._short_columns), (True, _AT_ONCE // 16, self._columns)):
            own = [solution for solution in solutions if (solution.open > _LONG) == long]
            for start in range(0, len(own), size):
                yield own[start : start + size], self.counts(own[start : start + size], columns)

    def counts(self, solutions: Sequence[_Solution], columns: int) -> Counts:
        """What is known of some solutions, each continuation counted once, since the model takes counts as independent:
        at the prefix that it was asked of; a rollout at the last prefix that it shares with the solution. The solution
        itself, where it is among the rollouts, does not count.

        With the open prefixes [a], [a, b] and rollouts that begin a b, a c and d, columns 0, 1, 2 (`Counts`) have one
        each: at [a, b], at [a], and at the question.
        """
        successes, trials = np.zeros((len(solutions), columns)), np.zeros((len(solutions), columns))
        for n, solution in enumerate(solutions):
            right, all_ = self.known.solved.get(solution.rollout.problem_id, (0, 0))
            rolled = [(right, all_), *((here.rolled_successes, here.rolled) for here in solution.evidence), (0, 0)]
            rolled[-1] = (0, solution.own)
            for place, (here, longer) in enumerate(itertools.pairwise(rolled)):
                right, all_ = here[0] - longer[0], here[1] - longer[1]
                if place > 0:
                    own = solution.evidence[place - 1]
                    right += own.successes - own.passed_successes - own.rolled_successes
                    all_ += own.trials - own.passed - own.rolled
                # with consistency, what vouches for a longer prefix need not vouch for a shorter one: never below 0
                column = solution.open - place
                successes[n, column], trials[n, column] = min(max(right, 0), all_), all_
        return Counts(successes, trials, np.array([s.open for s in solutions], dtype=int))

    def _learn(self) -> ValueModel:
        sample = [solution for solution in self.solutions if solution.open][:_LEARN_FROM]
        rounds = 20 if self.model is None else 3
        self.model = fit_model(self.counts(sample, self._columns), self.args.threshold, self.model, rounds)
        return self.model

    def _next(self, solution: _Solution, decided: Sequence[bool | None]) -> _Place:
        """What a forward or binary search looks at next, and how often."""
        lo, hi = search.bounds(decided)
        if lo == hi:
            return solution, 0, 0
        place = lo if self.args.search == "forward" else (lo + hi) // 2
        return solution, place, self._number(solution, place)

    def _decide(self, solution: _Solution) -> list[bool | None]:
        """What the counts alone say of each open prefix."""
        limit, needed = self.args.continuations, self.args.needed
        return [
            search.decide(here.successes, here.trials - solution.own, needed, limit - here.refused)
            for here in solution.evidence
        ]

    def _number(self, solution: _Solution, place: int) -> int:
        here = solution.evidence[place]
        if self.args.rule == "posterior":
            return search.next_wave(here.sampled, self.args.continuations)
        return search.next_wave(here.trials - solution.own, self.args.continuations - here.refused)

    def _by_belief(self, active: Sequence[_Solution]) -> list[_Place]:
        model, places = self._learn(), []
        for some, counts in self._parts(active):
            belief = infer(model, counts)
            if self.args.rule != "posterior":
                places += self._cheapest(some, counts, belief)
            elif self.args.search != "adaptive":
                places += [self._by_posterior(s, belief.positive[n]) for n, s in enumerate(some)]
            else:
                places += self._most_telling(some, counts, belief)
        return places if self.args.rule != "posterior" or self.args.search != "adaptive" else self._fill(places)

    def _by_posterior(self, solution: _Solution, positive: np.ndarray) -> _Place:
        sure, decided = self.args.confidence, []
        for place, here in enumerate(solution.evidence):
            p = positive[solution.open - 1 - place]
            spent = here.sampled >= self.args.continuations
            decided.append(True if p >= sure else False if p <= 1 - sure else bool(p >= 0.5) if spent else None)
        return self._next(solution, decided)

    def _cheapest(self, some: Sequence[_Solution], counts: Counts, belief: Belief) -> list[_Place]:
        right, wrong = search.decision_costs(belief, counts, self.args.needed, self.args.continuations)
        places = []
        for n, solution in enumerate(some):
            lo, hi = search.bounds(self._decide(solution))
            if lo < hi:
                m = solution.open
                ends = belief.negatives[n, : m + 1][::-1]
                place = search.cheapest(lo, hi, ends, right[n, :m][::-1], wrong[n, :m][::-1])
                places.append((solution, place, self._number(solution, place)))
        return places

    def _most_telling(self, some: Sequence[_Solution], counts: Counts, belief: Belief) -> list[_Place]:
        """The place of each solution where a continuation tells most, and how many there is room for."""
        columns = np.arange(counts.trials.shape[1])
        length = search.continuation_steps(counts.open)[:, None]
        worth = search.information(belief, counts) * length / search.continuation_steps(columns)
        for n, solution in enumerate(some):
            for place, here in enumerate(solution.evidence):
                if here.sampled >= self.args.continuations:
                    worth[n, solution.open - 1 - place] = -1
        best = worth.argmax(1)
        sure = belief.negatives.max(1) >= self.args.confidence
        going = ~sure & (worth.max(1) > self.args.least_gain)
        places = [(solution, solution.open - 1 - int(best[n])) for n, solution in enumerate(some) if going[n]]
        return [(one, place, self.args.continuations - one.evidence[place].sampled) for one, place in places]

    def _fill(self, places: list[_Place]) -> list[_Place]:
        """How many to sample of each place, given how many it has room for: few, and more when few places are left."""
        asked = sum(room > 0 for _, _, room in places)
        number = max(search.FIRST_WAVE, min(_MOST, len(self.solutions) // (_TAIL * max(1, asked))))
        return [(solution, place, min(room, number)) for solution, place, room in places]

    def label(self) -> list[StepLabels]:
        """The labels of all solutions, with what is now known of values and of their own reliability."""
        model, rows = self._learn(), {}
        for some, counts in self._parts(self.solutions):
            belief = infer(model, counts)
            rows |= {id(s): self._row(s, belief.negatives[n], belief.value[n]) for n, s in enumerate(some)}
        return [rows[id(solution)] for solution in self.solutions]

    def _row(self, solution: _Solution, negatives: np.ndarray, value: np.ndarray) -> StepLabels:
        rollout = solution.rollout
        trials = [here.trials - solution.own for here in solution.evidence]
        if self.args.search == "exhaustive" and self.args.rule != "posterior":
            decided = [label if n else None for label, n in zip(self._decide(solution), trials, strict=True)]
        else:
            first = self._first_negative(solution, negatives)
            decided = [place < first for place in range(solution.open)]
            lost = next((p for p, here in enumerate(solution.evidence) if here.refused and not trials[p]), len(decided))
            decided[lost:] = [None] * (len(decided) - lost)
        positive = np.clip(np.cumsum(negatives), 0, 1)[: solution.open][::-1].tolist()
        values = np.clip(value, 0, 1)[: solution.open][::-1].tolist()
        if self.args.search == "exhaustive":
            # every prefix has as many, whatever came out: the plain share is unbiased
            values = [here.successes / here.trials if here.trials else None for here in solution.evidence]
        answered = len(rollout.steps) - solution.open
        labels = (*decided, *[False] * answered)
        if self.propagate:
            propagated = propagate_positives(labels)
            self.propagated += changed_labels(labels, propagated)
            labels = propagated
        sure = [None if label is None else p if label else 1 - p for label, p in zip(labels, positive, strict=False)]
        return StepLabels(
            rollout_id=rollout.id,
            problem_id=rollout.problem_id,
            steps=rollout.steps,
            correct=False,
            labels=labels,
            successes=(*(here.successes for here in solution.evidence), *[0] * answered),
            trials=(*trials, *[0] * answered),
            **self.find_fix(rollout, labels),
            rule=self.args.describe(),
            values=(*values, *[0.0] * answered),
            confidences=(*sure, *[1.0] * answered),
        )

    def _first_negative(self, solution: _Solution, negatives: np.ndarray) -> int:
        if self.args.rule == "posterior":
            return solution.open - int(negatives.argmax())
        return search.bounds(self._decide(solution))[1]

    def find_fix(self, rollout: Rollout, labels: Sequence[bool | None]) -> dict[str, Any]:
        """The right continuation after the last prefix before the first negative one, as fields of a row."""
        first = next((place for place, label in enumerate(labels) if label is False), len(labels))
        trace = None
        if 0 < first < len(labels):
            trace = self.known.found[rollout.problem_id, rollout.steps[:first]].right
        return {"fix_length": None if trace is None else first, "fix_steps": () if trace is None else trace.steps}
