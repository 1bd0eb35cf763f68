"""The stage `audit_labels`: how many step labels are wrong, with no oracle and on any data set.

A random part of the wrong solutions is labelled once more, exhaustively and with many more continuations of the same
policy; where the two disagree, the labels are taken to be wrong. Left out: the table (`experiments/audit_labels.py`).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rewards.labels.labeller import Labeller
from rewards.labels.prefixes import open_prefixes
from rewards.labels.search import SearchArgs
from rewards.labels.stepwise import LABEL_STEPS, PAPER_K, sample_waves, sampled_otherwise
from rollouts.prompts import PromptArgs
from rollouts.records import Problem, Rollout, StepLabels
from rollouts.sampling.args import SamplerArgs, Sampling
from rollouts.sampling.protocol import Sampler, load_sampler, sample_seed
from rollouts.steps import join_steps
from stages.artifacts import Artifact
from stages.checks import check_choices, check_least
from stages.stage import Stage, parent
from stages.workspace import Workspace

logger = logging.getLogger(__name__)

REFERENCES = ("posterior", "any")


class AuditError(ValueError):
    """Labels that cannot be audited. The message says why."""


@dataclass
class AuditArgs(Sampling):
    """Arguments of the stage `audit_labels`.

    So many wrong `solutions` are drawn, and each of their prefixes is continued `continuations` times, four times as
    often as GLoRe does. `rule` says when the reference calls a prefix positive: `posterior`, when a model of values,
    fitted on these continuations, gives it a value above `threshold`; `any`, when one continuation is right (GLoRe's
    rule, by which more samples make more prefixes positive). `threshold`, `consistency` and `positive_propagation` are
    those that the labels were made with, where nothing else is given.
    """

    labels: str = parent(LABEL_STEPS.name)  #: an artifact of label_steps
    policy: str = parent("train_policy", any_path=True, or_name="served")  #: who continues the prefixes
    sampler: SamplerArgs = field(default_factory=SamplerArgs)  #: how to sample
    prompt: PromptArgs = field(default_factory=PromptArgs)
    solutions: int = 100  #: wrong solutions to label again
    continuations: int = 4 * PAPER_K  #: of each prefix
    rule: str = "posterior"
    threshold: float | None = None
    consistency: bool | None = None
    positive_propagation: bool | None = None
    seed: int = 0  #: of the continuations

    def validate(self) -> None:
        """Raise ValueError naming the first setting out of range."""
        check_least(self, solutions=1)
        check_choices(self, rule=REFERENCES)
        self.search({}).validate()
        if self.sampler.temperature == 0:
            raise ValueError("greedy continuations would all be the same: set sampler.temperature")

    def search(self, made_with: dict[str, Any]) -> SearchArgs:
        """How the reference is found, given the arguments that the labels were made with."""
        threshold = made_with.get("threshold", SearchArgs.threshold) if self.threshold is None else self.threshold
        return SearchArgs("exhaustive", self.rule, self.continuations, threshold=threshold)


@dataclass(frozen=True, slots=True)
class Audited:
    """A solution's `labels` beside those of the reference (`reference`), which had `successes` of `trials` right
    continuations after each step; `confidences` is how likely each reference label is right. None: there is none."""

    rollout_id: str
    problem_id: str
    steps: tuple[str, ...]
    labels: tuple[bool | None, ...]
    reference: tuple[bool | None, ...]
    successes: tuple[int, ...]
    trials: tuple[int, ...]
    confidences: tuple[float | None, ...]

    def pairs(self) -> Iterator[tuple[bool, bool, float]]:
        """(label, reference, confidence) of each prefix that can be continued, where both have a label; the answer line
        of a wrong solution is negative in any case."""
        for i in range(open_prefixes(self.steps)):
            label, reference, confidence = self.labels[i], self.reference[i], self.confidences[i]
            if label is not None and reference is not None:
                yield label, reference, 1.0 if confidence is None else confidence

    def reference_sure(self) -> float:
        """How likely the reference's first negative prefix is the first one."""
        first = find_first(self.reference)
        around = [self.confidences[i] for i in (first - 1, first) if 0 <= i < len(self.steps)]
        # P(the one before is positive and this one negative), which is their sum minus 1 as "positive" is nested
        return max(0.0, sum(1.0 if one is None else one for one in around) - (len(around) - 1))


