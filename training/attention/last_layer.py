"""The last layer computes only the tokens that have a target: nothing reads its output for the others.

Its keys and values are still those of all tokens; its queries, its projection and its feed-forward part are not. Logits
are right at targets only. Of a row of 200 tokens with 5 step ends, that part of the layer does 5 instead of 200.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from training.attention.packed import Branch, Packing, find_packing

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class TargetTokens:
    """The `tokens` of a row that have a target, each once (targets,), and the attention that has queries only there."""

    tokens: torch.Tensor
    packing: Packing


def find_target_tokens(paths: Sequence[Sequence[int]], positions: Sequence[Sequence[int]], tokens: int) -> TargetTokens:
    """The tokens with a target of a row of `tokens` tokens.

    `paths[i]` are the places in the row of example i's tokens, `positions[i]` the tokens of it, from 0, that have a
    target. A place that two examples share is computed once: it has the same tokens before it in both.
    """
    import torch

    branches, taken = [], set()
    for path, own in zip(paths, positions, strict=True):
        depths = sorted({position for position in own if path[position] not in taken})
        if depths:
            queries = [path[depth] for depth in depths]
            taken.update(queries)
            branches.append(Branch(queries, depths, path[: depths[-1] + 1]))
    return TargetTokens(torch.tensor(sorted(taken), dtype=torch.long), find_packing(branches, tokens))


@contextmanager
def only_target_tokens(model: PreTrainedModel) -> Iterator[None]:
    """While the block lasts, the last layer of a model of `attention.FAMILIES` computes `Batch.target_tokens` only."""
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
    """The hooks of one layer, in the order in which they run; `whole` is its input (1, tokens, size)."""

    def __init__(self) -> None:
        self.whole: torch.Tensor | None = None
        self.target_tokens: TargetTokens | None = None

    def enter(self, layer: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        self.target_tokens, self.whole = kwargs.get("target_tokens"), args[0]
        if self.target_tokens is None:
            return args, kwargs
        return (self.chosen(args[0]), *args[1:]), kwargs | {"packing": self.target_tokens.packing}

    def chosen(self, states: torch.Tensor) -> torch.Tensor:
        return states.index_select(1, self.target_tokens.tokens)

    def widen(self, norm: torch.nn.Module, args: tuple) -> tuple:
        # attention needs the keys and values of all
        return args if self.target_tokens is None else (self.whole,)

    def narrow(self, projection: torch.nn.Module, args: tuple) -> tuple:
        return args if self.target_tokens is None else (self.chosen(args[0]),)

    def leave(self, layer: torch.nn.Module, args: tuple, made: torch.Tensor) -> torch.Tensor:
        whole, self.whole = self.whole, None
        if self.target_tokens is None:
            return made
        return whole.new_zeros(whole.shape).index_copy(1, self.target_tokens.tokens, made)
