"""Sampling policies: requests, samples, seeds, and the one protocol that every backend keeps.

The backends are in `rollouts/backends/`, one file each, named in `BACKENDS`. Left out: where samples are kept while
they come in (`rollouts/sampling/collect.py`), and the stage that turns problems into rollouts
(`rollouts/sampling/sample.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from rollouts.sampling.args import BACKENDS, SamplerArgs
from rollouts.steps import Chat, encode_prompt, encode_text, end_token
from stages.text import shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SEED_BITS = 63
SEEDS = 2**SEED_BITS  # sample seeds are smaller
REFUSED = "refused"  # the finish reason of a sample that could not be drawn at all; its `reason` says why


@dataclass(frozen=True, slots=True)
class Request:
    """Ask for `n` completions of `prompt` (text, a chat, or token ids) followed by `prefix`, the steps of a solution
    already written; in a chat they begin the assistant's turn.

    Prompt and prefix are encoded apart, as they are in training. `seed` is the run's; each sample gets its own. Of the
    `n` samples only those numbered in `wanted` are drawn, where it is given: the others are already there.
    Settings that are None are the sampler's own (`fill`).
    """

    id: str
    prompt: str | Chat | tuple[int, ...]
    prefix: str = ""
    n: int = 1
    seed: int = 0
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] | None = None
    logprobs: bool = False
    wanted: tuple[int, ...] | None = None

    @property
    def indices(self) -> Sequence[int]:
        """The numbers of the samples to draw."""
        return range(self.n) if self.wanted is None else self.wanted


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion. `finish_reason` is stop (the policy ended it, or a stop string did), length (`max_tokens` did),
    or refused (it could not be drawn: `reason` says why, the text is empty).

    `token_ids` are what the policy wrote, with its end token where it wrote one, and `completion_tokens` their number;
    they are empty where the backend does not learn them. `logprobs` are the natural logarithms of their probabilities
    before temperature and top_p, where asked for.
    """

    request_id: str
    index: int
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    seed: int
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    reason: str | None = None


class Sampler(Protocol):
    """A policy that can be sampled.

    `promise` says in one sentence what the same requests give however they are ordered, batched, split over processes
    and resumed; it goes into the manifest of what is sampled.
    """

    promise: str

    def sample(self, requests: Sequence[Request]) -> Generator[Sample, None, None]:
        """Yield every sample of every request, in any order, each as it finishes.

        A request that can never be drawn (an empty prompt, one that leaves no room for `max_tokens`) is refused,
        sample by sample, and does not stop the others. Closing the generator midway frees what it holds.
        """
        ...

    def close(self) -> None:
        """Give back processes, connections and memory. A second call does nothing."""
        ...


class SamplingError(ValueError):
    """Sampling cannot go on: a server or worker is gone for good, or gives what is no answer."""


