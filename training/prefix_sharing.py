"""Examples that begin with the same tokens, such as solutions of one problem: what they share is read once.

Losses and gradients are those of examples read one by one, since no token of a causal model sees what comes after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

from training.attention.install import reads_packs
from training.attention.last_layer import find_ends
from training.attention.shared import Reader, find_branches
from training.examples import Batch, Example
from training.packing import pack_batch, plan_packs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LEAST = 8  # a shorter beginning is read again: it costs less than a lookup of its keys


def can_share(model: PreTrainedModel, training: bool) -> bool:
    """Whether a model gives the same with shared beginnings: its attention must be ours (`packed_attention`), and in
    training it must drop nothing, or examples would share what is dropped."""
    return reads_packs(model) and not (training and drops(model))


def drops(model: PreTrainedModel) -> bool:
    """Whether a model in training, or an adapter of it, drops anything at random."""
    import torch

    return any(
        (isinstance(module, torch.nn.Dropout) and module.p > 0) or getattr(module, "attention_dropout", 0) > 0
        for module in model.modules()
    )


class Families:
    """Which of some examples have the same prompt, and what it costs to read them together.

    `of` has a number for each example; one without a prompt is a family of its own.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples
        known: dict[object, int] = {}
        keys = (tuple(e.ids[: e.prompt]) if e.prompt else i for i, e in enumerate(examples))
        self.of = [known.setdefault(key, len(known)) for key in keys]

    def units(self, chosen: Iterable[int]) -> list[list[int]]:
        """Chosen examples by family."""
        found: dict[int, list[int]] = {}
        for i in chosen:
            found.setdefault(self.of[i], []).append(i)
        return list(found.values())

    def read(self, chosen: Sequence[int]) -> int:
        """How many tokens are read of examples that share a row."""
        return sum(count_own([self.examples[i] for i in chosen]))

    def rows(self, chosen: Iterable[int], tokens: int) -> list[list[int]]:
        """Chosen examples in rows of which at most `tokens` are read (or one longer example)."""
        parts = self.parts(chosen, tokens)
        packs = plan_packs([self.read(part) for part in parts], tokens, 0, 0)
        return [[i for at in pack for i in parts[at]] for pack in packs]

    def parts(self, chosen: Iterable[int], tokens: int) -> list[list[int]]:
        """Chosen examples by family, cut where more than `tokens` would be read of one at a time."""
        return [part for unit in self.units(chosen) for part in self._cut(unit, tokens)]

    def _cut(self, unit: list[int], tokens: int) -> list[list[int]]:
        parts: list[list[int]] = []
        room = 0
        for at, same in _overlaps([self.examples[i] for i in unit]):
            whole = len(self.examples[unit[at]].ids)
            if not parts or whole - same > room:
                parts.append([])
                same, room = 0, tokens
            parts[-1].append(unit[at])
            room -= whole - same
        return parts


@dataclass(frozen=True, slots=True)
class Row:
    """Examples as one row of tokens: `ids`, and for each token its `depths`, the number of those before it.

    Example i is the tokens `paths[i]` of the row; the first `shared[i]` of them are also another's.
    """

    ids: list[int]
    depths: list[int]
    paths: list[list[int]]
    shared: list[int]


def share(examples: Sequence[Example]) -> Row:
    """Read each beginning that several examples have in common once."""
    ids: list[int] = []
    depths: list[int] = []
    paths: list[list[int]] = [[]] * len(examples)
    shared = [0] * len(examples)
    before: list[int] = []
    for i, same in _overlaps(examples):
        own = examples[i].ids
        paths[i] = before = [*before[:same], *range(len(ids), len(ids) + len(own) - same)]
        ids += own[same:]
        depths += range(same, len(own))
        shared[i] = same
    return Row(ids, depths, paths, shared)


def count_own(examples: Sequence[Example]) -> list[int]:
    """How many tokens `share` reads of each example, beyond those that it has read already."""
    own = [0] * len(examples)
    for i, same in _overlaps(examples):
        own[i] = len(examples[i].ids) - same
    return own


def _overlaps(examples: Sequence[Example]) -> Iterator[tuple[int, int]]:
    """Each example, and how many tokens it shares with the one before it: with no earlier one does it share more."""
    before: list[int] = []
    for i in sorted(range(len(examples)), key=lambda i: examples[i].ids):
        own, same = examples[i].ids, 0
        for one, other in zip(before, own, strict=False):
            if one != other:
                break
            same += 1
        yield i, same if same >= _LEAST or same == len(own) else 0
        before = own


def share_batch(examples: Sequence[Example], pad_id: int, ends_only: bool = False) -> Batch:
    """Examples as one row in which beginnings are shared; targets are in the order of the examples.

    Where nothing is shared it is a plain pack. With `ends_only` the last layer is for the targets only.

    Raises:
        ValueError: there is no token to read.
    """
    import torch

    row = share(examples)
    if any(row.shared):
        each = zip(row.paths, row.shared, strict=True)
        readers = [Reader(path[same:], range(same, len(path)), path) for path, same in each if same < len(path)]
        places = [path[at] for example, path in zip(examples, row.paths, strict=True) for at in example.positions]
        targets = torch.tensor([target for example in examples for target in example.targets], dtype=torch.float64)
        batch = Batch(
            ids=torch.tensor([row.ids]),
            mask=None,
            rows=torch.zeros(len(places), dtype=torch.long),
            positions=torch.tensor(places, dtype=torch.long),
            targets=targets,
            position_ids=torch.tensor([row.depths]),
            packing=find_branches(readers, len(row.ids)),
        )
        paths: Sequence[Sequence[int]] = row.paths
    else:
        batch = pack_batch([examples], pad_id)
        ends = list(accumulate(len(example.ids) for example in examples))
        paths = [range(end - len(example.ids), end) for end, example in zip(ends, examples, strict=True)]
    if ends_only and len(batch.positions):
        return replace(batch, ends=find_ends(paths, [example.positions for example in examples], len(row.ids)))
    return batch
