"""The stage that writes the report from choices, candidates, scores and labels, and the oracle where there is one."""

from __future__ import annotations

from dataclasses import dataclass, field

from experiments.commands.command import stage_command
from refine.report.build import build_report
from refine.report.example import Example, describe_examples, example_rows
from refine.report.inputs import ReportInputs
from refine.report.outcomes import Outcome, run_outcomes
from refine.report.truth import check_apart, judge_candidates, judge_labels, name_errors
from refine.rerank import read_candidates
from rewards.reward_model import read_facts
from rollouts.records import Choice, Judgement, Problem, StepLabels
from stages.artifacts import Artifact
from stages.stage import Stage, only_when, parent
from stages.workspace import Workspace


@dataclass
class ReportArgs:
    """Arguments of the stage `report`. `stages` are the artifacts whose seconds and tokens are listed, `names` theirs;
    `given` are those that a user put in the place of some, `given_names` the places.

    `labels` trained the SORM, `test_labels` judge both reward models where there is no oracle. `trained_on` are
    rollouts whose problems must not be among those tested. The headline is the arm that `scorer` ranks, `where` locates
    and `when` gates.
    """

    rerank: str = parent("rerank")  #: an artifact of rerank
    candidates: str = parent("revise")  #: an artifact of revise
    orm: str = parent("train_reward")  #: an artifact of train_reward
    sorm: str = parent("train_reward")  #: an artifact of train_reward
    implicit: str | None = only_when(parent("train_implicit", default=None), "compared", True)  #: of rerank
    more: list[str] = parent("beam_search", "refine_until", default=[])  #: what rerank had beside these
    labels: str | None = parent("label_steps", "import_labels", default=None)  #: an artifact of label_steps
    test_labels: str | None = parent("label_steps", "import_labels", default=None)  #: step labels of drafts or samples
    trained_on: str | None = parent("sample", default=None)  #: rollouts that must not be of the test problems
    stages: list[str] = parent(any_path=True, default=[])
    names: list[str] = field(default_factory=list)
    given: list[str] = parent(any_path=True, default=[])
    given_names: list[str] = field(default_factory=list)
    title: str = "GLoRe"  #: the report's title
    model: str = ""
    scorer: str = "orm"  #: of the headline: orm, sorm or implicit
    where: str = "sorm"  #: of the headline: who locates the error
    when: str = "always"  #: of the headline: who says when to refine
    seed: int = 0  #: of the bootstrap

    @property
    def compared(self) -> bool:
        return self.implicit is not None

    def validate(self) -> None:
        """Raise ValueError where stages and names do not match."""
        for paths, names in ((self.stages, self.names), (self.given, self.given_names)):
            if len(paths) != len(names):
                raise ValueError(f"{len(paths)} artifacts with {len(names)} names: {list(names)}")


def write_glore_report(args: ReportArgs, work: Workspace) -> None:
    """Write report.md, report.html, report.json and figures/, each problem with its solutions (`examples`), and its
    outcomes (`outcomes`)."""
    from experiments.report.markdown import write_report

    problems = work.parents["candidates"].rows(Problem, "problems")
    by_id = {problem.id: problem for problem in problems}
    candidates = read_candidates(work.parents["candidates"], work.parents["more"])
    if args.trained_on is not None:
        check_apart(work.parents["trained_on"].rows(Problem, "problems"), problems)
    label_truth = strict_label_truth = None
    if args.labels is not None:
        source = work.parents["labels"]
        labelled = {problem.id: problem for problem in source.rows(Problem, "problems")}
        label_truth = judge_labels(labelled, source.rows(StepLabels))
        strict_label_truth = judge_labels(labelled, source.rows(StepLabels), strict=True)
    judges = ("orm", "sorm", "implicit") if args.compared else ("orm", "sorm")
    facts = {name: read_facts(work.parents[name].path) for name in judges}
    inputs = ReportInputs(
        title=args.title,
        model=args.model,
        source=problems[0].source,
        seed=args.seed,
        problems=problems,
        candidates=candidates,
        judgements=work.parents["rerank"].rows(Judgement, "judgements"),
        choices=work.parents["rerank"].rows(Choice),
        thresholds={name: own["threshold"] for name, own in facts.items()},
        final_thresholds={name: own["final_threshold"] for name, own in facts.items()},
        step_truth=judge_candidates(by_id, candidates),
        error_kinds=name_errors(by_id, candidates),
        label_truth=label_truth,
        strict_label_truth=strict_label_truth,
        test_labels=None if args.test_labels is None else work.parents["test_labels"].rows(StepLabels),
        stages=dict(zip(args.names, map(_cost, work.parents["stages"]), strict=True)),
        given=dict(zip(args.given_names, map(_describe, work.parents["given"]), strict=True)),
        samples=work.parents["rerank"].manifest["counts"]["samples"],
        apart=args.trained_on is not None,
        aggregate=work.parents["rerank"].manifest["args"].get("aggregate", "last"),
        scorer=args.scorer,
        where=args.where,
        when=args.when,
    )
    examples = describe_examples(inputs)
    write_report(work.folder, build_report(inputs), examples)
    work.write_rows("examples", example_rows(examples), Example)
    work.write_rows("outcomes", run_outcomes(inputs), Outcome)


def _describe(artifact: Artifact) -> str:
    return f"{artifact.stage}/{artifact.key}" if artifact.stage else f"{artifact.path.name} ({artifact.key[:19]})"


def _cost(artifact: Artifact) -> dict[str, float]:
    """Seconds and tokens of a stage; a shipped checkpoint has no manifest of ours and cost nothing here."""
    return {name: artifact.manifest.get(name, 0) for name in ("seconds", "tokens")}


REPORT = Stage("report", 9, ReportArgs, write_glore_report)
main = stage_command(REPORT)
