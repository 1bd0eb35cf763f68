"""The stage that trains every policy: a student on gold solutions or its own right rollouts, refiners on pairs.

Student, refiners and control are all supervised fine-tuning: one trainer, different rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from refine.card import policy_card
from refine.lema.texts import CorrectionTextArgs, correction_texts
from refine.mix import CORRECTIONS, MixArgs, count_tokens, mix_examples
from refine.prompts import KINDS, render_refinement
from rollouts.problems.args import ProblemArgs
from rollouts.problems.load import load_problems
from rollouts.problems.merge import merge_problems
from rollouts.problems.splits import draw_held_out
from rollouts.prompts import PLAIN, PromptArgs, Template, parse_prompt, render_prompt
from rollouts.records import Correction, Problem, RefinementPair, Rollout
from rollouts.steps import end_token, join_steps, split_steps
from rollouts.world.args import SOURCE as WORLD
from stages.bad_rows import BadRows
from stages.checks import check_least, check_range
from stages.stage import Stage, only_when, parent
from stages.workspace import Workspace
from training.adapters import ADAPTER, LoraArgs
from training.args import TrainArgs
from training.completions import Text
from training.models import ModelArgs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

EXAMPLES = ("solutions", "rollouts", *KINDS, CORRECTIONS)


class Row(NamedTuple):
    """A training text of one of the kinds `EXAMPLES`, and the first line of its question."""

    kind: str
    question: str
    text: Text


@dataclass
class TrainPolicyArgs:
    """Arguments of the stage `train_policy`.

    `examples` names the rows: gold `solutions` of `problems` (and of the new ones of `evolved`), right `rollouts`, the
    global, local, control or shuffled pairs of `pairs`, or `corrections`, those that are kept. `policy` is what
    training starts from; without one, a small model (`model`) is made.
    """

    examples: list[str] = field(default_factory=lambda: ["solutions"])  #: or rollouts, global, local, corrections ...
    policy: str | None = parent("train_policy", any_path=True, default=None)  #: to start from; null: a new small model
    rollouts: str | None = parent("sample", default=None)  #: an artifact of sample
    more_rollouts: list[str] = only_when(parent("sample", default=[]), "reads_rollouts", True)  #: of earlier rounds
    evolved: list[str] = only_when(parent("evolve", default=[]), "reads_evolved", True)  #: new problems, solved
    pairs: str | None = parent("build_pairs", default=None)  #: an artifact of build_pairs
    corrections: list[str] = only_when(
        parent("correct", "import_corrections", default=[]), "reads_corrections", True
    )  #: of correct
    correction: CorrectionTextArgs = only_when(  #: which fields of a correction are written
        field(default_factory=CorrectionTextArgs), "reads_corrections", True
    )
    mix: MixArgs = only_when(field(default_factory=MixArgs), "draws", True)  #: how many examples of which kind
    problems: ProblemArgs = only_when(field(default_factory=ProblemArgs), "reads_problems", True)  #: gold solutions
    prompt: PromptArgs = field(default_factory=PromptArgs)
    model: ModelArgs = only_when(field(default_factory=ModelArgs), "policy", None)
    lora: LoraArgs = field(default_factory=LoraArgs)  #: train an adapter: rank, targets
    train: TrainArgs = field(default_factory=TrainArgs)  #: how to train
    max_per_problem: int | None = only_when(None, "reads_rollouts", True)  #: right rollouts; null: all that differ
    max_length: int = 1024  #: tokens of the longest example
    # of the questions; on their texts the loss is measured, and may stop the training early
    validation_share: float = 0.0  #: of the questions, held out
    # where there is not one example, hand the starting policy on untrained: for debugging with weak policies only
    allow_empty: bool = False

    @property
    def reads_problems(self) -> bool:
        """Whether `problems` has a part in the result: for their solutions, or the words that a new model knows."""
        return "solutions" in self.examples or self.policy is None

    @property
    def reads_rollouts(self) -> bool:
        """Whether rollouts are among the examples."""
        return "rollouts" in self.examples

    @property
    def reads_evolved(self) -> bool:
        """Whether solutions of new problems are among the examples."""
        return bool(self.evolved)

    @property
    def reads_corrections(self) -> bool:
        """Whether corrections are among the examples."""
        return CORRECTIONS in self.examples

    @property
    def draws(self) -> bool:
        """Whether only some of the examples are trained on."""
        return self.mix.by != "all"

    def validate(self) -> None:
        """Raise ValueError naming the first setting that does not fit the others."""
        unknown = set(self.examples) - set(EXAMPLES)
        if unknown or not self.examples:
            raise ValueError(f"examples={list(self.examples)} must be some of {', '.join(EXAMPLES)}")
        if ("rollouts" in self.examples) != (self.rollouts is not None):
            raise ValueError(f"examples={list(self.examples)} with rollouts={self.rollouts}: give both or neither")
        if self.more_rollouts and self.rollouts is None:
            raise ValueError(f"more_rollouts={list(self.more_rollouts)} without rollouts: give the latest as rollouts")
        if self.evolved and "solutions" not in self.examples:
            raise ValueError(f"evolved={list(self.evolved)} has no effect: examples={list(self.examples)}")
        if bool(set(KINDS) & set(self.examples)) != (self.pairs is not None):
            raise ValueError(f"examples={list(self.examples)} with pairs={self.pairs}: give both or neither")
        if self.reads_corrections != bool(self.corrections):
            raise ValueError(
                f"examples={list(self.examples)} with corrections={self.corrections}: give both or neither"
            )
        if not self.reads_corrections and self.correction != CorrectionTextArgs():
            raise ValueError(f"correction has no effect: examples={list(self.examples)} are no corrections")
        self.correction.validate()
        self.mix.validate()
        if self.draws and self.mix.size is None and (len(set(self.examples)) < 2 or not self.reads_corrections):
            raise ValueError(
                f"mix.by={self.mix.by} needs mix.size, or corrections and another kind: examples={list(self.examples)}"
            )
        check_range(self, validation_share="[0, 1)")
        check_least(self, max_per_problem=1, max_length=8)


def solution_texts(problems: Sequence[Problem], template: Template = PLAIN) -> list[Text]:
    """Gold solutions; problems that have none are left out."""
    return [
        Text(render_prompt(p.question, template), join_steps(steps))
        for p in problems
        if p.solution is not None and (steps := split_steps(p.solution))
    ]


def rollout_texts(
    problems: Mapping[str, Problem],
    rollouts: Sequence[Rollout],
    max_per_problem: int | None = None,
    template: Template = PLAIN,
) -> list[Text]:
    """Right rollouts without duplicates, at most so many a problem, in the order in which they come: what a round of
    Expert Iteration trains on (GLoRe sec. 4)."""
    kept: dict[str, dict[tuple[str, ...], None]] = {}
    for rollout in rollouts:
        own = kept.setdefault(rollout.problem_id, {})
        if rollout.correct is True and rollout.steps and (max_per_problem is None or len(own) < max_per_problem):
            own[rollout.steps] = None
    return [
        Text(render_prompt(problems[problem_id].question, template), join_steps(steps))
        for problem_id, own in kept.items()
        for steps in own
    ]


def pair_texts(pairs: Sequence[RefinementPair], kinds: Sequence[str], template: Template = PLAIN) -> list[Text]:
    """What refiners of these kinds read and write."""
    return [
        Text(render_refinement(p.kind, p.question, p.draft, p.error_step, template), join_steps(p.target))
        for p in pairs
        if p.kind in kinds
    ]


def collect_rows(args: TrainPolicyArgs, work: Workspace) -> list[Row]:
    """All training texts of a run, and a count of each kind.

    Raises:
        ValueError: there is none of a kind, or see `merge_problems`.
    """
    rows: list[Row] = []
    for kind in dict.fromkeys(args.examples):
        found = _collect_corrections(args, work) if kind == CORRECTIONS else _collect_kind(kind, args, work)
        if not found and not args.allow_empty:
            raise ValueError(f"examples={kind}: there is not one to train on (allow_empty=true goes on without)")
        work.count(**{f"{kind}_texts": len(found)})
        rows.extend(found)
    return rows


def _collect_kind(kind: str, args: TrainPolicyArgs, work: Workspace) -> list[Row]:
    template = args.prompt.template()
    if kind == "solutions":
        bad = BadRows(args.problems.bad_rows)
        evolved = merge_problems(work.parents.get("evolved", ()), training=True).values()
        texts = solution_texts([*load_problems(args.problems, bad), *evolved], template)
        bad.record(work)
    elif kind == "rollouts":
        sources = [work.parents["rollouts"], *work.parents["more_rollouts"]]  # the latest first, where not all fit
        problems = merge_problems(sources, training=True)
        rollouts = [rollout for source in sources for rollout in source.rows(Rollout)]
        texts = rollout_texts(problems, rollouts, args.max_per_problem, template)
    else:
        texts = pair_texts(work.parents["pairs"].rows(RefinementPair), [kind], template)
    # a question is the first line of what is asked, whatever else there is to read
    return [Row(kind, parse_prompt(text.prompt, template).partition("\n")[0], text) for text in texts]


def _collect_corrections(args: TrainPolicyArgs, work: Workspace) -> list[Row]:
    problems = merge_problems(work.parents["corrections"], training=True)
    corrections = [one for source in work.parents["corrections"] for one in source.rows(Correction)]
    texts = correction_texts(problems, corrections, args.correction, args.prompt)
    return [Row(CORRECTIONS, question.strip().partition("\n")[0], text) for text, question in texts.items()]


def hold_out(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Rows for training, and those of a share of the questions (at least one of two) for validation."""
    held = draw_held_out([row.question for row in rows], share, seed) if share > 0 else set()
    parts: tuple[list[Row], list[Row]] = ([], [])
    for row in rows:
        parts[row.question in held].append(row)
    return parts


