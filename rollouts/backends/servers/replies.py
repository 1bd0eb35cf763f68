"""What a server that speaks OpenAI's protocol replies, read and checked.

Servers, and what stands before them, send pages, halves and empty choices with status 200, and the client lets them
through: nothing of a reply is taken on trust.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, FiniteFloat, NonNegativeInt, ValidationError

from stages.text import shown


class BadReply(ValueError):
    """A reply that is no answer to what was asked."""


@dataclass(frozen=True, slots=True)
class ReplyChoice:
    """One text; `token_ids` and `logprobs` are None where the server does not tell them."""

    text: str
    finish_reason: str
    token_ids: tuple[int, ...] | None
    logprobs: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class Reply:
    """The choices in their order, and the tokens that the server counted: the prompt's, and those of all choices."""

    choices: tuple[ReplyChoice, ...]
    prompt_tokens: int
    completion_tokens: int


class _Usage(BaseModel):
    prompt_tokens: NonNegativeInt
    completion_tokens: NonNegativeInt


class _TokenLogprobs(BaseModel):
    token_logprobs: list[FiniteFloat]


class _Choice(BaseModel):
    index: NonNegativeInt
    finish_reason: Literal["stop", "length", "content_filter"]
    token_ids: list[NonNegativeInt] | None = None
    text: str | None
    logprobs: _TokenLogprobs | None = None

    def read(self) -> tuple[str | None, list[float] | None]:
        return self.text, None if self.logprobs is None else self.logprobs.token_logprobs


class _Completion(BaseModel):
    choices: list[_Choice]
    usage: _Usage


class _Logprob(BaseModel):
    logprob: FiniteFloat


class _ChatLogprobs(BaseModel):
    content: list[_Logprob] | None


class _Message(BaseModel):
    content: str | None


class _ChatChoice(BaseModel):
    index: NonNegativeInt
    finish_reason: Literal["stop", "length", "content_filter"]
    token_ids: list[NonNegativeInt] | None = None
    message: _Message
    logprobs: _ChatLogprobs | None = None

    def read(self) -> tuple[str | None, list[float] | None]:
        known = self.logprobs is not None and self.logprobs.content is not None
        return self.message.content, [one.logprob for one in self.logprobs.content] if known else None


class _ChatCompletion(BaseModel):
    choices: list[_ChatChoice]
    usage: _Usage


FORMS = {"completions": _Completion, "chat": _ChatCompletion}


def read_reply(api: str, body: str, n: int) -> Reply:
    """Read the body of a reply to a request for `n` choices.

    Raises:
        BadReply: it is no JSON, lacks something, or has more or fewer choices.
    """
    try:
        found = FORMS[api].model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        reason = f"{where}: {first['msg']}" if where else first["msg"]
        raise BadReply(f"a reply that is no answer ({reason}): {shown(body, 80)}") from None
    choices = sorted(found.choices, key=lambda choice: choice.index)
    if [choice.index for choice in choices] != list(range(n)):
        raise BadReply(f"a reply with choices {shown([choice.index for choice in choices])}, where {n} were asked for")
    read = tuple(_read_choice(choice) for choice in choices)
    return Reply(read, found.usage.prompt_tokens, found.usage.completion_tokens)


def _read_choice(choice: _Choice | _ChatChoice) -> ReplyChoice:
    text, logprobs = choice.read()
    if text is None:
        # a model that thinks apart may use up all its tokens before it says anything; otherwise something is lost
        if choice.finish_reason == "stop":
            raise BadReply(f"a reply whose choice {choice.index} has no text")
        text = ""
    ids = None if choice.token_ids is None else tuple(choice.token_ids)
    return ReplyChoice(text, choice.finish_reason, ids, None if logprobs is None else tuple(logprobs))


def count_tokens(reply: Reply, max_tokens: int) -> list[int]:
    """Tokens of each choice: as the server lists them, else a share of the total that the server counted.

    A choice that ended at `max_tokens` has so many; the others share the rest by their lengths in characters, one more
    for the end. The sum is the server's total, so what is spent is right even where a share is not.
    """
    if all(choice.token_ids is not None for choice in reply.choices):
        return [len(choice.token_ids) for choice in reply.choices]
    if len(reply.choices) == 1:
        return [reply.completion_tokens]
    full = [choice.finish_reason == "length" for choice in reply.choices]
    shares = iter(
        _divide(
            max(reply.completion_tokens - max_tokens * sum(full), 0),
            [len(choice.text) + 1 for choice in reply.choices if choice.finish_reason != "length"],
        )
    )
    return [max_tokens if is_full else next(shares) for is_full in full]


def _divide(total: int, weights: Sequence[int]) -> list[int]:
    """Whole numbers in proportion to weights, whose sum is the total."""
    shares, before, given = [], 0, 0
    for weight in weights:
        before += weight
        shares.append(round(total * before / sum(weights)) - given)
        given += shares[-1]
    return shares
