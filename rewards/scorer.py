"""Scoring: one forward pass gives the probability after every step of a solution; the first one that is low is the
first error (GLoRe sec. 3.3)."""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rewards.losses import step_logits
from rewards.metrics import Threshold, threshold_at
from rewards.reward_model import load_reward_model, open_judge, says_how
from rollouts.prompts import PLAIN, Template, read_template, render_prompt
from rollouts.records import Problem
from rollouts.sampling.collect import collect
from rollouts.sampling.policies import context_length, load_tokenizer
from rollouts.sampling.protocol import Request, Sample, refuse
from rollouts.steps import encode_steps, join_steps, split_steps
from stages.hub import local_path
from training.attention.install import packed_attention, reads_packs
from training.examples import Batch, Example, pad_batch
from training.packing import pack_batch, plan_packs
from training.plan import batch_lengths
from training.prefix_sharing import Families, can_share, count_own, share_batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from stages.workspace import Workspace


class ScoreError(ValueError):
    """A reward model gave something that is no score."""


class TooLong(ValueError):
    """A solution does not fit a reward model's context."""


class Scorer:
    """A reward model that reads solutions.

    `kind` is orm or sorm. `threshold` says where the first error is (`metrics.first_error`), `final_threshold` when a
    whole solution is right (None: it is that of the last position); they were chosen, and `template` was used, when the
    model was trained. It reads about `batch_tokens`
    tokens at a time; the rest of its batch changes a score by rounding only. With `share_prefixes` the beginning that
    several solutions of a problem share is read once.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        kind: str,
        threshold: Threshold,
        batch_tokens: int = 16384,
        share_prefixes: bool = True,
        template: Template = PLAIN,
        final_threshold: float | None = None,
    ) -> None:
        self.model, self.tokenizer, self.share_prefixes = model, tokenizer, share_prefixes
        self.kind, self.threshold, self.batch_tokens = kind, threshold, batch_tokens
        self.final_threshold = threshold_at(threshold, -1) if final_threshold is None else final_threshold
        self.template, self.tokens = template, 0  # tokens read so far

    def score(self, problems: Sequence[Problem], solutions: Sequence[str | Sequence[str]]) -> list[list[float] | None]:
        """One probability a step for each solution (a text, or its steps); `problems[i]` is what solution i answers.

        A solution without steps gets an empty list, one that does not fit the model's context None.

        Raises:
            ValueError: the two lists differ in length.
            ScoreError: a score is not a finite number.
        """
        examples: dict[int, Example] = {}
        for i, (problem, solution) in enumerate(zip(problems, solutions, strict=True)):
            with suppress(TooLong):
                examples[i] = self.encode(problem, solution)
        names = [f"a solution of {problems[i].id}" for i in examples]
        found = {i: own for i, own, _ in self.stream(list(examples.values()), names)}
        scores = {place: found[i] for i, place in enumerate(examples)}
        return [scores.get(i) for i in range(len(problems))]

    def encode(self, problem: Problem, solution: str | Sequence[str]) -> Example:
        """A solution as the model reads it, with the ends of its steps as positions.

        Raises:
            TooLong: it does not fit the model's context.
        """
        steps = split_steps(solution) if isinstance(solution, str) else list(solution)
        encoded = encode_steps(self.tokenizer, render_prompt(problem.question, self.template), steps)
        limit = context_length(self.model)
        if limit is not None and len(encoded.ids) > limit:
            raise TooLong(f"a solution of {problem.id} has {len(encoded.ids)} tokens, the {self.kind} reads {limit}")
        return Example(encoded.ids, encoded.ends, [0.0] * len(encoded.ends), encoded.prompt_length)

    def length(self, problem: Problem, steps: Sequence[str]) -> int:
        """How many tokens the model reads of a question and these steps; 0 where it reads none of them."""
        with suppress(TooLong):
            return len(self.encode(problem, steps).ids) if steps else 0
        return 0

    def stream(self, examples: Sequence[Example], names: Sequence[str]) -> Iterator[tuple[int, list[float], int]]:
        """(index, probabilities, tokens read) of every example, a batch at a time; `names` are for messages.

        Tokens that several examples share are read for one of them.

        Raises:
            ScoreError: a score is not a finite number.
        """
        for i, own, count in self.logits(examples, names):
            yield i, [sigmoid(logit) for logit in own], count

    def logits(self, examples: Sequence[Example], names: Sequence[str]) -> Iterator[tuple[int, list[float], int]]:
        """`stream` before the sigmoid."""
        for i, example in enumerate(examples):
            if not example.positions:
                yield i, [], 0
        read = [i for i, example in enumerate(examples) if example.positions]
        for batch in self._plan([examples[i] for i in read]):
            chosen = [read[i] for i in batch]
            found, tokens = self._forward([examples[i] for i in chosen])
            self.tokens += sum(tokens)
            logits = iter(found)
            for i, count in zip(chosen, tokens, strict=True):
                own = [next(logits) for _ in examples[i].positions]
                if not all(map(math.isfinite, own)):
                    raise ScoreError(f"the {self.kind} scores {names[i]} {own} (logits): not all of them are finite")
                yield i, own, count

    @property
    def _shares(self) -> bool:
        return self.share_prefixes and can_share(self.model, self.model.training)

    def _plan(self, examples: list[Example]) -> list[list[int]]:
        if self._shares:
            return Families(examples).rows(range(len(examples)), self.batch_tokens)
        lengths = [len(example.ids) for example in examples]
        if reads_packs(self.model):
            return plan_packs(lengths, self.batch_tokens, 0, 0)
        return batch_lengths(lengths, self.batch_tokens)

    def _forward(self, examples: list[Example]) -> tuple[list[float], list[int]]:
        """All logits in their order, and how many tokens are read of each example."""
        import torch

        batch, tokens = self._batch(examples)
        with torch.inference_mode(), packed_attention(self.model):
            return step_logits(self.model, batch).tolist(), tokens

    def _batch(self, examples: list[Example]) -> tuple[Batch, list[int]]:
        """Examples as the model reads them, and how many tokens that are of each."""
        pad_id, tokens = self.tokenizer.pad_token_id, [len(example.ids) for example in examples]
        if self._shares:
            ends_only = self.model.device.type == "cpu"
            batch, tokens = share_batch(examples, pad_id, ends_only), count_own(examples)
        else:
            batch = pack_batch([examples], pad_id) if reads_packs(self.model) else pad_batch(examples, pad_id)
        return batch.to(self.model.device), tokens


def sigmoid(logit: float) -> float:
    """A logit as a probability."""
    small = math.exp(-abs(logit))
    return (1.0 if logit >= 0 else small) / (1.0 + small)


class _Streamed:
    """A scorer as a sampler, whose texts are the scores as JSON: so they are kept, sharded over processes and resumed
    as samples are."""

    promise = "the same scores but for rounding (1e-6 in float32), however solutions are batched"

    def __init__(self, scorer: Scorer, solutions: dict[str, tuple[Problem, Sequence[str]]]) -> None:
        self._scorer, self._solutions = scorer, solutions

    def sample(self, requests: Sequence[Request]) -> Generator[Sample, None, None]:
        examples, names = [], []
        for request in requests:
            try:
                examples.append(self._scorer.encode(*self._solutions[request.id]))
                names.append(request.id)
            except TooLong as error:
                yield from refuse(request, str(error))
        for i, scores, read in self._scorer.stream(examples, names):
            yield Sample(names[i], 0, json.dumps(scores), "stop", 0, read, 0)

    def close(self) -> None: ...


def score_all(
    scorer: Scorer,
    names: Sequence[str],
    problems: Sequence[Problem],
    solutions: Sequence[Sequence[str]],
    work: Workspace,
    label: str,
    count: bool = True,
    need_some: bool = True,
) -> list[list[float] | None]:
    """`Scorer.score` for a stage: each score is kept as it comes, and after a kill only what is missing is scored.

    Each process of a launch scores its shard, and all get all scores. `names` are unique, one a solution; `label` names
    this piece of work within its stage. The manifest counts the tokens read and, with `count`, as `orm_too_long` or
    `sorm_too_long` the solutions that get None; quarantine.parquet names them.

    Raises:
        ValueError: two solutions have one name, or, with `need_some`, not one fits the model's context.
    """
    wanted = dict(zip(names, zip(problems, solutions, strict=True), strict=True))
    if len(wanted) != len(names):
        raise ValueError(f"{len(names)} solutions have {len(wanted)} different names")
    requests = [
        Request(name, render_prompt(one.question, scorer.template), join_steps(steps))
        for name, (one, steps) in wanted.items()
    ]
    found = collect(_Streamed(scorer, wanted), requests, work, label, need_some=need_some)
    texts = [found[name][0].text for name in names]  # empty where the solution was refused
    scores = [json.loads(text) if text else None if steps else [] for text, steps in zip(texts, solutions, strict=True)]
    if count:
        work.count(**{f"{scorer.kind}_too_long": scores.count(None)})
    return scores


def load_scorer(
    path: str | Path,
    dtype: str = "auto",
    device: str = "auto",
    batch_tokens: int = 16384,
    template: Template | None = None,
) -> Scorer:
    """Open a trained reward model, which knows the template that it reads.

    Raises:
        ValueError: the folder is not a reward model's, or lacks a weight, or its template is not the one given.
    """
    model, tokenizer, facts = load_reward_model(str(path), dtype, device, template)
    own, when = read_template(facts["template"]), facts["final_threshold"]
    return Scorer(model, tokenizer, facts["kind"], facts["threshold"], batch_tokens, template=own, final_threshold=when)


def score_steps(
    path: str | Path, question: str, solution: str | Sequence[str], template: str | None = None
) -> list[float]:
    """One probability a step of a solution (a text, or its steps), from any folder with a head of one label, or
    hub:org/name. For many solutions, `load_scorer` opens the model once.

    A folder whose config does not say how it is read needs `template`, such as "Q: {question}\\n".

    Raises:
        ValueError: the folder is no such model's, the template is missing or not its own, or the solution is too long.
    """
    folder, own = local_path(str(path)), None if template is None else read_template(template)
    if own is None or says_how(folder):
        scorer = load_scorer(folder, template=own)
    else:
        tokenizer = load_tokenizer(folder)
        model, _ = open_judge(folder, tokenizer, "auto", "auto")
        if model.config.num_labels != 1:
            raise ValueError(f"{path} tells {model.config.num_labels} labels apart, not 1: `rewards.prm` reads it")
        scorer = Scorer(model, tokenizer, "sorm", 0.5, template=own)
    (scores,) = scorer.score([Problem("the solution", question, "", None, "", "")], [solution])
    if scores is None:
        raise TooLong(f"{path}: the solution does not fit the model's context")
    return scores
