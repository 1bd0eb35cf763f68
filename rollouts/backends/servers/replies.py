"""What a server that speaks OpenAI's protocol replies, read and checked.

Servers, and what stands before them, send pages, halves and empty choices with status 200, and the client lets them
through: nothing of a reply is taken on trust. What servers spell in different ways is read alike (`docs/servers.md`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BaseModel, FailFast, NonNegativeInt, ValidationError

from rollouts.backends.servers.faults import BadReply, ReplyError
from rollouts.sampling.protocol import REFUSED
from stages.text import shown

LEAST_LOGPROB = -9999.0  # what vllm says for minus infinity, which no JSON holds
LARGEST_COUNT = 2**31  # more tokens than any reply has
SHOWN = 2000  # characters of a reply that are looked at to show some of them

ENDS = {
    **dict.fromkeys(("stop", "eos", "eos_token", "stop_sequence", "stop_token", "end_turn", "complete"), "stop"),
    **dict.fromkeys(("completed", "finished", "end_of_text", "endoftext"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "model_length", "max_length", "max_new_tokens"), "length"),
    **dict.fromkeys(("max_output_tokens", "max_completion_tokens", "model_context_window_exceeded"), "length"),
    **dict.fromkeys(("content_filter", "content_filtered", "refusal", "safety", "recitation", "sensitive"), REFUSED),
    **dict.fromkeys(("blocklist", "prohibited_content", "spii", "guardrail_intervened", "error_toxic"), REFUSED),
    **dict.fromkeys(("tool_calls", "tool_call", "tool_use", "function_call", "malformed_function_call"), REFUSED),
}
_TOOLS = "the model calls a tool, which nobody asked for"


@dataclass(frozen=True, slots=True)
class ReplyChoice:
    """One text; `token_ids` and `logprobs` are None where the server does not tell them. `finish_reason` is stop,
    length or refused; `reason` then says why. `thought_only`: all that the model wrote is its reasoning."""

    text: str
    finish_reason: str
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    reason: str | None = None
    index: int = 0
    thought_only: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """The choices in their order, and the tokens that the server counted: the prompt's, and those of all choices; None
    where it does not tell. `fault` says why choices are missing or more than were asked for, None if they are not."""

    choices: tuple[ReplyChoice, ...]
    prompt_tokens: int | None
    completion_tokens: int | None
    model: str | None = None
    fault: str | None = None


class _TokenLogprobs(BaseModel):
    token_logprobs: list[float | None] | None = None


class _ChoiceBase(BaseModel):
    index: NonNegativeInt | None = None
    finish_reason: str | None = None
    token_ids: Annotated[list[NonNegativeInt] | None, FailFast()] = None
    error: Any = None

    @property
    def ends(self) -> str | None:
        # some say more behind a colon: "content_filter: PROHIBITED_CONTENT"
        return ENDS.get((self.finish_reason or "").partition(":")[0].strip().lower())


class _Choice(_ChoiceBase):
    text: str | None = None
    logprobs: _TokenLogprobs | None = None

    def read(self) -> ReplyChoice:
        values = self.logprobs.token_logprobs if self.logprobs is not None else None
        return ReplyChoice("" if self.ends == REFUSED else _need(self.text), "", logprobs=_logprobs(values))


class _Logprob(BaseModel):
    logprob: float | None


class _ChatLogprobs(BaseModel):
    content: Annotated[list[_Logprob] | None, FailFast()] = None


class _Message(BaseModel):
    content: str | list[Any] | None = None
    refusal: str | None = None
    reasoning: Any = None
    reasoning_content: Any = None
    reasoning_details: Any = None
    tool_calls: Any = None
    function_call: Any = None


class _ChatChoice(_ChoiceBase):
    message: _Message | None = None
    logprobs: _ChatLogprobs | None = None

    def read(self) -> ReplyChoice:
        message = self.message or _Message()
        text, thought, refusal = _join(message.content)
        known = self.logprobs is not None and self.logprobs.content is not None
        logprobs = _logprobs([one.logprob for one in self.logprobs.content] if known else None)
        refusal = message.refusal or refusal
        if refusal and not text:
            return ReplyChoice("", REFUSED, reason=f"the model refuses: {refusal}")
        if not text and (message.tool_calls or message.function_call):
            return ReplyChoice("", REFUSED, reason=_TOOLS)
        thought = thought or message.reasoning or message.reasoning_content or message.reasoning_details
        if not text and thought:
            return ReplyChoice("", "", logprobs=logprobs, thought_only=True)
        # a model that thinks apart may use up all its tokens before it says anything; otherwise something is lost
        text = text or "" if self.ends in ("length", REFUSED) else _need(text)
        return ReplyChoice(text, "", logprobs=logprobs)


class _Completion(BaseModel):
    choices: Annotated[list[_Choice], FailFast()]
    usage: Any = None
    model: Any = None


class _ChatCompletion(BaseModel):
    choices: Annotated[list[_ChatChoice], FailFast()]
    usage: Any = None
    model: Any = None


class _Failure(BaseModel):
    error: Any = None
    object: Any = None
    message: Any = None
    code: Any = None
    type: Any = None
    param: Any = None


FORMS = {"completions": _Completion, "chat": _ChatCompletion}


def read_reply(api: str, body: str | bytes, n: int) -> Reply:
    """Read the body of a reply to a request for `n` choices, of which at least one has to be there.

    Raises:
        BadReply: it is no JSON, lacks something, or has no choice that can be told from the others.
        ReplyError: it is an error of the server.
    """
    body = body.removeprefix("\ufeff" if isinstance(body, str) else b"\xef\xbb\xbf")
    try:
        found = FORMS[api].model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        readable = first["type"] != "json_invalid"
        if readable:
            _raise_failure(body)
        where = ".".join(map(str, first["loc"]))
        reason = f"{where}: {first['msg']}" if where else first["msg"]
        raise BadReply(f"a reply that is no answer ({reason}): {_start(body)}", readable) from None
    if not found.choices:
        _raise_failure(body)
    numbered, fault = _numbered(found.choices, n)
    choices: list[ReplyChoice] = []
    for index, choice in numbered.items():
        try:
            choices.append(_read_choice(choice, index))
        except BadReply as error:  # the others are paid for
            fault = str(error)
    if not choices:
        raise BadReply(fault)
    prompt, completion = _counts(found.usage)
    return Reply(tuple(choices), prompt, completion, found.model if isinstance(found.model, str) else None, fault)


def _start(body: str | bytes) -> str:
    text = body[:SHOWN]
    return shown(text if isinstance(text, str) else text.decode(errors="replace"), 80)


def _raise_failure(body: str | bytes) -> None:
    """Raise ReplyError where the reply is an object that says what went wrong."""
    try:
        found = _Failure.model_validate_json(body)
    except ValidationError:
        return
    if not found.error and found.object != "error":
        return
    nested = found.error if isinstance(found.error, dict) else {"message": found.error or found.message}
    told = {"code": found.code, "type": found.type, "param": found.param} | nested
    code, words = told["code"], [told.get("message"), told["code"], told["type"]]
    status = int(code) if str(code).isascii() and str(code).isdigit() and len(str(code)) == 3 else 500
    said = " ".join(str(word)[:SHOWN] for word in words if isinstance(word, str | int) and word)
    param = told["param"] if isinstance(told["param"], str) else None
    raise ReplyError(f"the server replies with an error: {said or _start(body)}", status, param)


def _numbered(choices: Sequence[_Choice | _ChatChoice], n: int) -> tuple[dict[int, Any], str | None]:
    """The choices by number, of those that were asked for, and what is wrong with the set of them.

    A number that comes twice with different texts is neither of them.
    """
    if n == len(choices) == 1:
        return {0: choices[0]}, None
    found: dict[int, Any] = {}
    twice, numbers = set(), []
    for place, choice in enumerate(choices):
        numbers.append(index := place if choice.index is None else choice.index)
        if found.setdefault(index, choice) != choice:
            twice.add(index)
    kept = {index: found[index] for index in sorted(found) if index < n and index not in twice}
    if len(kept) == len(choices) == n:
        return kept, None
    return kept, f"a reply with choices {shown(sorted(numbers), 60)}, where {n} were asked for"


def _read_choice(choice: _Choice | _ChatChoice, index: int) -> ReplyChoice:
    told, ends = choice.finish_reason or "", choice.ends
    if ends is None:
        words = f": {shown(choice.error)}" if choice.error else ""
        raise BadReply(f"a reply whose choice {index} ends for the reason {shown(choice.finish_reason, 60)}{words}")
    try:
        read = choice.read()
    except BadReply as fault:
        raise BadReply(f"a reply whose choice {index} {fault}") from None
    if read.finish_reason == REFUSED or ends == REFUSED:
        reason = read.reason or (_TOOLS if "tool" in told or "function" in told else f"{told}: the server stopped it")
        return replace(read, text="", finish_reason=REFUSED, reason=reason, index=index)
    ids = None if choice.token_ids is None else tuple(choice.token_ids)
    return replace(read, finish_reason=ends, token_ids=ids, index=index)


def _need(text: str | None) -> str:
    if text is None:
        raise BadReply("has no text")
    return text


def _join(content: str | list[Any] | None) -> tuple[str | None, bool, str | None]:
    """The visible text of a message's content, whether it has reasoning beside it, and a refusal in place of it."""
    if not isinstance(content, list):
        return content, False, None
    texts, thought, refusal = [], False, None
    for part in content:
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        value = part if isinstance(part, str) else part.get(kind, part.get("text")) if isinstance(part, dict) else None
        if kind in ("thinking", "reasoning", "redacted_thinking", "reasoning_text"):
            thought = True
        elif kind == "refusal" and isinstance(value, str):
            refusal = value
        elif kind in ("text", "output_text") and isinstance(value, str):
            texts.append(value)
        else:
            raise BadReply(f"has a part that is no text: {shown(part, 80)}")
    return "".join(texts) if texts else None, thought, refusal


