"""GLoRe as a pipeline: its arguments, and the stages that follow from them (arXiv 2402.10963).

Left out: the stages that make the student (`experiments/pipelines/students.py`), what a user may give in place of what
a pipeline fills in (`experiments/pipelines/graph.py`), and running the stages (`experiments/glore.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from experiments.commands.unused import refuse_typed
from experiments.pipelines import sections
from experiments.pipelines.graph import Graph
from experiments.pipelines.sections import PIPELINE_SEED, sampling
from experiments.pipelines.students import StudentArgs, add_student
from experiments.report.stage import REPORT, ReportArgs
from refine.beam_search import BEAM_SEARCH, BeamArgs
from refine.pairs import BUILD_PAIRS, PairArgs
from refine.prompts import KINDS
from refine.refine_until import REFINE_UNTIL, UntilArgs
from refine.rerank import RERANK, RerankArgs
from refine.revise import REVISE, ReviseArgs
from refine.students.shipped import find_start
from refine.train_policy import TRAIN_POLICY, TrainPolicyArgs
from rewards.evaluate import IMPLICIT, SCORERS
from rewards.labels.corrupt import CORRUPT_SOLUTIONS, CorruptArgs
from rewards.labels.stepwise import LABEL_STEPS, LabelArgs
from rewards.train import TRAIN_REWARD, TrainRewardArgs
from rewards.train_implicit import TRAIN_IMPLICIT, TrainImplicitArgs
from rollouts.problems.args import ProblemArgs
from rollouts.prompts import PromptArgs
from rollouts.sampling.sample import SAMPLE, SampleArgs
from rollouts.world.args import SOURCE as WORLD
from stages.checks import check_least
from stages.pipeline import PENDING, Node
from stages.stage import parent

CHOOSE = (
    "choose what to run: experiment=demo is the embedded world, in minutes on a CPU; "
    "problems=gsm8k problems.path=DIR student.start=MODEL is GSM8K with a causal LM"
)
# what only the pipeline can say, and what it cannot do without -> what the user sets instead
INSTEAD = {
    "problems": "set problems, train_problems, train_offset and test_problems, which go for all stages",
    "split": "the pipeline takes the train split for training and the test split for drafts and samples",
    "offset": "set train_offset",
    "limit": "set train_problems and test_problems",
    "prompt": "set prompt, which goes for all stages",
    "labels": "the SORM is trained on labels of rollouts (given.labels), its start on corrupted gold solutions",
    "kind": "orm is trained on outcomes, sorm on step labels",
    "examples": "student.sft learns from solutions, student.round from rollouts, the refiners from pairs of each kind",
    "more_rollouts": "set student.rounds; each learns from the rollouts of all before",
    "policy": "set student.start",
    "start": "set student.start, the folder of the causal LM that the student starts from",
    "student": "set student.start, the folder of the causal LM that is the student",
}


@dataclass
class GivenArgs:
    """Artifacts of one's own, each used in place of the one that the pipeline would make."""

    student: str | None = parent("train_policy", any_path=True, default=None)
    rollouts: str | None = parent("sample", default=None)
    labels: str | None = parent("label_steps", "import_labels", default=None)
    test_labels: str | None = parent("label_steps", "import_labels", default=None)
    reward_start: str | None = parent("train_reward", any_path=True, default=None)
    orm: str | None = parent("train_reward", default=None)
    sorm: str | None = parent("train_reward", default=None)
    implicit: str | None = parent("train_implicit", default=None)
    # what `implicit` was trained from, where that is not the student
    reference: str | None = parent("train_policy", any_path=True, default=None)
    pairs: str | None = parent("build_pairs", default=None)
    global_refiner: str | None = parent("train_policy", any_path=True, default=None)
    local_refiner: str | None = parent("train_policy", any_path=True, default=None)
    control_refiner: str | None = parent("train_policy", any_path=True, default=None)
    shuffled_refiner: str | None = parent("train_policy", any_path=True, default=None)
    drafts: str | None = parent("sample", default=None)
    samples: str | None = parent("sample", default=None)