def sample_seed(run_seed: int, request_id: str, index: int) -> int:
    """The seed of one sample, a function of what it is and not of when it is drawn (63 bits)."""
    digest = hashlib.sha256(f"{run_seed}\x00{request_id}\x00{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def split_samples(request: Request, together: bool, bits: int = SEED_BITS) -> Iterator[tuple[Sequence[int], int]]:
    """The wanted samples and the seed of the first, call by call, for an engine that seeds its sample i with seed + i.

    All in one call where `together` says that the engine can and no sample is there already, else one by one: a sample
    gets the same seed either way. Of a seed that is to have fewer bits, the highest are taken.
    """
    first, wanted = sample_seed(request.seed, request.id, 0) >> (SEED_BITS - bits), list(request.indices)
    # nobody wraps the seeds around within a call
    if together and wanted and sorted(wanted) == list(range(request.n)) and first + request.n <= 1 << bits:
        yield range(request.n), first
    else:
        yield from (((index,), (first + index) % (1 << bits)) for index in wanted)


def fill(request: Request, args: SamplerArgs) -> Request:
    """The request with the sampler's settings where it has none of its own.

    Raises:
        ValueError: a setting of the request is out of range; the message names both.
    """
    filled = replace(
        request,
        max_tokens=args.max_tokens if request.max_tokens is None else request.max_tokens,
        temperature=args.temperature if request.temperature is None else request.temperature,
        top_p=args.top_p if request.top_p is None else request.top_p,
        stop=tuple(args.stop) if request.stop is None else request.stop,
    )
    if not 0 <= filled.temperature < float("inf") or not 0 < filled.top_p <= 1 or filled.max_tokens < 1:
        raise ValueError(
            f"request {request.id!r} needs finite temperature >= 0, top_p in (0, 1] and max_tokens >= 1, not "
            f"{filled.temperature}, {filled.top_p} and {filled.max_tokens}"
        )
    if isinstance(filled.stop, str) or not all(filled.stop):
        raise ValueError(f"request {request.id!r}: stop must be a tuple of texts, none empty, not {filled.stop!r}")
    return filled


def request_fault(request: Request) -> str | None:
    """Why what a request asks is nothing that any policy could read; None if it could be."""
    prompt, text = request.prompt, request.prefix
    if isinstance(prompt, str | Chat):
        text = "".join([prompt] if isinstance(prompt, str) else [turn["content"] for turn in prompt.messages]) + text
    elif not isinstance(prompt, list | tuple) or not all(type(token) is int for token in prompt):
        return f"the prompt must be text or token ids, not {shown(prompt, 80)}"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"the prompt holds the lone surrogate {text[error.start]!r}"
    return None


def refuse(request: Request, reason: str, prompt_tokens: int = 0) -> Iterator[Sample]:
    """The samples of a request that cannot be drawn."""
    for index in request.indices:
        seed = sample_seed(request.seed, request.id, index)
        yield Sample(request.id, index, "", REFUSED, prompt_tokens, 0, seed, reason=reason)


def prompt_fault(
    prompt: Sequence[int], max_tokens: int, limit: int | None, vocabulary: int | None = None
) -> str | None:
    """Why a prompt of these token ids cannot be completed within a context of `limit` tokens by a model that knows the
    ids below `vocabulary`; None if it can."""
    if not prompt:
        return "the prompt is empty"
    unknown = None if vocabulary is None else next((token for token in prompt if not 0 <= token < vocabulary), None)
    if unknown is not None:
        return f"the prompt has token {unknown}, but the model knows only {vocabulary}"
    if limit is not None and len(prompt) + max_tokens > limit:
        return f"{len(prompt)} prompt tokens and max_tokens={max_tokens} are more than the model's context of {limit}"
    return None


def load_sampler(policy: str, args: SamplerArgs, stop: Sequence[str] = ()) -> Sampler:
    """Open a policy with the backend that `args` names: a folder, or what a server calls it. Texts end before the
    strings `stop` of a prompt's template too.

    Raises:
        ValueError: the backend is unknown, or the folder is not a policy's.
    """
    args.validate()
    return import_module(BACKENDS[args.backend]).load(policy, replace(args, stop=[*args.stop, *stop]))


def prompt_ids(tokenizer: PreTrainedTokenizerFast, request: Request) -> list[int]:
    """Token ids of a request's prompt and prefix, each encoded by itself."""
    is_text = isinstance(request.prompt, str | Chat)
    head = encode_prompt(tokenizer, request.prompt) if is_text else list(request.prompt)
    return head + encode_text(tokenizer, request.prefix)


def read_requests(
    requests: Sequence[Request],
    args: SamplerArgs,
    tokenizer: PreTrainedTokenizerFast,
    limit: int | None,
    vocabulary: int,
) -> Iterator[tuple[Request, list[int]] | Sample]:
    """Each request with its settings filled in, and the token ids of its prompt; of one that a model of this context
    and vocabulary cannot complete, the refused samples."""
    for request in (fill(request, args) for request in requests):
        prompt = prompt_ids(tokenizer, request)
        if fault := prompt_fault(prompt, request.max_tokens, limit, vocabulary):
            yield from refuse(request, fault, len(prompt))
        else:
            yield request, prompt


def end_tokens(tokenizer: PreTrainedTokenizerFast, request: Request) -> list[int]:
    """Tokens that end a text of this request beside the policy's own: in a chat that of an assistant's turn."""
    return [end_token(tokenizer, request.prompt)] if isinstance(request.prompt, Chat) else []
