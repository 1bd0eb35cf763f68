"""LeMa as a pipeline: its arguments, and the stages that follow from them (arXiv 2310.20689).

Mistakes of the student (and of other policies) are corrected; then every arm trains the same student on the same CoT
data, alone or with corrections, and solves the same test problems.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from experiments.commands.unused import refuse_typed
from experiments.pipelines.corrected import add_asked, add_corrected, add_new_problems, source_name
from experiments.pipelines.graph import Graph
from experiments.pipelines.sections import PIPELINE_SEED, sampling, training
from experiments.report.lema import LEMA_REPORT, LemaReportArgs
from refine.lema.correct import CORRECT, CorrectArgs
from refine.lema.evolve import SEEDS, EvolveArgs
from refine.lema.mistakes import MistakeArgs
from refine.lema.oracle import ERRORS
from refine.lema.report import CONTROL, EVOLVED, START
from refine.mix import CORRECTIONS, SHARE, MixArgs
from refine.students.shipped import FOLDERS, check_words, find_start
from refine.train_policy import TRAIN_POLICY, TrainPolicyArgs
from rollouts.problems.args import ProblemArgs
from rollouts.prompts import PromptArgs
from rollouts.sampling.args import SamplerArgs
from rollouts.sampling.sample import SAMPLE, SampleArgs
from rollouts.world.args import SOURCE as WORLD
from stages.checks import check_choices, check_least, check_range
from stages.pipeline import PENDING, Node
from stages.stage import parent

CHOOSE = (
    "choose what to run: experiment=demo_lema is the embedded world, in minutes on a CPU; problems=gsm8k "
    "problems.path=DIR start=MODEL corrections.corrector=policy corrections.policy=MODEL is GSM8K with a causal LM"
)
# arm -> how its mix is sized (`refine/mix.py`), and what of a correction is left out
ARMS = {
    "equal_examples": ("examples", {}),
    "equal_tokens": ("tokens", {}),
    "more_data": ("all", {}),
    "no_explanation": ("examples", {"explanation": False}),
    "no_wrong_step": ("examples", {"wrong_step": False}),
}
COT = {"rollouts": ["rollouts"], "solutions": ["solutions"], "both": ["solutions", "rollouts"]}
# what only the pipeline can say, and what it cannot do without -> what the user sets instead
INSTEAD = {
    "problems": "set problems, train_problems, train_offset and test_problems, which go for all stages",
    "split": "the pipeline takes the train split for training and the test split for the arms' solutions",
    "offset": "set train_offset",
    "limit": "set train_problems and test_problems",
    "prompt": "set prompt, which goes for all stages",
    "policy": "set start, which all arms begin with; strong, which writes CoT data; or sources, whose mistakes count",
    "rollouts": "set sources, whose mistakes are collected as well",
    "more_rollouts": "set cot and strong",
    "corrections": "set given.corrections",
    "examples": "set cot: rollouts, solutions or both; each arm adds corrections as its name says",
    "mix": "set arms, and share for the corrections in a mix",
    "corrector": "the trained policies themselves are asked; ask_policies=false asks none",
    "ask": "the policies are asked as they were trained: set train.correction",
    "seeds": "set evolve: corrections, all, or both",
    "evolved": "set evolve; each arm of it adds its new problems",
    "mistakes": "these are the mistakes of the student on test problems",
    "student": "set start, the folder of the causal LM that all arms begin with",
}


def _train() -> TrainPolicyArgs:
    return TrainPolicyArgs(
        examples=["solutions", CORRECTIONS], policy=PENDING, corrections=[PENDING],
        train=training(3),
    )  # fmt: skip


def _asked() -> CorrectArgs:
    return CorrectArgs(
        mistakes=PENDING, corrector="policy", policy=PENDING, sampler=SamplerArgs(temperature=0.0, max_tokens=1024)
    )


@dataclass
class GivenArgs:
    """Artifacts of one's own, each used in place of the one that the pipeline would make."""

    rollouts: str | None = parent("sample", default=None)
    cot_rollouts: str | None = parent("sample", default=None)
    mistakes: str | None = parent("collect_mistakes", default=None)
    corrections: str | None = parent("correct", default=None)


