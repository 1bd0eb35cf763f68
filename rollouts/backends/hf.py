"""In-process sampling of a Hugging Face causal LM: batches by length, the prompt's keys and values shared by its
samples, finished rows dropped from the batch.

Each token of a sample is drawn by inverse CDF from one uniform number that depends only on (sample seed, position),
so the text does not depend on batching, except where float rounding moves a draw that falls on a boundary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from rollouts.backends.draw import Drawing, draw, read_tokens, uniforms
from rollouts.backends.rows import Ending, Row
from rollouts.policies import context_length, load_policy
from rollouts.sampling import (
    Request,
    Sample,
    SamplingError,
    fill,
    prompt_fault,
    prompt_ids,
    refuse,
    sample_seed,
)

if TYPE_CHECKING:
    from rollouts.sampling import SamplerArgs

_ROOM = 64  # tokens by which a cache grows at a time
_DROP_BELOW = 0.85  # share of unfinished rows under which finished ones are dropped: copying the cache costs a step


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer, written in place into a buffer with room to spare.

    The library's own layer copies everything at every token, which on a small model takes longer than the model.
    """

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Append states (batch, heads, new, size); returns all states so far, views of the buffer."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        length, new = self.get_seq_length(), key_states.shape[-2]
        self.keys = self._append(self.keys, key_states, length, new, "_key_buffer")
        self.values = self._append(self.values, value_states, length, new, "_value_buffer")
        return self.keys, self.values

    def _append(self, held: torch.Tensor, states: torch.Tensor, length: int, new: int, name: str) -> torch.Tensor:
        buffer = getattr(self, name, None)
        # rows were dropped or repeated since the last token: `held` is no longer a view of the buffer
        fits = buffer is not None and length and held.data_ptr() == buffer.data_ptr()
        if not fits or buffer.shape[-2] < length + new:
            buffer = states.new_empty(*states.shape[:-2], length + new + _ROOM, states.shape[-1])
            if length:
                buffer[..., :length, :] = held
            setattr(self, name, buffer)
        buffer[..., length : length + new, :] = states
        return buffer[..., : length + new, :]


