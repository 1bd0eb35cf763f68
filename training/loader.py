"""The steps of a run as batches of tensors, for one process of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from training.args import TrainArgs
from training.distributed import Engine
from training.examples import Batch, Example, pad_batch
from training.packing import pack_batch
from training.plan import micro_batches, pack_size, plan_steps, split_over_ranks
from training.prefix_sharing import Families, can_share, share_batch


@dataclass(frozen=True, slots=True)
class Step:
    """One step: this process's `batches`, of which the first `counted` count; the others only keep it in step.

    `targets`, the indices of the `chosen` examples and `figures["tokens"]` are of all processes; `figures["useful"]`
    and `figures["computed"]` (with padding, shared prefixes once) are of this one.
    """

    batches: list[Batch]
    counted: int
    targets: int
    chosen: list[int]
    figures: dict[str, int]


class StepLoader:
    """Makes the batches of each step, for one process. Examples without targets are left out."""

    def __init__(self, examples: Sequence[Example], args: TrainArgs, pad_id: int, engine: Engine) -> None:
        self.examples, self.args, self.pad_id = examples, args, pad_id
        self.rank, self.count, self.sharded = engine.rank, engine.count, engine.sharded
        self.kept = [i for i, example in enumerate(examples) if example.positions]
        self.lengths = [len(examples[i].ids) for i in self.kept]
        # also where nothing is shared, so that every layout takes the same steps
        families = Families([examples[i] for i in self.kept]) if args.share_prefixes else None
        self.plan = plan_steps(self.lengths, args, families and families.of)
        self.shared = families if args.layout == "packed" and can_share(engine.trained, True) else None
        self.targets_only = engine.device.type == "cpu"

    def prepare(self, number: int) -> Step:
        """This process's batches of step `number`, from 0."""
        chosen = [i for pack in self.plan[number] for i in pack]
        shares = split_over_ranks(self.plan[number], self.lengths, self.count, pack_size(self.args), self.shared)
        cuts = [micro_batches(share, self.lengths, self.args, self.shared) for share in shares]
        own = [self._batch(rows) for rows in cuts[self.rank]]
        # all must join the same collectives: gradients once a step, and with FSDP weights once a batch
        rounds = max(map(len, cuts)) if self.sharded else max(1, len(own))
        shortest = min(chosen, key=self.lengths.__getitem__)
        batches = own + [self._batch([[shortest]]) for _ in range(rounds - len(own))]
        figures = {
            "tokens": sum(self.lengths[i] for i in chosen),
            "useful": sum(self.lengths[i] for pack in shares[self.rank] for i in pack),
            "computed": sum(batch.ids.numel() for batch in own),
        }
        targets = sum(len(self.examples[self.kept[i]].targets) for i in chosen)
        return Step(batches, len(own), targets, [self.kept[i] for i in chosen], figures)

    def _batch(self, rows: Sequence[Sequence[int]]) -> Batch:
        found = [[self.examples[self.kept[i]] for i in row] for row in rows]
        if self.args.layout == "padded":
            return pad_batch([example for row in found for example in row], self.pad_id)
        if self.shared is not None:
            return share_batch([example for row in found for example in row], self.pad_id, self.targets_only)
        return pack_batch(found, self.pad_id)