@dataclass
class GloreArgs:
    """Arguments of the pipeline: those of its stages. The defaults suit a pretrained causal LM on one GPU.

    Training rollouts come from `train_problems` problems of the train split, after the first `train_offset`; the test
    split gives `test_problems` drafts (None: all there are). With `warm_up`, both reward models start from
    `reward_start`, which is trained on corrupted gold solutions (`corrupt`) of `warm_up_problems` problems (None: all).
    `given.reward_start` is one from outside: an artifact, or the folder of a reward model (`shipped/judge` is one that
    comes with the package).
    With `label_test`, the steps of the test drafts are labelled too (`test_labels`: every prefix continued 32 times),
    so that the report has the reward models' accuracy on steps without an oracle. With `beam`, the student searches
    step by step with the SORM; with `until`, drafts are refined until the ORM accepts them; both stand beside the other
    selectors. With `implicit`, or one that is given, a reward model without step labels (arXiv 2412.01981) judges,
    gates and ranks beside ORM and SORM. `parallel` stages run at once where they do not need one another. `prompt` and
    `seed` go for every stage, but a seed that is given to a stage is used there. A parent that is given to a stage is
    used by that stage alone, one in `given` by all; stages that nobody needs then are not run.
    """

    problems: ProblemArgs | None = None  #: which problems
    prompt: PromptArgs = field(default_factory=PromptArgs)
    train_problems: int | None = None  #: problems whose rollouts train
    train_offset: int = 0
    test_problems: int | None = None  #: problems that are drafted and refined
    student: StudentArgs = field(default_factory=StudentArgs)  #: who writes the drafts
    given: GivenArgs = field(default_factory=GivenArgs)  #: artifacts of one's own in place of stages
    rollouts: SampleArgs = field(default_factory=lambda: sampling(8, 1.0))
    drafts: SampleArgs = field(default_factory=lambda: sampling(1, 0.0))
    samples: SampleArgs = field(default_factory=lambda: sampling(6, 0.7))
    warm_up: bool = False  #: both reward models start from one that has learnt from corrupted gold
    warm_up_problems: int | None = None
    corrupt: CorruptArgs = field(default_factory=lambda: CorruptArgs(seed=PIPELINE_SEED))
    reward_start: TrainRewardArgs = field(default_factory=lambda: sections.reward("sorm"))
    orm: TrainRewardArgs = field(default_factory=lambda: sections.reward("orm"))  #: how the ORM is trained
    labels: LabelArgs = field(default_factory=sections.labels)  #: step labels
    sorm: TrainRewardArgs = field(default_factory=lambda: sections.reward("sorm"))  #: how the SORM is trained
    implicit: bool = False  # an implicit reward model too, the baseline of the SORM
    train_implicit: TrainImplicitArgs = field(default_factory=sections.implicit)
    label_test: bool = False  #: the reward models are measured on labelled steps of test drafts
    test_labels: LabelArgs = field(default_factory=sections.test_labels)
    pairs: PairArgs = field(default_factory=lambda: PairArgs(rollouts=PENDING, labels=PENDING, seed=PIPELINE_SEED))
    refiner: TrainPolicyArgs = field(default_factory=sections.refiner)  #: how the refiners are trained
    revise: ReviseArgs = field(default_factory=sections.revise)
    beam: bool = False  #: step beam search with the SORM too
    beam_search: BeamArgs = field(default_factory=sections.beam_search)
    until: bool = False  #: drafts are refined until the ORM accepts them too
    refine_until: UntilArgs = field(default_factory=sections.refine_until)
    rerank: RerankArgs = field(
        default_factory=lambda: RerankArgs(candidates=PENDING, orm=PENDING, sorm=PENDING, samples=3, seed=PIPELINE_SEED)
    )
    title: str = "GLoRe"
    headline_scorer: str = "orm"
    headline_where: str = "sorm"
    headline_when: str = "always"
    seed: int = 0  #: of every stage
    parallel: int = 1  #: stages that run at once

    @property
    def compared(self) -> bool:
        """Whether there is an implicit reward model."""
        return self.implicit or self.given.implicit is not None or self.rerank.compared

    def validate(self) -> None:
        """Raise ValueError naming the first setting that does not fit the others, or has no effect."""
        if self.problems is None:
            raise ValueError(CHOOSE)
        check_least(self, train_problems=1, test_problems=1, warm_up_problems=1, parallel=1, train_offset=0)
        if "oracle" in self.revise.where and self.problems.source != WORLD:
            raise ValueError(
                f"revise.where={list(self.revise.where)}: nobody knows the first error of a {self.problems.source} "
                "solution; leave oracle out"
            )
        scorers = (*SCORERS, IMPLICIT) if self.compared else SCORERS
        if self.headline_where not in self.revise.where or self.headline_scorer not in scorers:
            raise ValueError(
                f"the headline needs a scorer {' or '.join(scorers)} and a place among "
                f"revise.where={list(self.revise.where)}, not {self.headline_scorer} and {self.headline_where}"
            )
        if IMPLICIT in self.rerank.when and not self.compared:
            raise ValueError(f"rerank.when={list(self.rerank.when)} needs implicit=true, or given.implicit")
        if self.headline_when not in self.rerank.when:
            raise ValueError(f"headline_when={self.headline_when} is not among rerank.when={list(self.rerank.when)}")
        nodes, _ = glore_nodes(self, find=str)
        refuse_typed(_unused(self, {node.name for node in nodes}))


