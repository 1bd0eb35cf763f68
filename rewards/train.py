"""The stage that trains both reward models: an ORM from rollouts, a SORM from step labels.

Same model, loss and trainer; only the labels differ. What is held out for validation is held out by problem, and
chooses the threshold that is saved with the model.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rewards.cleaning import balance_lengths, to_solutions
from rewards.examples import LabelledSolution, encode_solutions
from rewards.metrics import auroc, best_threshold, brier, pairwise_accuracy
from rewards.outcome import BALANCES, POSITIONS, balance_outcomes, label_outcomes
from rollouts.artifacts import Stage, Workspace, parent
from rollouts.policies import context_length
from rollouts.types import Problem, Rollout, StepLabels
from training.loop import TrainArgs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class TrainRewardArgs:
    """Arguments of the stage `train_reward`.

    `kind` orm reads `rollouts`, sorm reads `labels`. `positions` and `balance` are the ORM's; `balance_lengths` is the
    SORM's rule 3 (GLoRe sec. 3.2). `shuffled_labels` trains the control that can learn nothing.
    """

    kind: str = "orm"
    policy: str = parent("train_policy", "train_reward", plain=True)
    rollouts: str | None = parent("sample", default=None)
    labels: str | None = parent("label_steps", default=None)
    positions: str = "all_steps"
    balance: str = "problem"
    balance_lengths: bool = True
    shuffled_labels: bool = False
    validation_share: float = 0.05
    max_length: int = 512
    # where no label is left after balancing, save the model untrained: for debugging with weak policies only
    allow_empty: bool = False
    train: TrainArgs = field(default_factory=TrainArgs)

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
    balanced = balance_lengths(train, args.train.seed) if args.balance_lengths else to_solutions(train)
    return balanced, to_solutions([row for row in labels if row.problem_id in held])


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
    """What the held-out problems say of a model, by their own labels.

    AUROC, Brier score and accuracy over all steps; `threshold` is the one of best balanced accuracy on intermediate
    steps (0.5 where they are all of one kind); for an ORM also AUROC and within-problem pairwise accuracy of the
    scores of full solutions.
    """
    known = [
        (label > 0.5, score, step + 1 < len(solution.steps))
        for solution, own in zip(solutions, scores, strict=True)
        for step, (label, score) in enumerate(zip(solution.labels, own, strict=True))
        if label is not None
    ]
    labels, values = [label for label, *_ in known], [score for _, score, _ in known]
    intermediate = [(label, score) for label, score, before_last in known if before_last]
    threshold = best_threshold([label for label, _ in intermediate], [score for _, score in intermediate])
    found = {
        "auroc": auroc(labels, values),
        "brier": brier(labels, values),
        "accuracy": sum((value >= threshold) == label for label, value in zip(labels, values, strict=True))
        / len(labels),
        "threshold": threshold,
    }
    if kind == "orm":
        finals = [(s.problem_id, s.labels[-1] == 1.0, own[-1]) for s, own in zip(solutions, scores, strict=True)]
        found["pairwise_accuracy"] = pairwise_accuracy(*map(list, zip(*finals, strict=True)))
        found["final_auroc"] = auroc([right for _, right, _ in finals], [score for *_, score in finals])
    return {name: value for name, value in found.items() if value is not None}


def train_reward(args: TrainRewardArgs, work: Workspace) -> None:
    """Train a reward model and save it as a Hugging Face token-classification folder: the artifact itself."""
    from rewards.model import reward_loss
    from rewards.score import Scorer
    from training.loop import count_steps, fit
    from training.models import make_reward_model, save_reward_model

    source = work.parents["rollouts" if args.kind == "orm" else "labels"]
    problems = {problem.id: problem for problem in source.rows(Problem, "problems")}
    questions = {problem.id: problem.question for problem in problems.values()}
    train, validation = build_solutions(args, work)
    if args.shuffled_labels:
        train = shuffle_labels(train, args.train.seed)
    model, tokenizer = make_reward_model(args.policy, args.train.device)
    most = min(args.max_length, context_length(model) or args.max_length)
    examples, lost = encode_solutions(tokenizer, questions, train, most)
    steps = count_steps([len(example.ids) for example in examples], args.train)
    latest: dict[str, float] = {}

    def evaluate(trained: PreTrainedModel) -> dict[str, float]:
        scorer = Scorer(trained, tokenizer, args.kind, 0.5)
        scores = scorer.score([problems[s.problem_id] for s in validation], [s.steps for s in validation])
        latest.clear()
        latest.update(validate_scores(args.kind, validation, scores))
        return dict(latest)

    if examples or not args.allow_empty:
        with work.progress(steps, "steps", f"train {args.kind}") as bar:
            figures = fit(
                model, examples, reward_loss, args.train, tokenizer.pad_token_id, work.track, bar,
                evaluate if validation else None,
            )  # fmt: skip
        work.spend(int(figures["trained_tokens"]))
        work.count(**figures)
    if validation and not latest:
        evaluate(model)
    final = {f"validation_{name}": value for name, value in latest.items()}
    save_reward_model(model, tokenizer, work.folder, args.kind, float(final.get("validation_threshold", 0.5)))
    work.count(labels_lost=lost, labels=sum(len(e.targets) for e in examples), **final)


TRAIN_REWARD = Stage("train_reward", 1, TrainRewardArgs, train_reward)