def find_first(labels: Sequence[bool | None]) -> int | None:
    """The place of the first negative label: the number of labels where there is none, None where a label before it is
    missing."""
    first = next((i for i, label in enumerate(labels) if label is False), len(labels))
    return None if None in labels[:first] else first


def draw_solutions(rows: Sequence[StepLabels], number: int, seed: int) -> list[StepLabels]:
    """So many wrong solutions that have a label before their answer line, drawn at random, in their order.

    Raises:
        AuditError: there is none.
    """
    places = [n for n, row in enumerate(rows) if not row.correct and any(one is not None for one in _open_labels(row))]
    if not places:
        raise AuditError(f"none of the {len(rows)} solutions is wrong and has a label before its answer line")
    return [rows[n] for n in sorted(random.Random(f"audit/{seed}").sample(places, min(number, len(places))))]


def _open_labels(row: StepLabels) -> tuple[bool | None, ...]:
    return row.labels[: open_prefixes(row.steps)]


def as_rollout(row: StepLabels) -> Rollout:
    """A labelled solution as the labeller takes it; fields that labels do not depend on are empty."""
    text = join_steps(row.steps)
    return Rollout(row.rollout_id, row.problem_id, 0, text, row.steps, None, False, "", "stop", 0, 0, 0)


def compare(rows: Sequence[StepLabels], reference: Sequence[StepLabels]) -> list[Audited]:
    """Labels beside the reference's, of the same solutions in the same order."""
    return [
        Audited(
            row.rollout_id, row.problem_id, row.steps, row.labels, again.labels, again.successes, again.trials,
            again.confidences,
        )
        for row, again in zip(rows, reference, strict=True)
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rate:
    """`errors` of `n`, and the 95% interval of their share."""

    errors: int
    n: int
    low: float
    high: float


def measure(audited: Sequence[Audited]) -> dict[str, Rate]:
    """How often labels and reference disagree, where both have one; what cannot be measured is left out.

    Of labels: `label_error` (all), `called_negative` (of those that the reference calls positive), `called_positive`
    (of those it calls negative). Of solutions: `first_error` (the first negative label is elsewhere), `first_early`
    and `first_late` (it comes too soon, too late).
    """
    kinds: dict[str, list[tuple[int, int]]] = {"label_error": [], "called_negative": [], "called_positive": []}
    for one in audited:
        pairs = [(label, truth) for label, truth, _ in one.pairs()]
        for name, kind in (("label_error", (True, False)), ("called_negative", (True,)), ("called_positive", (False,))):
            own = [label != truth for label, truth in pairs if truth in kind]
            kinds[name].append((sum(own), len(own)))
    rates = {name: rate_of_sums(found) for name, found in kinds.items() if any(n for _, n in found)}
    firsts = [(find_first(one.labels), find_first(one.reference)) for one in audited]
    firsts = [(first, truth) for first, truth in firsts if first is not None and truth is not None]
    if firsts:
        for name, ways in (("first_error", (-1, 1)), ("first_early", (-1,)), ("first_late", (1,))):
            missed = sum((first > truth) - (first < truth) in ways for first, truth in firsts)
            rates[name] = Rate(missed, len(firsts), *exact_interval(missed, len(firsts)))
    return rates


def exact_interval(errors: float, n: float) -> tuple[float, float]:
    """95% interval of a share of `n` independent draws (Clopper and Pearson 1934); both may be fractions."""
    from scipy.stats import beta

    low = beta.ppf(0.025, errors, n - errors + 1) if errors else 0.0
    high = beta.ppf(0.975, errors + 1, n - errors) if errors < n else 1.0
    return float(low), float(high)


def rate_of_sums(solutions: Sequence[tuple[int, int]]) -> Rate:
    """The error rate of labels, given (errors, labels) of each solution, with its 95% interval.

    Labels of one solution depend on each other. So the interval is the exact one of as many independent draws as would
    vary as much (Korn and Graubard 1998), which covers few errors better than a bootstrap. Where none or all of the
    labels are wrong, nothing varies, and a solution counts as one draw.
    """
    table = np.array([own for own in solutions if own[1]], dtype=float)
    size, (errors, labels) = len(table), table.sum(0)
    share, draws = errors / labels, float(size)
    if size > 1 and 0 < errors < labels:
        variance = size / (size - 1) * ((table[:, 0] - share * table[:, 1]) ** 2).sum() / labels**2
        draws = min(labels, share * (1 - share) / variance) if variance > 0 else labels
    return Rate(int(errors), int(labels), *exact_interval(share * draws, draws))


def doubt_reference(audited: Sequence[Audited]) -> dict[str, float]:
    """How often the reference itself is expected to be wrong, by the model of values. A rate measured with it differs
    from the true one by at most that."""
    sure = [confidence for one in audited for *_, confidence in one.pairs()]
    first = [one.reference_sure() for one in audited if find_first(one.reference) is not None]
    shares = {"reference_label_error": sure, "reference_first_error": first}
    return {name: float(np.mean(1 - np.array(own))) for name, own in shares.items() if own}


def audit(
    rows: Sequence[StepLabels],
    problems: dict[str, Problem],
    sampler: Sampler,
    args: AuditArgs,
    made_with: dict[str, Any],
    work: Workspace,
) -> list[Audited]:
    """Label these wrong solutions once more; `made_with` are the arguments that their labels were made with."""
    consistency = made_with.get("consistency", True) if args.consistency is None else args.consistency
    propagate = made_with.get("positive_propagation", True)
    propagate = propagate if args.positive_propagation is None else args.positive_propagation
    labeller = Labeller([as_rollout(row) for row in rows], args.search(made_with), consistency, propagate=propagate)
    # other numbers than those of the labels and of the rollouts, whatever their seed
    seed = sample_seed(args.seed, "audit_labels", 0)
    sample_waves(labeller, sampler, problems, work, "audit_labels", seed, args.prompt.template())
    return compare(rows, labeller.label())


def audit_labels(args: AuditArgs, work: Workspace) -> None:
    """Audit an artifact of step labels; writes `rows` (Audited)."""
    source = work.parents["labels"]
    warn_of_others(source, work.parents["policy"], args, work)
    rows = source.rows(StepLabels)
    drawn = draw_solutions(rows, args.solutions, args.seed)
    problems = {problem.id: problem for problem in source.rows(Problem, "problems")}
    with closing(load_sampler(args.policy, args.sampler, args.prompt.template().stop)) as sampler:
        audited = audit(drawn, problems, sampler, args, source.manifest["args"], work)
    work.write_rows("rows", audited, Audited)
    labels = sum(len(list(one.pairs())) for one in audited)
    # what two solutions begin with was sampled once
    sampled = {(one.problem_id, one.steps[: i + 1]): number for one in audited for i, number in enumerate(one.trials)}
    given = sum(label is not None for row in drawn for label in _open_labels(row))
    work.count(
        solutions=len(drawn),
        wrong_solutions=sum(not row.correct for row in rows),
        continuations=sum(sampled.values()),
        not_decided=given - labels,
        **doubt_reference(audited),
    )
    for name, rate in measure(audited).items():
        shares = {"": rate.errors / rate.n, "_low": rate.low, "_high": rate.high, "_n": rate.n}
        work.count(**{name + end: value for end, value in shares.items()})


def warn_of_others(source: Artifact, policy: Artifact, args: AuditArgs, work: Workspace) -> None:
    """Say where the audit samples otherwise than the labels were made: values are those of a policy and of how it is
    sampled, so that right labels would look wrong."""
    if differ := sampled_otherwise(source, policy, args, ("temperature", "top_p", "max_tokens")):
        text = f"the labels were made with {', '.join(differ)}: they are judged by values that they were not made for"
        work.note("differs", text)
        if work.processes.first:
            logger.warning("%s", text)


AUDIT_LABELS = Stage("audit_labels", 3, AuditArgs, audit_labels)