def add_reward_start(graph: Graph) -> str:
    """The stages that make the model that both reward models start from; returns its name."""
    args = graph.args
    if not args.warm_up and "reward_start" not in graph.given:
        return "student"
    gold = graph.problems("train", 0, args.warm_up_problems)
    graph.add("corrupted", CORRUPT_SOLUTIONS, graph.fill("corrupt", problems=gold))
    start = graph.fill("reward_start", kind="sorm")
    graph.add("reward_start", TRAIN_REWARD, start, policy="student", labels="corrupted")
    return "reward_start"


def add_searches(graph: Graph, test: ProblemArgs) -> dict[str, list[str]]:
    """The searches that are wanted beside what is always there; returns what `rerank` gets of them.

    Raises:
        ValueError: there are such artifacts of the user's own too.
    """
    args, made = graph.args, []
    if args.beam:
        made.append("beam_search")
        graph.add("beam_search", BEAM_SEARCH, graph.fill("beam_search", problems=test), policy="student", scorer="sorm")
    if args.until:
        made.append("refine_until")
        graph.add(
            "refine_until", REFINE_UNTIL, graph.fill("refine_until"), drafts="drafts", orm="orm", sorm="sorm",
            global_refiner="global_refiner", local_refiner="local_refiner",
        )  # fmt: skip
    if made and args.rerank.more:
        raise ValueError(
            f"rerank.more={list(args.rerank.more)} stands in place of beam=true and until=true: set either"
        )
    return {"more": made} if made else {}


def glore_nodes(args: GloreArgs, find: Callable[[str], str] = find_start) -> tuple[list[Node], dict[str, str]]:
    """Every stage of the pipeline, in an order in which they can run, and the paths given from outside.

    `find` gives the path of what a user names; with `str`, nothing is looked for.

    Raises:
        ValueError: a setting that only the pipeline can say is given, an artifact that is given is used by no stage,
            or the student's start is missing or does not go with the problems.
    """
    graph = Graph(args, GloreArgs(), INSTEAD, find)
    args = graph.args
    train = graph.problems("train", args.train_offset, args.train_problems)
    test = graph.problems("test", 0, args.test_problems)
    add_student(graph)
    graph.add("rollouts", SAMPLE, graph.fill("rollouts", problems=train), policy="student")
    graph.add("labels", LABEL_STEPS, graph.fill("labels"), rollouts="rollouts", policy="student")
    judge = add_reward_start(graph)
    graph.add("orm", TRAIN_REWARD, graph.fill("orm", kind="orm"), policy=judge, rollouts="rollouts")
    graph.add("drafts", SAMPLE, graph.fill("drafts", problems=test), policy="student")
    graph.add("samples", SAMPLE, graph.fill("samples", problems=test), policy="student")
    graph.add("pairs", BUILD_PAIRS, graph.fill("pairs"), rollouts="rollouts", labels="labels")
    graph.add("sorm", TRAIN_REWARD, graph.fill("sorm", kind="sorm"), policy=judge, labels="labels")
    for kind in KINDS:
        refiner = graph.fill("refiner", examples=[kind], problems=args.problems)
        graph.add(f"{kind}_refiner", TRAIN_POLICY, refiner, policy="student", pairs="pairs")
    graph.add(
        "revise", REVISE, graph.fill("revise"), drafts="drafts", samples="samples", global_refiner="global_refiner",
        local_refiner="local_refiner", control="control_refiner", shuffled="shuffled_refiner", orm="orm", sorm="sorm",
    )  # fmt: skip
    more, ranking = add_searches(graph, test), graph.fill("rerank")
    if args.implicit or IMPLICIT in graph.given:
        if ranking.compared:
            raise ValueError(f"rerank.implicit={ranking.implicit} stands in place of implicit=true: set either")
        ranking = replace(ranking, implicit=PENDING, reference=PENDING)
        own = graph.fill("train_implicit")
        graph.add("implicit", TRAIN_IMPLICIT, own, policy="student", rollouts="rollouts")
    graph.add(
        "rerank", RERANK, ranking, candidates="revise", orm="orm", sorm="sorm", implicit="implicit",
        reference="reference" if "reference" in graph.given else "student", **more,
    )  # fmt: skip
    if "samples" in graph.nodes and args.samples.n < (args.rerank.samples or 1):
        raise ValueError(f"rerank.samples={args.rerank.samples} cannot be chosen from samples.n={args.samples.n}")
    wanted = ["rerank"]
    if args.label_test:
        wanted.append("test_labels")
        graph.add("test_labels", LABEL_STEPS, graph.fill("test_labels"), rollouts="drafts", policy="student")
    refuse_typed(graph.filled)  # also where it is what stands there already
    # the report checks labels and problems of artifacts that are given, though no other stage may need them
    graph.keep([*wanted, *(name for name in ("rollouts", "labels", "test_labels") if name in graph.given)])
    return [*graph.nodes.values(), _report_node(graph)], graph.given


