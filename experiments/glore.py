"""`python -m experiments.glore`: the whole of GLoRe, from problems to a report (arXiv 2402.10963).

Builds the graph of stages from one config and runs it; what is already there is found, not run again.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field, replace
from typing import Any

from experiments.commands.command import command
from experiments.commands.config import Job
from experiments.commands.dry_run import pipeline_plan
from experiments.report.stage import REPORT, WITH_ORACLE, ReportArgs
from refine.pairs import BUILD_PAIRS, PairArgs
from refine.rerank import RERANK, RerankArgs
from refine.revise import REVISE, ReviseArgs
from refine.students.shipped import SHIPPED, find_start
from refine.train_policy import TRAIN_POLICY, TrainPolicyArgs
from rewards.labels.stepwise import LABEL_STEPS, LabelArgs
from rewards.train import TRAIN_REWARD, TrainRewardArgs
from rollouts.problems.args import ProblemArgs
from rollouts.prompts import PromptArgs
from rollouts.sampling.sample import SAMPLE, SampleArgs
from stages.hub import pin
from stages.pipeline import PENDING, Node, StageRunner, run_pipeline
from stages.stage import Stage


@dataclass
class StudentArgs:
    """Where the student comes from: `start` is `shipped` (the embedded world's checkpoint that comes with the
    package), `scratch` (a small model made from nothing), or the folder of a Hugging Face causal LM.

    Then it is fine-tuned on gold solutions (`sft`, unless its `epochs` are 0) and by `rounds` of Expert Iteration.
    """

    start: str = SHIPPED  #: shipped, scratch, or a folder of a causal LM
    fine_tune: bool = False  #: on gold solutions first
    sft: TrainPolicyArgs = field(default_factory=TrainPolicyArgs)
    sft_problems: int = 1000  #: how many of them
    rounds: int = 0  #: of expert iteration
    round: TrainPolicyArgs = field(default_factory=lambda: TrainPolicyArgs(examples=["rollouts"], rollouts=PENDING))
    round_samples: int = 8

    def validate(self) -> None:
        """Raise ValueError where there would be no student."""
        if self.start == "scratch" and not self.fine_tune:
            raise ValueError("student.start=scratch needs student.fine_tune=true: it knows nothing yet")
        if self.rounds < 0 or self.round_samples < 2 or self.sft_problems < 1:
            raise ValueError(
                f"student needs rounds >= 0, round_samples >= 2, sft_problems >= 1, not {self.rounds}, "
                f"{self.round_samples}, {self.sft_problems}"
            )


def _pending_reward(kind: str) -> TrainRewardArgs:
    source = {"rollouts": PENDING} if kind == "orm" else {"labels": PENDING}
    return TrainRewardArgs(kind=kind, policy=PENDING, **source)


@dataclass
class GloreArgs:
    """Arguments of the pipeline: those of its stages, with the parents that the pipeline itself fills in pending.

    Training rollouts come from `train_problems` problems of the train split, after the first `train_offset`; the test
    split gives `test_problems` drafts. `parallel` stages run at once where they do not need one another. All stages ask
    with the one `prompt`.
    """

    problems: ProblemArgs = field(default_factory=ProblemArgs)  #: which problems
    prompt: PromptArgs = field(default_factory=PromptArgs)
    train_problems: int = 2000  #: problems whose rollouts train
    train_offset: int = 0
    test_problems: int = 1000  #: problems that are drafted and refined
    student: StudentArgs = field(default_factory=StudentArgs)  #: who writes the drafts
    rollouts: SampleArgs = field(default_factory=lambda: SampleArgs(policy=PENDING))  #: training rollouts
    drafts: SampleArgs = field(default_factory=lambda: SampleArgs(policy=PENDING, n=1))  #: how drafts are
    samples: SampleArgs = field(default_factory=lambda: SampleArgs(policy=PENDING, n=3))  #: how best-of-n's samples are
    orm: TrainRewardArgs = field(default_factory=lambda: _pending_reward("orm"))  #: how the ORM is trained
    labels: LabelArgs = field(default_factory=lambda: LabelArgs(rollouts=PENDING, policy=PENDING))  #: step labels
    sorm: TrainRewardArgs = field(default_factory=lambda: _pending_reward("sorm"))  #: how the SORM is trained
    pairs: PairArgs = field(default_factory=lambda: PairArgs(rollouts=PENDING, labels=PENDING))  #: how pairs are built
    refiner: TrainPolicyArgs = field(
        default_factory=lambda: TrainPolicyArgs(examples=["global"], policy=PENDING, pairs=PENDING)
    )  #: how the refiners are trained
    revise: ReviseArgs = field(
        default_factory=lambda: ReviseArgs(
            drafts=PENDING, samples=PENDING, global_refiner=PENDING, local_refiner=PENDING, control=PENDING,
            orm=PENDING, sorm=PENDING,
        )
    )  # fmt: skip
    rerank: RerankArgs = field(default_factory=lambda: RerankArgs(candidates=PENDING, orm=PENDING, sorm=PENDING))
    title: str = "GLoRe"  #: the report's title
    headline_scorer: str = "orm"
    headline_where: str = "sorm"
    # what both reward models start from: `student`, or the folder of another causal LM
    reward_start: str = "student"  #: what reward models start from: student, or a causal LM
    seed: int = 0  #: of the run
    parallel: int = 1  #: stages that run at once

    def validate(self) -> None:
        """Raise ValueError naming the first setting that does not fit the others."""
        for name in ("train_problems", "test_problems", "parallel"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.train_offset < 0:
            raise ValueError(f"train_offset must not be negative, but is {self.train_offset}")
        for name, stage in _asking(self).items():
            if stage.prompt not in (PromptArgs(), self.prompt):
                raise ValueError(f"{name}.prompt must not differ from prompt: every stage asks as the others do")
        if self.headline_where not in self.revise.where or self.headline_scorer not in ("orm", "sorm"):
            raise ValueError(
                f"the headline needs a scorer orm or sorm and a place among revise.where={list(self.revise.where)}, "
                f"not {self.headline_scorer} and {self.headline_where}"
            )


def _asking(args: Any) -> dict[str, Any]:
    """The arguments, by the names of their fields, of stages that have a prompt; the student's have a dot in theirs."""
    found = {}
    for one in dataclasses.fields(args):
        value = getattr(args, one.name)
        if isinstance(value, StudentArgs):
            found |= {f"{one.name}.{name}": stage for name, stage in _asking(value).items()}
        elif hasattr(value, "prompt"):
            found[one.name] = value
    return found