def new_cache(config) -> DynamicCache:
    """A cache for a model of this config whose full-attention layers grow in place."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class HFSampler:
    """Samples a causal LM on one device, `batch_size` rows at a time."""

    promise = (
        "the same texts, however requests are ordered, batched, split over processes and resumed, except where float "
        "rounding moves a draw that falls on a boundary"
    )

    def __init__(self, model, tokenizer, args: SamplerArgs) -> None:
        self.model, self.tokenizer, self.args = model, tokenizer, args
        ends = model.generation_config.eos_token_id if model.generation_config is not None else None
        ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
        self.ends = {tokenizer.eos_token_id, *ends}
        self.limit = context_length(model)

    def sample(self, requests: Sequence[Request]) -> Iterator[Sample]:
        """Yield the samples of all requests, the longest prompts first (so that memory runs out at once or never).

        Raises:
            SamplingError: the policy's logits are not finite numbers, or the sampler is closed.
        """
        if self.model is None:
            raise SamplingError("this sampler is closed")
        rows: list[Row] = []
        for request in (fill(request, self.args) for request in requests):
            prompt = prompt_ids(self.tokenizer, request)
            if fault := self._fault(prompt, request.max_tokens):
                yield from refuse(request, fault, len(prompt))
                continue
            seeds = ((index, sample_seed(request.seed, request.id, index)) for index in request.indices)
            rows += [Row(request, index, seed, prompt) for index, seed in seeds]
        rows.sort(key=lambda row: -len(row.prompt))
        for start in range(0, len(rows), self.args.batch_size):
            yield from self._sample_batch(rows[start : start + self.args.batch_size])

    def close(self) -> None:
        """Let go of the model."""
        self.model = None

    def _fault(self, prompt: list[int], max_tokens: int) -> str | None:
        known = self.model.get_input_embeddings().weight.shape[0]
        if unknown := [token for token in prompt if not 0 <= token < known]:
            return f"the prompt has token {unknown[0]}, but the model knows only {known}"
        return prompt_fault(prompt, max_tokens, self.limit)

    @torch.inference_mode()
    def _sample_batch(self, rows: list[Row]) -> Iterator[Sample]:
        counts = Counter(id(row.prompt) for row in rows)  # rows of one request stand together
        prompts = {id(row.prompt): row.prompt for row in rows}
        logits, mask, cache = self._read_prompts(list(prompts.values()))
        copies = torch.tensor([counts[name] for name in prompts], device=logits.device)
        source = torch.repeat_interleave(torch.arange(len(prompts), device=logits.device), copies)
        cache.batch_select_indices(source)
        yield from self._decode(logits[source], mask[source], cache, rows)

    def _read_prompts(self, prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor, DynamicCache]:
        """Logits after each prompt (batch, vocabulary), attention mask (batch, longest) padded on the left, cache."""
        longest = max(map(len, prompts))
        ids = torch.full((len(prompts), longest), self.tokenizer.pad_token_id)
        mask = torch.zeros(len(prompts), longest, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        mask = mask.to(self.model.device)
        cache = new_cache(self.model.config)
        out = self.model(
            input_ids=ids.to(self.model.device),
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1], mask, cache

    def _decode(
        self, logits: torch.Tensor, mask: torch.Tensor, cache: DynamicCache, rows: list[Row]
    ) -> Iterator[Sample]:
        device, width = logits.device, mask.shape[1]
        ending, longest = Ending(self.tokenizer, self.ends), max(row.request.max_tokens for row in rows)
        mask = torch.cat([mask, mask.new_ones(len(rows), longest)], 1)
        positions = mask[:, :width].sum(-1)
        finished = np.zeros(len(rows), dtype=bool)
        how, seeds, limits = self._settings(rows, device)
        for step in range(longest):
            token = draw(logits, uniforms(seeds, step), how)
            ids = read_tokens(token)
            self._write(rows, finished, ids, logits, token)
            done = ~finished & (np.isin(ids, list(self.ends)) | (limits == step + 1))
            for i, row in enumerate(rows):
                if row.request.stop and not finished[i] and not done[i]:
                    done[i] = ending.has_stop(row)
            yield from (ending.sample(rows[i]) for i in done.nonzero()[0])
            finished |= done
            left = int((~finished).sum())
            if left == 0:
                return
            if left < _DROP_BELOW * len(finished):
                kept = (~finished).nonzero()[0]
                keep = torch.from_numpy(kept).to(device)
                cache.batch_select_indices(keep)
                token, mask, positions = token[keep], mask[keep], positions[keep]
                rows, finished = [rows[i] for i in kept], finished[kept]
                how, seeds, limits = self._settings(rows, device)
            out = self.model(
                input_ids=token[:, None],
                attention_mask=mask[:, : width + step + 1],
                position_ids=(positions + step)[:, None],
                past_key_values=cache,
                use_cache=True,
            )
            logits = out.logits[:, -1]

    def _settings(self, rows: list[Row], device: torch.device) -> tuple[Drawing, np.ndarray, np.ndarray]:
        temperature = np.array([row.request.temperature for row in rows])
        how = Drawing(temperature, np.array([row.request.top_p for row in rows]), device)
        seeds = np.array([row.seed for row in rows], dtype=np.int64)
        return how, seeds, np.array([row.request.max_tokens for row in rows])

    def _write(self, rows, finished, ids, logits, token) -> None:
        values = None
        if any(row.request.logprobs for row in rows):
            values = torch.log_softmax(logits.float(), -1).gather(-1, token[:, None])[:, 0].tolist()
        for i, row in enumerate(rows):
            if not finished[i]:
                row.ids.append(int(ids[i]))
                if row.request.logprobs:
                    row.logprobs.append(values[i])


def load(policy: str, args: SamplerArgs) -> HFSampler:
    """Open a policy's folder on the device and in the precision that `args` names."""
    model, tokenizer = load_policy(policy, args.dtype, args.device)
    return HFSampler(model, tokenizer, args)