def _logprobs(values: Sequence[float | None] | None) -> tuple[float, ...] | None:
    if values is None or None in values:
        return None
    if any(math.isnan(value) or value == math.inf for value in values):
        raise BadReply("has log-probabilities that are none")
    return tuple(max(value, LEAST_LOGPROB) for value in values)


def _counts(usage: Any) -> tuple[int | None, int | None]:
    """Tokens of the prompt and of all choices; None where the server does not tell, or tells what cannot be."""
    if not isinstance(usage, dict):
        return None, None
    prompt = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
    completion = _count(usage.get("completion_tokens", usage.get("output_tokens")))
    total = _count(usage.get("total_tokens"))
    if completion is None and total is not None and prompt is not None and prompt <= total:
        completion = total - prompt
    return prompt, completion


def _count(value: Any) -> int | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and 0 <= value < LARGEST_COUNT and value == int(value) else None


def count_tokens(reply: Reply, max_tokens: int) -> list[int | None]:
    """Tokens of each choice: as the server lists them, else a share of the total that the server counted, else None.

    A choice that ended at `max_tokens` has so many; the others share the rest by their lengths in characters, one more
    for the end. The sum is the server's total, so what is spent is right even where a share is not, as where choices
    were left out.
    """
    if all(choice.token_ids is not None for choice in reply.choices):
        return [len(choice.token_ids) for choice in reply.choices]
    if len(reply.choices) == 1 or reply.completion_tokens is None:
        return [reply.completion_tokens] * len(reply.choices)
    full = [choice.finish_reason == "length" for choice in reply.choices]
    rest = [len(choice.text) + 1 for choice in reply.choices if choice.finish_reason != "length"]
    if not rest or reply.completion_tokens < max_tokens * sum(full):
        return _divide(reply.completion_tokens, [len(choice.text) + 1 for choice in reply.choices])
    shares = iter(_divide(reply.completion_tokens - max_tokens * sum(full), rest))
    return [max_tokens if is_full else next(shares) for is_full in full]


def _divide(total: int, weights: Sequence[int]) -> list[int]:
    """Whole numbers in proportion to weights, whose sum is the total."""
    shares, before, given = [], 0, 0
    for weight in weights:
        before += weight
        shares.append(round(total * before / sum(weights)) - given)
        given += shares[-1]
    return shares