@dataclass
class LemaArgs:
    """Arguments of the pipeline: those of its stages. The defaults suit a pretrained causal LM on one GPU.

    Mistakes are those of the student and of `sources` on `train_problems` problems of the train split, after the first
    `train_offset`. CoT data (`cot`) are gold `solutions` of these problems, or right `rollouts`: those of the policy
    `strong`, or the student's own. The control learns from CoT data alone; `arms` add corrections:

    - equal_examples, equal_tokens: as many examples, or tokens, as the control has; `share` of them are corrections.
    - more_data: all CoT data and all corrections.
    - no_explanation, no_wrong_step: as equal_examples, without that field.

    For each of `evolve` there is one more arm, as more_data, with the solutions of new problems (`evolution`) and the
    corrections of the mistakes on them: problems that are evolved from those that occur in corrections, or from all.
    `strong` writes them, unless evolution.policy does; in the embedded world they are its own.

    With `ask_policies`, the policy of each arm is asked to correct the student's mistakes on test problems
    (`test_mistakes`): does it name the step?

    For each of `error_rates` there is one more arm like equal_examples, from an oracle that errs so often in each of
    `error_kinds`. All arms solve `test_problems` problems of the test split (None: all). `parallel` stages run at once.
    `prompt` and `seed` go for every stage, but a seed that is given to a stage is used there.
    """

    problems: ProblemArgs | None = None  #: which problems
    prompt: PromptArgs = field(default_factory=PromptArgs)
    train_problems: int | None = None  #: problems that are trained on
    train_offset: int = 0
    test_problems: int | None = None  #: problems that every arm solves
    start: str | None = None  #: a folder of a causal LM, a hub id, or shipped
    sources: list[str] = field(default_factory=list)  #: further policies whose mistakes are corrected
    strong: str | None = None  #: a policy that writes CoT data; null: the student
    cot: str = "rollouts"  #: CoT data: rollouts, solutions, or both
    given: GivenArgs = field(default_factory=GivenArgs)  #: artifacts of one's own in place of stages
    rollouts: SampleArgs = field(default_factory=lambda: sampling(8, 1.0))
    cot_rollouts: SampleArgs = field(default_factory=lambda: sampling(4, 0.7))
    mistakes: MistakeArgs = field(default_factory=lambda: MistakeArgs(rollouts=[PENDING], seed=PIPELINE_SEED))
    corrections: CorrectArgs = field(default_factory=lambda: CorrectArgs(mistakes=PENDING, seed=PIPELINE_SEED))
    evolve: list[str] = field(default_factory=list)  #: new problems from corrections, all, or both; an arm each
    evolution: EvolveArgs = field(
        default_factory=lambda: EvolveArgs(corrections=PENDING, problems=ProblemArgs(), seed=PIPELINE_SEED)
    )
    arms: list[str] = field(default_factory=lambda: list(ARMS))  #: beside the control
    share: float = SHARE
    error_rates: list[float] = field(default_factory=list)  #: of the oracle, an arm each
    error_kinds: list[str] = field(default_factory=lambda: [one for one in ERRORS if one != "hidden_error"])
    train: TrainPolicyArgs = field(default_factory=_train)
    samples: SampleArgs = field(default_factory=lambda: sampling(1, 0.0))
    ask_policies: bool = True  #: does a trained policy name the wrong step?
    test_mistakes: MistakeArgs = field(
        default_factory=lambda: MistakeArgs([PENDING], max_per_problem=1, seed=PIPELINE_SEED, allow_empty=True)
    )
    asked: CorrectArgs = field(default_factory=_asked)  # how the policies are asked
    title: str = "LeMa"
    seed: int = 0  #: of every stage
    parallel: int = 1  #: stages that run at once

    def validate(self) -> None:
        """Raise ValueError naming the first setting that does not fit the others, or has no effect."""
        if self.problems is None:
            raise ValueError(CHOOSE)
        check_least(self, train_problems=1, test_problems=1, parallel=1, train_offset=0)
        check_choices(self, cot=tuple(COT))
        check_range(self, share="(0, 1)")
        for name, known in (("arms", ARMS), ("error_kinds", ERRORS), ("evolve", SEEDS)):
            own = getattr(self, name)
            if set(own) - set(known) or len(set(own)) < len(own):
                raise ValueError(f"{name}={list(own)} must be some of {', '.join(known)}, each once")
        self._check_errors()
        if self.ask_policies and self.train.correction.shape == "revise":
            raise ValueError(
                "train.correction.shape=revise: so a policy learns to take back steps of its own, and not to correct a "
                "solution that it reads: set ask_policies=false"
            )
        if len({self.start, *self.sources}) <= len(self.sources):
            raise ValueError(f"sources={list(self.sources)} must differ, and none is start={self.start}")
        if self.start in FOLDERS:
            check_words("start", self.start, self.problems.source)
        nodes, _ = lema_nodes(self, find=str)
        refuse_typed(_unused(self, {node.name for node in nodes}))

    def _check_errors(self) -> None:
        oracle = self.corrections.corrector == "oracle"
        if oracle and self.problems.source != WORLD and self.given.corrections is None:
            raise ValueError(
                f"corrections.corrector=oracle knows the embedded world only, not {self.problems.source}: set "
                "corrections.corrector=policy and corrections.policy"
            )
        if not self.arms and not self.error_rates and not self.evolve:
            raise ValueError("arms=[] leaves nothing to compare CoT alone with")
        if self.error_rates and not (oracle and self.error_kinds):
            raise ValueError(f"error_rates={list(self.error_rates)} needs corrections.corrector=oracle and error_kinds")
        for rate in self.error_rates:
            _with_errors(self, rate).oracle.validate()
        names = [_error_arm(rate) for rate in self.error_rates]
        if len(set(names)) < len(names) or any(rate != round(rate, 2) for rate in self.error_rates):
            raise ValueError(f"error_rates={list(self.error_rates)} must be different whole per cents, such as 0.2")


