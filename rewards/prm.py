"""Any process reward model as a judge of steps: one of ours, or a Hugging Face model with a head of token
classification, or a causal LM that says + or - at a step tag (arXiv 2312.08935).

Everything a foreign model has to be read with (template, separator, head) is said, never guessed: read with another
separator than it was trained with, a model scores worse without any error. Left out: models that bring code.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rewards.formats.record import StepRecord
from rewards.formats.step_labels import LINES, one_line_steps
from rewards.metrics import Threshold
from rewards.reward_model import open_judge
from rewards.scorer import load_scorer
from rollouts.records import Problem
from rollouts.sampling.policies import context_length, load_policy, load_tokenizer
from stages.checks import check_choices, check_least, check_range
from stages.hub import local_path
from stages.stage import MISSING
from training.examples import Example, pad_batch
from training.plan import batch_lengths

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

HEADS = ("stepwise", "token_classification", "causal_lm")


class PRMError(ValueError):
    """A model that cannot be read as is said, or a solution that it cannot judge. The message names which."""


@dataclass
class PRMArgs:
    """A process reward model and how it is read.

    `head` stepwise is a model of ours: it says itself how it is read, and only `lines` is set here (`one_line_steps`).
    Others read `prompt`, then each step as `step` and `separator`, with `between` between two steps. A score is read at
    the last token of each separator, which must be `separator_tokens` tokens. With `pieces`, these texts are tokenised
    one by one after a start token, as TRL's trainer does; without, the whole text is. The score of token_classification
    is the probability of its one label, or of label `positive_label` of two; that of causal_lm is the probability of
    the token `positive` as against `negative`.
    """

    model: str = MISSING  #: the reward model
    head: str = "stepwise"  #: stepwise, causal_lm or token_classification
    prompt: str = "{question}"
    step: str = "{step}"
    separator: str = ""
    separator_tokens: int = 1
    between: str = ""
    pieces: bool = True
    positive_label: int = 1
    positive: str = "+"
    negative: str = "-"
    lines: str = "error"
    dtype: str = "auto"
    device: str = "auto"
    batch_tokens: int = 16384

    def validate(self) -> None:
        """Raise ValueError naming the first setting that makes no sense."""
        check_choices(self, "prm.", head=HEADS, lines=LINES)
        if self.head == "stepwise":
            return
        if not self.separator:
            raise ValueError("prm.separator must be given: the text at whose end the model was trained to judge")
        self._check_template("prompt", "question")
        self._check_template("step", "step", n=1)
        check_range(self, "prm.", positive_label="[0, 1]")
        check_least(self, "prm.", separator_tokens=1, batch_tokens=1)

    def _check_template(self, name: str, field: str, **others: int) -> None:
        template = getattr(self, name)
        try:
            filled = template.format(**{field: "\0"}, **others)
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"prm.{name}={template!r} is no template: {error!r}") from error
        if filled.count("\0") != 1:
            raise ValueError(f"prm.{name}={template!r} must hold {{{field}}} once")


class OurJudge:
    """A reward model of ours. `threshold` is the one that was chosen when it was trained."""

    def __init__(self, args: PRMArgs) -> None:
        self.scorer = load_scorer(args.model, args.dtype, args.device, args.batch_tokens)
        self.threshold: Threshold | None = self.scorer.threshold
        self.lines = args.lines

    def judge(self, records: Sequence[StepRecord]) -> list[list[float] | None]:
        """The probability that each step of each solution is right; None for a solution that is too long.

        Raises:
            PRMError: a step has several lines and `lines` is error; the message names the solution.
            ScoreError: a score is not finite.
        """
        problems, steps = [], []
        for record in records:
            try:
                steps.append(one_line_steps(record, self.lines).steps)
            except ValueError as error:
                raise PRMError(f"{record.id}: {error}") from error
            problems.append(Problem(str(record.id), record.question, record.answer or "", None, "", ""))
        return self.scorer.score(problems, steps)


class ForeignJudge:
    """A model that others trained, read as `args` say. It has no threshold of its own."""

    threshold: Threshold | None = None

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, args: PRMArgs) -> None:
        self.model, self.tokenizer, self.args = model, tokenizer, args
        self.mark = self._tokens("separator", args.separator, args.separator_tokens)
        self.signs: list[int] = []
        if args.head == "causal_lm":
            self.signs = [self._tokens(name, getattr(args, name), 1)[0] for name in ("positive", "negative")]
            if self.signs[0] == self.signs[1]:
                raise PRMError(f"prm.positive={args.positive!r} and prm.negative={args.negative!r} are one token")
        elif model.config.num_labels not in (1, 2):
            raise PRMError(f"{args.model} tells {model.config.num_labels} labels apart, not 1 or 2")
        template = args.prompt + args.step + args.between
        # where the template speaks to the model by special tokens, a question must not be able to
        self.special = [token for token in tokenizer.all_special_tokens if token in template + args.separator]

    def judge(self, records: Sequence[StepRecord]) -> list[list[float] | None]:
        """The probability that each step of each solution is right; None for a solution that is too long.

        Raises:
            PRMError: a solution's separators are not the tokens that they should be, or a score is NaN; the message
                names the solution.
        """
        encoded = [self._encode(record) for record in records]
        scores: list[list[float] | None] = [None] * len(records)
        limit = context_length(self.model)
        read = [i for i, (ids, _) in enumerate(encoded) if limit is None or len(ids) <= limit]
        for batch in batch_lengths([len(encoded[i][0]) for i in read], self.args.batch_tokens):
            chosen = [read[i] for i in batch]
            found = iter(self._forward([encoded[i] for i in chosen]))
            for i in chosen:
                scores[i] = list(itertools.islice(found, len(encoded[i][1])))
                if any(score != score for score in scores[i]):
                    raise PRMError(f"{self.args.model} scores solution {records[i].id} {scores[i]}")
        return scores

    def _tokens(self, name: str, text: str, wanted: int) -> list[int]:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) != wanted:
            raise PRMError(
                f"prm.{name}={text!r} is {len(ids)} tokens {self._shown(ids)} of {self.args.model}, not {wanted}: "
                "the model was not trained with it, or not with this tokenizer"
            )
        if self.tokenizer.unk_token_id in ids:
            raise PRMError(f"prm.{name}={text!r} is no token that the tokenizer of {self.args.model} knows")
        return ids

    def _shown(self, ids: list[int]) -> list[str]:
        return [self.tokenizer.decode([token]) for token in ids]

    def _encode(self, record: StepRecord) -> tuple[list[int], list[int]]:
        """Token ids, and of each step the position of its separator's last token."""
        for text in (record.question, *record.steps):
            for token in self.special:
                if token in text:
                    raise PRMError(f"solution {record.id} holds the text {token!r}, by which the template is read")
        args, steps = self.args, [self.args.step.format(n=n, step=step) for n, step in enumerate(record.steps, start=1)]
        parts = [args.between + step if i else step for i, step in enumerate(steps)]
        prompt = args.prompt.format(question=record.question)
        ids, ends = self._by_pieces(prompt, parts) if args.pieces else self._as_a_whole(prompt, parts, record)
        for i, end in enumerate(ends):
            found = ids[end + 1 - len(self.mark) : end + 1]
            if found != self.mark:
                raise PRMError(
                    f"the separator after step {i} of solution {record.id} is read as {self._shown(found)}, not as "
                    f"{self._shown(self.mark)}: try prm.pieces=true"
                )
        return ids, ends

    def _by_pieces(self, prompt: str, parts: list[str]) -> tuple[list[int], list[int]]:
        start = self.tokenizer.bos_token_id
        ids, ends = ([] if start is None else [start]) + self._ids(prompt)["input_ids"], []
        for part in parts:
            ids += self._ids(part)["input_ids"] + self.mark
            ends.append(len(ids) - 1)
        return ids, ends

    def _as_a_whole(self, prompt: str, parts: list[str], record: StepRecord) -> tuple[list[int], list[int]]:
        text, stops = prompt, []
        for part in parts:
            text += part + self.args.separator
            stops.append(len(text))
        encoding = self._ids(text, add_special_tokens=True, return_offsets_mapping=True)
        last = {stop: token for token, (begin, stop) in enumerate(encoding["offset_mapping"]) if stop > begin}
        for i, stop in enumerate(stops):
            if stop not in last:
                where = f"step {i} of solution {record.id}"
                raise PRMError(f"no token ends with the separator after {where}: try prm.pieces=true")
        return encoding["input_ids"], [last[stop] for stop in stops]

    def _ids(self, text: str, add_special_tokens: bool = False, **options: bool) -> dict[str, list]:
        return self.tokenizer(
            text, add_special_tokens=add_special_tokens, split_special_tokens=not self.special, **options
        )

    def _forward(self, examples: list[tuple[list[int], list[int]]]) -> list[float]:
        import torch

        rows = [Example(ids, ends, [0.0] * len(ends)) for ids, ends in examples]
        batch = pad_batch(rows, self.tokenizer.pad_token_id).to(self.model.device)
        with torch.inference_mode():
            logits = self.model(input_ids=batch.ids, attention_mask=batch.mask).logits
            return self._probabilities(logits[batch.rows, batch.positions].float()).tolist()

    def _probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Of logits (steps, labels or tokens) the probability of the positive one, (steps,)."""
        if self.signs:
            return logits[:, self.signs].softmax(-1)[:, 0]
        if logits.shape[1] == 1:
            return logits[:, 0].sigmoid()
        return logits.softmax(-1)[:, self.args.positive_label]


def load_judge(args: PRMArgs) -> OurJudge | ForeignJudge:
    """Open a process reward model.

    Raises:
        ValueError: the folder is not such a model's or lacks a weight, or its tokenizer and `args` do not go together.
    """
    args = replace(args, model=local_path(args.model))
    if args.head == "stepwise":
        return OurJudge(args)
    if args.head == "causal_lm":
        return ForeignJudge(*load_policy(args.model, args.dtype, args.device), args)
    tokenizer = load_tokenizer(args.model)
    model, _ = open_judge(args.model, tokenizer, args.dtype, args.device)
    return ForeignJudge(model, tokenizer, args)
