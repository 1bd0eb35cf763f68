"""The last layer where it matters: nothing reads what it makes of a token without a target.

All tokens still give it their keys and values; but its attention, its projection and its feed-forward part are left out
where there is no target. Logits are right at targets only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from training.attention.shared import Branches, Reader, find_branches

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Ends:
    """The `tokens` of a row that have a target, each once, and attention with queries there only."""

    tokens: torch.Tensor
    branches: Branches

    def to(self, device: torch.device) -> Ends:
        return Ends(self.tokens.to(device), self.branches.to(device))


def find_ends(paths: Sequence[Sequence[int]], positions: Sequence[Sequence[int]], tokens: int) -> Ends:
    """The ends of a row of `tokens` tokens, given the tokens of each example in it, and where its targets are."""
    import torch

    readers, taken = [], set()
    for path, own in zip(paths, positions, strict=True):
        # one answer does for all examples that share a token with a target
        depths = sorted({position for position in own if path[position] not in taken})
        if depths:
            queries = [path[depth] for depth in depths]
            taken.update(queries)
            readers.append(Reader(queries, depths, path[: depths[-1] + 1]))
    return Ends(torch.tensor(sorted(taken), dtype=torch.long), find_branches(readers, tokens))


@contextmanager
def only_ends(model: PreTrainedModel) -> Iterator[None]:
    """Let the last layer of a model of `attention.FAMILIES` read batches by their `ends` while the block lasts."""
    layers = [module for module in model.modules() if hasattr(module, "input_layernorm")]
    if len(layers) != model.config.num_hidden_layers:  # the last one that is used may be another
        yield
        return
    layer, cut = layers[-1], _Cut()
    hooks = [
        layer.register_forward_pre_hook(cut.enter, with_kwargs=True),
        layer.input_layernorm.register_forward_pre_hook(cut.widen),
        layer.self_attn.o_proj.register_forward_pre_hook(cut.narrow),
        layer.register_forward_hook(cut.leave),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Cut:
    """Between entering and leaving the layer: all of its input, and where it is wanted."""

    def __init__(self) -> None:
        self.whole: torch.Tensor | None = None
        self.ends: Ends | None = None

    def enter(self, layer: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        self.ends, self.whole = kwargs.get("ends"), args[0]
        if self.ends is None:
            return args, kwargs
        return (self.chosen(args[0]), *args[1:]), kwargs | {"packing": self.ends.branches}

    def chosen(self, states: torch.Tensor) -> torch.Tensor:
        return states.index_select(1, self.ends.tokens)

    def widen(self, norm: torch.nn.Module, args: tuple) -> tuple:
        # attention needs the keys and values of all
        return args if self.ends is None else (self.whole,)

    def narrow(self, projection: torch.nn.Module, args: tuple) -> tuple:
        return args if self.ends is None else (self.chosen(args[0]),)

    def leave(self, layer: torch.nn.Module, args: tuple, made: torch.Tensor) -> torch.Tensor:
        whole, self.whole = self.whole, None
        return made if self.ends is None else whole.new_zeros(whole.shape).index_copy(1, self.ends.tokens, made)
