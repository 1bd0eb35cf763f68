"""The scalar head and its loss: pure functions of logits, labels and positions (GLoRe sec. 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from training.examples import Batch

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def step_logits(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """The head's logits (targets,) at the ends of the steps that `batch` names, in float32."""
    logits = model(**batch.inputs()).logits
    return logits[batch.rows, batch.positions, 0].float()


def reward_loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Sum over all labelled steps of the binary cross-entropy; labels in [0, 1] may be soft."""
    import torch

    logits = step_logits(model, batch)
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.targets.float(), reduction="sum")
