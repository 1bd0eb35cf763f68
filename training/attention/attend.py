"""Attention within the rows of a batch, and tokens moved to other places: what packed attention is made of."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


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
            mask = causal_mask(query, self.window)
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
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: torch.Tensor, longest: int
    ) -> torch.Tensor:
        """Attention within sequences that start at `bounds`, none longer than `longest`: (tokens, heads, size) -> the
        same."""
        function = _variable_length()
        shared, options = query.shape[1] // key.shape[1], {}
        if shared > 1 and "enable_gqa" in inspect.signature(function).parameters:
            options["enable_gqa"] = True
        elif shared > 1:
            key, value = (states.repeat_interleave(shared, 1) for states in (key, value))
        left = -1 if self.window is None or self.window >= longest else self.window - 1
        ends = (bounds, bounds, longest, longest)
        return function(query, key, value, *ends, scale=self.scaling, window_size=(left, 0), **options)


def causal_mask(query: torch.Tensor, window: int | None) -> torch.Tensor:
    """(length, length): which keys the queries (rows, heads, length, size) see."""
    import torch

    length = query.shape[2]
    mask = query.new_ones(length, length, dtype=torch.bool).tril()
    return mask if window is None else mask.triu(1 - window)


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