def _error_arm(rate: float) -> str:
    return f"errors_{round(100 * rate)}"


def _with_errors(args: LemaArgs, rate: float) -> CorrectArgs:
    """The arguments of an oracle that errs so often."""
    return replace(
        args.corrections, oracle=replace(args.corrections.oracle, **dict.fromkeys(args.error_kinds, float(rate)))
    )


def start_settings(args: LemaArgs) -> dict[str, str]:
    """The nodes that must be folders or models of the hub, and the setting behind each; others may be served."""
    found = {"student": "start"}
    if args.cot_rollouts.sampler.backend != "openai":
        found["strong"] = "strong"
    if args.rollouts.sampler.backend != "openai":
        found |= {source_name(n): f"sources[{n}]" for n in range(len(args.sources))}
    return found


def lema_nodes(args: LemaArgs, find: Callable[[str], str] = find_start) -> tuple[list[Node], dict[str, str]]:
    """Every stage of the pipeline, in an order in which they can run, and the paths given from outside.

    `find` gives the path of what a user names; with `str`, nothing is looked for.

    Raises:
        ValueError: a setting that only the pipeline can say is given, an artifact that is given is used by no stage,
            or there is no student.
    """
    graph = Graph(args, LemaArgs(), INSTEAD, find)
    args = graph.args
    own = {"student": args.start, "strong": args.strong} | {source_name(n): one for n, one in enumerate(args.sources)}
    graph.given |= {name: find(path) for name, path in own.items() if path is not None}
    train = graph.problems("train", args.train_offset, args.train_problems)
    test = graph.problems("test", 0, args.test_problems)
    _add_corrections(graph, train)
    add_new_problems(graph, train, COT[args.cot])
    if args.strong is not None:
        cot = graph.fill("cot_rollouts", problems=train, policy=PENDING)
        graph.add("cot_rollouts", SAMPLE, cot, policy="strong")
    arms = _add_arms(graph, train)
    for name in [START, *arms]:
        samples = graph.fill("samples", problems=test, policy=PENDING)
        graph.add(f"{name}_samples", SAMPLE, samples, policy="student" if name == START else name)
    left_out = {arm: fields for arm, (_, fields) in ARMS.items()}
    asked = add_asked(graph, arms, left_out)
    refuse_typed(graph.filled)  # also where it is what stands there already
    graph.keep([*(f"{name}_samples" for name in [START, *arms]), *(f"{name}_asked" for name in asked)])
    return [*graph.nodes.values(), _report_node(graph, arms, asked)], graph.given


def _add_corrections(graph: Graph, train: ProblemArgs) -> None:
    """From rollouts to mistakes to corrections, and to those of an oracle that errs."""
    corrections, parents = add_corrected(graph, "", train)
    for rate in graph.args.error_rates:
        erring = replace(corrections, oracle=_with_errors(graph.args, rate).oracle)
        graph.add(f"{_error_arm(rate)}_corrections", CORRECT, erring, **parents)


