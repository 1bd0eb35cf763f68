"""Sampling through servers that speak OpenAI's protocol: `vllm serve`, or a hosted model.

Requests go out from a loop in a thread of its own, a bounded number at a time, and samples come back as they finish.
Which server is asked, and what is tried again, is in `rollouts/backends/servers/pool.py`; what counts as an answer in
`rollouts/backends/servers/replies.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openai import AsyncOpenAI

from rollouts.backends.servers.background import Background
from rollouts.backends.servers.clients import find_key, open_client
from rollouts.backends.servers.pool import Clock, Pool, Refused, Server
from rollouts.backends.servers.replies import BadReply, Reply, ReplyChoice, count_tokens, read_reply
from rollouts.sampling.policies import load_tokenizer
from rollouts.sampling.protocol import (
    REFUSED,
    SEEDS,
    Request,
    Sample,
    SamplingError,
    end_tokens,
    fill,
    prompt_fault,
    prompt_ids,
    refuse,
    split_samples,
)
from rollouts.steps import Chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from rollouts.sampling.args import OpenAIArgs, SamplerArgs

# a policy's folder may name others in its generation_config.json, which `vllm serve` would follow
PLAIN_SAMPLING = {
    **{"top_k": 0, "min_p": 0.0},
    **{"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0},
}
PROMISES = {
    True: "vllm seeds each sample by itself: the same requests give the same texts however they are ordered, split and "
    "resumed, except where batching or hardware rounds a draw to another token",
    False: "nothing: the servers are sent seeds and may ignore them, so the same requests may give other texts",
}


@dataclass(frozen=True, slots=True)
class Call:
    """What one HTTP request asks for: these samples of a request, the first drawn with `seed`, the next with one
    more. `prompt` is text or token ids, with the prefix, or the messages of a chat."""

    request: Request
    indices: Sequence[int]
    seed: int
    prompt: str | list[int] | list[dict[str, str]]


class OpenAISampler:
    """Samples `model` on all servers of `args.openai`; with a tokenizer, prompts are sent as its token ids.

    Without one, a prompt and a prefix are sent as one text, and the server cuts it into tokens as it likes.
    """

    def __init__(self, model: str, tokenizer: PreTrainedTokenizerFast | None, args: SamplerArgs) -> None:
        self.model, self.tokenizer, self.args, self.settings = model, tokenizer, args, args.openai
        self.promise = PROMISES[self.settings.vllm]
        self.clock = Clock()
        self._keys = [find_key(url, self.settings.api_key_env) for url in self.settings.base_urls]
        self._open: set[Background] = set()

    def sample(self, requests: Sequence[Request]) -> Iterator[Sample]:
        """Yield samples as they finish. What is under way is cancelled when the iterator is closed.

        Raises:
            ValueError: a request holds what this api cannot send; nothing has been asked by then.
            SamplingError: every server has failed too often, or one does not let us in.
        """
        for request in requests:
            self._check(request)
        pool = self._open_pool()
        background = Background(pool.close)
        self._open.add(background)
        try:
            for call in self._calls(requests):
                if isinstance(call, Call):
                    background.start(self._draw(pool, call))
                else:
                    yield from call
                # twice as many as are asked at a time, so that a reader who is slow for a moment holds up no server
                while background.under_way >= 2 * self.settings.concurrency:
                    yield from background.take()
            while background.under_way:
                yield from background.take()
        except CancelledError:
            raise SamplingError("the sampler was closed while it was sampling") from None
        except SamplingError:
            for samples in background.take_good():  # they are paid for
                yield from samples
            raise
        finally:
            self._open.discard(background)
            background.close()

    def close(self) -> None:
        """End what is under way; a reader who goes on gets a SamplingError."""
        for background in list(self._open):
            background.close()

    def _check(self, request: Request) -> None:
        is_text, is_chat = isinstance(request.prompt, str), isinstance(request.prompt, Chat)
        if self.settings.api == "chat" and (request.prefix or not (is_text or is_chat)):
            what = "a prefix" if request.prefix else "a prompt of token ids"
            raise ValueError(f"request {request.id} has {what}: sampler.openai.api=chat sends messages only")
        if self.settings.api == "completions" and is_chat and self.tokenizer is None:
            raise ValueError(
                f"request {request.id} is a chat: without a tokenizer, for which the policy has to be a folder, it is "
                "sent with sampler.openai.api=chat only"
            )
        if request.prefix and not is_text and self.tokenizer is None:
            raise ValueError(
                f"request {request.id} has a prompt of token ids and a prefix: without a tokenizer, for which the "
                "policy has to be a folder, they cannot be put together"
            )

    def _open_pool(self) -> Pool:
        servers = [
            Server(url, open_client(url, key or "none", self.settings.timeout))
            for url, key in zip(self.settings.base_urls, self._keys, strict=True)
        ]
        one = self.settings
        return Pool(servers, one.concurrency, one.attempts, one.timeout, self.clock)

    def _calls(self, requests: Sequence[Request]) -> Iterator[Call | Iterator[Sample]]:
        """What to ask for each request, or its refusal, one by one: there may be millions."""
        for asked in requests:
            request = fill(asked, self.args)
            prompt = self._prompt(request)
            fault = prompt_fault(prompt, request.max_tokens, None)  # its length is the server's to judge
            if fault is not None:
                yield refuse(request, fault)
                continue
            # vllm draws greedy samples one by one only
            for indices, seed in split_samples(request, not (self.settings.vllm and request.temperature == 0)):
                yield Call(request, indices, seed, prompt)

    def _prompt(self, request: Request) -> str | list[int] | list[dict[str, str]]:
        if self.settings.api == "chat":
            chat = Chat(request.prompt) if isinstance(request.prompt, str) else request.prompt
            return chat.messages if chat.user else ""
        if self.tokenizer is not None:
            return prompt_ids(self.tokenizer, request)
        return request.prompt + request.prefix if isinstance(request.prompt, str) else list(request.prompt)

    async def _draw(self, pool: Pool, call: Call) -> list[Sample]:
        """The samples of one call."""
        n = len(call.indices)

        async def send(client: AsyncOpenAI) -> Reply:
            create = client.chat.completions if self.settings.api == "chat" else client.completions
            reply = await create.with_raw_response.create(**self._body(call))
            found = read_reply(self.settings.api, reply.text, n)
            for choice in found.choices:
                self._check_extras(call.request, choice)
            return found

        try:
            reply = await pool.ask(f"request {call.request.id}", send)
        except Refused as refusal:
            reason = f"the server refuses it: {refusal}"
            return [self._refusal(call, place, reason, 0) for place in range(n)]
        counts = count_tokens(reply, call.request.max_tokens)
        return [self._sample(call, place, reply, counts[place]) for place in range(n)]

    def _body(self, call: Call) -> dict[str, Any]:
        """The client's arguments for a call."""
        request, is_chat = call.request, self.settings.api == "chat"
        body = {
            "model": self.model,
            "n": len(call.indices),
            "seed": call.seed,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "max_completion_tokens" if is_chat else "max_tokens": request.max_tokens,
        }
        if is_chat:
            body["messages"] = call.prompt
        else:
            body["prompt"] = call.prompt
        if request.stop:
            body["stop"] = list(request.stop)
        if request.logprobs:
            body["logprobs"] = True if is_chat else 1
        if self.settings.vllm:
            body["extra_body"] = {"return_token_ids": True, **PLAIN_SAMPLING}
            if self.tokenizer is not None and (ends := end_tokens(self.tokenizer, request)):
                body["extra_body"]["stop_token_ids"] = ends
        return body

    def _check_extras(self, request: Request, choice: ReplyChoice) -> None:
        """Raise SamplingError where a server does not know what it was asked for: it will not know it later."""
        if self.settings.vllm and choice.token_ids is None:
            raise SamplingError(
                f"request {request.id}: the server tells no token ids, as vllm serve does; set "
                "sampler.openai.vllm=false"
            )
        if request.logprobs and choice.logprobs is None and choice.finish_reason != "content_filter":
            raise SamplingError(f"request {request.id} asks for logprobs, which the server does not tell")
        ids, logprobs = choice.token_ids, choice.logprobs
        if request.logprobs and ids is not None and logprobs is not None and len(ids) != len(logprobs):
            raise BadReply(f"a reply with {len(ids)} token ids and {len(logprobs)} logprobs of them")

    def _sample(self, call: Call, place: int, reply: Reply, completion_tokens: int) -> Sample:
        choice, request = reply.choices[place], call.request
        if choice.finish_reason == "content_filter":
            return self._refusal(call, place, "content_filter: the server's filter stopped it", reply.prompt_tokens)
        if self.settings.vllm and choice.finish_reason == "length" and completion_tokens < request.max_tokens:
            # vllm cuts max_tokens down to what is left of its context, without a word
            reason = (
                f"{reply.prompt_tokens} prompt tokens and max_tokens={request.max_tokens} are more than the server's "
                f"context: it ended after {completion_tokens}"
            )
            return self._refusal(call, place, reason, reply.prompt_tokens)
        return Sample(
            request.id,
            call.indices[place],
            choice.text,
            choice.finish_reason,
            reply.prompt_tokens,
            completion_tokens,
            (call.seed + place) % SEEDS,
            choice.token_ids or (),
            (choice.logprobs or ()) if request.logprobs else (),
        )

    def _refusal(self, call: Call, place: int, reason: str, prompt_tokens: int) -> Sample:
        seed = (call.seed + place) % SEEDS
        return Sample(call.request.id, call.indices[place], "", REFUSED, prompt_tokens, 0, seed, reason=reason)


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
