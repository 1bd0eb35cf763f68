"""Attention for packed rows that costs what the examples cost, not what the row does.

The library's mask for restarted positions is dense: 4,096 tokens of 40 examples mean 40 times the work that is needed.
Here queries, keys and values of examples of like length are put side by side as a small padded batch (on a CPU), or go
to variable-length flash attention (on a GPU, in half precision). All other layers see no padding at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

from training.attention.attend import Attend, causal_mask
from training.attention.last_layer import only_target_tokens

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from training.attention.packed import Packing

PACKED, PADDED = "stepwise_packed", "stepwise_padded"
# these hand window and soft cap to the attention function, and use no mask that it is not told of; all are tested
FAMILIES = ("gemma", "gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3")


def reads_packs(model: PreTrainedModel) -> bool:
    """Whether `packed_attention` works for a model: if not, packed rows cost the square of their length."""
    return model.config.model_type in FAMILIES and model.config._attn_implementation in ("sdpa", PACKED, PADDED)


@contextmanager
def packed_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let a model read packed batches by their `packing` while the block lasts; call it before the model is wrapped.

    Padded batches give what they always do; of neither kind does the library read anything back from the device. A
    model of another family, or one that was opened with another attention than the library's default, is left as it is:
    with the library's mask it is right as well, only slower.
    """
    with _attention(model, PACKED) as changed, only_target_tokens(model) if changed else nullcontext():
        yield


@contextmanager
def padded_attention(model: PreTrainedModel) -> Iterator[None]:
    """While the block lasts, a model reads padded batches as always, but nothing is read back from the device."""
    with _attention(model, PADDED):
        yield


@contextmanager
def _attention(model: PreTrainedModel, name: str) -> Iterator[bool]:
    """The attention of a name while the block lasts; whether that is another than before."""
    before = model.config._attn_implementation
    if before == name or not reads_packs(model):
        yield False
        return
    _register()
    model.set_attn_implementation(name)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    hook = inner.base_model.register_forward_pre_hook(_without_mask, with_kwargs=True)
    try:
        yield True
    finally:
        hook.remove()
        model.set_attn_implementation(before)


@cache
def _register() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    for name, attend in ((PACKED, attend_packed), (PADDED, attend_padded)):
        AttentionInterface.register(name, attend)
        AttentionMaskInterface.register(name, packed_mask)


def _without_mask(body: PreTrainedModel, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """An empty mask of four dimensions where none is needed: with none at all the library looks on the device whether
    positions start anew. They do so only where there is a packing or where they are given."""
    import torch

    known = kwargs.get("packing") is not None or kwargs.get("position_ids") is None
    if known and kwargs.get("attention_mask") is None and kwargs.get("use_cache") is False:
        kwargs["attention_mask"] = torch.empty(0, 0, 0, 0, device=body.device)
    return args, kwargs


def packed_mask(**asked: Any) -> torch.Tensor | None:
    """No mask for packed rows: an empty tensor stands for it. Others get the library's."""
    import torch
    from transformers.masking_utils import sdpa_mask

    if asked.get("attention_mask") is not None:
        # it would read the mask on the device to see whether anything is padded; `pad_batch` makes one only where it is
        return sdpa_mask(**asked | {"allow_is_causal_skip": False})
    # what the library asks for where it finds positions that start anew
    if not asked.get("allow_is_causal_skip", True):
        return torch.empty(0, device=asked.get("device"))
    return sdpa_mask(**asked)


def attend_padded(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """The library's own attention, but for the mask that stands for none; then a window needs one still."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    mask, length = _given(attention_mask), query.shape[2]
    if mask is None and sliding_window is not None and sliding_window <= length:
        mask = causal_mask(query, sliding_window)[None, None]
    return sdpa_attention_forward(module, query, key, value, mask, sliding_window=sliding_window, **others)


def _given(mask: torch.Tensor | None) -> torch.Tensor | None:
    """A mask, or None where an empty one says that it is causal and no more.

    Raises:
        ValueError: it stands for positions that start anew.
    """
    if mask is None or mask.numel():
        return mask
    if mask.ndim == 1:
        raise ValueError("positions start anew within a row: call the model with all of Batch.inputs()")
    return None


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
    packing: Packing | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each example, as the library calls it: query, key, value (batch, heads, length, size).

    Returns:
        (batch, length, heads, size), and no weights. What is padded gets no attention.

    Raises:
        ValueError: positions start anew within a row, but `packing` is not given.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    attend = Attend(dropout, scaling, sliding_window, softcap)
    if packing is None:
        return attend(query, key, value, _given(attention_mask)).transpose(1, 2), None
    batch, _, length, _ = query.shape
    flat = [_lowered(states.transpose(1, 2).flatten(0, 1)) for states in (query, key, value)]
    merged = packing.attend(attend, *flat)
    return merged.view(batch, length, *merged.shape[1:]), None


def _lowered(states: torch.Tensor) -> torch.Tensor:
    """In the precision of autocast, which knows the library's attention but not this one. Positions are turned in
    float32, so that queries and keys come in it, and values do not."""
    import torch

    kind = states.device.type
    return states.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else states
