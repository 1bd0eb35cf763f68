"""What is asked of a server: the requests of a sampler as HTTP calls, and the parameters of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rollouts.sampling.protocol import (
    Request,
    Sample,
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

    from rollouts.sampling.args import SamplerArgs

# a policy's folder may name others in its generation_config.json, which `vllm serve` would follow
PLAIN_SAMPLING = {
    **{"top_k": 0, "min_p": 0.0},
    **{"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0},
}


@dataclass(frozen=True, slots=True)
class Call:
    """What one HTTP request asks for: these samples of a request, each with its own seed, of which the first is sent;
    where there are several, they follow each other. `prompt` is text or token ids, with the prefix, or the messages of
    a chat."""

    request: Request
    indices: Sequence[int]
    seeds: Sequence[int]
    prompt: str | list[int] | list[dict[str, str]]

    def only(self, place: int) -> Call:
        """The call for one of the samples."""
        return replace(self, indices=(self.indices[place],), seeds=(self.seeds[place],))


class Caller:
    """Makes calls of requests, as `args` and `args.openai` say; a tokenizer makes token ids of prompts."""

    def __init__(self, model: str, tokenizer: PreTrainedTokenizerFast | None, args: SamplerArgs) -> None:
        self.model, self.tokenizer, self.args, self.settings = model, tokenizer, args, args.openai

    def check(self, asked: Request) -> None:
        """Raise ValueError where a request holds what cannot be sent."""
        request, settings = fill(asked, self.args), self.settings
        is_text, is_chat = isinstance(request.prompt, str), isinstance(request.prompt, Chat)
        if settings.api == "chat" and (request.prefix or not (is_text or is_chat)):
            what = "a prefix" if request.prefix else "a prompt of token ids"
            raise ValueError(f"request {request.id} has {what}: sampler.openai.api=chat sends messages only")
        if settings.api == "completions" and is_chat and self.tokenizer is None:
            raise ValueError(
                f"request {request.id} is a chat: without a tokenizer, for which the policy has to be a folder, it is "
                "sent with sampler.openai.api=chat only"
            )
        if request.prefix and not is_text and self.tokenizer is None:
            raise ValueError(
                f"request {request.id} has a prompt of token ids and a prefix: without a tokenizer, for which the "
                "policy has to be a folder, they cannot be put together"
            )
        for name in ("temperature", "top_p"):
            if name in settings.omit and getattr(request, name) != 1:
                raise ValueError(
                    f"request {request.id} asks for {name}={getattr(request, name)}, which sampler.openai.omit leaves "
                    f"out: set sampler.{name}=1, which is what servers take for it"
                )

    def calls(self, requests: Sequence[Request]) -> Iterator[Call | Iterator[Sample]]:
        """What to ask for each request, or its refusal, one by one: there may be millions."""
        settings, limit = self.settings, 1 << self.settings.seed_bits
        for asked in requests:
            request = fill(asked, self.args)
            prompt = self._prompt(request)
            fault = prompt_fault(prompt, request.max_tokens, None)  # its length is the server's to judge
            if fault is not None:
                yield refuse(request, fault)
                continue
            # vllm draws greedy samples one by one only
            together = not (settings.vllm and request.temperature == 0) and "n" not in settings.omit
            for indices, seed in split_samples(request, together, settings.seed_bits):
                seeds = [(seed + place) % limit for place in range(len(indices))]
                yield Call(request, indices, seeds, prompt)

    def _prompt(self, request: Request) -> str | list[int] | list[dict[str, str]]:
        if self.settings.api == "chat":
            chat = Chat(request.prompt) if isinstance(request.prompt, str) else request.prompt
            return chat.messages if chat.user else ""
        if self.tokenizer is not None:
            return prompt_ids(self.tokenizer, request)
        return request.prompt + request.prefix if isinstance(request.prompt, str) else list(request.prompt)

    def body(self, call: Call) -> dict[str, Any]:
        """The client's arguments for a call."""
        request, settings, is_chat = call.request, self.settings, self.settings.api == "chat"
        options = {
            "n": len(call.indices),
            "seed": call.seeds[0],
            "temperature": request.temperature,
            "top_p": request.top_p,
        }
        if request.stop:
            options["stop"] = list(request.stop)
        limit = settings.max_tokens_field or ("max_completion_tokens" if is_chat else "max_tokens")
        body = {"model": self.model, "messages" if is_chat else "prompt": call.prompt}
        body |= {name: value for name, value in options.items() if name not in settings.omit}
        extra: dict[str, Any] = {}
        # the client knows each api's own name only
        (body if is_chat or limit == "max_tokens" else extra)[limit] = request.max_tokens
        if request.logprobs:
            body["logprobs"] = True if is_chat else 1
        if settings.vllm:
            extra |= {"return_token_ids": True, **PLAIN_SAMPLING}
            if self.tokenizer is not None and (ends := end_tokens(self.tokenizer, request)):
                extra["stop_token_ids"] = ends
        return body | {"extra_body": extra} if extra else body
