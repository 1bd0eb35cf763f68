"""Continuous batching: rows that end make room for waiting ones, so that no batch waits for its slowest row.

Rows of one request share one reading of its prompt. All that the loop decides is decided on the host, from the tokens
drawn: reading them is the one time that a step waits for the device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
import torch

from rollouts.backends.hf.draw import draw, read_tokens, uniforms
from rollouts.backends.hf.rows import Ending, Row
from rollouts.backends.hf.slots import Slots
from rollouts.sampling.protocol import Sample

_REFILL = 1 / 6  # share of free slots at which waiting rows are let in: a reading costs about a step
_FAR = 2.0  # times the median length at which a row is set aside: every row's attention is as wide as the longest row

_STATE = np.dtype(
    [
        *((name, np.int64) for name in ("token", "place", "seed", "written", "most")),
        *((name, np.float64) for name in ("temperature", "top_p")),
        *((name, np.bool_) for name in ("stops", "logprobs", "late")),
    ]
)


class Decoder:
    """Decodes groups of rows, each of one request, in the given order, at most `size` rows at a time."""

    def __init__(self, model, ending: Ending, groups: list[list[Row]], size: int) -> None:
        self.ending = ending
        self.waiting = deque(group for group in groups if group)
        self.unfinished = sum(map(len, groups))
        self.size = min(size, self.unfinished)
        self.piece = max(1, int(self.size * _REFILL))
        self.slots = Slots(model, self.size)
        self.rows: list[Row] = []  # row i is in slot i
        self.state = np.zeros(self.size, _STATE)  # of row i: the token it reads next, and where; its settings
        self.ends = np.array(sorted(ending.ends))

    @torch.inference_mode()
    def run(self) -> Iterator[Sample]:
        """Yield the sample of each row as soon as it is at its end."""
        try:
            while self.unfinished:
                if self.waiting and self.size - len(self.rows) >= self.piece:
                    self._set_aside()
                    self._admit()
                done = self._step()
                if len(done):
                    yield from [self.ending.sample(self.rows[i]) for i in done]
                    self._drop(done)
                    self.unfinished -= len(done)
                    self.slots.size = min(self.slots.size, self.unfinished)
        finally:
            self.slots.free()

    def _set_aside(self) -> None:
        """Let rows that are much longer than the others wait for the end, among others of their kind: they are read
        again then, which costs less than that all others are as wide as they."""
        state = self.state[: len(self.rows)]
        if len(state):
            far = ((state["place"] > _FAR * np.median(state["place"])) & ~state["late"]).nonzero()[0]
            self.waiting.extend([self.rows[i]] for i in far)
            self._drop(far)

    def _admit(self) -> None:
        """Let waiting rows in. A group is cut only into pieces that are worth a reading each."""
        taken: list[list[Row]] = []
        free = self.size - len(self.rows)
        while self.waiting and free:
            group = self.waiting.popleft()
            if len(group) > free:
                if free < self.piece:
                    self.waiting.appendleft(group)
                    break
                self.waiting.appendleft(group[free:])
            taken.append(group[:free])
            free -= len(taken[-1])
        self.slots.read([group[0].prompt + group[0].ids for group in taken], list(map(len, taken)))
        for row in (row for group in taken for row in group):
            self.state[len(self.rows)] = self._begin(row)
            self.rows.append(row)

    def _begin(self, row: Row) -> tuple:
        asked, read = row.request, row.prompt + row.ids
        settings = asked.max_tokens, asked.temperature, asked.top_p, bool(asked.stop), asked.logprobs
        return read[-1], len(read) - 1, row.seed, len(row.ids), *settings, bool(row.ids)

    def _step(self) -> np.ndarray:
        """Draw one token for every row; returns the numbers of the rows that are at their end."""
        state = self.state[: len(self.rows)]
        logits = self.slots.step(state["token"], state["place"])
        token = draw(logits, uniforms(state["seed"], state["written"]), state["temperature"], state["top_p"])
        ids = read_tokens(token)
        for row, drawn in zip(self.rows, ids.tolist(), strict=True):
            row.ids.append(drawn)
        if state["logprobs"].any():
            self._write_logprobs(logits, token, state["logprobs"].nonzero()[0])
        state["token"] = ids
        state["place"] += 1
        state["written"] += 1
        done = (ids[:, None] == self.ends).any(-1) | (state["written"] == state["most"])
        for i in (state["stops"] & ~done).nonzero()[0]:
            done[i] = self.ending.has_stop(self.rows[i])
        return done.nonzero()[0]

    def _write_logprobs(self, logits: torch.Tensor, token: torch.Tensor, asking: np.ndarray) -> None:
        which = torch.from_numpy(asking).to(logits.device)
        logprobs = torch.log_softmax(logits[which].float(), -1).gather(-1, token[which, None])[:, 0].tolist()
        for i, logprob in zip(asking, logprobs, strict=True):
            self.rows[i].logprobs.append(logprob)

    def _drop(self, done: np.ndarray) -> None:
        moved, free = self.slots.drop(done)
        self.state[free] = self.state[moved]
        for source, target in zip(moved, free, strict=True):
            self.rows[target] = self.rows[source]
        del self.rows[self.slots.rows :]
