"""Attention for packed rows that costs what the examples cost, not what the row does.

The library's mask for restarted positions is dense: 4,096 tokens of 40 examples mean 40 times the work that is needed.
Here queries, keys and values of examples of like length are put side by side as a small padded batch (on a CPU), or go
to variable-length flash attention (on a GPU, in half precision). All other layers see no padding at all.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from training.branches import Branches

PACKED = "stepwise_packed"
# these hand window and soft cap to the attention function, and use no mask that it is not told of; all are tested
FAMILIES = ("gemma", "gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3")
_ALIKE = 0.8  # examples of one group are at least so long beside the longest of it


@dataclass(frozen=True, slots=True)
class Packing:
    """Where the examples of a batch of packs are, with the tokens of all rows counted through.

    `groups` are (examples, places for each) of like length. `gather` (places,) is the token in each place; `holes` are
    the places without one. `scatter` (tokens,) is the place of each token; `idle` are the tokens of no example.
    `bounds` (sequences + 1,) is where each example, or what is padded of a row, starts; none has more than `longest`.
    """

    groups: tuple[tuple[int, int], ...]
    gather: torch.Tensor
    holes: torch.Tensor
    scatter: torch.Tensor
    idle: torch.Tensor
    bounds: torch.Tensor
    longest: int

    def to(self, device: torch.device) -> Packing:
        tensors = (self.gather, self.holes, self.scatter, self.idle, self.bounds)
        return Packing(self.groups, *(tensor.to(device) for tensor in tensors), self.longest)


def find_packing(lengths: Sequence[Sequence[int]], width: int) -> Packing:
    """The packing of rows of `width` tokens that hold examples of these lengths from their left end on."""
    import torch

    spans = []  # (length, first token) of each example
    bounds, longest = [0], 0
    for row, own in enumerate(lengths):
        at = row * width
        for length in own:
            spans.append((length, at))
            at += length
            bounds.append(at)
        if at < (row + 1) * width:
            longest = max(longest, (row + 1) * width - at)
            bounds.append((row + 1) * width)
    spans.sort(reverse=True)
    groups = alike([length for length, _ in spans])
    sizes = torch.tensor([places for count, places in groups for _ in range(count)])
    own, first = torch.tensor(spans).unbind(1)
    start = sizes.cumsum(0) - sizes
    within = torch.arange(int(sizes.sum())) - start.repeat_interleave(sizes)
    filled = within < own.repeat_interleave(sizes)
    gather = torch.where(filled, first.repeat_interleave(sizes) + within, 0)
    scatter = torch.full((len(lengths) * width,), -1)
    scatter[gather[filled]] = filled.nonzero()[:, 0]
    return Packing(
        groups=groups,
        gather=gather,
        holes=(~filled).nonzero()[:, 0],
        scatter=scatter.clamp(min=0),
        idle=(scatter < 0).nonzero()[:, 0],
        bounds=torch.tensor(bounds, dtype=torch.int32),
        longest=max(longest, spans[0][0]),
    )


def alike(falling: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Falling lengths in groups of like length: (how many, the longest) of each."""
    groups: list[tuple[int, int]] = []
    for length in falling:
        if groups and length >= _ALIKE * groups[-1][1]:
            groups[-1] = (groups[-1][0] + 1, groups[-1][1])
        else:
            groups.append((1, length))
    return tuple(groups)


def reads_packs(model: PreTrainedModel) -> bool:
    """Whether `packed_attention` works for a model: if not, packed rows cost the square of their length."""
    return model.config.model_type in FAMILIES and model.config._attn_implementation in ("sdpa", PACKED)


@contextmanager
def packed_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let a model read packed batches by their `packing` while the block lasts; call it before the model is wrapped.

    Padded batches give what they always do. A model of another family, or one that was opened with another attention
    than the library's default, is left as it is: with the library's mask it is right as well, only slower.
    """
    before = model.config._attn_implementation
    if before == PACKED or not reads_packs(model):
        yield
        return
    from training.last_layer import only_ends  # which is built on this module

    _register()
    model.set_attn_implementation(PACKED)
    try:
        with only_ends(model):
            yield
    finally:
        model.set_attn_implementation(before)


@cache
def _register() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(PACKED, attend_packed)
    AttentionMaskInterface.register(PACKED, packed_mask)


def packed_mask(**asked: Any) -> torch.Tensor | None:
    """No mask for packed rows: an empty tensor stands for it. Others get the library's."""
    import torch
    from transformers.masking_utils import sdpa_mask

    # what the library asks for where it finds positions that start anew
    if asked.get("attention_mask") is None and not asked.get("allow_is_causal_skip", True):
        return torch.empty(0, device=asked.get("device"))
    return sdpa_mask(**asked)


