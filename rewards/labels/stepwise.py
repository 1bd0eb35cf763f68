"""Rollouts into step labels: continuations of prefixes say whether a right answer can still be reached.

The stage only (GLoRe sec. 3.2): who asks for what is in `rewards/labels/labeller.py`, rules that clean labels in
`rewards/labels/cleaning.py`.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rewards.labels.cleaning import changed_labels, drop_doubtful
from rewards.labels.labeller import Labeller
from rewards.labels.prefixes import Prefix, open_prefixes
from rewards.labels.search import AUTO, PAPER_K, RECOVERY, SearchArgs, continuation_steps
from rewards.labels.traces import Trace, grade_trace
from rollouts.prompts import PLAIN, PromptArgs, Template, render_prompt
from rollouts.records import Problem, Rollout, StepLabels
from rollouts.sampling.args import SamplerArgs, Sampling
from rollouts.sampling.collect import collect
from rollouts.sampling.protocol import Request, Sample, Sampler, load_sampler
from rollouts.steps import cut_text, join_steps
from stages.artifacts import Artifact
from stages.checks import check_least, check_range
from stages.stage import Stage, parent
from stages.workspace import Workspace

logger = logging.getLogger(__name__)


@dataclass
class LabelArgs(SearchArgs, Sampling):
    """Arguments of the stage `label_steps`: those of the search, and which rollouts are labelled.

    `least_confidence` removes labels that are less likely than this to be right.
    """

    rollouts: str = parent("sample")  #: an artifact of sample
    policy: str = parent("train_policy", any_path=True, or_name="served")  #: who continues the prefixes
    sampler: SamplerArgs = field(default_factory=SamplerArgs)  #: how to sample
    prompt: PromptArgs = field(default_factory=PromptArgs)
    max_wrong_per_problem: int | None = None  #: wrong solutions labelled of a problem
    max_right_per_problem: int | None = None  #: right solutions labelled of a problem
    max_problems: int | None = None  #: label at most so many problems
    positive_propagation: bool = True
    consistency: bool = True
    least_confidence: float | None = None
    seed: int = 0  #: of the continuations

    def validate(self) -> None:
        """Raise ValueError naming the first setting out of range."""
        super().validate()
        check_least(self, max_wrong_per_problem=1, max_right_per_problem=1, max_problems=1)
        check_range(self, least_confidence="[0, 1]")
        if self.continuations > 1 and self.sampler.temperature == 0:
            raise ValueError("greedy continuations would all be the same: set sampler.temperature")


def choose_rollouts(rollouts: Sequence[Rollout], args: LabelArgs) -> list[Rollout]:
    """Which rollouts to label: graded, with steps, different ones, at most so many right and wrong a problem."""
    taken: dict[tuple[str, bool], set[tuple[str, ...]]] = {}
    chosen, problems = [], set()
    for rollout in rollouts:
        if rollout.correct is None or not rollout.steps:
            continue
        if args.max_problems is not None and len(problems) >= args.max_problems and rollout.problem_id not in problems:
            continue
        problems.add(rollout.problem_id)
        seen = taken.setdefault((rollout.problem_id, rollout.correct), set())
        most = args.max_right_per_problem if rollout.correct else args.max_wrong_per_problem
        if rollout.steps in seen or (most is not None and len(seen) >= most):
            continue
        seen.add(rollout.steps)
        chosen.append(rollout)
    return chosen


def label_right(rollout: Rollout) -> StepLabels:
    """A rollout that was right is positive throughout, without sampling."""
    zeros, known = (0,) * len(rollout.steps), (True,) * len(rollout.steps)
    return StepLabels(rollout.id, rollout.problem_id, rollout.steps, True, known, zeros, zeros, None, (), "right")


def sampled_otherwise(source: Artifact, policy: Artifact, args: Any, names: Sequence[str]) -> list[str]:
    """Where an artifact was sampled otherwise than `args` and `policy` will be, in words: by policy, by prompt and by
    these settings of the sampler."""
    made_with, maker = source.manifest["args"], source.manifest.get("parents", {}).get("policy") or {}
    differ = [] if maker.get("key") == policy.key else [f"policy {maker.get('path')} and not {args.policy}"]
    for name in names:
        known, own = made_with.get("sampler", {}).get(name), getattr(args.sampler, name)
        if known != own:
            differ.append(f"sampler.{name}={known} and not {own}")
    prompt = made_with.get("prompt", asdict(PromptArgs()))
    if prompt["kind"] != args.prompt.kind:
        differ.append(f"prompt={prompt['kind']} and not {args.prompt.kind}")
    elif prompt != asdict(args.prompt):
        differ.append(f"another text of prompt={args.prompt.kind}")
    return differ


def drawn_alike(rollouts: Artifact, policy: Artifact, args: LabelArgs) -> bool:
    """Whether the rollouts were drawn as the continuations will be. Then those that begin alike are continuations of
    what they share, at no cost."""
    return not sampled_otherwise(rollouts, policy, args, ("temperature", "top_p"))


def wave_requests(
    wanted: Mapping[Prefix, int],
    labeller: Labeller,
    problems: dict[str, Problem],
    seed: int,
    template: Template = PLAIN,
) -> dict[str, tuple[Request, Prefix]]:
    """A request for the next continuations of each prefix, and what it continues, by its id.

    It is named after the prefix and how many of its continuations there are, so that its samples do not depend on what
    else is labelled.
    """
    requests: dict[str, tuple[Request, Prefix]] = {}
    for prefix, number in wanted.items():
        problem_id, steps = prefix
        written = join_steps(steps)
        digest = hashlib.sha256(written.encode()).hexdigest()[:16]
        name = f"{problem_id}/prefix/{digest}/{labeller.known.found[prefix].sampled}"
        prompt = render_prompt(problems[problem_id].question, template)
        requests[name] = Request(name, prompt, written, number, seed), prefix
    return requests


def _cut(_: Request, sample: Sample) -> Sample:
    return replace(sample, text=cut_text(sample.text))


def sample_waves(
    labeller: Labeller,
    sampler: Sampler,
    problems: dict[str, Problem],
    work: Workspace,
    name: str,
    seed: int,
    template: Template = PLAIN,
) -> float:
    """Give the labeller what it asks for, wave after wave; returns the mean tokens of a continued step.

    Every continuation is kept as it comes, and the waves follow from them: after a kill the same ones are asked for,
    and only what is missing is sampled.
    """
    tokens = steps = 0.0
    for number in itertools.count(1):
        # floating-point sums may differ between machines: one process decides for all
        asked = work.processes.broadcast([[*prefix, n] for prefix, n in labeller.wave().items()])
        if not asked:
            break
        wanted = {(problem_id, tuple(prefix)): n for problem_id, prefix, n in asked}
        requests = wave_requests(wanted, labeller, problems, seed, template)
        to_draw = [request for request, _ in requests.values()]
        # a late wave may ask for little: that all of it is refused ends the run only where nothing has been drawn yet
        samples = collect(sampler, to_draw, work, f"{name}/{number}", _cut, need_some=number == 1)
        for request, prefix in requests.values():
            traces: list[Trace | None] = []
            for sample in samples[request.id]:
                trace = grade_trace(problems[prefix[0]], prefix[1], sample)
                traces.append(trace)
                tokens += sample.completion_tokens
                steps += 0 if trace is None else max(0.5, len(trace.steps) - 0.5)
            labeller.add(prefix, traces)
        samples.close()
    return tokens / max(1.0, steps)


def label_steps(args: LabelArgs, work: Workspace) -> None:
    """Label the steps of the rollouts; writes `rows` (StepLabels) and `problems` (Problem)."""
    source = work.parents["rollouts"]
    problems = {problem.id: problem for problem in source.rows(Problem, "problems")}
    rollouts = source.rows(Rollout)
    chosen = choose_rollouts(rollouts, args)
    wrong = [rollout for rollout in chosen if not rollout.correct]
    alike = rollouts if drawn_alike(source, work.parents["policy"], args) else []
    labeller = Labeller(wrong, args, args.consistency, alike, args.positive_propagation)
    template = args.prompt.template()
    with closing(load_sampler(args.policy, args.sampler, template.stop)) as sampler:
        step_tokens = sample_waves(labeller, sampler, problems, work, "label_steps", args.seed, template)
    found, doubtful = {}, 0
    for row in labeller.label():
        kept = row if args.least_confidence is None else drop_doubtful(row, args.least_confidence)
        found[row.rollout_id] = kept
        doubtful += changed_labels(row.labels, kept.labels)
    rows = [found.get(rollout.id) or label_right(rollout) for rollout in chosen]
    if args.rule == AUTO:
        told = f"rule=auto: {labeller.args.describe()}, {describe_recovery(labeller)}"
        work.note("rule", told)
        logger.info("%s", told)
    work.write_rows("problems", list(problems.values()))
    work.write_rows("rows", rows, StepLabels)
    work.count(**count_labels(rows), removed_as_doubtful=doubtful, **count_cost(chosen, labeller, step_tokens))


def describe_recovery(labeller: Labeller) -> str:
    """Why the rule is what it is."""
    side = "above" if labeller.args.rule == "posterior" else "not above"
    return f"as {labeller.recovery:.1%} of the continuations of wrong prefixes were right, {side} {RECOVERY:.0%}"


def count_cost(chosen: Sequence[Rollout], labeller: Labeller, step_tokens: float) -> dict[str, float]:
    """What was sampled, and what GLoRe's way would have cost: 8 continuations of every prefix, of all solutions or of
    the wrong ones only. Its tokens are the steps that it would write times the mean tokens of a step."""
    prefixes, writes = 0, {True: 0.0, False: 0.0}  # steps that it would write for right and for wrong solutions
    for rollout in chosen:
        open_ = open_prefixes(rollout.steps)
        prefixes += open_
        writes[bool(rollout.correct)] += PAPER_K * sum(continuation_steps(left) for left in range(open_))
    return {
        "waves": labeller.waves,
        "continuations": sum(here.sampled for here in labeller.known.found.values()),
        "not_graded": sum(here.refused for here in labeller.known.found.values()),
        "changed_by_propagation": labeller.propagated,
        "changed_by_consistency": labeller.known.inconsistent(),
        "exhaustive_continuations": PAPER_K * prefixes,
        "exhaustive_tokens": round(step_tokens * sum(writes.values())),
        "exhaustive_tokens_of_wrong": round(step_tokens * writes[False]),
        "recovery_rate": 0.0 if labeller.model is None else labeller.model.recovery,
    }


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


LABEL_STEPS = Stage("label_steps", 4, LabelArgs, label_steps)
