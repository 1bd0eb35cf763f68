"""The stage that trains both reward models: an ORM from rollouts, a SORM from step labels.

Same model, loss and trainer; only the labels differ. What is held out for validation is held out by problem, and
chooses the threshold that is saved with the model.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rewards.encode import LabelledSolution, encode_solutions, warn_of_lost
from rewards.labels.cleaning import balance_lengths, to_solutions
from rewards.labels.outcome import BALANCES, POSITIONS, balance_outcomes, label_outcomes
from rewards.metrics import (
    auroc,
    best_threshold,
    brier,
    expected_calibration_error,
    first_error_accuracy,
    pairwise_accuracy,
)
from rollouts.prompts import PromptArgs
from rollouts.records import Problem, Rollout, StepLabels
from rollouts.sampling.policies import context_length
from stages.stage import Stage, only_when, parent
from stages.workspace import Quarantined, Workspace
from training.adapters import ADAPTER, LoraArgs
from training.args import TrainArgs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rewards.scorer import Scorer

logger = logging.getLogger(__name__)

TARGETS = ("hard", "soft")
_POSITIONS = 10  # from which on positions are taken together
_LEAST = 1e-7  # the smallest chance of being wrong that is believed, since the last digits of a float32 say 0


@dataclass
class TrainRewardArgs:
    """Arguments of the stage `train_reward`.

    `kind` orm reads `rollouts`, sorm reads `labels`. `positions` and `balance` are the ORM's; `balance_lengths` is the
    SORM's rule 3 (GLoRe sec. 3.2), and `targets` says whether it learns its labels (hard) or the share of
    continuations expected to be right (soft). `shuffled_labels` trains the control that can learn nothing.
    """

    kind: str = "orm"  #: orm or sorm
    policy: str = parent("train_policy", "train_reward", any_path=True)  #: the causal LM to start from
    rollouts: str | None = parent("sample", default=None)  #: an artifact of sample, for an ORM
    labels: str | None = parent("label_steps", "import_labels", default=None)  #: step labels, for a SORM
    positions: str = only_when("all_steps", "kind", "orm")
    balance: str = only_when("problem", "kind", "orm")
    balance_lengths: bool = only_when(True, "kind", "sorm")
    targets: str = only_when("hard", "kind", "sorm")  #: hard labels, or soft: the share expected to be right
    shuffled_labels: bool = False
    prompt: PromptArgs = field(default_factory=PromptArgs)
    validation_share: float = 0.05  #: of the problems, held out
    max_length: int = 512  #: tokens of the longest solution
    # where no label is left after balancing, save the model untrained: for debugging with weak policies only
    allow_empty: bool = False
    lora: LoraArgs = field(default_factory=LoraArgs)  #: train an adapter: rank, targets
    train: TrainArgs = field(default_factory=TrainArgs)  #: how to train

    def validate(self) -> None:
        """Raise ValueError naming the first setting that does not fit the others."""
        if self.kind not in ("orm", "sorm"):
            raise ValueError(f"kind={self.kind!r} is neither orm nor sorm")
        if self.positions not in POSITIONS or self.balance not in BALANCES:
            raise ValueError(
                f"positions={self.positions!r} must be one of {', '.join(POSITIONS)} and balance={self.balance!r} "
                f"one of {', '.join(BALANCES)}"
            )
        if (self.kind == "orm") != (self.rollouts is not None) or (self.kind == "sorm") != (self.labels is not None):
            raise ValueError(
                f"an orm is trained on rollouts, a sorm on labels: kind={self.kind} with "
                f"rollouts={self.rollouts}, labels={self.labels}"
            )
        if self.targets not in TARGETS or (self.kind == "orm" and self.targets != "hard"):
            raise ValueError(f"targets={self.targets!r} must be hard, or soft for a sorm, and kind is {self.kind}")
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share must be in (0, 1), not {self.validation_share}")
        if self.max_length < 8:
            raise ValueError(f"max_length must be at least 8, not {self.max_length}")


def split_problems(ids: Sequence[str], share: float, seed: int) -> set[str]:
    """The problems held out for validation: a share of them, at least one, never all."""
    unique = sorted(set(ids))
    if len(unique) < 2:
        raise ValueError(f"a reward model needs at least 2 problems, one of them for validation, not {len(unique)}")
    random.Random(f"validation/{seed}").shuffle(unique)
    return set(unique[: min(len(unique) - 1, max(1, round(share * len(unique))))])


def build_solutions(args: TrainRewardArgs, work: Workspace) -> tuple[list[LabelledSolution], list[LabelledSolution]]:
    """Labelled solutions for training (balanced) and for validation (as they are)."""
    if args.kind == "orm":
        rollouts = work.parents["rollouts"].rows(Rollout)
        held = split_problems([r.problem_id for r in rollouts], args.validation_share, args.train.seed)
        train = balance_outcomes([r for r in rollouts if r.problem_id not in held], args.balance, args.train.seed)
        validation = label_outcomes([r for r in rollouts if r.problem_id in held], "all_steps")
        return label_outcomes(train, args.positions), validation
    labels = work.parents["labels"].rows(StepLabels)
    held = split_problems([row.problem_id for row in labels], args.validation_share, args.train.seed)
    train = [row for row in labels if row.problem_id not in held]
    soft = args.targets == "soft"
    balanced = balance_lengths(train, args.train.seed, soft) if args.balance_lengths else to_solutions(train, soft=soft)
    return balanced, to_solutions([row for row in labels if row.problem_id in held], soft=soft)


def shuffle_labels(solutions: Sequence[LabelledSolution], seed: int) -> list[LabelledSolution]:
    """The control: every label goes to another step at random, so that nothing can be learnt from them."""
    labels = [label for s in solutions for label in s.labels if label is not None]
    random.Random(f"shuffle/{seed}").shuffle(labels)
    rest = iter(labels)
    return [
        LabelledSolution(s.problem_id, s.steps, tuple(None if label is None else next(rest) for label in s.labels))
        for s in solutions
    ]


def validate_scores(
    kind: str, solutions: Sequence[LabelledSolution], scores: Sequence[Sequence[float]]
) -> dict[str, float]:
    """What the held-out problems say of a model, by their own labels; a soft one counts as right from over 0.5.

    Cross-entropy (of the labels as they are), AUROC, Brier score, expected calibration error, and accuracy over all
    steps and at each position (`accuracy_at_1` is the first step, `accuracy_at_10` all from the tenth on);
    `threshold` is the one of best balanced accuracy on intermediate steps (0.5 where they are all of one kind). For
    a SORM also how often the first wrong step is found; for an ORM AUROC and within-problem pairwise accuracy of
    the scores of full solutions. What the labels cannot give is left out.
    """
    known = [
        (label, score, step)
        for solution, own in zip(solutions, scores, strict=True)
        for step, (label, score) in enumerate(zip(solution.labels, own, strict=True))
        if label is not None
    ]
    right, values = [label > 0.5 for label, *_ in known], [score for _, score, _ in known]
    intermediate = [
        (label > 0.5, score)
        for solution, own in zip(solutions, scores, strict=True)
        for label, score in list(zip(solution.labels, own, strict=True))[:-1]
        if label is not None
    ]
    threshold = best_threshold([label for label, _ in intermediate], [score for _, score in intermediate])
    hits = [(value >= threshold) == label for label, value in zip(right, values, strict=True)]
    found = {
        "cross_entropy": sum(cross_entropy(label, score) for label, score, _ in known) / len(known),
        "auroc": auroc(right, values),
        "brier": brier(right, values),
        "calibration_error": expected_calibration_error(right, values),
        "accuracy": sum(hits) / len(hits),
        "threshold": threshold,
    }
    places: dict[int, list[bool]] = {}
    for hit, (_, _, step) in zip(hits, known, strict=True):
        places.setdefault(min(step + 1, _POSITIONS), []).append(hit)
    found |= {f"accuracy_at_{place}": sum(own) / len(own) for place, own in sorted(places.items())}
    if kind == "orm":
        finals = [(s.problem_id, s.labels[-1] == 1.0, own[-1]) for s, own in zip(solutions, scores, strict=True)]
        found["pairwise_accuracy"] = pairwise_accuracy(*map(list, zip(*finals, strict=True)))
        found["final_auroc"] = auroc([right for _, right, _ in finals], [score for *_, score in finals])
    else:
        found["first_error_accuracy"] = found_errors(solutions, scores, threshold)
    return {name: value for name, value in found.items() if value is not None}


def cross_entropy(label: float, probability: float) -> float:
    """What a step's probability costs in nats, given its label in [0, 1]."""
    sure = min(max(probability, _LEAST), 1 - _LEAST)
    return -label * math.log(sure) - (1 - label) * math.log(1 - sure)


