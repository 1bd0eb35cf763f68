"""The scalar head and its losses: pure functions of logits, labels and what stands together, one value an item.

`members` (groups, most) has the indices of the targets of each group, in their order, and -1 where there are fewer: the
steps of a solution for PQM, the solutions of a problem for pairs. `bce` asks for no groups: each target is an item. The
loss of an optimizer step is the mean over its items, whatever micro-batches and ranks they are in.

Only `bce` trains probabilities. The sigmoid of a logit is in [0, 1] and keeps the order with each of them, but after
`pairwise` and `pqm` it is not calibrated; thresholds are chosen on the held-out problems as ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from training.examples import Batch

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from training.distributed import Loss

LOSSES = ("bce", "pairwise", "pqm")
_NOTHING = -1e30  # the logit of what takes no part: infinite ones have no gradient


def step_logits(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """The head's logits (targets,) at the ends of the steps that `batch` names, in float32."""
    logits = model(**batch.inputs()).logits
    return logits[batch.rows, batch.positions, 0].float()


def reward_loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Sum of `bce` over all labelled steps."""
    return bce(step_logits(model, batch), batch.targets.float()).sum()


def make_loss(name: str, margin: float) -> Loss:
    """The sum over a batch's items of the loss of that name; `margin` is that of `pqm`."""

    def grouped(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        logits, labels = step_logits(model, batch), batch.targets.float()
        if name == "pqm":
            return pqm(logits, labels, batch.members, margin).sum()
        return pairwise(logits, labels, batch.members).sum()

    return reward_loss if name == "bce" else grouped


def bce(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(targets,): binary cross-entropy; labels in [0, 1] may be soft."""
    import torch

    return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")


def pairwise(logits: torch.Tensor, labels: torch.Tensor, members: torch.Tensor) -> torch.Tensor:
    """(groups,): how far right solutions are from standing above wrong ones (Bradley-Terry), the mean over all pairs of
    a right and a wrong one of the group, -log sigmoid(s_right - s_wrong) (InstructGPT, arXiv 2203.02155, eq. 1).

    `logits` and `labels` (0 or 1) have one value a solution. A group without a pair is 0.
    """
    import torch

    known, right = members >= 0, labels[members] > 0.5
    scores = logits[members]
    pairs = (known & right)[:, :, None] & (known & ~right)[:, None, :]  # (groups, right, wrong)
    losses = torch.nn.functional.softplus(scores[:, None, :] - scores[:, :, None])
    return torch.where(pairs, losses, 0).sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)


def pqm(logits: torch.Tensor, labels: torch.Tensor, members: torch.Tensor, margin: float) -> torch.Tensor:
    """(solutions,): PQM's ranking of the steps of a solution, Q_wrong + margin < Q_0 < Q_c1 < Q_c2 ... (arXiv
    2410.11287, eq. 10), with the logits as Q and Q_0 = 0, as in its authors' code:

        -mean over t of log( exp Q_ct / (sum over q <= t of exp Q_cq + sum over wrong w of exp(Q_w + margin)) )

    where c1, c2 ... are the right steps, and c0 the start, which counts where there is a wrong step. `labels` are 0 or
    1; the order among wrong steps is left open.
    """
    import torch

    known, right = members >= 0, labels[members] > 0.5
    rights, wrongs = known & right, known & ~right
    values = logits[members]
    ranked = torch.nn.functional.pad(torch.where(rights, values, _NOTHING), (1, 0))  # (solutions, 1 + steps): Q_0 = 0
    wrong = torch.where(wrongs, values + margin, _NOTHING).logsumexp(1, keepdim=True)
    terms = torch.logaddexp(ranked.logcumsumexp(1), wrong) - ranked
    counted = torch.cat([wrongs.any(1, keepdim=True), rights], 1)
    return torch.where(counted, terms, 0).sum(1) / counted.sum(1)
