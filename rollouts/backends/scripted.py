"""The test double: a policy whose folder holds a `script.json` of texts by request id, or by prompt.

A word, cut at single spaces, stands for a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rollouts.sampling import Request, Sample, sample_seed
from rollouts.store import read_json

if TYPE_CHECKING:
    from rollouts.sampling import SamplerArgs


class ScriptedSampler:
    """Answers each request from a script: sample n takes text n, starting over at the end."""

    def __init__(self, script: dict[str, list[str]], max_tokens: int) -> None:
        self.script, self.max_tokens = script, max_tokens

    def sample(self, requests: Sequence[Request]) -> Iterator[Sample]:
        """Yield the samples of all requests in order.

        Raises:
            ValueError: the script has no text for a request.
        """
        for request in requests:
            texts = self._texts(request)
            for index in range(request.n):
                yield self._sample(request, index, texts[index % len(texts)])

    def _sample(self, request: Request, index: int, text: str) -> Sample:
        words = text.split(" ")
        written = words[: self.max_tokens]
        return Sample(
            request_id=request.id,
            index=index,
            text=" ".join(written),
            finish_reason="stop" if len(written) == len(words) else "length",
            prompt_tokens=len((request.prompt + request.prefix).split(" ")),
            completion_tokens=len(written),
            seed=sample_seed(request.seed, request.id, index),
        )

    def _texts(self, request: Request) -> list[str]:
        for key in (request.id, request.prompt + request.prefix, request.prompt, "*"):
            if key in self.script:
                return self.script[key]
        raise ValueError(f"the script has no text for request {request.id!r}")


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
    return ScriptedSampler(script, args.max_tokens)
