"""The stage that trains both reward models: an ORM from rollouts, a SORM from step labels.

Same model, loss and trainer; only the labels differ. What is held out for validation is held out by problem, and
chooses the two thresholds that are saved with the model.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rewards.card import reward_card
from rewards.encode import LabelledSolution, encode_solutions, pair_solutions, warn_of_lost
from rewards.labels.cleaning import balance_lengths, to_solutions
from rewards.labels.names import liken_names, name_labels
from rewards.labels.outcome import (
    BALANCES,
    POSITIONS,
    Outcome,
    balance_outcomes,
    drop_duplicates,
    drop_unusable,
    from_candidate,
    from_rollout,
    label_outcomes,
)
from rewards.losses import LOSSES, make_loss
from rewards.thresholds import by_position, position_priors
from rewards.validation import validate_scores
from rollouts.problems.merge import merge_problems
from rollouts.problems.splits import draw_held_out
from rollouts.prompts import PromptArgs
from rollouts.records import Candidate, Problem, Rollout, StepLabels
from rollouts.sampling.policies import context_length
from stages.checks import check_choices, check_least, check_range
from stages.stage import Stage, only_when, parent
from stages.workspace import Quarantined, Workspace
from training.adapters import ADAPTER, LoraArgs
from training.args import TrainArgs
from training.plan import pack_size

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from rewards.scorer import Scorer
    from stages.artifacts import Artifact

logger = logging.getLogger(__name__)

TARGETS = ("hard", "soft")


@dataclass(kw_only=True)
class JudgeArgs:
    """What every stage has that trains a judge of solutions: how it reads them, what is held out, and how it trains."""

    prompt: PromptArgs = field(default_factory=PromptArgs)
    validation_share: float = 0.05  #: of the problems, held out
    max_length: int = 1024  #: tokens of the longest solution
    # where no label is left after balancing, save the model untrained: for debugging with weak policies only
    allow_empty: bool = False
    lora: LoraArgs = field(default_factory=LoraArgs)  #: train an adapter: rank, targets
    train: TrainArgs = field(default_factory=TrainArgs)  #: how to train

    def validate(self) -> None:
        """Raise ValueError naming the first setting out of range."""
        check_range(self, validation_share="(0, 1)")
        check_least(self, max_length=8)


@dataclass
class TrainRewardArgs(JudgeArgs):
    """Arguments of the stage `train_reward`.

    `kind` orm reads `rollouts` and `more_rollouts`: each text of a problem once, and none that was cut. With
    refinements of training problems among them, it has seen what it will rank. `positions` and `balance` are its too.
    The SORM reads `labels`; `balance_lengths` is rule 3 (GLoRe sec. 3.2), and `targets` says whether it learns its
    labels (hard) or the expected share of right continuations of each prefix, whatever solution that is in (soft).
    `loss` is bce, for probabilities; `pairwise` for an ORM, which puts the last scores of a problem's right solutions
    above those of its wrong ones, and says nothing of other steps; or `pqm` for a SORM, which ranks the steps of a
    solution, wrong ones lower by `margin` than where it began (`rewards/losses.py`). Scores of the last two keep that
    order, but are no probabilities.
    `names` is for a start from corrupted solutions of the embedded world: it learns whom each step is about in place of
    whether it is right, names are made alike (`rewards/labels/names.py`), and two layers are put below the policy's
    that find where a name stood before (`training.models.add_matching`). `shuffled_labels` trains the control,
    which can learn nothing. `added_layers` makes the model deeper than the policy that it starts from; at first they
    change nothing (LLaMA Pro, arXiv 2401.02415).
    """

    kind: str = "orm"  #: orm or sorm
    policy: str = parent("train_policy", "train_reward", any_path=True)  #: the causal LM to start from: a folder, hub:…
    rollouts: str | None = parent("sample", default=None)  #: an artifact of sample, for an ORM
    labels: str | None = parent("label_steps", "import_labels", "corrupt_solutions", default=None)  #: for a SORM
    more_rollouts: list[str] = only_when(parent("sample", "revise", default=[]), "kind", "orm")  #: also of revise
    positions: str = only_when("all_steps", "by_steps", True)  #: an orm's, with bce: all_steps or last
    balance: str = only_when("problem", "kind", "orm")
    balance_lengths: bool = only_when(True, "kind", "sorm")
    targets: str = only_when("hard", "kind", "sorm")  #: hard labels, or soft: the share expected to be right
    loss: str = only_when("bce", "loss", "pairwise", "pqm")  #: bce, pairwise (orm) or pqm (sorm)
    margin: float = only_when(4.0, "loss", "pqm")  #: zeta of pqm
    names: bool = only_when(False, "names", True)
    shuffled_labels: bool = False
    added_layers: int = only_when(0, "deeper", True)

    @property
    def deeper(self) -> bool:
        """Whether the model has layers that the policy has not."""
        return self.added_layers > 0

    @property
    def by_steps(self) -> bool:
        """Whether each step of an ORM's solutions may have a loss of its own."""
        return self.kind == "orm" and self.loss == "bce"

    def validate(self) -> None:
        """Raise ValueError naming the first setting that does not fit the others."""
        check_choices(self, kind=("orm", "sorm"), positions=POSITIONS, balance=BALANCES, targets=TARGETS, loss=LOSSES)
        if (self.kind == "orm") != (self.rollouts is not None) or (self.kind == "sorm") != (self.labels is not None):
            raise ValueError(
                f"an orm is trained on rollouts, a sorm on labels: kind={self.kind} with "
                f"rollouts={self.rollouts}, labels={self.labels}"
            )
        if self.kind == "sorm" and self.more_rollouts:
            raise ValueError(f"more_rollouts={list(self.more_rollouts)} are an orm's, and kind is sorm")
        if self.kind == "orm" and self.targets != "hard":
            raise ValueError(f"targets={self.targets!r} must be hard, or soft for a sorm, and kind is {self.kind}")
        if self.names and (self.kind == "orm" or self.shuffled_labels or self.lora.rank):
            raise ValueError(
                f"names=true is for a sorm that is trained whole on its own labels: kind={self.kind}, "
                f"shuffled_labels={self.shuffled_labels}, lora.rank={self.lora.rank}"
            )
        if self.loss == "pairwise" and self.kind != "orm":
            raise ValueError("loss=pairwise compares whole solutions of a problem, and is for kind=orm: kind=sorm")
        if self.loss == "pqm" and (self.kind != "sorm" or self.targets != "hard" or self.names):
            raise ValueError(
                f"loss=pqm ranks right and wrong steps of a solution, and is for kind=sorm with targets=hard: "
                f"kind={self.kind}, targets={self.targets}, names={self.names}"
            )
        super().validate()
        check_range(self, margin="[0, inf)")
        check_least(self, added_layers=0)