def attend_packed(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    packing: Packing | Branches | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each example, as the library calls it: query, key, value (batch, heads, length, size).

    Returns:
        (batch, length, heads, size), and no weights. What is padded gets no attention.

    Raises:
        ValueError: positions start anew within a row, but `packing` is not given.
    """
    import torch

    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    attend = Attend(dropout, scaling, sliding_window, softcap)
    if packing is None:
        if attention_mask is not None and not attention_mask.numel():
            raise ValueError("positions start anew within a row: call the model with all of Batch.inputs()")
        return attend(query, key, value, attention_mask).transpose(1, 2), None
    batch, _, length, _ = query.shape
    flat = [_lowered(states.transpose(1, 2).flatten(0, 1)) for states in (query, key, value)]
    if not isinstance(packing, Packing):
        merged = packing.attend(attend, *flat)
        return merged.view(batch, length, *merged.shape[1:]), None
    if attend.fused(flat[0]):
        return attend.variable_length(*flat, packing).view(batch, length, *flat[0].shape[1:]), None
    there = (packing.gather, packing.holes, packing.scatter, packing.idle)
    places = [regroup(states, *there).split([n * size for n, size in packing.groups]) for states in flat]
    found = []
    for (examples, size), *states in zip(packing.groups, *places, strict=True):
        own = (one.view(examples, size, *one.shape[1:]).transpose(1, 2) for one in states)
        found.append(attend(*own).transpose(1, 2).flatten(0, 1))
    back = (packing.scatter, packing.idle, packing.gather, packing.holes)
    merged = regroup(found[0] if len(found) == 1 else torch.cat(found), *back)
    return merged.view(batch, length, *merged.shape[1:]), None


def _lowered(states: torch.Tensor) -> torch.Tensor:
    """In the precision of autocast, which knows the library's attention but not this one. Positions are turned in
    float32, so that queries and keys come in it, and values do not."""
    import torch

    kind = states.device.type
    return states.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else states


@dataclass(frozen=True, slots=True)
class Attend:
    """Attention within rows, (rows, heads, length, size) -> the same: causal, or by a mask where one is given."""

    dropout: float
    scaling: float
    window: int | None
    softcap: float | None

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        import torch

        length, shared = query.shape[2], query.shape[1] // key.shape[1]
        if mask is None and (self.softcap or (self.window is not None and self.window < length)):
            mask = query.new_ones(length, length, dtype=torch.bool).tril()
            if self.window is not None:
                mask = mask.triu(1 - self.window)
        if shared > 1:
            key, value = (states.repeat_interleave(shared, 1) for states in (key, value))
        if self.softcap:
            logits = self.softcap * torch.tanh(query @ key.transpose(2, 3) * (self.scaling / self.softcap))
            weights = logits.masked_fill(~mask, torch.finfo(query.dtype).min).softmax(-1, torch.float32).to(value.dtype)
            return torch.dropout(weights, self.dropout, self.dropout > 0) @ value
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, mask, self.dropout, mask is None and length > 1, scale=self.scaling
        )

    def fused(self, query: torch.Tensor) -> bool:
        """Whether variable-length flash attention can do this."""
        import torch

        fits = query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and query.shape[-1] <= 256
        return fits and not self.dropout and not self.softcap and _variable_length() is not None

    def variable_length(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing | Branches
    ) -> torch.Tensor:
        """Attention within the sequences of `packing`: (tokens, heads, size) -> the same."""
        function = _variable_length()
        shared, options = query.shape[1] // key.shape[1], {}
        if shared > 1 and "enable_gqa" in inspect.signature(function).parameters:
            options["enable_gqa"] = True
        elif shared > 1:
            key, value = (states.repeat_interleave(shared, 1) for states in (key, value))
        left = -1 if self.window is None or self.window >= packing.longest else self.window - 1
        ends = (packing.bounds, packing.bounds, packing.longest, packing.longest)
        return function(query, key, value, *ends, scale=self.scaling, window_size=(left, 0), **options)


@cache
def _variable_length() -> Callable | None:
    """Torch's own variable-length flash attention, where it is new enough to have a scale and a window."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if {"scale", "window_size"} <= inspect.signature(varlen_attn).parameters.keys() else None


def regroup(states: torch.Tensor, *where: torch.Tensor) -> torch.Tensor:
    """Rows in other places, each in one at most: `where` is (the row of each place, the places without one), and the
    same for the way back."""
    return _regroup().apply(states, *where)


@cache
def _regroup() -> type[torch.autograd.Function]:
    import torch

    def take(states: torch.Tensor, chosen: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
        return states.index_select(0, chosen).index_fill_(0, empty, 0)

    class Regroup(torch.autograd.Function):
        """Rows put into other places. Each has one at most, so the gradient is the same the other way round: no sums,
        whose order on a GPU would change from run to run."""

        @staticmethod
        def forward(ctx: Any, states: torch.Tensor, *where: torch.Tensor) -> torch.Tensor:
            chosen, empty, back, unused = where
            ctx.save_for_backward(back, unused)
            return take(states, chosen, empty)

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> tuple:
            return take(gradient, *ctx.saved_tensors), None, None, None, None

    return Regroup
