"""The stage that writes the report from choices, candidates, scores and labels, and the oracle where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from operator import and_

from experiments.commands.command import stage_command
from refine.report.build import build_report
from refine.report.inputs import ReportInputs
from rewards.reward_model import read_facts
from rollouts.problems.splits import question_key
from rollouts.records import Candidate, Choice, Judgement, Problem, StepLabels
from rollouts.world.oracle import can_still_reach, judge_steps
from stages.artifacts import Artifact
from stages.stage import Stage, parent
from stages.workspace import Workspace

WITH_ORACLE = "arithmetic"  # the source whose problems the oracle understands


@dataclass
class ReportArgs:
    """Arguments of the stage `report`. `stages` are the artifacts whose seconds and tokens are listed, `names` theirs.

    `trained_on` are rollouts whose problems must not be among those tested. The headline is the arm that `scorer`
    ranks and `where` locates.
    """

    rerank: str = parent("rerank")  #: an artifact of rerank
    candidates: str = parent("revise")  #: an artifact of revise
    orm: str = parent("train_reward")  #: an artifact of train_reward
    sorm: str = parent("train_reward")  #: an artifact of train_reward
    labels: str | None = parent("label_steps", "import_labels", default=None)  #: an artifact of label_steps
    trained_on: str | None = parent("sample", default=None)  #: rollouts that must not be of the test problems
    stages: list[str] = parent(any_path=True, default=[])
    names: list[str] = field(default_factory=list)
    title: str = "GLoRe"  #: the report's title
    model: str = ""
    scorer: str = "orm"  #: of the headline: orm or sorm
    where: str = "sorm"  #: of the headline: who locates the error
    seed: int = 0  #: of the bootstrap

    def validate(self) -> None:
        """Raise ValueError where stages and names do not match."""
        if len(self.stages) != len(self.names):
            raise ValueError(f"{len(self.stages)} stages with {len(self.names)} names")


def judge_prefixes(problem: Problem, steps: Sequence[str]) -> list[bool]:
    """Whether each prefix is free of error: what a stepwise reward model should say after each step."""
    return list(accumulate(judge_steps(problem, steps), and_))


def judge_labels(problems: dict[str, Problem], labels: Sequence[StepLabels]) -> tuple[int, int]:
    """How many labels of wrong rollouts the oracle agrees with, and how many there are."""
    right = given = 0
    for row in labels:
        for i, label in enumerate(row.labels):
            if label is not None and not row.correct:
                given += 1
                right += label == can_still_reach(problems[row.problem_id], row.steps[: i + 1])
    return right, given


def check_apart(trained_on: Sequence[Problem], tested_on: Sequence[Problem]) -> None:
    """See that no problem that was tested on was trained on, by its text.

    Raises:
        ValueError: there is one; the message names it.
    """
    trained = {question_key(problem.question): problem.id for problem in trained_on}
    for problem in tested_on:
        if other := trained.get(question_key(problem.question)):
            raise ValueError(f"test problem {problem.id} was trained on, as {other}: the report would not be honest")


def write_glore_report(args: ReportArgs, work: Workspace) -> None:
    """Write report.md, report.json and figures/."""
    from experiments.report.markdown import write_report

    problems = work.parents["candidates"].rows(Problem, "problems")
    candidates = work.parents["candidates"].rows(Candidate)
    if args.trained_on is not None:
        check_apart(work.parents["trained_on"].rows(Problem, "problems"), problems)
    by_id = {problem.id: problem for problem in problems}
    step_truth = label_truth = None
    if all(problem.source == WITH_ORACLE for problem in problems):
        step_truth = {
            (c.problem_id, c.kind, c.where, c.sample): judge_prefixes(by_id[c.problem_id], c.steps)
            for c in candidates
            if c.kind in ("draft", "sample")
        }
        if args.labels is not None:
            source = work.parents["labels"]
            trained = {problem.id: problem for problem in source.rows(Problem, "problems")}
            label_truth = judge_labels(trained, source.rows(StepLabels))
    inputs = ReportInputs(
        title=args.title,
        model=args.model,
        source=problems[0].source,
        seed=args.seed,
        problems=problems,
        candidates=candidates,
        judgements=work.parents["rerank"].rows(Judgement, "judgements"),
        choices=work.parents["rerank"].rows(Choice),
        thresholds={name: _threshold(work.parents[name]) for name in ("orm", "sorm")},
        step_truth=step_truth,
        label_truth=label_truth,
        stages=dict(zip(args.names, map(_cost, work.parents["stages"]), strict=True)),
        scorer=args.scorer,
        where=args.where,
    )
    write_report(work.folder, build_report(inputs), inputs)


def _threshold(model: Artifact) -> float:
    return read_facts(model.path)["threshold"]


def _cost(artifact: Artifact) -> dict[str, float]:
    """Seconds and tokens of a stage; a shipped checkpoint has no manifest of ours and cost nothing here."""
    return {
        "seconds": artifact.manifest.get("seconds", 0.0),
        "tokens": artifact.manifest.get("tokens", 0),
    }


REPORT = Stage("report", 3, ReportArgs, write_glore_report)
main = stage_command(REPORT)