def _report_node(graph: Graph) -> Node:
    """The last stage. It reads what `rerank` read, and lists all that was run and all that was given."""
    args, made, given, reranked = graph.args, list(graph.nodes), dict(graph.given), graph.links["rerank"]
    labels, test_labels, rollouts = (
        name if name in made or name in given else None for name in ("labels", "test_labels", "rollouts")
    )
    listed = [name for name in given if name not in ("start", "student") or args.given.student is not None]

    def build(paths: dict[str, str]) -> ReportArgs:
        # a round that was not needed has the path of the one before it
        run = {}
        for name in made:
            if paths[name] not in given.values():
                run.setdefault(paths[name], name)
        return ReportArgs(
            rerank=paths["rerank"],
            **{name: paths[source] for name, source in reranked.items() if name not in ("more", "reference")},
            # searches that were made here, or artifacts of the user's own
            more=[paths[name] for name in reranked["more"]] if "more" in reranked else list(args.rerank.more),
            labels=labels and paths[labels],
            test_labels=test_labels and paths[test_labels],
            trained_on=rollouts and paths[rollouts],
            stages=list(run),
            names=list(run.values()),
            given=[paths[name] for name in listed],
            given_names=listed,
            title=args.title,
            model=args.given.student or args.student.start or "",
            scorer=args.headline_scorer,
            where=args.headline_where,
            when=args.headline_when,
            seed=args.seed,
        )

    return Node("report", REPORT, (*made, *given), build)


def _unused(args: GloreArgs, made: set[str]) -> dict[str, str]:
    """Settings without effect, by dotted key, and why."""
    reasons = {}
    if not args.student.fine_tune:
        reasons["student.sft"] = reasons["student.sft_problems"] = "student.fine_tune is false"
    if not args.student.rounds:
        for name in ("round", "round_samples", "least_gain", "validation_problems"):
            reasons[f"student.{name}"] = "student.rounds is 0"
    elif args.student.least_gain is None:
        reasons["student.validation_problems"] = "student.least_gain is null"
    switches = {
        "warm_up": ("warm_up_problems", "corrupt", "reward_start"),
        "beam": ("beam_search",),
        "until": ("refine_until",),
        "label_test": ("test_labels",),
        "implicit": ("train_implicit",),
    }
    for switch, names in switches.items():
        if not getattr(args, switch):
            reasons |= dict.fromkeys(names, f"{switch} is false")
    if args.given.student is not None:
        reasons["student"] = f"given.student={args.given.student} is used in its place"
    sections = {
        "rollouts": {"rollouts", "round_1_rollouts"},
        "refiner": {f"{kind}_refiner" for kind in KINDS},
        "train_problems": {"rollouts", "round_1_rollouts"},
        "train_offset": {"rollouts", "round_1_rollouts"},
        "test_problems": {"drafts", "samples"},
        "drafts": {"drafts", "round_0_drafts"},
        "warm_up": {"reward_start"},
        "warm_up_problems": {"corrupted"},
        "corrupt": {"corrupted"},
        "label_test": {"test_labels"},
        "train_implicit": {"implicit"},
    } | {name: {name} for name in ("samples", "reward_start", "orm", "labels", "sorm", "pairs", "revise")}
    return {
        name: "what is given stands in place of the stages that would use it"
        for name, users in sections.items()
        if not users & made and getattr(args, name) is not False  # what is turned off needs nobody
    } | reasons
