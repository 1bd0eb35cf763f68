"""The student: a model to start from, fine-tuned on gold solutions, and by Expert Iteration: rounds of sampling and
training until greedy accuracy saturates (GLoRe sec. 4).

A round samples from the policy of the round before. It trains the policy that all rounds begin with anew, on the right
and different rollouts of all rounds so far: rollouts of a better policy add to those of a worse one, and no policy is
trained twice on the same texts.

The graph has a place for every round. When a round gained too little, the artifacts of the last one that was run stand
in place of those of later rounds, which are not run (`stages.pipeline.Node`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

from experiments.pipelines.graph import Graph
from experiments.pipelines.sections import training
from refine.students.shipped import FOLDERS, check_words
from refine.train_policy import TRAIN_POLICY, TrainPolicyArgs
from rollouts.sampling.protocol import SEEDS
from rollouts.sampling.sample import SAMPLE, SampleArgs
from stages.artifacts import open_artifact
from stages.checks import check_least, check_range
from stages.pipeline import PENDING

logger = logging.getLogger(__name__)

SCRATCH = "scratch"


@dataclass
class StudentArgs:
    """Where the student comes from: `start` is the folder of a Hugging Face causal LM, `shipped` (the embedded world's
    checkpoint that comes with the package), or `scratch` (a small model made from nothing, for the embedded world).

    It is fine-tuned on the gold solutions of `sft_problems` problems (None: all) where `fine_tune` is true, and then by
    at most `rounds` of Expert Iteration, of `round_samples` solutions a problem (96: GLoRe sec. 4). They end with the
    first that gains less than `least_gain` of greedy accuracy on `validation_problems` problems (None: all), and the
    best of them is the student. Where `least_gain` is None, all are run, nothing is measured, and the last one is the
    student.
    """

    start: str | None = None  #: a folder of a causal LM or a hub id; shipped, scratch
    fine_tune: bool = False  #: on gold solutions first
    sft: TrainPolicyArgs = field(default_factory=lambda: TrainPolicyArgs(train=training(3)))
    sft_problems: int | None = None  #: how many of them
    rounds: int = 0  #: of expert iteration, at most
    round: TrainPolicyArgs = field(
        default_factory=lambda: TrainPolicyArgs(examples=["rollouts"], rollouts=PENDING, train=training(1))
    )
    round_samples: int = 96
    least_gain: float | None = 0.01  #: of accuracy, for another round
    validation_problems: int | None = 1000

    def validate(self) -> None:
        """Raise ValueError where there would be no student."""
        if self.start == SCRATCH and not self.fine_tune:
            raise ValueError("student.start=scratch needs student.fine_tune=true: it knows nothing yet")
        check_least(self, rounds=0, round_samples=2, sft_problems=1, validation_problems=1)
        check_range(self, least_gain="[0, 1)")


def add_student(graph: Graph) -> None:
    """The stages that make the student, the last of them named `student`."""
    args, student = graph.args, graph.args.student
    if "student" in graph.given:
        return
    if student.start in (*FOLDERS, SCRATCH):
        check_words("student.start", student.start, args.problems.source)
    before = "start" if student.fine_tune or student.rounds else "student"
    if student.start not in (SCRATCH, None):
        graph.given[before] = graph.find(student.start)
    if student.fine_tune:
        problems = graph.problems("train", 0, student.sft_problems)
        policy = None if student.start == SCRATCH else PENDING
        sft = graph.fill("student.sft", examples=["solutions"], problems=problems, policy=policy)
        name = "sft" if student.rounds else "student"
        graph.add(name, TRAIN_POLICY, sft, policy=before)
        before = name
    if student.rounds:
        train = graph.problems("train", args.train_offset, args.train_problems)
        sample = replace(graph.fill("rollouts", problems=train), policy=PENDING, n=student.round_samples)
        own = graph.fill(
            "student.round", examples=["rollouts"], problems=args.problems, policy=PENDING, more_rollouts=[]
        )
        greedy = None
        if student.least_gain is not None:
            validation = graph.problems("validation", 0, student.validation_problems)
            greedy = replace(graph.fill("drafts", problems=validation), policy=PENDING, n=1, seed=0)
            greedy = replace(greedy, sampler=replace(greedy.sampler, temperature=0.0))
        add_rounds(graph, before, student.rounds, sample, own, greedy, student.least_gain)


def add_rounds(
    graph: Graph,
    start: str,
    rounds: int,
    sample: SampleArgs,
    train: TrainPolicyArgs,
    greedy: SampleArgs | None,
    least_gain: float | None,
) -> None:
    """Add the rounds, each beginning with the policy of node `start`; the node `student` is the best of them.

    `sample` are the arguments of a round's rollouts, `train` those of its training, `greedy` those of the drafts whose
    accuracy is gone by (None: all rounds are run, and the last is the student).
    """
    names = [start, *(f"round_{number}" for number in range(1, rounds)), f"round_{rounds}" if greedy else "student"]
    drafts = [f"round_{number}_drafts" for number in range(rounds + 1)]
    sampled: list[str] = []
    if greedy is not None:
        graph.add(drafts[0], SAMPLE, greedy, policy=start)
    for number in range(1, rounds + 1):
        before, name, rollouts = names[number - 1], names[number], f"round_{number}_rollouts"
        graph.add(rollouts, SAMPLE, replace(sample, seed=(sample.seed + 1000 * number) % SEEDS), policy=before)
        graph.add(name, TRAIN_POLICY, train, policy=start, rollouts=rollouts, more_rollouts=sampled[::-1])
        if greedy is not None:
            graph.add(drafts[number], SAMPLE, greedy, policy=name)
        if greedy is not None and number > 1:
            _add_stop(graph, [drafts[number - 2], drafts[number - 1]], (rollouts, sampled[-1]), least_gain)
            _follow(graph, (name, before), (rollouts, sampled[-1]))
            _follow(graph, (drafts[number], drafts[number - 1]), (name, before))
        sampled.append(rollouts)
    if greedy is not None:
        last = graph.nodes[names[-1]]
        graph.nodes["student"] = replace(last, name="student")
        graph.unless("student", lambda paths: _best(paths, names, drafts), *names, *drafts)


def _add_stop(graph: Graph, drafts: list[str], rollouts: tuple[str, str], least_gain: float) -> None:
    """Not to sample for a round where the one before gained less than `least_gain`, or was not needed itself."""

    def instead(paths: dict[str, str]) -> str | None:
        first, second = (paths[name] for name in drafts)
        enough = first == second or accuracy(second) - accuracy(first) < least_gain
        return paths[rollouts[1]] if enough else None

    graph.unless(rollouts[0], instead, *drafts, rollouts[1])


def _follow(graph: Graph, names: tuple[str, str], by: tuple[str, str]) -> None:
    """Not to run the first of `names` where the two of `by` are one artifact; the second stands in its place."""

    def instead(paths: dict[str, str]) -> str | None:
        return paths[names[1]] if paths[by[0]] == paths[by[1]] else None

    graph.unless(names[0], instead, names[1], *by)


def _best(paths: dict[str, str], names: list[str], drafts: list[str]) -> str:
    """The policy with the best drafts; of equals the first."""
    found = {paths[name]: accuracy(paths[own]) for name, own in zip(names, drafts, strict=True)}
    best = max(found, key=found.__getitem__)
    told = ", ".join(f"{100 * one:.1f}%" for one in found.values())
    logger.info("student: right on %s of the validation problems after round 0, 1, ...: %s is taken", told, best)
    return best


def accuracy(drafts: str) -> float:
    """The share of an artifact's rollouts that are right; 0 where none could be graded."""
    return open_artifact(drafts, thorough=False).manifest["counts"].get("accuracy", 0.0)
