"""The model, its optimizer and the ranks of one run: an optimizer step, and the state as full tensors on rank 0.

Each rank has a replica (DDP), or a shard of every weight (FSDP2, through torch's own `fully_shard`: accelerate does not
choose it on a CPU). Left out: what a step consists of (`training/plan.py`), and files.

The state is not gathered with `torch.distributed.checkpoint.state_dict`: of a weight without a gradient so far it saves
no moments, and then refuses to load them; it takes a step to fill an empty optimizer; and its CPU tensors are the live
ones, not copies (torch 2.13).
"""

from __future__ import annotations

import copy
import inspect
import math
import os
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from rollouts.sampling.policies import dtype_name, pick_device
from stages.processes import ProcessError, Processes
from training.examples import Batch, Example, pad_batch
from training.plan import batch_lengths

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from training.args import TrainArgs

# sum of the losses of one batch, given the model: of its targets, or of its groups
Loss = Callable[["PreTrainedModel", Batch], "torch.Tensor"]
Tensors = dict[str, "torch.Tensor"]

# how gloo and NCCL report that another rank has gone
_GONE = ("closed by peer", "reset by peer", "Broken pipe", "remote process exited", "communicator was aborted")


def wants_shards(shard: str) -> bool:
    """Whether weights are sharded: with `auto` where accelerate's config file says FSDP."""
    return shard == "fsdp2" or (shard == "auto" and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true")


def make_optimizer(model: PreTrainedModel, args: TrainArgs) -> torch.optim.Optimizer:
    """AdamW of the weights that are trained; norms and biases have no weight decay."""
    import torch

    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": args.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda") for p in trained)
    return torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, args.beta2), fused=fused)


