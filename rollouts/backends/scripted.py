"""The test double: a policy whose folder holds a `script.json` of texts by request id, or by prompt.

A word, cut at single spaces, stands for a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rollouts.sampling.args import SamplerArgs
from rollouts.sampling.protocol import Request, Sample, fill, prompt_fault, refuse, sample_seed
from rollouts.steps import Chat
from stages.files import read_json


class ScriptedSampler:
    """Answers each request from a script: sample n takes text n, starting over at the end."""

    promise = "a script gives the same texts, always"

    def __init__(self, script: dict[str, list[str]], args: SamplerArgs) -> None:
        self.script, self.args = script, args

    def sample(self, requests: Sequence[Request]) -> Iterator[Sample]:
        """Yield the samples of all requests in order.

        Raises:
            ValueError: the script has no text for a request.
        """
        for request in (_as_text(fill(request, self.args)) for request in requests):
            prompt = _words(request.prompt) + _words(request.prefix)
            fault = prompt_fault(prompt, request.max_tokens, None)
            if fault is not None:
                yield from refuse(request, fault)
                continue
            texts = self._texts(request)
            for index in request.indices:
                text, written, finish = _cut(texts[index % len(texts)], request)
                seed = sample_seed(request.seed, request.id, index)
                yield Sample(request.id, index, text, finish, len(prompt), written, seed)

    def close(self) -> None:
        """There is nothing to give back."""

    def _texts(self, request: Request) -> list[str]:
        keys = [request.id, "*"]
        if isinstance(request.prompt, str):
            keys[1:1] = [request.prompt + request.prefix, request.prompt]
        for key in keys:
            if key in self.script:
                return self.script[key]
        raise ValueError(f"the script has no text for request {request.id!r}")


def _as_text(request: Request) -> Request:
    """A chat is asked as the text of its user's turn."""
    return replace(request, prompt=request.prompt.user) if isinstance(request.prompt, Chat) else request


def _words(prompt: str | Sequence[int]) -> list[str | int]:
    if isinstance(prompt, str):
        return prompt.split(" ") if prompt else []
    return list(prompt)


def _cut(text: str, request: Request) -> tuple[str, int, str]:
    """What is written of a text, in how many words, and why it ends there."""
    words = text.split(" ")
    written = " ".join(words[: request.max_tokens])
    # the stop string that is complete first, and of two the longer
    found = min(((at + len(stop), at) for stop in request.stop if (at := written.find(stop)) >= 0), default=None)
    if found is not None:
        return written[: found[1]], written[: found[0]].count(" ") + 1, "stop"
    return written, min(len(words), request.max_tokens), "stop" if len(words) <= request.max_tokens else "length"


def load(policy: str, args: SamplerArgs) -> ScriptedSampler:
    """Read `script.json` of the folder `policy`: {request id, prompt or *: [text, …]}.

    Raises:
        ValueError: there is none, or it is not of this form.
    """
    path = Path(policy) / "script.json"
    if not path.is_file():
        raise ValueError(f"{policy} is no scripted policy: it has no script.json")
    script = read_json(path)
    if not isinstance(script, dict):
        raise ValueError(f"{path}: a script maps names to lists of texts, it is no {type(script).__name__}")
    for name, texts in script.items():
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{path}: {name!r} must have a list of texts, not {texts!r}")
    return ScriptedSampler(script, args)