def _add_arms(graph: Graph, train: ProblemArgs) -> list[str]:
    """The trainings, each of which begins with the student; returns their names, the control first."""
    args, cot = graph.args, COT[graph.args.cot]
    filled = graph.fill(
        "train", examples=["solutions", CORRECTIONS], problems=train, policy=PENDING, corrections=[PENDING],
        rollouts=None, more_rollouts=[], evolved=[], mix=MixArgs(),
    )  # fmt: skip
    parents: dict[str, str | list[str]] = {"policy": "student"}
    if "rollouts" in cot:
        filled = replace(filled, rollouts=PENDING)
        parents["rollouts"] = "rollouts" if args.strong is None and args.given.cot_rollouts is None else "cot_rollouts"
    alone = replace(filled, examples=cot, corrections=[], correction=type(filled.correction)())
    graph.add(CONTROL, TRAIN_POLICY, alone, **parents)
    both = replace(filled, examples=[*cot, CORRECTIONS])
    settings = {name: (*ARMS[name], CORRECTIONS) for name in args.arms}
    settings |= {
        _error_arm(rate): (*ARMS["equal_examples"], f"{_error_arm(rate)}_corrections") for rate in args.error_rates
    }
    for name, (by, left_out, source) in settings.items():
        mix = MixArgs() if by == "all" else MixArgs(by, corrections=args.share)
        own = replace(both, mix=mix, correction=replace(both.correction, **left_out))
        graph.add(name, TRAIN_POLICY, own, corrections=[source], **parents)
    for seeds in args.evolve:
        new, more = f"new_{seeds}", dict(parents)
        if "solutions" in cot:
            more["evolved"] = [new]
        if "rollouts" in cot:
            more["more_rollouts"] = [f"{new}_rollouts" if args.strong is None else f"{new}_cot_rollouts"]
        own = [CORRECTIONS, f"{new}_{CORRECTIONS}"]
        graph.add(f"{EVOLVED}{seeds}", TRAIN_POLICY, both, corrections=own, **more)
    return [CONTROL, *settings, *(f"{EVOLVED}{seeds}" for seeds in args.evolve)]


def _report_node(graph: Graph, arms: list[str], asked: list[str]) -> Node:
    """The last stage: it reads what every arm wrote, was trained on and cost."""
    args, made, given = graph.args, list(graph.nodes), dict(graph.given)
    known = [*made, *given]
    trained_on = [name for name in known if name == "rollouts" or name.endswith("_rollouts")]
    own = {name for name, node in graph.nodes.items() if node.stage is CORRECT} - {f"{name}_asked" for name in asked}
    corrections = [name for name in known if name == CORRECTIONS or name in own]

    def build(paths: dict[str, str]) -> LemaReportArgs:
        return LemaReportArgs(
            start=paths[f"{START}_samples"],
            samples=[paths[f"{name}_samples"] for name in arms],
            policies=[paths[name] for name in arms],
            arms=arms,
            trained_on=[paths[name] for name in trained_on],
            corrections=[paths[name] for name in corrections],
            correction_names=corrections,
            asked=[paths[f"{name}_asked"] for name in asked],
            asked_names=asked,
            stages=[paths[name] for name in made],
            names=made,
            title=args.title,
            model=args.start or "",
            seed=args.seed,
        )

    return Node("report", LEMA_REPORT, tuple(known), build)


def _unused(args: LemaArgs, made: set[str]) -> dict[str, str]:
    """Settings without effect, by dotted key, and why."""
    reasons = {}
    if args.strong is None:
        reasons["cot_rollouts"] = "strong is null, and the CoT data are the student's rollouts or gold solutions"
    elif "cot_rollouts" not in made:
        reasons["strong"] = reasons["cot_rollouts"] = f"cot={args.cot}, or what is given stands in its place"
    if not args.ask_policies:
        reasons["test_mistakes"] = reasons["asked"] = "ask_policies is false"
    if not args.error_rates:
        reasons["error_kinds"] = "error_rates is empty"
    if not {"rollouts", *(f"{source_name(n)}_rollouts" for n in range(len(args.sources)))} & made:
        reasons["rollouts"] = "what is given stands in place of the stages that would use it"
    if not args.evolve:
        reasons["evolution"] = "evolve is empty"
    for name in ("mistakes", CORRECTIONS):
        if name not in made and not any(one.endswith(f"_{name}") for one in made - {"test_mistakes"}):
            reasons[name] = "what is given stands in place of the stages that would use it"
    if args.sources and "mistakes" not in made:
        reasons["sources"] = "the mistakes are given"
    return reasons