def _with_prompt(args: Any, prompt: PromptArgs) -> Any:
    """The arguments with this prompt in those of every stage that has one."""
    changed = {name: replace(stage, prompt=prompt) for name, stage in _asking(args).items() if "." not in name}
    if isinstance(args, GloreArgs):
        changed["student"] = _with_prompt(args.student, prompt)
    return replace(args, **changed)


def _problems(args: GloreArgs, split: str, offset: int, limit: int) -> ProblemArgs:
    return replace(args.problems, split=split, offset=offset, limit=limit)


def student_nodes(args: GloreArgs) -> tuple[list[Node], dict[str, str]]:
    """The stages that make the student, the last of them named `student`; and the paths given from outside."""
    student = args.student
    given = {} if student.start == "scratch" else {"start": find_start(student.start)}
    trained: list[Node] = []
    if student.fine_tune:
        problems = _problems(args, "train", 0, student.sft_problems)
        sft = replace(student.sft, examples=["solutions"], problems=problems)
        trained.append(Node("sft", TRAIN_POLICY, tuple(given), lambda paths: replace(sft, policy=paths.get("start"))))
    for number in range(1, student.rounds + 1):
        before = trained[-1].name if trained else "start"
        sampled = f"round_{number}_rollouts"
        problems = _problems(args, "train", args.train_offset, args.train_problems)
        sample = replace(args.rollouts, problems=problems, n=student.round_samples, seed=args.seed + 1000 * number)
        trained.append(Node(sampled, SAMPLE, (before,), lambda paths, s=sample, b=before: replace(s, policy=paths[b])))
        trained.append(
            Node(
                f"round_{number}",
                TRAIN_POLICY,
                (before, sampled),
                lambda paths, b=before, s=sampled: replace(
                    student.round, policy=paths[b], rollouts=paths[s], problems=args.problems
                ),
            )
        )
    if trained:
        trained[-1] = replace(trained[-1], name="student")
    else:
        given = {"student": given["start"]}
    return trained, given


