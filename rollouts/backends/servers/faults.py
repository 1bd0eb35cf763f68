"""What a server's error means: it may pass, the request is at fault, or nothing will ever come.

Statuses and words are those of the servers that people use; what none of them says is tried again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from rollouts.sampling.protocol import SamplingError
from stages.text import one_line

REASON = 300  # characters kept of what a server says
LONGEST_REST = 3600.0  # seconds; a server that asks for more is tried again as one that asks for nothing
BUSY, GATEWAY = {408, 409, 425, 429, 503, 529}, {502, 504}  # nothing is wrong with the request
ABOUT_THE_REQUEST = {400, 413, 422}
NO_ENTRY = {401, 402, 407}  # no key, no money: the same for all requests

_FLAGGED = re.compile(
    r"flagged|moderation|guardrail|safety|content[ _-]?(?:filter|policy|management|exists risk)|prohibited[ _]content"
    r"|inappropriate|data[ _]inspection|responsible[ _]?ai|usage polic|refus(?:al|ed to)",
    re.IGNORECASE,
)
_NOT_TAKEN = re.compile(
    r"(?:un|not |n't |isn't )support|only (?:the default|support|n ?=|1 )|unrecogni[sz]ed|unknown|unexpected|extra[_ ]"
    r"|not (?:permitted|allowed|available|valid)|deprecated|invalid|must be|should be|out of range|too large|cannot"
    r"|less than|greater than|32[ -]?bit|unmarshal|no longer",
    re.IGNORECASE,
)
_OPTIONS = ("max_completion_tokens", "max_tokens", "temperature", "top_p", "seed", "stop", "logprobs", "n")
_EXTENSIONS = (
    *("return_token_ids", "stop_token_ids", "top_k", "min_p"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
)


class BadReply(ValueError):
    """A reply that is no answer to what was asked. `readable`: it is JSON, so what answers is a server that works."""

    def __init__(self, reason: str, readable: bool = True) -> None:
        super().__init__(reason)
        self.readable = readable


class ReplyError(Exception):
    """What a server says in place of an answer, with status 200; `status` is the code that it gives in the text."""

    def __init__(self, said: str, status: int, param: str | None) -> None:
        super().__init__(said)
        self.status, self.param = status, param


class Refused(ValueError):
    """The server will never answer this request; the message is its reason."""


class Trouble(Exception):
    """A failure that may pass. `after` is how many seconds the server asks to be left alone.

    `kind` says where the fault may lie: `request` (the server works), `either`, or `server` (it is busy or gone).
    """

    def __init__(self, reason: str, kind: str = "server", after: float = 0.0) -> None:
        super().__init__(reason)
        self.kind, self.after = kind, after


def judge(
    status: int, said: str, param: str | None, answered: bool, after: float = 0.0, in_reply: bool = False
) -> Exception:
    """The error to raise for a status and what the server says with it, made one short line.

    `param` is the parameter that it names, `answered` whether the server has answered other requests: if so, it is not
    our settings that are wrong. `in_reply`: the status is a code in a reply that itself has status 200.
    """
    reason = one_line(said, REASON)
    if _FLAGGED.search(said) and (in_reply or status < 500):
        return Refused(reason)
    if status in NO_ENTRY and not (in_reply and answered):
        return SamplingError(reason)
    if status in BUSY or (status in GATEWAY and not in_reply):
        return Trouble(reason, "server", after)
    if status in ABOUT_THE_REQUEST:
        hint = helping_setting(said, param)
        if hint and not answered:
            return SamplingError(f"{reason} (if the server does not take the parameter, set {hint})")
        return Refused(f"{reason} (see {hint})" if hint else reason)
    if status >= 500 or answered:
        return Trouble(reason, "request" if in_reply else "either", after)
    if status == 404:
        reason += " (is the address complete, with its /v1, and the model's name right?)"
    elif 300 <= status < 400:
        reason += " (redirects are not followed: give the address that answers)"
    return SamplingError(reason)


def helping_setting(said: str, param: str | None) -> str | None:
    """The setting with which a server may take a request whose parameter it refuses; None if none is known."""
    if re.search(r"context|prompt is too long|input tokens", said, re.IGNORECASE) or not _NOT_TAKEN.search(said):
        return None  # a prompt that is too long is often said to be `max_tokens`' fault
    names = (*_EXTENSIONS, *_OPTIONS[:-1])
    # `n` is no word to look for where it is not quoted or compared
    found = [(match.start(), name) for name in names if (match := re.search(rf"\b{name}\b", said))]
    found += [(match.start(), "n") for match in [re.search(r"""['"`]n['"`]|\bn\s*(?:[=<>]|must\b)""", said)] if match]
    name = param if param in (*_EXTENSIONS, *_OPTIONS) else min(found)[1] if found else None
    if name is None:
        return None
    if name in _EXTENSIONS:
        return "sampler.openai.vllm=false"
    if name in ("max_tokens", "max_completion_tokens"):
        other = "max_tokens" if name == "max_completion_tokens" else "max_completion_tokens"
        return None if re.search(r"too large|at most|less than", said) else f"sampler.openai.max_tokens_field={other}"
    if name == "seed" and re.search(r"32|\bint|range|less than|large|maximum|unmarshal|<=", said, re.IGNORECASE):
        return "sampler.openai.seed_bits=31"
    return None if name == "logprobs" else f"sampler.openai.omit=[{name}]"


def retry_after(headers: Mapping[str, str], now: float) -> float:
    """Seconds that a reply asks to wait, 0 where it does not, or asks for more than `LONGEST_REST`; `now` is the time
    of day that a date counts from."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name, "")
        try:
            return _bounded(float(value) / unit)
        except ValueError:
            continue
    try:
        return _bounded(parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0


def _bounded(seconds: float) -> float:
    return seconds if 0 < seconds <= LONGEST_REST and not math.isnan(seconds) else 0.0
