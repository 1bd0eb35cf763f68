"""What a training step copies to its device and reads back from it: counted on the CPU, where nothing waits."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rewards.implicit import implicit_loss
from rewards.losses import make_loss
from rewards.reward_model import make_reward_model
from stages.processes import Processes
from tests.tiny import make_model, save_policy
from tests.training.runs import args_of, examples_of
from training.adapters import LoraArgs, add_adapter
from training.attention.install import packed_attention, padded_attention
from training.completions import completion_loss
from training.distributed import Engine, mean_loss
from training.examples import Batch, Example, pad_batch
from training.loader import StepLoader
from training.packing import pack_batch
from training.prefix_sharing import share_batch
from training.transfer import move

# operations whose value, or whose shape, the host has to wait for
READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique_dim", "_unique", "_unique2")
LAYOUTS = {
    "packed": {"share_prefixes": False},
    "shared": {"share_prefixes": True},
    "padded": {"layout": "padded", "share_prefixes": False},
}
EXAMPLES = [
    Example([*range(20, 32), *one.ids], [12 + at for at in one.positions], one.targets, 12) for one in examples_of(40)
]


class Count(TorchDispatchMode):
    """The operations that read something back, and those that take a tensor to another device."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()
        self.copies: list[torch.device] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in READS:
            self.reads[name] += 1
        if name == "_to_copy" and made.device != args[0].device:
            self.copies.append(made.device)
        return made


def tensors_of(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if is_dataclass(value):
        return [tensor for field in fields(value) for tensor in tensors_of(getattr(value, field.name))]
    return []


def batches() -> dict[str, Batch]:
    members = torch.tensor([[0, 1], [2, -1]])
    return {
        "packed": replace(pack_batch([EXAMPLES[:3], EXAMPLES[3:5]], 0), members=members),
        "shared": share_batch(EXAMPLES, 0, True),
        "padded": pad_batch(EXAMPLES, 0),
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_batch_goes_to_its_device_in_one_copy(layout: str) -> None:
    batch = batches()[layout]
    with Count() as count:
        moved = batch.to(torch.device("meta"))
    assert count.copies == [torch.device("meta")] and not count.reads
    before, after = tensors_of(batch), tensors_of(moved)
    assert len(before) == len(after) > 4 and {tensor.device.type for tensor in after} == {"meta"}
    assert [(t.shape, t.dtype) for t in before] == [(t.shape, t.dtype) for t in after]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_arrives_is_what_was_sent(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batches()[layout]
    # there is no other device here that keeps values: the buffer stays on this one
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_, **__: self.clone())
    moved = move(batch, torch.device("meta"))
    pairs = list(zip(tensors_of(batch), tensors_of(moved), strict=True))
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)
    assert all(b.data_ptr() % 16 == 0 for _, b in pairs if b.numel())
    assert len({b.untyped_storage().data_ptr() for _, b in pairs}) == 1
    if batch.packing is not None:
        assert moved.packing.groups == batch.packing.groups and moved.packing.longest == batch.packing.longest


def test_on_a_cpu_a_batch_stays_as_it_is() -> None:
    batch = pad_batch(EXAMPLES, 0)
    assert batch.to(torch.device("cpu")) is batch


def test_where_nothing_is_padded_there_is_no_mask() -> None:
    alike = [Example([5, 6, 7], [0], [1.0]), Example([8, 9, 10], [1], [0.0])]
    assert pad_batch(alike, 0).mask is None
    assert pad_batch([*alike, Example([5], [0], [1.0])], 0).mask.tolist() == [[1, 1, 1]] * 2 + [[1, 0, 0]]


def counted(model: Any, examples: list[Example], loss: Any, **changes: Any) -> Count:
    """A step after the first one, which makes the optimizer's state."""
    args = args_of(tokens_per_step=300, tokens_per_batch=100, **changes)
    engine = Engine(model, args, Processes())
    loader = StepLoader(examples, args, 0, engine)
    with (padded_attention if args.layout == "padded" else packed_attention)(model):
        engine.wrapped.train()
        for number in range(2):
            step = loader.prepare(number)
            assert len(step.batches) > 1 and (args.layout == "padded") == (step.batches[0].packing is None)
            with Count() as count:
                engine.step(step.batches, step.counted, step.items, loss, False)
    return count


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_is_read_within_a_step(layout: str, checkpointing: bool, adapter: bool) -> None:
    model = add_adapter(make_model(layers=2), LoraArgs(rank=2 * adapter, dropout=0.1 * adapter))
    changes = LAYOUTS[layout] | {"gradient_checkpointing": checkpointing}
    count = counted(model, EXAMPLES, completion_loss, **changes)
    assert not count.reads and not count.copies


@pytest.mark.parametrize("name", ["bce", "pqm", "implicit"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_nor_by_the_losses_of_judges(layout: str, name: str, tmp_path: Any) -> None:
    if name == "implicit":
        own = [replace(one, group=n, targets=[float(n << 24)] * len(one.targets)) for n, one in enumerate(EXAMPLES)]
        model, loss = make_model(), implicit_loss([1.0] * len(own), [0.0] * len(own), 0.05)
    else:
        own = [replace(one, targets=[t % 2 for t in one.targets]) for one in EXAMPLES]
        own = [replace(one, group=n) for n, one in enumerate(own)] if name == "pqm" else own
        model, loss = make_reward_model(save_policy(tmp_path / "policy"), "cpu")[0], make_loss(name, 4.0)
    assert not counted(model, own, loss, **LAYOUTS[layout]).reads


def test_a_read_would_be_seen() -> None:
    def reading(model: Any, batch: Batch) -> torch.Tensor:
        loss = completion_loss(model, batch)
        assert bool(loss > 0)
        return loss

    assert counted(make_model(), EXAMPLES, reading).reads["_local_scalar_dense"] > 1
    # and the library's own, where its mask is used
    with Count() as count:
        make_model()(**pack_batch([EXAMPLES[:2]], 0).inputs())
    assert count.reads


def test_an_evaluation_is_read_once() -> None:
    model = make_model()
    with packed_attention(model), Count() as count:
        mean_loss(model, EXAMPLES, completion_loss, 100, 0)
    assert sum(count.reads.values()) == 1
