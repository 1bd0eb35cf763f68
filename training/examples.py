"""Examples as tensors: the padded batch, which is the reference, and the fields of packed ones.

An example of ids [5 6 7 8] with targets at positions 1 and 3 is, alone in a padded batch, `ids` [[5 6 7 8]], `rows`
[0 0] and `positions` [1 3]. Left out: packing (`training/packing.py`, `training/prefix_sharing.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from training.transfer import move

if TYPE_CHECKING:
    import torch

    from training.attention.last_layer import TargetTokens
    from training.attention.packed import Packing


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids, and a target for some of them: `targets[i]` belongs to position `positions[i]`.

    A policy's target at position t is the id of token t + 1; a reward model's is the label, in [0, 1], of the step that
    ends at position t. The first `prompt` ids are the prompt: examples with the same prompt come into the same step.
    Examples of the same `group` are always read in one batch, and the loss has one value for each group; where no
    example has a group, one for each target.
    """

    ids: list[int]
    positions: list[int]
    targets: list[float]
    prompt: int = 0
    group: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of one batch: `ids` (batch, length), and `rows`, `positions`, `targets` (targets,): each target's place.

    A padded batch has one example a row, and where anything is padded a `mask` (batch, length). A packed one has
    several: instead of a mask, `position_ids` (batch, length), which start at 0 with every example, and `packing`,
    where the examples are. With shared prefixes it is one row, in which an example may begin with tokens of another
    (`training/prefix_sharing.py`). With `target_tokens` logits are right at targets only. Where the loss is one of
    groups, `members` (groups, most) are the indices of the targets of each, and -1 where there are fewer.
    """

    ids: torch.Tensor
    mask: torch.Tensor | None
    rows: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    position_ids: torch.Tensor | None = None
    packing: Packing | None = None
    target_tokens: TargetTokens | None = None
    members: torch.Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The batch on a device, without waiting for it (`training/transfer.py`)."""
        return move(self, device)

    def inputs(self) -> dict[str, Any]:
        """What a model is called with: `model(**batch.inputs())`.

        Without a cache: with one the library does not notice that positions start anew, and the examples of a row would
        see one another.
        """
        if self.position_ids is None:
            return {"input_ids": self.ids, "attention_mask": self.mask, "use_cache": False}
        inputs = {"input_ids": self.ids, "position_ids": self.position_ids, "use_cache": False}
        if self.target_tokens is not None:
            inputs["target_tokens"] = self.target_tokens
        if self.packing.starts is not None:
            # the library's flash attention looks for restarted positions in a batch of one row only: it is told
            inputs |= dict.fromkeys(("cu_seq_lens_q", "cu_seq_lens_k"), self.packing.starts)
            inputs |= dict.fromkeys(("max_length_q", "max_length_k"), self.packing.longest)
        return inputs | {"packing": self.packing}


def place_targets(
    examples: Sequence[Example], rows: Sequence[int], paths: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, ...]:
    """(rows, positions, targets) of all targets, given the row of each example and the columns of its tokens there."""
    import torch

    each = torch.tensor([len(example.positions) for example in examples])
    places = [path[position] for e, path in zip(examples, paths, strict=True) for position in e.positions]
    targets = torch.tensor([target for e in examples for target in e.targets], dtype=torch.float64)
    return torch.repeat_interleave(torch.tensor(rows), each), torch.tensor(places, dtype=torch.long), targets


def list_members(groups: Sequence[Sequence[Example]]) -> torch.Tensor:
    """`Batch.members` of a batch in which the examples of these groups follow one another: of a group with 2 targets
    and one with 1, [[0, 1], [2, -1]]."""
    import torch

    sizes = [sum(len(example.positions) for example in group) for group in groups]
    targets = torch.arange(sum(sizes)).split(sizes)
    return torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=-1)


def pad_batch(examples: Sequence[Example], pad_id: int) -> Batch:
    """Pad on the right: a causal model's outputs at an example's own tokens do not depend on it."""
    import torch

    longest = max(len(example.ids) for example in examples)
    ids = torch.full((len(examples), longest), pad_id)
    mask = torch.zeros(len(examples), longest, dtype=torch.long)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        mask[row, : len(example.ids)] = 1
    targets = place_targets(examples, range(len(examples)), [range(longest)] * len(examples))
    padded = any(len(example.ids) < longest for example in examples)
    return Batch(ids, mask if padded else None, *targets)
