"""Attention of one new token a row without repeating keys and values where several query heads share them.

The library's own copies the whole cache for every token then. Everything else is left to it.
"""

from __future__ import annotations

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "stepwise_folded"


def folded_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Like `sdpa_attention_forward`: query (rows, heads, new, size), keys and values (rows, fewer heads, length, size).

    The heads that share a key are given as so many queries of that one head.
    """
    rows, heads, new, size = query.shape
    if new > 1 or key.shape[1] == heads or kwargs.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    folded = query.reshape(rows, key.shape[1], -1, size)
    out = torch.nn.functional.scaled_dot_product_attention(folded, key, value, attn_mask=attention_mask, scale=scaling)
    return out.reshape(rows, 1, heads, -1), None


def fold(model) -> None:
    """Give a model this attention, where it has the library's own for torch's fused kernels."""
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, folded_attention)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)
