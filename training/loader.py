"""The steps of a run as batches of tensors, for one process of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from training.args import TrainArgs
from training.distributed import Engine
from training.examples import Batch, Example, list_members, pad_batch
from training.packing import pack_batch
from training.plan import micro_batches, pack_size, plan_steps, split_over_ranks
from training.prefix_sharing import Families, can_share, share_batch


@dataclass(frozen=True, slots=True)
class Step:
    """One step: this process's `batches`, of which the first `counted` count; the others only keep it in step.

    The loss has `items` values, one a target or one a group. They, the indices of the `chosen` examples and
    `figures["tokens"]` are of all processes; `figures["useful"]` and `figures["computed"]` (with padding, shared
    prefixes once) are of this one.
    """

    batches: list[Batch]
    counted: int
    items: int
    chosen: list[int]
    figures: dict[str, int]


class StepLoader:
    """Makes the batches of each step, for one process, and sends them to its device. Examples without targets are left
    out.

    What is planned and split are units: an example, or the examples of a group, which stay together.
    """

    def __init__(self, examples: Sequence[Example], args: TrainArgs, pad_id: int, engine: Engine) -> None:
        self.examples, self.args, self.pad_id = examples, args, pad_id
        self.rank, self.count, self.sharded = engine.rank, engine.count, engine.sharded
        self.kept = [i for i, example in enumerate(examples) if example.positions]
        self.grouped = any(examples[i].group is not None for i in self.kept)
        units: dict[object, list[int]] = {}
        for i in self.kept:
            group = examples[i].group
            units.setdefault(("alone", i) if group is None else group, []).append(i)
        self.units = list(units.values())
        self.lengths = [sum(len(examples[i].ids) for i in unit) for unit in self.units]
        alone = len(self.units) == len(self.kept)  # else the examples of a prompt are together as a group
        # also where nothing is shared, so that every layout takes the same steps
        families = Families([examples[i] for i in self.kept]) if args.share_prefixes and alone else None
        self.plan = plan_steps(self.lengths, args, families and families.of)
        self.shares = args.share_prefixes and args.layout == "packed" and can_share(engine.trained, True)
        self.shared = families if self.shares else None
        self.device, self.targets_only = engine.device, engine.device.type == "cpu"

    def prepare(self, number: int) -> Step:
        """This process's batches of step `number`, from 0."""
        units = [at for pack in self.plan[number] for at in pack]
        shares = split_over_ranks(self.plan[number], self.lengths, self.count, pack_size(self.args), self.shared)
        cuts = [micro_batches(share, self.lengths, self.args, self.shared) for share in shares]
        own = [self._batch(rows) for rows in cuts[self.rank]]
        # all must join the same collectives: gradients once a step, and with FSDP weights once a batch
        rounds = max(map(len, cuts)) if self.sharded else max(1, len(own))
        shortest = min(units, key=self.lengths.__getitem__)
        batches = own + [self._batch([[shortest]]) for _ in range(rounds - len(own))]
        figures = {
            "tokens": sum(self.lengths[at] for at in units),
            "useful": sum(self.lengths[at] for pack in shares[self.rank] for at in pack),
            "computed": sum(batch.ids.numel() for batch in own),
        }
        chosen = [i for at in units for i in self.units[at]]
        items = len(units) if self.grouped else sum(len(self.examples[i].targets) for i in chosen)
        return Step(batches, len(own), items, chosen, figures)

    def _batch(self, rows: Sequence[Sequence[int]]) -> Batch:
        units = [[self.examples[i] for i in self.units[at]] for row in rows for at in row]
        examples = [example for unit in units for example in unit]
        if self.args.layout == "padded":
            batch = pad_batch(examples, self.pad_id)
        elif self.shares:
            batch = share_batch(examples, self.pad_id, self.targets_only)
        else:
            batch = pack_batch([[self.examples[i] for at in row for i in self.units[at]] for row in rows], self.pad_id)
        return (replace(batch, members=list_members(units)) if self.grouped else batch).to(self.device)
