"""What a stage's work costs on an accelerator: operations, memory, hours, disk, money; and whether it fits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from experiments.planning.args import PlanArgs
from experiments.planning.known import Work
from experiments.planning.memory import GIB, Memory, sampling_memory, scoring_memory, size_of, training_memory
from rollouts.sampling.budget import PriceArgs
from stages.launch import LaunchArgs

ROW = 400  # bytes of a row in Parquet, with texts of some hundred characters


@dataclass
class Cost:
    """One stage: floating-point operations, hours, accelerators at work, memory of each, bytes on disk that stay, and
    that are there while it runs, and money for served models."""

    work: Work
    operations: float = 0
    hours: float = 0
    accelerators: int = 0
    memory: Memory = field(default_factory=Memory)
    disk: float = 0
    passing: float = 0
    served: float = 0
    fits: bool = True


def cost_of(work: Work, plan: PlanArgs, launch: LaunchArgs) -> Cost:
    """The cost of a stage.

    Raises:
        ValueError: it does not fit into the memory of the accelerators, and `plan.refuse`.
    """
    cost = Cost(work, disk=ROW * work.rows)
    if work.served:
        price = getattr(work.args, "price", None)
        if price is None or price.input is None:
            price = PriceArgs(plan.input_price, plan.output_price)
        cost.served = (work.read * (price.input or 0) + work.sampled * (price.output or 0)) / 1e6
    if work.shape is None:
        return cost
    cost.accelerators = launch.num_processes
    if hasattr(work.args, "train"):
        _train(cost, plan, launch)
    elif hasattr(work.args, "sampler") and not work.served:
        _sample(cost, plan)
    else:
        _score(cost, plan)
    _check(cost, plan)
    cost.hours += work.loads * plan.load_seconds / 3600
    return cost


def _peak(plan: PlanArgs, dtype: str) -> float:
    """Operations a second of one accelerator."""
    hardware = plan.hardware()
    return 1e12 * (hardware.tflops_float32 if dtype == "float32" else hardware.tflops)


def _forward(work: Work, tokens: float, length: float) -> float:
    """Operations of a forward pass of the body, in texts of `length` tokens: 2 a weight and token, and attention."""
    shape = work.shape
    return tokens * (2 * shape.body + 2 * shape.layers * shape.attention_width * length)


def _train(cost: Cost, plan: PlanArgs, launch: LaunchArgs) -> None:
    work, args = cost.work, cost.work.args
    shape, train, length = work.shape, args.train, work.longest
    # forward and backward; frozen weights need no gradients of their own; checkpointing computes forward once more
    passes = (2 if args.lora.rank else 3) + train.gradient_checkpointing
    head = 0 if work.judge else 2 * shape.vocabulary * shape.hidden * 3 * work.targets
    trained = passes * _forward(work, work.computed, length) + head
    read = _forward(work, work.read, length)
    cost.operations = trained + read
    peak = _peak(plan, train.dtype)
    seconds = trained / (peak * plan.training)
    if plan.trained_per_second is not None:
        seconds = work.computed / plan.trained_per_second
    cost.hours = (seconds + _reading(work, plan, read, train.dtype)) / cost.accelerators / 3600
    own = train.tokens_per_step / cost.accelerators * work.computed / max(1.0, work.trained)  # of a step
    row = max(length, min(train.tokens_per_batch, own, work.computed))
    targets = row * min(1.0, work.targets / max(1.0, work.computed))
    cost.memory = training_memory(shape, args, launch, work.judge, row, targets, math.ceil(own / row - 0.01))
    weights = shape.judge if work.judge else shape.weights
    adapter = shape.adapter(args.lora.rank, list(args.lora.target_modules)) if args.lora.rank else weights
    cost.disk += 4 * weights
    cost.passing = 12 * adapter * (train.checkpoints.keep + 1)


def _reading(work: Work, plan: PlanArgs, operations: float, dtype: str) -> float:
    """Seconds of one accelerator for prompts and scores."""
    if plan.scored_per_second is not None:
        return (work.read + work.scored) / plan.scored_per_second
    return operations / (_peak(plan, dtype) * plan.reading)


def _sample(cost: Cost, plan: PlanArgs) -> None:
    work, sampler, hardware = cost.work, cost.work.args.sampler, plan.hardware()
    shape, total = work.shape, plan.hardware().memory * GIB
    length = work.sampled / max(1.0, work.samples)
    prompt = work.longest - sampler.max_tokens
    cost.memory, fitting = sampling_memory(shape, sampler, work.longest, total)
    parts = sampler.vllm.tensor_parallel_size if sampler.engine == "vllm" else 1
    engines = cost.accelerators
    cost.accelerators *= parts
    most = sampler.batch_size if sampler.engine != "vllm" else sampler.vllm.max_num_seqs or plan.rows
    # rows that are half written hold half of their tokens
    whole = work.longest / (prompt + length / 2)
    rows = max(1.0, min(most, fitting * whole, work.samples / engines))
    read, size = _forward(work, work.read + work.scored, prompt), size_of(sampler.dtype)
    step_bytes = size * shape.weights + rows * shape.cache(size) * (prompt + length / 2)
    step_operations = rows * (_forward(work, 1, prompt + length / 2) + 2 * shape.vocabulary * shape.hidden)
    step = max(step_bytes / (parts * 1e12 * hardware.bandwidth), step_operations / (parts * _peak(plan, sampler.dtype)))
    seconds = work.sampled / rows * step / plan.decoding
    if plan.sampled_per_second is not None:
        seconds = work.sampled / (plan.sampled_per_second * parts)
    cost.hours = (seconds + _reading(work, plan, read, sampler.dtype) / parts) / engines / 3600
    cost.operations = read + work.sampled * step_operations / rows
    if work.judges:
        judge = scoring_memory(shape, work.args.batch_tokens)
        beside = work.judges * judge.weights if sampler.engine == "vllm" else 0  # when an engine starts
        taken = sampler.vllm.gpu_memory_utilization * total if sampler.engine == "vllm" else 0
        cost.memory.peak = max(cost.memory.peak, judge.peak, beside + taken)
    elif sampler.engine == "vllm":
        cost.fits = cost.memory.peak <= sampler.vllm.gpu_memory_utilization * total


def _score(cost: Cost, plan: PlanArgs) -> None:
    work = cost.work
    cost.operations = _forward(work, work.scored, work.scored / max(1.0, work.rows))
    cost.memory = scoring_memory(work.shape, work.args.batch_tokens)
    cost.hours = _reading(work, plan, cost.operations, "bfloat16") / cost.accelerators / 3600


def _check(cost: Cost, plan: PlanArgs) -> None:
    room = plan.usable * plan.hardware().memory * GIB
    cost.fits = cost.fits and cost.memory.peak <= room
    if not cost.fits and plan.refuse:
        sampler = getattr(cost.work.args, "sampler", None)
        share = sampler.vllm.gpu_memory_utilization if sampler and sampler.engine == "vllm" else plan.usable
        raise ValueError(
            f"{cost.work.name} does not fit: {cost.memory.peak / GIB:.1f} GiB on each {plan.accelerator} "
            f"({cost.memory.when}), and {share:g} of {plan.hardware().memory:g} GiB can be used "
            "(plan.refuse=false shows the rest)"
        )


def total_hours(costs: list[Cost]) -> float:
    """Hours from start to end, one stage after the other."""
    return math.fsum(cost.hours for cost in costs)
