"""Rollouts into step labels: K continuations from every prefix say whether a right answer can still be reached
(GLoRe sec. 3.2), and three rules clean what they say.

The rules are pure functions, each with its own switch. Balance is applied when a model is trained, since it drops
labels that other users of the same labels want.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field

from rewards.examples import LabelledSolution
from rollouts.answers import grade
from rollouts.artifacts import Stage, Workspace, parent
from rollouts.collect import collect
from rollouts.prompts import parse_solution, render_prompt
from rollouts.sampling import REFUSED, Request, Sample, SamplerArgs, by_name, load_sampler
from rollouts.steps import ANSWER_MARK, join_steps
from rollouts.types import Problem, Rollout, StepLabels

# a minus is a sign where nothing that could be subtracted from stands before it
_NUMBER = re.compile(r"(?<![0-9.])(?:(?<![0-9A-Za-z)%.])-)?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?")
_EQUALS = re.compile(r"=\s*\$?\s*(?=-?[0-9])")


@dataclass
class LabelArgs:
    """Arguments of the stage `label_steps`: `continuations` is the paper's K."""

    rollouts: str = parent("sample")
    policy: str = parent("train_policy", plain=True, unless="served")
    sampler: SamplerArgs = field(default_factory=SamplerArgs)
    continuations: int = 8
    max_wrong_per_problem: int | None = None
    max_right_per_problem: int | None = None
    max_problems: int | None = None
    positive_propagation: bool = True
    consistency: bool = True
    seed: int = 0

    @property
    def served(self) -> bool:
        """Whether the policy is the name of a model on a server rather than a folder."""
        return by_name(self.policy, self.sampler)

    def validate(self) -> None:
        """Raise ValueError naming the first setting out of range."""
        for name in ("continuations", "max_wrong_per_problem", "max_right_per_problem", "max_problems"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.continuations > 1 and self.sampler.temperature == 0:
            raise ValueError("greedy continuations would all be the same: set sampler.temperature")


@dataclass(frozen=True, slots=True)
class Trace:
    """One verifying trace: the steps that followed a prefix, and whether they reached the right answer."""

    steps: tuple[str, ...]
    correct: bool


def step_result(step: str) -> str | None:
    """The intermediate result R_i that a step computed: the number after its last equals sign, else the last number
    it states; None where there is none. Written without separators and trailing zeros."""
    after = [found.end() for found in _EQUALS.finditer(step)]
    numbers = _numbers(step[after[-1] :])[:1] if after else _numbers(step)[-1:]
    return numbers[0] if numbers else None


def _numbers(text: str) -> list[str]:
    """The numbers of a text as digits that can be compared: 1,080.50 is 1080.5 (no text is too long for that)."""
    found = []
    for number in _NUMBER.findall(text):
        whole, _, decimals = number.replace(",", "").partition(".")
        sign, whole, decimals = whole[: whole.count("-")], whole.lstrip("-0") or "0", decimals.rstrip("0")
        found.append(sign + whole + ("." + decimals if decimals else ""))
    return found


def is_consistent(prefix: Sequence[str], suffix: Sequence[str]) -> bool:
    """Whether a trace uses what the prefix's last step computed: the result stands in the suffix (rule 2).

    A step that states no number cannot be ignored, and an answer line has nothing after it that could use it.
    """
    result = step_result(prefix[-1])
    if result is None or prefix[-1].startswith(ANSWER_MARK):
        return True
    return any(result in _numbers(step) for step in suffix)


def count_traces(prefix: Sequence[str], traces: Sequence[Trace], consistency: bool) -> tuple[int, Trace | None]:
    """How many traces vouch for a prefix, and the first of them that writes anything: a refiner's target."""
    good = [t for t in traces if t.correct and (not consistency or is_consistent(prefix, t.steps))]
    return len(good), next((t for t in good if t.steps), None)


def propagate_positives(labels: Sequence[bool | None]) -> tuple[bool | None, ...]:
    """If a prefix is positive, every shorter one is (rule 1)."""
    last = max((i for i, label in enumerate(labels) if label), default=-1)
    return tuple(True if i < last else label for i, label in enumerate(labels))


def label_rollout(rollout: Rollout, traces: Sequence[Sequence[Trace]], args: LabelArgs) -> StepLabels:
    """Labels of a wrong rollout, from the traces of each of its prefixes (`traces[i]` follow step i).

    A prefix that ends in the answer line is the whole solution, and wrong; another one without a single trace has no
    label of its own. The right continuation that is kept starts at the first error: after the last prefix before the
    first negative one.
    """
    successes, found = [], []
    labels: tuple[bool | None, ...] = ()
    for i, step in enumerate(rollout.steps):
        number, trace = count_traces(rollout.steps[: i + 1], traces[i], args.consistency)
        successes.append(number)
        found.append(trace)
        labels += (number > 0 if traces[i] or step.startswith(ANSWER_MARK) else None,)
    if args.positive_propagation:
        labels = propagate_positives(labels)
    first_negative = next((i for i, label in enumerate(labels) if label is False), len(labels))
    fix = found[first_negative - 1] if 0 < first_negative < len(labels) else None
    return StepLabels(
        rollout_id=rollout.id,
        problem_id=rollout.problem_id,
        steps=rollout.steps,
        correct=False,
        labels=labels,
        successes=tuple(successes),
        trials=tuple(len(t) for t in traces),
        fix_length=first_negative if fix is not None else None,
        fix_steps=fix.steps if fix is not None else (),
    )


def label_right(rollout: Rollout) -> StepLabels:
    """A rollout that was right is positive throughout, without sampling."""
    zeros = (0,) * len(rollout.steps)
    labels = (True,) * len(rollout.steps)
    return StepLabels(rollout.id, rollout.problem_id, rollout.steps, True, labels, zeros, zeros, None, ())


def balance_lengths(labels: Sequence[StepLabels], seed: int) -> list[LabelledSolution]:
    """As many positive as negative labels at each prefix length (rule 3), so that a model cannot learn that early
    steps are right and late ones wrong. Labels too many become None; solutions that lose all are dropped."""
    places: dict[tuple[int, bool], list[tuple[int, int]]] = {}
    for row, item in enumerate(labels):
        for i, label in enumerate(item.labels):
            if label is not None:
                places.setdefault((i, label), []).append((row, i))
    rng = random.Random(f"balance/{seed}")
    kept: set[tuple[int, int]] = set()
    for length in sorted({i for i, _ in places}):
        sides = [places.get((length, label), []) for label in (True, False)]
        fewer = min(map(len, sides))
        for side in sides:
            kept.update(rng.sample(side, fewer))
    return to_solutions(labels, kept)


def to_solutions(labels: Sequence[StepLabels], kept: set[tuple[int, int]] | None = None) -> list[LabelledSolution]:
    """Step labels as a reward model's training rows; `kept` names the (row, step) places that keep their label."""
    solutions = []
    for row, item in enumerate(labels):
        values = tuple(
            float(label) if label is not None and (kept is None or (row, i) in kept) else None
            for i, label in enumerate(item.labels)
        )
        if any(value is not None for value in values):
            solutions.append(LabelledSolution(item.problem_id, item.steps, values))
    return solutions


def choose_rollouts(rollouts: Sequence[Rollout], args: LabelArgs) -> list[Rollout]:
    """Which rollouts to label: graded, with steps, different ones, at most so many right and wrong a problem."""
    taken: dict[tuple[str, bool], set[tuple[str, ...]]] = {}
    chosen, problems = [], {}
    for rollout in rollouts:
        if rollout.correct is None or not rollout.steps:
            continue
        if args.max_problems is not None and len(problems) >= args.max_problems and rollout.problem_id not in problems:
            continue
        problems[rollout.problem_id] = True
        seen = taken.setdefault((rollout.problem_id, rollout.correct), set())
        most = args.max_right_per_problem if rollout.correct else args.max_wrong_per_problem
        if rollout.steps in seen or (most is not None and len(seen) >= most):
            continue
        seen.add(rollout.steps)
        chosen.append(rollout)
    return chosen


def prefix_requests(
    problems: dict[str, Problem], rollouts: Sequence[Rollout], args: LabelArgs
) -> dict[tuple[str, tuple[str, ...]], Request]:
    """One request for each different prefix of the wrong rollouts, but for whole solutions: those are known.

    A request is named after what it continues, so that its samples do not depend on what else is labelled.
    """
    requests: dict[tuple[str, tuple[str, ...]], Request] = {}
    for rollout in rollouts:
        for length in range(1, len(rollout.steps) + 1):
            prefix = rollout.steps[:length]
            key = (rollout.problem_id, prefix)
            if rollout.correct or prefix[-1].startswith(ANSWER_MARK) or key in requests:
                continue
            prompt, written = render_prompt(problems[rollout.problem_id].question), join_steps(prefix)
            name = f"{rollout.problem_id}/prefix/{hashlib.sha256(written.encode()).hexdigest()[:16]}"
            requests[key] = Request(name, prompt, written, args.continuations, args.seed)
    return requests


def grade_trace(problem: Problem, prefix: Sequence[str], sample: Sample) -> Trace | None:
    """A continuation as a trace; None where there is none (it was refused) or the grader could not decide."""
    if sample.finish_reason == REFUSED:
        return None
    verdict = grade(join_steps(prefix) + sample.text, problem.answer)
    return Trace(parse_solution(sample.text), verdict.correct) if verdict.graded else None


def label_steps(args: LabelArgs, work: Workspace) -> None:
    """Label the steps of the rollouts; writes `rows` (StepLabels) and `problems` (Problem).

    K continuations are sampled at every prefix of every wrong rollout: the paper's way, and the reference.
    """
    source = work.parents["rollouts"]
    problems = {problem.id: problem for problem in source.rows(Problem, "problems")}
    rollouts = choose_rollouts(source.rows(Rollout), args)
    requests = prefix_requests(problems, rollouts, args)
    with closing(load_sampler(args.policy, args.sampler)) as sampler:
        samples = collect(sampler, list(requests.values()), work, "label_steps")
    traces = {}
    for (problem_id, prefix), request in requests.items():
        graded = [grade_trace(problems[problem_id], prefix, sample) for sample in samples[request.id]]
        traces[problem_id, prefix] = [trace for trace in graded if trace is not None]
    rows = []
    for rollout in rollouts:
        if rollout.correct:
            rows.append(label_right(rollout))
        else:
            prefixes = [rollout.steps[: i + 1] for i in range(len(rollout.steps))]
            rows.append(label_rollout(rollout, [traces.get((rollout.problem_id, p), []) for p in prefixes], args))
    work.write_rows("problems", list(problems.values()))
    work.write_rows("rows", rows)
    work.count(**count_labels(rows), continuations=sum(len(t) for t in traces.values()))


def count_labels(rows: Sequence[StepLabels]) -> dict[str, float]:
    """Numbers of a set of step labels: solutions, labels of each kind, and right continuations that were kept."""
    wrong = [row for row in rows if not row.correct]
    return {
        "solutions": len(rows),
        "wrong_solutions": len(wrong),
        "positive_labels": sum(label is True for row in rows for label in row.labels),
        "negative_labels": sum(label is False for row in rows for label in row.labels),
        "fixes": sum(row.fix_length is not None for row in wrong),
    }


LABEL_STEPS = Stage("label_steps", 1, LabelArgs, label_steps)