def _open_policy(
    args: TrainPolicyArgs, rows: Sequence[Row], dtype: str, device: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The model to start from, with a tokenizer that knows the words of the corrections among `rows`: one of the
    embedded world knows only what its problems and solutions need."""
    from rollouts.sampling.policies import load_policy
    from rollouts.world.tokenizer import add_words, make_tokenizer
    from training.models import grow_vocabulary, make_policy

    corrections = [row.text for row in rows if row.kind == CORRECTIONS]
    texts = [part for text in corrections for part in (text.prompt, text.completion) if isinstance(part, str)]
    if args.policy is None:
        words = add_words(make_tokenizer(args.problems.world.max_value), texts)
        model = make_policy(args.model, words, args.train.seed)
    else:
        model, tokenizer = load_policy(args.policy, dtype, device)
        words = add_words(tokenizer, texts) if texts else tokenizer
        if words is not tokenizer:
            grow_vocabulary(model, len(words), args.train.seed)
    if args.prompt.kind == "chat" and rows:
        # whoever samples the saved folder is to stop where an assistant's turn ends
        ends = {words.eos_token_id, end_token(words, rows[0].text.prompt)}
        model.generation_config.eos_token_id = sorted(ends)
    return model, words


def train_policy(args: TrainPolicyArgs, work: Workspace) -> None:
    """Fine-tune a policy and save it as a Hugging Face folder: the artifact itself is the checkpoint.

    Raises:
        ValueError: there is nothing to train on, or a model is to be made from nothing for texts whose words it would
            not know.
    """
    from rollouts.sampling.policies import context_length
    from training.adapters import add_adapter, how_to_open, merge_adapter
    from training.completions import completion_loss, encode_completions
    from training.distributed import mean_loss
    from training.loop import fit
    from training.models import save_model

    if args.policy is None and args.problems.source != WORLD:
        raise ValueError(f"problems.source={args.problems.source} needs a policy to start from: policy=FOLDER")
    rows = collect_rows(args, work)

    def opened(dtype: str, device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
        return _open_policy(args, rows, dtype, device)

    model, tokenizer = opened(*how_to_open(args.lora, args.train))
    most = min(args.max_length, context_length(model) or args.max_length)
    train, held = hold_out(rows, args.validation_share, args.train.seed)
    groups = {}
    validation, too_long = encode_completions(tokenizer, [row.text for row in held], most)
    for kind in dict.fromkeys(args.examples):
        groups[kind], longer = encode_completions(tokenizer, [row.text for row in train if row.kind == kind], most)
        too_long += longer
    groups = mix_examples(groups, args.mix, args.train.seed)
    examples = [example for own in groups.values() for example in own]
    work.count(too_long=too_long)
    for kind, own in groups.items():
        work.count(**{f"{kind}_examples": len(own), f"{kind}_tokens": count_tokens(own)})
    if not examples and args.allow_empty:
        save_model(opened("float32", "cpu")[0], tokenizer, work.folder)
        return
    if not examples:
        raise ValueError(f"not one of {len(rows)} texts has at most {most} tokens (max_length, or the model's context)")
    model = add_adapter(model, args.lora, args.train.seed, args.train.device)

    def evaluate(trained: PreTrainedModel) -> dict[str, float]:
        tokens, pad_id = args.train.tokens_per_batch, tokenizer.pad_token_id
        return {"cross_entropy": mean_loss(trained, validation, completion_loss, tokens, pad_id)}

    label, judge = "train " + "+".join(args.examples), evaluate if validation else None
    trained = fit(model, tokenizer, examples, completion_loss, args.train, work, label, judge)
    if work.processes.first:  # the library saves nothing on others
        keep = work.folder / ADAPTER if args.lora.keep_adapter else None
        save_model(merge_adapter(model, keep, lambda: opened("float32", "cpu")[0]), tokenizer, work.folder)
    work.spend(int(trained.figures["trained_tokens"]))
    work.count(**trained.figures, **{f"validation_{name}": value for name, value in trained.evaluation.items()})


TRAIN_POLICY = Stage("train_policy", 8, TrainPolicyArgs, train_policy, policy_card)