class Engine:
    """Trains `model` on this rank's device, together with the other ranks.

    `trained` is what runs: the model itself, or a sharded copy, whose weights `finish` copies back. `wrapped` is the
    same in DDP.

    Raises:
        ProcessError: accelerate's ranks are not those of the launch.
    """

    def __init__(self, model: PreTrainedModel, args: TrainArgs, processes: Processes) -> None:
        from accelerate import PartialState

        state = PartialState(cpu=pick_device(args.device).type == "cpu")
        if (state.process_index, state.num_processes) != (processes.rank, processes.count):
            raise ProcessError(
                f"process {processes.rank} of {processes.count} finds itself process {state.process_index} of "
                f"{state.num_processes} in accelerate: they would train apart"
            )
        self.rank, self.count = state.process_index, state.num_processes
        self.device = state.device if self.count > 1 else pick_device(args.device)
        self.model, self.args = model, args
        self.sharded = self.count > 1 and wants_shards(args.shard)
        if args.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.trained = _shard(model, self.device, self.count) if self.sharded else model.to(self.device)
        replicated = self.count > 1 and not self.sharded
        self.wrapped = _replicate(model, self.device) if replicated else self.trained
        self.optimizer = make_optimizer(self.trained, args)
        self.named = {name: p for name, p in self.trained.named_parameters() if p.requires_grad}

    def autocast(self) -> AbstractContextManager:
        """What a forward pass runs in: bfloat16 where `dtype` says so, and the weights stay float32."""
        import torch

        dtype = dtype_name(self.args.dtype, self.device.type)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=dtype == "bfloat16")

    def step(self, batches: Sequence[Batch], counted: int, items: int, loss: Loss, signal: bool) -> torch.Tensor:
        """One optimizer step on `batches`, of which the first `counted` count; all ranks have `items` together.

        Returns (3,): mean loss, signals, norm of the gradient, for `read`, which waits for the device once a step.
        """
        import torch

        total = torch.zeros((), device=self.device)
        for number, batch in enumerate(batches):
            last = number + 1 == len(batches)
            # one all-reduce of gradients a step, however many micro-batches each rank has
            apart = nullcontext() if last or self.wrapped is self.trained else self.wrapped.no_sync()
            with apart:
                with self.autocast():
                    summed = loss(self.wrapped, batch)
                # the all-reduce averages over ranks; times their number, it is a mean over all items of the step
                (summed * ((self.count if number < counted else 0) / items)).backward()
            if number < counted:
                total += summed.detach()
        norm = torch.nn.utils.clip_grad_norm_(self.named.values(), self.args.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        norm = norm.full_tensor() if self.sharded else norm
        seen = torch.stack([total / items, torch.full_like(total, float(signal))])
        if self.count > 1:
            torch.distributed.all_reduce(seen)
        return torch.cat([seen, norm.detach().reshape(1).to(seen)])

    @staticmethod
    def read(seen: torch.Tensor) -> tuple[float, float, bool]:
        """The mean loss an item, not finite where the gradient is not; the gradient's norm before it was clipped; and
        whether any rank gave a signal."""
        value, signals, norm = seen.tolist()
        return (value if math.isfinite(norm) else norm), norm, signals > 0

    @property
    def memory(self) -> float:
        """The most memory so far of this rank, in GiB: of its GPU, or of the process."""
        import torch

        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**30
        # bytes on macOS, else KiB
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (30 if sys.platform == "darwin" else 20)

    def set_rate(self, rate: float) -> None:
        """The learning rate of the steps that follow."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def weights(self) -> Tensors:
        """Copies of the trained weights as full CPU tensors on rank 0, nothing on others; all ranks must call this."""
        return dict(self._whole((name, p.detach()) for name, p in self.named.items()))

    def moments(self) -> Tensors:
        """The optimizer's state as `<weight>/exp_avg` and so on, as `weights`; nothing of weights that never had a
        gradient."""
        parts = (
            (f"{name}/{part}", value)
            for name, p in self.named.items()
            for part, value in sorted(self.optimizer.state.get(p, {}).items())
        )
        return dict(self._whole(parts))

    def _whole(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in tensors:
            found = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
            if self.rank == 0:
                yield name, found.to("cpu", copy=True).contiguous()

    def set_weights(self, weights: Tensors) -> None:
        """Broadcast rank 0's `weights`; all ranks must call this."""
        import torch

        with torch.no_grad():
            for name, p in self.named.items():
                p.copy_(self._placed(weights.get(name), p, p))

    def set_moments(self, moments: Tensors) -> None:
        """Broadcast rank 0's optimizer state; all ranks must call this."""
        known = self.broadcast(sorted(moments))
        self.optimizer.state.clear()
        for key in known:
            name, _, part = key.rpartition("/")
            like = self.named[name]
            self.optimizer.state[like][part] = self._placed(moments.get(key), like, None if part == "step" else like)

    def _placed(self, tensor: torch.Tensor | None, like: torch.Tensor, shape: torch.Tensor | None) -> torch.Tensor:
        """Rank 0's full tensor on each rank's device, sharded as `shape` is (None: a float32 scalar)."""
        import torch

        if tensor is None:  # on the other ranks
            tensor = torch.empty(()) if shape is None else torch.empty(like.shape, dtype=like.dtype)
        tensor = tensor.to(self.device, copy=True)
        if self.count > 1:
            torch.distributed.broadcast(tensor, 0)
        if shape is None or not self.sharded:
            return tensor
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(tensor, shape.device_mesh, shape.placements, src_data_rank=None)

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value; all ranks must call this."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def finish(self) -> None:
        """Leave the trained weights in `model`, in full and in evaluation mode; all ranks must call this."""
        if self.sharded:
            import torch

            inner = dict(self.model.named_parameters())
            with torch.no_grad():
                for name, p in self.named.items():
                    inner[name].copy_(p.detach().full_tensor())
            self.model.to(self.device)
        if self.args.gradient_checkpointing:
            self.model.gradient_checkpointing_disable()
        self.model.eval()


def _replicate(model: PreTrainedModel, device: torch.device) -> torch.nn.Module:
    """The model in DDP: gradients are averaged over the ranks."""
    from torch.nn.parallel import DistributedDataParallel

    # the only buffers are tables of positions, the same everywhere; newer torch has another name for the setting
    known = inspect.signature(DistributedDataParallel).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    places = None if device.type == "cpu" else [device]
    return DistributedDataParallel(model, device_ids=places, gradient_as_bucket_view=True, **{buffers: False})


def _shard(model: PreTrainedModel, device: torch.device, count: int) -> PreTrainedModel:
    """A copy of the model whose weights are sharded, a layer at a time; the model itself stays on the CPU."""
    if any(not p.is_floating_point() for p in model.parameters()):
        raise ValueError("train.shard: weights in 4 bits cannot be cut; train.shard=none gives each process all")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    sharded = copy.deepcopy(model.to("cpu"))
    mesh = init_device_mesh(device.type, (count,))
    inner = sharded.get_base_model() if hasattr(sharded, "get_base_model") else sharded
    layers = set(inner._no_split_modules or ())
    for module in sharded.modules():
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    return sharded.to(device)


@contextmanager
def noticing(count: int) -> Iterator[None]:
    """Turn the library's error where another rank has gone into one line.

    Raises:
        ProcessError: another of the `count` processes has ended.
    """
    try:
        yield
    except RuntimeError as error:
        reason = next(iter(str(error).splitlines()), "")
        if count == 1 or not any(sign in reason for sign in _GONE):
            raise
        raise ProcessError(f"another of the {count} processes has ended: {reason}") from error


def mean_loss(model: PreTrainedModel, examples: Sequence[Example], loss: Loss, tokens: int, pad_id: int) -> float:
    """The mean loss a target of some examples, read about `tokens` tokens at a time; nothing is trained."""
    import torch

    total = torch.zeros((), dtype=torch.float64, device=model.device)  # read once
    with torch.no_grad():
        for batch in batch_lengths([len(example.ids) for example in examples], tokens):
            total += loss(model, pad_batch([examples[i] for i in batch], pad_id).to(model.device))
    return float(total) / sum(len(example.targets) for example in examples)
