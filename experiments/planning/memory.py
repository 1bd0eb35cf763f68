"""Memory of one accelerator: weights, gradients, optimizer, activations, cache. What stands here is what the code of
training and sampling does today: trained weights in float32, those beside an adapter in bfloat16 or 4 bits, and models
opened whole by every process.

Only a small model on a CPU has been compared with it (`tests/experiments/planning/test_memory.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.planning.models import Shape
from rewards.train_implicit import TrainImplicitArgs
from stages.launch import LaunchArgs, find_config
from training.args import TrainArgs

GIB = 1 << 30
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes of a weight of 4 bits, with its scales of 8 bits for 64 each
ENGINE = 2 * GIB  # an engine's own: activations, captured graphs
_LOSS = 12  # bytes of a target's logit where the loss goes backward: log-softmax, its gradient, that of the logits


@dataclass
class Memory:
    """Bytes on one accelerator. `peak` is the most at one time, `when` that is; `host` is on the machine's own side, of
    all processes together."""

    weights: float = 0
    gradients: float = 0
    optimizer: float = 0
    activations: float = 0
    cache: float = 0
    peak: float = 0
    when: str = ""
    host: float = 0


def is_sharded(train: TrainArgs, launch: LaunchArgs) -> bool:
    """Whether weights are sharded over the processes, as `training.distributed.wants_shards` will find."""
    if launch.num_processes == 1 or train.shard == "none":
        return False
    if train.shard == "fsdp2":
        return True
    if launch.config_file is None:
        return False
    from experiments.commands.yaml_files import read_yaml

    return read_yaml(Path(find_config(launch.config_file))).get("distributed_type") == "FSDP"


def size_of(dtype: str) -> int:
    """Bytes of a number; `auto` is bfloat16 on an accelerator."""
    return 4 if dtype == "float32" else 2


def training_memory(
    shape: Shape, args: Any, launch: LaunchArgs, judge: bool, row: float, targets: float, batches: float
) -> Memory:
    """Memory of a training stage with arguments `args`, where a process makes a step of `batches` forward passes, of
    `row` tokens with `targets` targets each.

    Weights, gradients and AdamW's two moments take 16 bytes a weight, over all processes where they are sharded.
    Gradients are there beside the activations from the second pass on. An adapter is put together with its base on the
    host, unless both are in float32.
    """
    train, lora = args.train, args.lora
    dtype = "bfloat16" if train.dtype == "auto" else train.dtype
    each = size_of(dtype) if lora.rank else 4  # bytes of a weight as it is opened
    weights = shape.judge if judge else shape.weights
    sharded = is_sharded(train, launch)
    shards = launch.num_processes if sharded else 1
    adapter = shape.adapter(lora.rank, list(lora.target_modules)) if lora.rank else 0
    trained = adapter if lora.rank else weights
    small = lora.quantize == "nf4"
    held = (NF4 * shape.body + each * (weights - shape.body) if small else each * weights) + 4 * adapter
    found = Memory(held / shards, 4 * trained / shards, 8 * trained / shards)
    found.activations, late = _activations(shape, args, dtype, row, 0 if judge else targets * shape.vocabulary)
    whole = 0.0
    if sharded:  # two layers and what is outside of them are there whole, and a layer's gradients
        whole = each * (3 * shape.layer + weights - shape.layers * shape.layer)
    earlier = found.gradients if batches > 1 else 0
    passing = max(found.activations + earlier, late + found.gradients)
    # an implicit one is read whole before it has 4 bits
    opened = held if small and not isinstance(args, TrainImplicitArgs) else each * weights
    peaks = {"load": float(opened), "step": found.weights + found.optimizer + passing + whole}
    if sharded:  # all weights are put together on each, beside shards of everything
        peaks["end"] = each * weights + (held + 12 * trained) / shards
    found.when, found.peak = max(peaks.items(), key=lambda one: one[1])
    copies = 2 if sharded else 1  # the model and its sharded copy
    merged = 4 * weights if lora.rank and (small or each < 4) else 0
    # and a checkpoint on its way to disk
    found.host = max(launch.num_processes * each * weights * copies, merged) + 12 * trained
    return found


def _activations(shape: Shape, args: Any, dtype: str, row: float, logits: float) -> tuple[float, float]:
    """The most that a pass forward and backward keeps beside weights and gradients; and what it keeps in the backward
    pass of the first layer, when all gradients are there."""
    saved, layers = shape.saved(dtype, args.lora), shape.layers
    outside, layer = saved.outside * row + saved.outside_fixed, saved.layer * row + saved.layer_fixed
    if not args.train.gradient_checkpointing:
        return layers * layer + outside + _LOSS * logits, layer + outside
    inputs = layers * saved.boundary * row + outside
    # autocast keeps its copies of trained weights until the end of the forward pass
    return inputs + max(layers * saved.layer_fixed + 8 * logits, _LOSS * logits, layer), layer + outside


def sampling_memory(shape: Shape, sampler: Any, longest: float, memory: float) -> tuple[Memory, float]:
    """Memory of an engine, of which one accelerator has `memory` bytes; and how many whole rows fit.

    An engine of vLLM takes all that it may; its peak is what it needs for one row at least.
    """
    size = size_of(sampler.dtype)
    parts = sampler.vllm.tensor_parallel_size if sampler.engine == "vllm" else 1
    weights, row = size * shape.weights / parts, shape.cache(size) * longest / parts
    if sampler.engine == "vllm":
        room = sampler.vllm.gpu_memory_utilization * memory - weights - ENGINE
        found = Memory(weights, cache=max(room, row), peak=weights + ENGINE + row, when="engine")
        return found, max(1.0, room / row)
    cache = sampler.batch_size * row
    return Memory(weights, cache=cache, peak=weights + cache, when="rows"), sampler.batch_size


def scoring_memory(shape: Shape, batch_tokens: int) -> Memory:
    """Memory of a reward model that scores, in bfloat16: nothing is kept of a layer once it is computed."""
    wide = getattr(shape.config, "intermediate_size", 4 * shape.hidden)
    activations = batch_tokens * (16 * shape.hidden + 6 * wide)
    weights = 2 * shape.judge
    return Memory(weights, activations=activations, peak=weights + activations, when="score")
