"""Tensors of a batch on their way to a GPU: one pinned buffer, one copy, which nothing waits for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
_ALIGNED = 16  # bytes: where each tensor begins, so that a kernel may read any type there


def move(value: T, device: torch.device) -> T:
    """The same dataclass of tensors, dataclasses and other values, with all its tensors on `device`.

    To a GPU they go in one copy, queued behind what the GPU is at work on; the host goes on. The tensors that come back
    are parts of one buffer.
    """
    import torch

    if device.type == "cpu":
        return value
    found: list[torch.Tensor] = []
    _rebuilt(value, lambda tensor: found.append(tensor) or tensor)
    sizes = [-(-tensor.nbytes // _ALIGNED) * _ALIGNED for tensor in found]
    buffer = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=device.type == "cuda")
    for tensor, room in zip(found, buffer.split(sizes), strict=True):
        _part(room, tensor).copy_(tensor)
    # pinned memory is used again only when the copy is done: torch's allocator sees to that
    rooms = iter(buffer.to(device, non_blocking=True).split(sizes))
    return _rebuilt(value, lambda tensor: _part(next(rooms), tensor))


def _part(room: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The bytes of a buffer as a tensor of the type and shape of another."""
    return room[: prod(like.shape) * like.element_size()].view(like.dtype).view(like.shape)


def _rebuilt(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A value with each of its tensors changed, always in the same order."""
    import torch

    if isinstance(value, torch.Tensor):
        return change(value)
    if is_dataclass(value):
        return type(value)(*(_rebuilt(getattr(value, field.name), change) for field in fields(value)))
    return value
