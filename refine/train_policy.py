"""The stage that trains every policy: a student on gold solutions or its own right rollouts, refiners on pairs.

Student, refiners and control are all supervised fine-tuning: one trainer, different rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from refine.prompts import KINDS, render_refinement
from rollouts.problems.args import ProblemArgs
from rollouts.problems.load import load_problems
from rollouts.problems.splits import draw_held_out
from rollouts.prompts import PLAIN, PromptArgs, Template, parse_prompt, render_prompt
from rollouts.records import Problem, RefinementPair, Rollout
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
    from transformers import PreTrainedModel

EXAMPLES = ("solutions", "rollouts", *KINDS)


@dataclass
class TrainPolicyArgs:
    """Arguments of the stage `train_policy`.

    `examples` names the rows: gold `solutions` of `problems`, right `rollouts`, or the global, local, control or
    shuffled pairs of `pairs`. `policy` is what training starts from; without one, a small model (`model`) is made.
    """

    examples: list[str] = field(default_factory=lambda: ["solutions"])  #: or rollouts, global, local ...
    policy: str | None = parent("train_policy", any_path=True, default=None)  #: to start from; null: a new small model
    rollouts: str | None = parent("sample", default=None)  #: an artifact of sample
    more_rollouts: list[str] = only_when(parent("sample", default=[]), "reads_rollouts", True)  #: of earlier rounds
    pairs: str | None = parent("build_pairs", default=None)  #: an artifact of build_pairs
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

    def validate(self) -> None:
        """Raise ValueError naming the first setting that does not fit the others."""
        unknown = set(self.examples) - set(EXAMPLES)
        if unknown or not self.examples:
            raise ValueError(f"examples={list(self.examples)} must be some of {', '.join(EXAMPLES)}")
        if ("rollouts" in self.examples) != (self.rollouts is not None):
            raise ValueError(f"examples={list(self.examples)} with rollouts={self.rollouts}: give both or neither")
        if self.more_rollouts and self.rollouts is None:
            raise ValueError(f"more_rollouts={list(self.more_rollouts)} without rollouts: give the latest as rollouts")
        if bool(set(KINDS) & set(self.examples)) != (self.pairs is not None):
            raise ValueError(f"examples={list(self.examples)} with pairs={self.pairs}: give both or neither")
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
    problems: Sequence[Problem],
    rollouts: Sequence[Rollout],
    max_per_problem: int | None = None,
    template: Template = PLAIN,
) -> list[Text]:
    """Right rollouts without duplicates, at most so many a problem, in the order in which they come: what a round of
    Expert Iteration trains on (GLoRe sec. 4).

    Raises:
        ValueError: two problems of one id ask different questions.
    """
    questions: dict[str, str] = {}
    for problem in problems:
        if (known := questions.setdefault(problem.id, problem.question)) != problem.question:
            raise ValueError(f"rollouts of two problems called {problem.id}: {known[:60]!r}, {problem.question[:60]!r}")
    kept: dict[str, dict[tuple[str, ...], None]] = {}
    for rollout in rollouts:
        own = kept.setdefault(rollout.problem_id, {})
        if rollout.correct is True and rollout.steps and (max_per_problem is None or len(own) < max_per_problem):
            own[rollout.steps] = None
    return [
        Text(render_prompt(questions[problem_id], template), join_steps(steps))
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


def collect_texts(args: TrainPolicyArgs, work: Workspace) -> tuple[list[Text], dict[str, int]]:
    """All training texts of a run, and how many came from where."""
    texts: list[Text] = []
    counts, template = {}, args.prompt.template()
    for name in args.examples:
        if name == "solutions":
            bad = BadRows(args.problems.bad_rows)
            found = solution_texts(load_problems(args.problems, bad), template)
            bad.record(work)
        elif name == "rollouts":
            sources = [work.parents["rollouts"], *work.parents["more_rollouts"]]  # the latest first, where not all fit
            problems = [problem for source in sources for problem in source.rows(Problem, "problems")]
            rollouts = [rollout for source in sources for rollout in source.rows(Rollout)]
            found = rollout_texts(problems, rollouts, args.max_per_problem, template)
        else:
            found = pair_texts(work.parents["pairs"].rows(RefinementPair), [name], template)
        if not found and not args.allow_empty:
            raise ValueError(f"examples={name}: there is not one to train on (allow_empty=true goes on without)")
        counts[f"{name}_texts"] = len(found)
        texts.extend(found)
    return texts, counts


def hold_out(
    texts: Sequence[Text], share: float, seed: int, template: Template = PLAIN
) -> tuple[list[Text], list[Text]]:
    """Texts for training, and those of a share of the questions (at least one of two) for validation.

    A question is the first line of what is asked, whatever else there is to read.
    """
    own = [parse_prompt(text.prompt, template).partition("\n")[0] for text in texts]
    held = draw_held_out(own, share, seed) if share > 0 else set()
    parts: tuple[list[Text], list[Text]] = ([], [])
    for text, question in zip(texts, own, strict=True):
        parts[question in held].append(text)
    return parts


def train_policy(args: TrainPolicyArgs, work: Workspace) -> None:
    """Fine-tune a policy and save it as a Hugging Face folder: the artifact itself is the checkpoint.

    Raises:
        ValueError: there is nothing to train on, or a model is to be made from nothing for texts whose words it would
            not know.
    """
    from rollouts.sampling.policies import context_length, load_policy
    from training.adapters import add_adapter, merge_adapter
    from training.completions import completion_loss, encode_completions
    from training.distributed import mean_loss
    from training.loop import fit
    from training.models import make_policy, save_model

    if args.policy is None and args.problems.source != WORLD:
        raise ValueError(f"problems.source={args.problems.source} needs a policy to start from: policy=FOLDER")
    texts, counts = collect_texts(args, work)
    if args.policy is None:
        from rollouts.world.tokenizer import make_tokenizer

        tokenizer = make_tokenizer(args.problems.world.max_value)
        model = make_policy(args.model, tokenizer, args.train.seed)
    else:
        model, tokenizer = load_policy(args.policy, "float32", args.train.device)
    most = min(args.max_length, context_length(model) or args.max_length)
    train, held = hold_out(texts, args.validation_share, args.train.seed, args.prompt.template())
    examples, too_long = encode_completions(tokenizer, train, most)
    validation, too_long_held = encode_completions(tokenizer, held, most)
    work.count(**counts, too_long=too_long + too_long_held)
    if not examples and args.allow_empty:
        save_model(model, tokenizer, work.folder)
        return
    if not examples:
        raise ValueError(
            f"not one of {len(texts)} texts has at most {most} tokens (max_length, or the model's context)"
        )
    if args.prompt.kind == "chat":  # whoever samples the saved folder is to stop where an assistant's turn ends
        ends = {tokenizer.eos_token_id, end_token(tokenizer, texts[0].prompt)}
        model.generation_config.eos_token_id = sorted(ends)
    model = add_adapter(model, args.lora, args.train.seed)

    def evaluate(trained: PreTrainedModel) -> dict[str, float]:
        tokens, pad_id = args.train.tokens_per_batch, tokenizer.pad_token_id
        return {"cross_entropy": mean_loss(trained, validation, completion_loss, tokens, pad_id)}

    label, judge = "train " + "+".join(args.examples), evaluate if validation else None
    trained = fit(model, tokenizer, examples, completion_loss, args.train, work, label, judge)
    if work.processes.first:  # the library saves nothing on others
        keep = work.folder / ADAPTER if args.lora.keep_adapter else None
        save_model(merge_adapter(model, keep), tokenizer, work.folder)
    work.spend(int(trained.figures["trained_tokens"]))
    work.count(**trained.figures, **{f"validation_{name}": value for name, value in trained.evaluation.items()})


TRAIN_POLICY = Stage("train_policy", 7, TrainPolicyArgs, train_policy)
