"""The stage that trains an implicit reward model: a causal LM and outcomes, without a head and without step labels.

It learns from what an ORM learns from, and is the baseline that a SORM must beat: scores of steps for the price of
outcomes (`rewards/implicit.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewards.card import data_behind, judging_lines, measured, reading_lines, what_it_reads
from rewards.encode import LabelledSolution
from rewards.labels.outcome import BALANCES
from rewards.reward_model import read_facts
from rewards.train import JudgeArgs, TrainRewardArgs, build_solutions, drop_too_long, sources_of
from rewards.validation import validate_scores
from rollouts.card import head_of
from rollouts.problems.merge import merge_problems
from stages.cards import Card
from stages.checks import check_choices, check_range
from stages.markdown import code_block, code_span
from stages.stage import Stage, parent
from stages.workspace import Workspace
from training.adapters import ADAPTER

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rewards.implicit import Likelihood
    from training.examples import Example


@dataclass
class TrainImplicitArgs(JudgeArgs):
    """Arguments of the stage `train_implicit`. `policy` is what training starts from, and the reference that the
    trained model is read beside. `rollouts` and `more_rollouts` are used as for an ORM; `balance` too. `beta` makes a
    reward of a log-ratio. A solution of more than `max_length` tokens is left out: its reward is of the whole."""

    policy: str = parent("train_policy", any_path=True)  #: the causal LM to start from, and the reference
    rollouts: str = parent("sample")  #: an artifact of sample
    more_rollouts: list[str] = parent("sample", "revise", default=[])  #: also of revise
    balance: str = "problem"
    beta: float = 0.05  #: of the log-ratio; the paper's

    def validate(self) -> None:
        """Raise ValueError naming the first setting out of range."""
        check_choices(self, balance=BALANCES)
        check_range(self, beta="(0, inf)")
        super().validate()

    def as_orm(self) -> TrainRewardArgs:
        """The same for an ORM, whose solutions and labels are those of an implicit one."""
        names = ("policy", "rollouts", "more_rollouts", "balance", *(one.name for one in fields(JudgeArgs)))
        return TrainRewardArgs(kind="orm", **{name: getattr(self, name) for name in names})


def read_sums(reader: Likelihood, examples: Sequence[Example], names: Sequence[str]) -> list[list[float]]:
    """log pi of each solution up to the end of each step, in the order of the examples."""
    found = {i: sums for i, sums, _ in reader.logits(examples, names)}
    return [found[i] for i in range(len(examples))]


def train_implicit(args: TrainImplicitArgs, work: Workspace) -> None:
    """Train an implicit reward model and save it as a Hugging Face causal LM: the artifact itself.

    Raises:
        ValueError: there is nothing to train on.
    """
    from rewards.implicit import KIND, Likelihood, implicit_loss, save_implicit, token_example
    from rewards.scorer import sigmoid
    from rollouts.sampling.policies import context_length, load_policy
    from training.adapters import add_adapter, how_to_open, merge_adapter
    from training.loop import fit

    problems, template = merge_problems(sources_of(args.as_orm(), work), training=True), args.prompt.template()
    train, validation = build_solutions(args.as_orm(), work)
    dtype, _ = how_to_open(args.lora, args.train)
    model, tokenizer = load_policy(args.policy, dtype, args.train.device)  # whole: it is read before it has 4 bits

    def reader(of: PreTrainedModel) -> Likelihood:
        return Likelihood(of, tokenizer, KIND, 0.5, args.train.tokens_per_batch, template=template)

    def encode(solutions: Sequence[LabelledSolution]) -> list[Example]:
        return [before.encode(problems[one.problem_id], one.steps) for one in solutions]

    before = reader(model)
    validation = drop_too_long(before, problems, validation, work)
    most = min(args.max_length, context_length(model) or args.max_length)
    short = [one for one in train if before.length(problems[one.problem_id], one.steps) in range(1, most + 1)]
    work.count(too_long=len(train) - len(short))
    whole, held = encode(short), encode(validation)
    owners, held_owners = ([one.problem_id for one in own] for own in (short, validation))
    # of the model before it is trained, which is the reference: no second one is kept in memory
    references = [sums[-1] for sums in read_sums(before, whole, owners)]
    held_references = read_sums(before, held, held_owners)

    def evaluate(trained: PreTrainedModel) -> dict[str, float]:
        now = read_sums(reader(trained), held, held_owners)
        scores = [
            [sigmoid(args.beta * (a - b)) for a, b in zip(*both, strict=True)]
            for both in zip(now, held_references, strict=True)
        ]
        return validate_scores("orm", validation, scores)

    final: dict[str, float] = {}
    model = add_adapter(model, args.lora, args.train.seed)
    if whole or not args.allow_empty:
        examples = [token_example(example, number) for number, example in enumerate(whole)]
        loss = implicit_loss([one.labels[-1] for one in short], references, args.beta)
        judge = evaluate if validation else None
        trained = fit(model, tokenizer, examples, loss, args.train, work, "train implicit", judge, owners)
        final = trained.evaluation
        work.spend(int(trained.figures["trained_tokens"]) + before.tokens)
        work.count(**trained.figures)
    elif validation:
        final = evaluate(model)
    if work.processes.first:  # the library saves nothing on others
        keep = work.folder / ADAPTER if args.lora.keep_adapter else None
        model = merge_adapter(model, keep, lambda: load_policy(args.policy, "float32", "cpu")[0])
        thresholds = final.get("threshold", 0.5), final.get("final_threshold", 0.5)
        save_implicit(model, tokenizer, work.folder, args.beta, work.parents["policy"].key, thresholds, template)
    work.count(labels=len(whole), reference_tokens=before.tokens)
    work.count(**{f"validation_{name}": value for name, value in final.items()})


def implicit_card(folder: Path, manifest: dict[str, Any]) -> Card:
    """What the card of an implicit reward model's folder says beyond that of every artifact."""
    facts = read_facts(folder)
    code = [
        *reading_lines("AutoModelForCausalLM", folder, facts),
        f'before = "reference"  # the folder of {facts["reference"]}',
        "reference = AutoModelForCausalLM.from_pretrained(before).eval()",
        "after = torch.tensor(ids[1:])[:, None]",
        "pair = [one(torch.tensor([ids])).logits[0, :-1].log_softmax(-1) for one in (model, reference)]",
        "ratios = (pair[0] - pair[1]).gather(1, after)[:, 0]",
        "ratios[: len(ids) - len(tokens) - 1] = 0  # the prompt's",
        f"logits = {facts['beta']} * ratios.cumsum(0)[torch.tensor(ends) - 1]",
        *judging_lines(),
        "rewards = logits.diff(prepend=torch.zeros(1)).tolist()  # of each step",
    ]
    words = (
        "An implicit process reward model (arXiv 2412.01981): a causal LM trained on outcomes, whose log-ratio to the "
        f"policy that it was trained from ({code_span(facts['reference'])}) scores each step."
    )
    sections = {
        "To use": code_block("\n".join(code), "python"),
        "What it reads": what_it_reads(facts),
        "Data": data_behind(folder, manifest),
        "Measured on held-out problems": measured(manifest),
    }
    head = head_of(manifest, "text-generation", facts["kind"], "reward-model")
    return Card(f"Implicit PRM {code_span(manifest['key'])}", words, head, sections)


TRAIN_IMPLICIT = Stage("train_implicit", 2, TrainImplicitArgs, train_implicit, implicit_card)