def split_problems(ids: Sequence[str], share: float, seed: int) -> set[str]:
    """The problems held out for validation: a share of them, at least one, never all."""
    if len(set(ids)) < 2:
        raise ValueError(f"a reward model needs at least 2 problems, one of them for validation, not {len(set(ids))}")
    return draw_held_out(ids, share, seed)


def sources_of(args: TrainRewardArgs, work: Workspace) -> list[Artifact]:
    """The artifacts that the solutions come from."""
    if args.kind == "sorm":
        return [work.parents["labels"]]
    return [work.parents["rollouts"], *(work.parents.get("more_rollouts") or ())]


def read_outcomes(sources: Sequence[Artifact]) -> list[Outcome]:
    """All rollouts and candidates of these artifacts."""
    found: list[Outcome] = []
    for source in sources:
        if source.stage == "revise":
            most = source.manifest["args"]["sampler"]["max_tokens"]
            found += [from_candidate(row, most) for row in source.rows(Candidate)]
        else:
            found += map(from_rollout, source.rows(Rollout))
    return found


def build_solutions(args: TrainRewardArgs, work: Workspace) -> tuple[list[LabelledSolution], list[LabelledSolution]]:
    """Labelled solutions for training (balanced, an ORM's without duplicates) and for validation (as they were drawn).
    The manifest counts what is left out."""
    seed, sources = args.train.seed, sources_of(args, work)
    if args.kind == "orm":
        rows, counts = drop_unusable(read_outcomes(sources))
    else:
        rows, counts = sources[0].rows(StepLabels), {}
    held = split_problems([row.problem_id for row in rows], args.validation_share, seed)
    train, validation = ([row for row in rows if (row.problem_id in held) == kept] for kept in (False, True))
    if args.kind == "orm":
        different = drop_duplicates(train)
        balanced = balance_outcomes(different, args.balance, seed)
        work.count(**counts, duplicates=len(train) - len(different), unbalanced=len(different) - len(balanced))
        positions = args.positions if args.loss == "bce" else "last"
        return label_outcomes(balanced, positions), label_outcomes(validation, "all_steps")
    soft = args.targets == "soft"
    balanced = balance_lengths(train, seed, soft) if args.balance_lengths else to_solutions(train, soft=soft)
    return balanced, to_solutions(validation, soft=soft)