def glore_nodes(args: GloreArgs) -> tuple[list[Node], dict[str, str]]:
    """Every stage of the pipeline, in an order in which they can run, and the paths given from outside."""
    if args.problems.path is not None:  # a branch may move while the stages run
        args = replace(args, problems=replace(args.problems, path=pin(args.problems.path, "dataset")))
    args = _with_prompt(args, args.prompt)
    nodes, given = student_nodes(args)
    made = [node.name for node in nodes]
    reward_start = "student"
    if args.reward_start != "student":
        reward_start = "reward_start"
        given = given | {"reward_start": find_start(args.reward_start)}
    train = _problems(args, "train", args.train_offset, args.train_problems)
    test = _problems(args, "test", 0, args.test_problems)

    def add(name: str, stage, args_of, **parents: str) -> None:
        after = tuple(dict.fromkeys(parents.values()))
        nodes.append(
            Node(name, stage, after, lambda paths: replace(args_of, **{k: paths[v] for k, v in parents.items()}))
        )
        made.append(name)

    add("rollouts", SAMPLE, replace(args.rollouts, problems=train), policy="student")
    add("labels", LABEL_STEPS, args.labels, rollouts="rollouts", policy="student")
    add("orm", TRAIN_REWARD, args.orm, policy=reward_start, rollouts="rollouts")
    add("drafts", SAMPLE, replace(args.drafts, problems=test), policy="student")
    add("samples", SAMPLE, replace(args.samples, problems=test), policy="student")
    add("pairs", BUILD_PAIRS, args.pairs, rollouts="rollouts", labels="labels")
    add("sorm", TRAIN_REWARD, args.sorm, policy=reward_start, labels="labels")
    for kind in ("global", "local", "control"):
        add(f"{kind}_refiner", TRAIN_POLICY, replace(args.refiner, examples=[kind], problems=args.problems),
            policy="student", pairs="pairs")  # fmt: skip
    # only the embedded world has an oracle that could say where the error is
    where = [name for name in args.revise.where if name != "oracle" or args.problems.source == WITH_ORACLE]
    add("revise", REVISE, replace(args.revise, where=where), drafts="drafts", samples="samples",
        global_refiner="global_refiner", local_refiner="local_refiner", control="control_refiner",
        orm="orm", sorm="sorm")  # fmt: skip
    add("rerank", RERANK, args.rerank, candidates="revise", orm="orm", sorm="sorm")
    nodes.append(_report_node(args, made))
    return nodes, given


def _report_node(args: GloreArgs, made: list[str]) -> Node:
    def build(paths: dict[str, str]) -> ReportArgs:
        return ReportArgs(
            rerank=paths["rerank"],
            candidates=paths["revise"],
            orm=paths["orm"],
            sorm=paths["sorm"],
            labels=paths["labels"],
            trained_on=paths["rollouts"],
            stages=[paths[name] for name in made],
            names=list(made),
            title=args.title,
            model=args.student.start,
            scorer=args.headline_scorer,
            where=args.headline_where,
            seed=args.seed,
        )

    return Node("report", REPORT, tuple(made), build)


def stage_program(stage: Stage) -> list[str]:
    """The command line of a stage's own command, without arguments."""
    return [sys.executable, "-m", f"experiments.{stage.name}"]


def run_glore(job: Job) -> dict[str, Any]:
    """Run the pipeline, copy its report into the run's folder and print the main table."""
    from rich.console import Console

    from experiments.report.markdown import copy_report, print_main_table
    from stages.files import read_json

    nodes, given = glore_nodes(job.args)
    console = Console()
    settings = {"tracking": dataclasses.asdict(job.tracking), "launch": dataclasses.asdict(job.launch)}
    console.print(
        f"{len(nodes)} stages, {job.args.parallel} at once; artifacts in {job.run.artifacts}/", highlight=False
    )
    runner = StageRunner(job.run.artifacts, job.folder / "stages", stage_program, job.run.threads, settings, console)
    with runner:
        results = run_pipeline(nodes, given, runner, job.args.parallel, runner.stop)
    reused = {name: result.reused for name, result in results.items()}
    copy_report(results["report"].path, job.folder, reused)
    print_main_table(read_json(job.folder / "report.json"), console)
    console.print(f"{job.folder / 'report.md'}, report.json and figures/ are written", highlight=False)
    paths = given | {name: str(result.path) for name, result in results.items()}
    found = [name for name, was_there in reused.items() if was_there]
    return {"report": str(job.folder / "report.md"), "artifacts": paths, "reused": found}


main = command(
    "glore", GloreArgs, run_glore, relaunch=False, plan=lambda job: pipeline_plan(*glore_nodes(job.args), job)
)  # its stages are launched, not it

if __name__ == "__main__":
    main()
