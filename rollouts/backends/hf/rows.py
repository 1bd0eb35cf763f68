"""Rows of a batch: what one sample has written so far, when it is at its end, and the sample that it gives."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rollouts.sampling.protocol import Request, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_MARGIN = 8  # tokens of no or only part of a character that may stand beside a stop string


@dataclass(slots=True, eq=False)
class Row:
    """Sample `index` of a request whose settings are filled in; `prompt` holds the ids of its prompt and prefix."""

    request: Request
    index: int
    seed: int
    prompt: list[int]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class Ending:
    """When a row is at its end: at an end token, at `max_tokens`, or once its text holds a stop string."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, ends: set[int]) -> None:
        self.tokenizer, self.ends = tokenizer, ends

    def has_stop(self, row: Row) -> bool:
        """Whether the last token of a row completes a stop string. Only a tail is decoded, long enough for any."""
        longest = max(len(stop.encode()) for stop in row.request.stop)  # a token is a byte or more
        tail = self.text(row.ids[-longest - _MARGIN :])
        return any(stop in tail for stop in row.request.stop) and self._cut(row) is not None

    def sample(self, row: Row) -> Sample:
        """The sample of a row that is at its end."""
        ended = bool(row.ids) and row.ids[-1] in self.ends
        text, count = self.text(row.ids[:-1] if ended else row.ids), len(row.ids)
        if row.request.stop and (cut := self._cut(row)) is not None:
            ended, (text, count) = True, cut
        return Sample(
            request_id=row.request.id,
            index=row.index,
            text=text,
            finish_reason="stop" if ended else "length",
            prompt_tokens=len(row.prompt),
            completion_tokens=count,
            seed=row.seed,
            token_ids=tuple(row.ids[:count]),
            logprobs=tuple(row.logprobs[:count]),
        )

    def _cut(self, row: Row) -> tuple[str, int] | None:
        """The text before the first stop string, and how many tokens were written when one was complete."""
        ids = row.ids[:-1] if row.ids[-1] in self.ends else row.ids
        if _first(self.text(ids), row.request.stop) is None:
            return None
        lengths = range(1, len(ids) + 1)
        known = bisect_left(lengths, True, key=lambda n: _first(self.text(ids[:n]), row.request.stop) is not None)
        text = self.text(ids[: lengths[known]])
        return text[: _first(text, row.request.stop)], lengths[known]

    def text(self, ids: Sequence[int]) -> str:
        # some tokenizers would clean up the text, and a step would no longer be what the policy wrote
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _first(text: str, stops: Sequence[str]) -> int | None:
    """Where the first of the strings starts in a text."""
    return min((start for stop in stops if (start := text.find(stop)) >= 0), default=None)