def found_errors(
    solutions: Sequence[LabelledSolution], scores: Sequence[Sequence[float]], threshold: float
) -> float | None:
    """How often the first wrong step, or that there is none, is what the scores say; of the solutions whose labels
    up to there are all known."""
    truth, said = [], []
    for solution, own in zip(solutions, scores, strict=True):
        until = [None if label is None else label > 0.5 for label in solution.labels]
        wrong = until.index(False) if False in until else None
        if None not in until[:wrong]:
            truth.append(wrong)
            said.append(next((i for i, score in enumerate(own) if score < threshold), None))
    return first_error_accuracy(truth, said)


def drop_too_long(
    scorer: Scorer, problems: dict[str, Problem], solutions: Sequence[LabelledSolution], work: Workspace
) -> list[LabelledSolution]:
    """The solutions that the model can read whole. The others are counted, and their labels, and named in
    quarantine.parquet by their problems."""
    from rewards.scorer import TooLong

    kept, left_out, lost = [], [], 0
    for solution in solutions:
        try:
            scorer.encode(problems[solution.problem_id], solution.steps)
            kept.append(solution)
        except TooLong as error:
            left_out.append(Quarantined(solution.problem_id, str(error)))
            lost += sum(label is not None for label in solution.labels)
    if left_out:
        logger.warning("%d solutions held out are too long to be read: %s", len(left_out), left_out[0].reason)
    work.quarantine(left_out)
    work.count(validation_too_long=len(left_out), validation_labels_lost=lost)
    return kept


