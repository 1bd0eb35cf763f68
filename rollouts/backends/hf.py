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

from rollouts.policies import context_length, load_policy
from rollouts.sampling import Request, Sample, sample_seed
from rollouts.steps import encode_prompt, encode_text

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


def uniforms(seeds: np.ndarray, position: int) -> np.ndarray:
    """One number in [0, 1) for each seed (int64) at a token position: two rounds of splitmix64, a counter-based
    generator, so that a row's numbers do not depend on which rows are beside it."""
    with np.errstate(over="ignore"):
        x = seeds.astype(np.uint64) + np.uint64(position + 1) * np.uint64(0x9E3779B97F4A7C15)
        for _ in range(2):
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def draw(logits: torch.Tensor, uniform: torch.Tensor | None, temperature: float, top_p: float) -> torch.Tensor:
    """Token ids (batch,) from logits (batch, vocabulary): greedy at temperature 0, else by inverse CDF.

    `uniform` (batch,) holds one number in [0, 1) a row; greedy reads none of them.

    Raises:
        ValueError: a logit is not a number or infinitely large: whatever were drawn would mean nothing.
    """
    if temperature == 0:
        best, drawn = logits.max(-1)
        _check_finite(best)
        return drawn
    probabilities = torch.softmax(logits.float() / temperature, -1)
    if top_p < 1:
        ranked, order = probabilities.sort(dim=-1, descending=True, stable=True)
        # a token stays while the mass before it is under top_p, so that the likeliest always stays
        ranked = ranked.masked_fill(ranked.cumsum(-1) - ranked >= top_p, 0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ranked)
    cdf = probabilities.double().cumsum(-1)
    _check_finite(cdf[:, -1])
    drawn = torch.searchsorted(cdf, (uniform * cdf[:, -1])[:, None], right=True)[:, 0]
    # rounding may put the target on the total: the last token that has any mass is meant then
    last = probabilities.shape[-1] - 1 - (probabilities > 0).flip(-1).int().argmax(-1)
    return torch.minimum(drawn, last)


def _check_finite(row_values: torch.Tensor) -> None:
    if not row_values.isfinite().all():
        raise ValueError("the policy's logits are not finite numbers")


class HFSampler:
    """Samples a causal LM on one device, `batch_size` rows at a time."""

    def __init__(self, model, tokenizer, args: SamplerArgs) -> None:
        self.model, self.tokenizer, self.args = model, tokenizer, args
        ends = model.generation_config.eos_token_id if model.generation_config is not None else None
        ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
        self.ends = {tokenizer.eos_token_id, *ends}
        self.limit = context_length(model)

    def sample(self, requests: Sequence[Request]) -> Iterator[Sample]:
        """Yield the samples of all requests, the longest prompts first (so that memory runs out at once or never).

        Raises:
            ValueError: a prompt is empty or leaves no room for `max_tokens` in the model's context.
        """
        prompts = [encode_prompt(self.tokenizer, r.prompt) + encode_text(self.tokenizer, r.prefix) for r in requests]
        for request, prompt in zip(requests, prompts, strict=True):
            self._check(request, prompt)
        order = sorted(range(len(requests)), key=lambda i: (-len(prompts[i]), i))
        rows = [(i, index) for i in order for index in range(requests[i].n)]
        for start in range(0, len(rows), self.args.batch_size):
            yield from self._sample_batch(requests, prompts, rows[start : start + self.args.batch_size])

    def _check(self, request: Request, prompt: list[int]) -> None:
        if not prompt:
            raise ValueError(f"request {request.id} has an empty prompt")
        if self.limit is not None and len(prompt) + self.args.max_tokens > self.limit:
            raise ValueError(
                f"request {request.id} has {len(prompt)} prompt tokens; with max_tokens={self.args.max_tokens} "
                f"that is more than the model's context of {self.limit}"
            )

    @torch.inference_mode()
    def _sample_batch(
        self, requests: Sequence[Request], prompts: list[list[int]], rows: list[tuple[int, int]]
    ) -> Iterator[Sample]:
        counts = Counter(i for i, _ in rows)  # rows of one request stand together
        logits, mask, cache = self._read_prompts([prompts[i] for i in counts])
        copies = torch.tensor(list(counts.values()), device=logits.device)
        source = torch.repeat_interleave(torch.arange(len(counts), device=logits.device), copies)
        cache.batch_select_indices(source)
        seeds = np.array([sample_seed(requests[i].seed, requests[i].id, index) for i, index in rows], dtype=np.int64)
        written = self._decode(logits[source], mask[source], cache, seeds)
        for (i, index), ids, seed in zip(rows, written, seeds.tolist(), strict=True):
            stopped = bool(ids) and ids[-1] in self.ends
            # some tokenizers would clean up the text, and a step would no longer be what the policy wrote
            text = self.tokenizer.decode(
                ids[:-1] if stopped else ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            reason = "stop" if stopped else "length"
            yield Sample(requests[i].id, index, text, reason, len(prompts[i]), len(ids), seed)

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
        self, logits: torch.Tensor, mask: torch.Tensor, cache: DynamicCache, seeds: np.ndarray
    ) -> list[list[int]]:
        """Token ids of every row, with the end token where one was drawn."""
        device, rows = logits.device, len(seeds)
        width = mask.shape[1]
        mask = torch.cat([mask, mask.new_ones(rows, self.args.max_tokens)], 1)
        positions = mask[:, :width].sum(-1)
        written = torch.full((rows, self.args.max_tokens), -1, device=device)
        ends = torch.tensor(sorted(self.ends), device=device)
        live = torch.arange(rows, device=device)  # the row of `written` that each row of the batch writes
        finished = torch.zeros(rows, dtype=torch.bool, device=device)
        for step in range(self.args.max_tokens):
            uniform = torch.from_numpy(uniforms(seeds, step)).to(device) if self.args.temperature else None
            token = draw(logits, uniform, self.args.temperature, self.args.top_p)
            written[live[~finished], step] = token[~finished]
            finished = finished | torch.isin(token, ends)
            left = int((~finished).sum())
            if left == 0 or step + 1 == self.args.max_tokens:
                break
            if left < _DROP_BELOW * len(finished):
                keep = (~finished).nonzero()[:, 0]
                cache.batch_select_indices(keep)
                live, token, mask, positions = live[keep], token[keep], mask[keep], positions[keep]
                seeds, finished = seeds[keep.cpu().numpy()], finished[keep]
            out = self.model(
                input_ids=token[:, None],
                attention_mask=mask[:, : width + step + 1],
                position_ids=(positions + step)[:, None],
                past_key_values=cache,
                use_cache=True,
            )
            logits = out.logits[:, -1]
        return [[token for token in row if token >= 0] for row in written.tolist()]


def load(policy: str, args: SamplerArgs) -> HFSampler:
    """Open a policy's folder on the device and in the precision that `args` names."""
    model, tokenizer = load_policy(policy, args.dtype, args.device)
    return HFSampler(model, tokenizer, args)