def shuffle_labels(solutions: Sequence[LabelledSolution], seed: int) -> list[LabelledSolution]:
    """The control: every label goes to another step at random, so that nothing can be learnt from them."""
    labels = [label for s in solutions for label in s.labels if label is not None]
    random.Random(f"shuffle/{seed}").shuffle(labels)
    rest = iter(labels)
    return [
        LabelledSolution(s.problem_id, s.steps, tuple(None if label is None else next(rest) for label in s.labels))
        for s in solutions
    ]


def drop_too_long(
    scorer: Scorer, problems: dict[str, Problem], solutions: Sequence[LabelledSolution], work: Workspace
) -> list[LabelledSolution]:
    """The solutions that the model can read whole. The others and their labels are counted; quarantine.parquet names
    their problems."""
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
    problems_left = len({solution.problem_id for solution in kept})
    work.count(validation_too_long=len(left_out), validation_labels_lost=lost, validation_problems=problems_left)
    return kept


def train_reward(args: TrainRewardArgs, work: Workspace) -> None:
    """Train a reward model and save it as a Hugging Face token-classification folder: the artifact itself."""
    from rewards.reward_model import make_reward_model, save_reward_model, says_how
    from rewards.scorer import Scorer
    from training.adapters import add_adapter, how_to_open, merge_adapter
    from training.loop import fit
    from training.models import add_matching

    problems = merge_problems(sources_of(args, work), training=True)
    template = args.prompt.template()
    questions = {name: problem.question for name, problem in problems.items()}
    train, validation = build_solutions(args, work)
    if args.shuffled_labels:
        train = shuffle_labels(train, args.train.seed)

    def opened(dtype: str, device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
        return make_reward_model(args.policy, device, template, args.added_layers, args.train.seed, dtype)

    model, tokenizer = opened(*how_to_open(args.lora, args.train))
    if args.names:
        train = [name_labels(questions[one.problem_id], one) for one in train]
        if not says_how(args.policy):  # a reward model has learnt to read its names
            liken_names(model, tokenizer, args.train.seed)
            add_matching(model, args.train.seed)
    model = add_adapter(model, args.lora, args.train.seed, args.train.device)
    reader = Scorer(model, tokenizer, args.kind, 0.5, template=template)
    validation = drop_too_long(reader, problems, validation, work)
    most = min(args.max_length, context_length(model) or args.max_length)
    examples, owners, lost = encode_solutions(tokenizer, questions, train, most, template)
    if args.loss == "pairwise":
        whole, together = len(examples), min(pack_size(args.train), args.train.tokens_per_batch)
        examples, owners = pair_solutions(examples, owners, together, args.train.seed)
        for weight_name, weight in model.named_parameters():
            # of the head: no pair depends on it, and Adam would make steps of rounding
            if weight_name.endswith("bias") and weight.numel() == 1:
                weight.requires_grad_(False)
        work.count(unpaired=whole - len(examples))
    elif args.loss == "pqm":
        examples = [replace(example, group=n) for n, example in enumerate(examples)]

    # what balancing took out of the labels of a SORM, its thresholds put back
    priors = position_priors(validation) if args.kind == "sorm" and args.balance_lengths else ()

    def evaluate(trained: PreTrainedModel) -> dict[str, float]:
        scorer = Scorer(trained, tokenizer, args.kind, 0.5, template=template)
        scores = scorer.score([problems[s.problem_id] for s in validation], [s.steps for s in validation])
        return validate_scores(args.kind, validation, scores, priors)

    final: dict[str, float] = {}
    if examples or not args.allow_empty:
        judge, name = evaluate if validation else None, f"train {args.kind}"
        loss = make_loss(args.loss, args.margin)
        trained = fit(model, tokenizer, examples, loss, args.train, work, name, judge, owners)
        final = trained.evaluation
        work.spend(int(trained.figures["trained_tokens"]))
        work.count(**trained.figures)
    elif validation:
        final = evaluate(model)
    if work.processes.first:  # the library saves nothing on others
        keep = work.folder / ADAPTER if args.lora.keep_adapter else None
        model = merge_adapter(model, keep, lambda: opened("float32", "cpu")[0])
        where = by_position(final.get("threshold", 0.5), priors)
        when = final.get("final_threshold", 0.5)
        save_reward_model(model, tokenizer, work.folder, args.kind, where, template, when)
    left = sum(len(example.targets) for example in examples)
    warn_of_lost(lost, left, most)
    work.count(labels_lost=lost, labels=left)
    work.count(**{f"validation_{name}": value for name, value in final.items()})


TRAIN_REWARD = Stage("train_reward", 10, TrainRewardArgs, train_reward, reward_card)