def train_reward(args: TrainRewardArgs, work: Workspace) -> None:
    """Train a reward model and save it as a Hugging Face token-classification folder: the artifact itself."""
    from rewards.losses import reward_loss
    from rewards.reward_model import make_reward_model, save_reward_model
    from rewards.scorer import Scorer
    from training.adapters import add_adapter, merge_adapter, save_adapter
    from training.loop import fit

    source = work.parents["rollouts" if args.kind == "orm" else "labels"]
    problems = {problem.id: problem for problem in source.rows(Problem, "problems")}
    template = args.prompt.template()
    questions = {problem.id: problem.question for problem in problems.values()}
    train, validation = build_solutions(args, work)
    if args.shuffled_labels:
        train = shuffle_labels(train, args.train.seed)
    model, tokenizer = make_reward_model(args.policy, args.train.device, template)
    model = add_adapter(model, args.lora, args.train.seed)
    reader = Scorer(model, tokenizer, args.kind, 0.5, template=template)
    validation = drop_too_long(reader, problems, validation, work)
    most = min(args.max_length, context_length(model) or args.max_length)
    examples, names, lost = [], [], 0
    for solution in train:
        own, gone = encode_solutions(tokenizer, questions, [solution], most, template)
        examples += own
        names += [solution.problem_id] * len(own)
        lost += gone

    def evaluate(trained: PreTrainedModel) -> dict[str, float]:
        scorer = Scorer(trained, tokenizer, args.kind, 0.5, template=template)
        scores = scorer.score([problems[s.problem_id] for s in validation], [s.steps for s in validation])
        return validate_scores(args.kind, validation, scores)

    final: dict[str, float] = {}
    if examples or not args.allow_empty:
        judge = evaluate if validation else None
        trained = fit(
            model, tokenizer, examples, reward_loss, args.train, work, f"train {args.kind}", judge, names
        )  # fmt: skip
        final = trained.evaluation
        work.spend(int(trained.figures["trained_tokens"]))
        work.count(**trained.figures)
    elif validation:
        final = evaluate(model)
    if work.processes.first:  # the library saves nothing on others
        if args.lora.keep_adapter:
            save_adapter(model, work.folder / ADAPTER)
        threshold = final.get("threshold", 0.5)
        save_reward_model(merge_adapter(model), tokenizer, work.folder, args.kind, threshold, template)
    left = sum(len(example.targets) for example in examples)
    warn_of_lost(lost, left, most)
    work.count(labels_lost=lost, labels=left)
    work.count(**{f"validation_{name}": value for name, value in final.items()})


TRAIN_REWARD = Stage("train_reward", 3, TrainRewardArgs, train_reward)
