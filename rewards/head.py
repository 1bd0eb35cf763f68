"""The head of a reward model in float32, whatever the body's precision: between 2 and 4 logits in bfloat16 step by
1/64, so that scores of several solutions would tie."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from rollouts.sampling.policies import HEADS, naming, open_model

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel


def open_with_head(
    path: str, part: str, config: PretrainedConfig, dtype: torch.dtype
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """`open_model` of a token classifier whose body has `dtype`, and whose head has and computes float32.

    Raises:
        ValueError: see `open_model`.
    """
    import torch
    from transformers import AutoModelForTokenClassification

    kind: Any = AutoModelForTokenClassification
    if dtype != torch.float32:
        with naming(path, part), torch.device("meta"):
            own = type(AutoModelForTokenClassification.from_config(config))
        # a class of its own: the library's stays as it is. A trained head would be rounded while it is read
        kind = type(own.__name__, (own,), {"_keep_in_fp32_modules_strict": {name.rstrip(".") for name in HEADS}})
    model, loading = open_model(kind, path, part, config=config, dtype=dtype)
    for name in HEADS:
        head = getattr(model, name.rstrip("."), None)
        if type(head) is torch.nn.Linear:
            head.float()  # a new one has the body's precision
            head.__class__ = _float32_linear()
    return model, loading


@cache
def _float32_linear() -> type[torch.nn.Linear]:
    import torch

    class Float32Linear(torch.nn.Linear):
        """A linear layer that computes in float32, under autocast as well."""

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            with torch.autocast(states.device.type, enabled=False):
                return super().forward(states.float())

    return Float32Linear
