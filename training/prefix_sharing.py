"""Prefix sharing: tokens with which several examples begin, such as a problem's text, are computed once.

Three solutions of 50 tokens after one prompt of 100 are a row of 250 tokens instead of 450. Losses and gradients are
the same, since no token of a causal model sees what comes after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

from training.attention.install import reads_packs
from training.attention.last_layer import find_target_tokens
from training.attention.packed import Branch, find_packing
from training.examples import Batch, Example, place_targets
from training.packing import pack_batch, plan_packs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LEAST = 8  # a shorter prefix is not shared: computing it again costs less than gathering its keys


def can_share(model: PreTrainedModel, training: bool) -> bool:
    """Whether a model gives the same results with shared prefixes: its attention must be ours (`packed_attention`), and
    in training it must have no dropout, or examples would share what is dropped."""
    import torch

    def drops(module: torch.nn.Module) -> bool:
        return (isinstance(module, torch.nn.Dropout) and module.p > 0) or getattr(module, "attention_dropout", 0) > 0

    return reads_packs(model) and not (training and any(map(drops, model.modules())))


class Families:
    """A family is the examples with the same prompt. `of[i]` is the number of example i's family.

    Prompts A, B, A and none give `of` = [0, 1, 0, 2]: an example without a prompt is a family of its own.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples
        known: dict[object, int] = {}
        keys = (tuple(e.ids[: e.prompt]) if e.prompt else i for i, e in enumerate(examples))
        self.of = [known.setdefault(key, len(known)) for key in keys]

    def by_family(self, chosen: Iterable[int]) -> list[list[int]]:
        """The chosen examples, a list for each family: 0, 1 and 2 of the above give [[0, 2], [1]]."""
        found: dict[int, list[int]] = {}
        for i in chosen:
            found.setdefault(self.of[i], []).append(i)
        return list(found.values())

    def tokens_read(self, chosen: Sequence[int]) -> int:
        """The length of a row that these examples share."""
        return sum(count_own([self.examples[i] for i in chosen]))

    def rows(self, chosen: Iterable[int], tokens: int) -> list[list[int]]:
        """Chosen examples in rows of at most `tokens` tokens, shared ones counted once (or one longer example)."""
        parts = self.parts(chosen, tokens)
        packs = plan_packs([self.tokens_read(part) for part in parts], tokens, 0, 0)
        return [[i for at in pack for i in parts[at]] for pack in packs]

    def parts(self, chosen: Iterable[int], tokens: int) -> list[list[int]]:
        """Chosen examples by family, a family cut where it would make a row of more than `tokens`."""
        return [part for family in self.by_family(chosen) for part in self._cut(family, tokens)]

    def _cut(self, family: list[int], tokens: int) -> list[list[int]]:
        parts: list[list[int]] = []
        room = 0
        for at, same in _overlaps([self.examples[i] for i in family]):
            whole = len(self.examples[family[at]].ids)
            if not parts or whole - same > room:
                parts.append([])
                same, room = 0, tokens
            parts[-1].append(family[at])
            room -= whole - same
        return parts


@dataclass(frozen=True, slots=True)
class Row:
    """Examples as one row of tokens, shared prefixes once. [7 8 9 1 2] and [7 8 9 3] would be

    ids    = [7 8 9 1 2 3]      (row,)
    depths = [0 1 2 3 4 3]      (row,), each token's position in its example
    paths  = [[0 1 2 3 4], [0 1 2 5]]     the places in the row of each example's tokens
    shared = [0, 3]             how many of them another example brought
    """

    ids: list[int]
    depths: list[int]
    paths: list[list[int]]
    shared: list[int]


def merge_prefixes(examples: Sequence[Example]) -> Row:
    """Put examples into one row in which a prefix of two of them stands once (if it has at least 8 tokens)."""
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
    """How many tokens each example adds to the row of `merge_prefixes`: [5, 1] in its example."""
    own = [0] * len(examples)
    for i, same in _overlaps(examples):
        own[i] = len(examples[i].ids) - same
    return own


def _overlaps(examples: Sequence[Example]) -> Iterator[tuple[int, int]]:
    """Each example, in the order of their ids, and how many tokens it shares with the one before it. In that order no
    earlier one shares more."""
    before: list[int] = []
    for i in sorted(range(len(examples)), key=lambda i: examples[i].ids):
        own, same = examples[i].ids, 0
        for one, other in zip(before, own, strict=False):
            if one != other:
                break
            same += 1
        yield i, same if same >= _LEAST or same == len(own) else 0
        before = own


def share_batch(examples: Sequence[Example], pad_id: int, targets_only: bool = False) -> Batch:
    """Examples as one row in which prefixes are shared; targets are in the order of the examples.

    Where nothing is shared it is a plain pack. With `targets_only` the last layer computes tokens with a target only.

    Raises:
        ValueError: there is no token to read.
    """
    import torch

    row = merge_prefixes(examples)
    if any(row.shared):
        each = zip(row.paths, row.shared, strict=True)
        branches = [Branch(path[same:], range(same, len(path)), path) for path, same in each if same < len(path)]
        packing, depths = find_packing(branches, len(row.ids)), torch.tensor([row.depths])
        targets = place_targets(examples, [0] * len(examples), row.paths)
        batch = Batch(torch.tensor([row.ids]), None, *targets, depths, packing)
        paths: Sequence[Sequence[int]] = row.paths
    else:
        batch = pack_batch([examples], pad_id)
        ends = list(accumulate(len(example.ids) for example in examples))
        paths = [range(end - len(example.ids), end) for end, example in zip(ends, examples, strict=True)]
    if targets_only and len(batch.positions):
        positions = [example.positions for example in examples]
        return replace(batch, target_tokens=find_target_tokens(paths, positions, len(row.ids)))
    return batch
