"""Sampling through servers that speak OpenAI's protocol: `vllm serve`, or a hosted model.

Requests go out from a loop in a thread of its own, a bounded number at a time, and samples come back as they finish.
Which server is asked, and what is tried again, is in `rollouts/backends/servers/pool.py`; what counts as an answer in
`rollouts/backends/servers/replies.py`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from openai import AsyncOpenAI

from rollouts.backends.servers.background import Background
from rollouts.backends.servers.calls import Call, Caller
from rollouts.backends.servers.clients import find_key, open_client
from rollouts.backends.servers.faults import REASON, BadReply, Refused
from rollouts.backends.servers.pool import Clock, Pool, Server
from rollouts.backends.servers.replies import Reply, ReplyChoice, count_tokens, read_reply
from rollouts.sampling.policies import load_tokenizer
from rollouts.sampling.protocol import REFUSED, Request, Sample, SamplingError
from rollouts.steps import encode_text
from stages.text import one_line, shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from rollouts.sampling.args import OpenAIArgs, SamplerArgs

logger = logging.getLogger(__name__)
PROMISES = {
    True: "vllm seeds each sample by itself: the same requests give the same texts however they are ordered, split and "
    "resumed, except where batching or hardware rounds a draw to another token",
    False: "nothing: the servers are sent seeds and may ignore them, so the same requests may give other texts",
}


# what is noticed of replies that are used all the same: said once, and how often at the end
ODD = {
    "choices": "%s; what is missing is asked for one by one",
    "more": "%s; only those are used",
    "thought": "%s has reasoning and no content: its text is empty (is it the server's reasoning parser?)",
    "usage": "%s: the server does not tell how many tokens it used; they are counted with the policy's tokenizer, "
    "without one as 0",
    "long": "%s has %d tokens, where at most %d were asked for: does the server take the limit "
    "(sampler.openai.max_tokens_field)?",
    "model": "%s is said to be of the model %s, where %s was asked for",
}


@dataclass(frozen=True)
class Drawn:
    """The samples of one call, the calls for those that did not come, and whether a server answered."""

    samples: list[Sample]
    missing: list[Call]
    answered: bool


class OpenAISampler:
    """Samples `model` on all servers of `args.openai`; with a tokenizer, prompts are sent as its token ids.

    Without one, a prompt and a prefix are sent as one text, and the server cuts it into tokens as it likes.
    """

    def __init__(self, model: str, tokenizer: PreTrainedTokenizerFast | None, args: SamplerArgs) -> None:
        self.model, self.args, self.settings = model, args, args.openai
        self.promise = PROMISES[self.settings.vllm]
        self.clock, self.caller = Clock(), Caller(model, tokenizer, args)
        self._odd: Counter[str] = Counter()
        self._told: set[str] = set()  # what servers have told of a choice beside its text
        self._keys = [find_key(url, self.settings.api_key_env) for url in self.settings.base_urls]
        self._open: set[Background] = set()

    def sample(self, requests: Sequence[Request]) -> Iterator[Sample]:
        """Yield samples as they finish. What is under way is cancelled when the iterator is closed.

        Raises:
            ValueError: a request holds what this api cannot send; nothing has been asked by then.
            SamplingError: every server has failed too often, or one does not let us in.
        """
        for request in requests:
            self.caller.check(request)
        pool = self._open_pool()
        background: Background[Drawn] = Background(pool.close)
        self._open.add(background)
        try:
            for call in self.caller.calls(requests):
                if isinstance(call, Call):
                    background.start(self._draw(pool, call))
                else:
                    yield from call
                # twice as many as are asked at a time: the next are ready when the reader has kept an answer
                while background.under_way >= 2 * self.settings.concurrency:
                    yield from self._take(pool, background)
            while background.under_way:
                yield from self._take(pool, background)
        except CancelledError:
            raise SamplingError("the sampler was closed while it was sampling") from None
        except SamplingError:
            for drawn in background.take_good():  # they are paid for
                yield from drawn.samples
            raise
        finally:
            self._open.discard(background)
            background.close()

    def _take(self, pool: Pool, background: Background[Drawn]) -> Iterator[Sample]:
        drawn = background.take()
        for call in drawn.missing:
            background.start(self._draw(pool, call))
        yield from drawn.samples
        if drawn.answered:  # the reader goes on, so these are kept
            background.call(pool.kept)

    def close(self) -> None:
        """End what is under way; a reader who goes on gets a SamplingError."""
        for background in list(self._open):
            background.close()
        if often := {kind: count for kind, count in self._odd.items() if count > 1}:
            logger.warning("replies that were odd in a way said above, in all: %s", often)
        self._odd.clear()

    def _open_pool(self) -> Pool:
        servers = [
            Server(url, open_client(url, key or "none", self.settings.timeout))
            for url, key in zip(self.settings.base_urls, self._keys, strict=True)
        ]
        one = self.settings
        return Pool(servers, one.concurrency, one.attempts, one.timeout, self.clock)

    async def _draw(self, pool: Pool, call: Call) -> Drawn:
        n = len(call.indices)

        async def send(client: AsyncOpenAI) -> Reply:
            create = client.chat.completions if self.settings.api == "chat" else client.completions
            reply = await create.with_raw_response.create(**self.caller.body(call))
            found = read_reply(self.settings.api, reply.content, n)
            for choice in found.choices:
                self._check_extras(call.request, choice)
            return found

        try:
            reply = await pool.ask(f"request {call.request.id}", send)
        except Refused as refusal:
            reason = f"the server refuses it: {refusal}"
            return Drawn([self._refusal(call, place, reason) for place in range(n)], [], answered=False)
        self._notice_odd(call, reply)
        counts = count_tokens(reply, call.request.max_tokens)
        samples = [self._sample(call, reply, *pair) for pair in zip(reply.choices, counts, strict=True)]
        missing = set(range(n)) - {choice.index for choice in reply.choices}
        return Drawn(samples, [call.only(place) for place in sorted(missing)], answered=True)

    def _notice(self, kind: str, *told: object) -> None:
        self._odd[kind] += 1
        if self._odd[kind] == 1:
            logger.warning(ODD[kind], *told)

    def _notice_odd(self, call: Call, reply: Reply) -> None:
        """Say, once for each kind, what is odd about a reply that is used."""
        name, limit = f"request {call.request.id}", call.request.max_tokens
        if reply.fault:
            missing = len(reply.choices) < len(call.indices)
            self._notice("choices" if missing else "more", f"{name} got {reply.fault}")
        if any(choice.thought_only and choice.finish_reason == "stop" for choice in reply.choices):
            self._notice("thought", f"a reply to {name}")
        if reply.completion_tokens is None and any(choice.token_ids is None for choice in reply.choices):
            self._notice("usage", name)
        most = max(len(choice.token_ids or ()) for choice in reply.choices)
        mean = (reply.completion_tokens or 0) // len(reply.choices)
        if max(most, mean) > limit and not reply.fault:
            self._notice("long", f"a reply to {name}", max(most, mean), limit)
        if reply.model and not reply.model.startswith(self.model):  # some add a date
            self._notice("model", f"a reply to {name}", shown(reply.model), self.model)

    def _check_extras(self, request: Request, choice: ReplyChoice) -> None:
        """Raise an error where a server does not tell what it was asked for: if it never has, it will not later."""
        asked = {"token_ids": self.settings.vllm, "logprobs": request.logprobs}
        for name in ("token_ids", "logprobs"):
            if not asked[name] or choice.finish_reason == REFUSED or choice.thought_only:
                continue
            if getattr(choice, name) is not None:
                self._told.add(name)
            elif name in self._told:
                raise BadReply(f"a reply without {name}")
            elif name == "token_ids":
                raise SamplingError(
                    f"request {request.id}: the server tells no token ids, as vllm serve does; set "
                    "sampler.openai.vllm=false"
                )
            else:
                raise SamplingError(f"request {request.id} asks for logprobs, which the server does not tell")
        ids, logprobs = choice.token_ids, choice.logprobs
        if request.logprobs and ids is not None and logprobs is not None and len(ids) != len(logprobs):
            raise BadReply(f"a reply with {len(ids)} token ids and {len(logprobs)} logprobs of them")

    def _sample(self, call: Call, reply: Reply, choice: ReplyChoice, completion_tokens: int | None) -> Sample:
        request, place, text = call.request, choice.index, choice.text
        tokenizer, prompt_tokens = self.caller.tokenizer, reply.prompt_tokens
        if prompt_tokens is None:
            prompt_tokens = len(call.prompt) if tokenizer is not None else 0
        if completion_tokens is None:
            completion_tokens = len(encode_text(tokenizer, text)) if tokenizer is not None else 0
        if choice.finish_reason == REFUSED:
            return self._refusal(call, place, one_line(choice.reason, REASON), prompt_tokens, completion_tokens)
        if self.settings.vllm and choice.finish_reason == "length" and completion_tokens < request.max_tokens:
            # vllm cuts max_tokens down to what is left of its context, without a word
            reason = (
                f"{prompt_tokens} prompt tokens and max_tokens={request.max_tokens} are more than the server's "
                f"context: it ended after {completion_tokens}"
            )
            return self._refusal(call, place, reason, prompt_tokens, completion_tokens)
        finish_reason = choice.finish_reason
        # some servers do not take stop strings, and some leave them in the text
        if ends := [text.index(stop) for stop in request.stop if stop in text]:
            text, finish_reason = text[: min(ends)], "stop"
        return Sample(
            request.id,
            call.indices[place],
            text,
            finish_reason,
            prompt_tokens,
            completion_tokens,
            call.seeds[place],
            choice.token_ids or (),
            (choice.logprobs or ()) if request.logprobs else (),
        )

    def _refusal(self, call: Call, place: int, reason: str, *tokens: int) -> Sample:
        name, index, seed = call.request.id, call.indices[place], call.seeds[place]
        prompt_tokens, completion_tokens = tokens or (0, 0)
        return Sample(name, index, "", REFUSED, prompt_tokens, completion_tokens, seed, reason=reason)


def load(policy: str, args: SamplerArgs) -> OpenAISampler:
    """Open the servers of `args.openai` for a policy: a folder, whose tokenizer is then used, or a model's name.

    Raises:
        ValueError: there is no key for a server, or the folder's tokenizer does not load.
    """
    settings: OpenAIArgs = args.openai
    has_tokenizer = any((Path(policy) / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    tokenizer = load_tokenizer(policy) if has_tokenizer and settings.api == "completions" else None
    # it says a line for each request, at the level that this program logs at
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    return OpenAISampler(settings.model or policy, tokenizer, args)
