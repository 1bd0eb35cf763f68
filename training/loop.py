"""The one training loop: policies and reward models differ in their loss and their examples only.

Runs on accelerate; each process takes its share of every batch, and the loss is weighted so that the number of
processes and of micro-batches does not change it. Checkpoints and resume inside a stage are left out here.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rollouts.policies import pick_device
from rollouts.progress import Progress
from training.batches import Batch, Example, pad_batch, plan_batches

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from transformers import PreTrainedModel


@dataclass
class TrainArgs:
    """How to train. `tokens_per_step` is the size of an optimiser step in padded tokens, over all processes;
    `tokens_per_batch` what one of them reads at a time. With dtype bfloat16 the weights stay in float32."""

    epochs: float = 1.0
    max_steps: int | None = None
    # stop there with the learning rate of the whole run, as if it had been cut off: a checkpoint from midway
    stop_after: int | None = None
    tokens_per_step: int = 4096
    tokens_per_batch: int = 4096
    learning_rate: float = 1e-3
    warmup: float = 0.05
    final_share: float = 0.05
    weight_decay: float = 0.01
    beta2: float = 0.98
    max_grad_norm: float = 1.0
    seed: int = 0
    dtype: str = "float32"
    gradient_checkpointing: bool = False
    device: str = "auto"

    def validate(self) -> None:
        """Raise ValueError naming the first setting out of range."""
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate must be finite and positive, not {self.learning_rate}")
        if not (math.isfinite(self.epochs) and self.epochs > 0):
            raise ValueError(f"epochs must be finite and positive, not {self.epochs}")
        for name in ("max_steps", "stop_after"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.tokens_per_step < 1 or self.tokens_per_batch < 1:
            raise ValueError(
                f"tokens_per_step and tokens_per_batch must be at least 1, not {self.tokens_per_step}, "
                f"{self.tokens_per_batch}"
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype must be float32 or bfloat16, not {self.dtype!r}")
        for name in ("warmup", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        if not 0 <= self.final_share <= 1:
            raise ValueError(f"final_share must be in [0, 1], not {self.final_share}")
        if not self.weight_decay >= 0 or not self.max_grad_norm > 0:
            raise ValueError(
                f"weight_decay must be >= 0 and max_grad_norm > 0, not {self.weight_decay}, {self.max_grad_norm}"
            )


class Log(Protocol):
    """Where a loop writes its numbers."""

    def log(self, step: int, **metrics: float) -> None: ...


# sum of the losses of one batch's targets, given the model
Loss = Callable[["PreTrainedModel", Batch], "torch.Tensor"]


class TrainingError(ValueError):
    """Training met a loss or gradient that is not a number, or had nothing to train on."""


def learning_rate_share(step: int, steps: int, warmup: float, final_share: float) -> float:
    """Linear warm-up over the first `warmup` of all steps, then linear decay to `final_share`; step counts from 0."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 1 - (1 - final_share) * (step - rising) / max(1, steps - rising)


def plan_steps(lengths: Sequence[int], args: TrainArgs) -> list[list[int]]:
    """The examples of every optimiser step of the whole run; the last epoch may be a part of one."""
    steps: list[list[int]] = []
    most = math.inf if args.max_steps is None else args.max_steps
    for epoch in range(math.ceil(args.epochs)):
        if not lengths or len(steps) >= most:
            break
        batches = plan_batches(lengths, args.tokens_per_step, args.seed, epoch)
        share = min(1.0, args.epochs - epoch)
        steps.extend(batches[: max(1, round(share * len(batches)))])
    return steps[: args.max_steps]


def count_steps(lengths: Sequence[int], args: TrainArgs) -> int:
    """How many optimiser steps a run makes."""
    planned = len(plan_steps(lengths, args))
    return planned if args.stop_after is None else min(planned, args.stop_after)


def step_seed(seed: int, step: int, process: int) -> int:
    """The seed of one step's random numbers (dropout) on one process, the same whatever ran before (63 bits)."""
    digest = hashlib.sha256(f"{seed}/{step}/{process}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def make_optimizer(model: PreTrainedModel, args: TrainArgs) -> torch.optim.Optimizer:
    """AdamW; norms and biases are not decayed."""
    import torch

    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": args.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, args.beta2))


def fit(
    model: PreTrainedModel,
    examples: Sequence[Example],
    loss: Loss,
    args: TrainArgs,
    pad_id: int,
    log: Log,
    bar: Progress,
    evaluate: Callable[[PreTrainedModel], dict[str, float]] | None = None,
    evaluations: int = 4,
) -> dict[str, float]:
    """Train `model` in place and return the run's figures: steps, examples, tokens, seconds, running mean of the loss.

    Examples without targets are left out. `evaluate` is called `evaluations` times, evenly spread, the last time at
    the end; its numbers are logged.

    Raises:
        TrainingError: there is nothing to train on, or the loss or the gradient is not finite (the message names
            the step and the examples).
    """
    import torch
    from accelerate import Accelerator

    kept = [i for i, example in enumerate(examples) if example.positions]
    if not kept:
        raise TrainingError("no example has a target to train on")
    precision = "bf16" if args.dtype == "bfloat16" else "no"
    accelerator = Accelerator(cpu=pick_device(args.device).type == "cpu", mixed_precision=precision)
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    wrapped, optimizer = accelerator.prepare(model, make_optimizer(model, args))
    plan = plan_steps([len(examples[i].ids) for i in kept], args)
    last = len(plan) if args.stop_after is None else min(len(plan), args.stop_after)
    evaluate_at = {round((i + 1) * last / evaluations) - 1 for i in range(evaluations)} if evaluate else set()
    started, tokens, running = time.monotonic(), 0, 0.0
    wrapped.train()
    for number, step in enumerate(plan[:last]):
        chosen = [kept[i] for i in step]
        rate = args.learning_rate * learning_rate_share(number, len(plan), args.warmup, args.final_share)
        for group in optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(step_seed(args.seed, number, accelerator.process_index))
        value = _step(wrapped, optimizer, accelerator, [examples[i] for i in chosen], loss, args, pad_id)
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss or gradient of step {number + 1} of {len(plan)} is {value}, on examples {_shown(chosen)}"
            )
        tokens += sum(len(examples[i].ids) for i in chosen)
        running = value if number == 0 else 0.95 * running + 0.05 * value
        bar.advance(1)
        if number % max(1, last // 50) == 0 or number + 1 == last:
            log.log(number + 1, loss=running, learning_rate=rate, tokens=tokens)
        if number in evaluate_at:
            wrapped.eval()
            log.log(number + 1, **evaluate(accelerator.unwrap_model(wrapped)))
            wrapped.train()
    model.eval()
    figures = {"steps": last, "examples": len(kept), "trained_tokens": tokens, "loss": running}
    return figures | {"train_seconds": time.monotonic() - started}


def _shown(numbers: list[int]) -> str:
    rest = len(numbers) - 20
    return ", ".join(map(str, numbers[:20])) + (f" and {rest} more" if rest > 0 else "")


def _step(
    wrapped: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    chosen: list[Example],
    loss: Loss,
    args: TrainArgs,
    pad_id: int,
) -> float:
    """One optimiser step; returns the mean loss a target, NaN or infinite where the gradient is."""
    import torch

    targets = sum(len(example.targets) for example in chosen)
    share = chosen[accelerator.process_index :: accelerator.num_processes]
    # every process must take part in the exchange of gradients, if only with nothing
    weight = accelerator.num_processes if share else 0
    micro = plan_micro(share or chosen[:1], args.tokens_per_batch)
    total = torch.zeros((), device=accelerator.device)
    for number, part in enumerate(micro):
        batch = pad_batch(part, pad_id).to(accelerator.device)
        # gradients are exchanged once a step, however many micro-batches each process has
        last = number + 1 == len(micro)
        with nullcontext() if last else accelerator.no_sync(wrapped):
            with accelerator.autocast():
                summed = loss(wrapped, batch)
            # the exchange averages over processes; the factor makes it a mean over all targets of the step
            accelerator.backward(summed * weight / targets)
        total += summed.detach() * weight / accelerator.num_processes
    norm = accelerator.clip_grad_norm_(wrapped.parameters(), args.max_grad_norm)
    if not torch.isfinite(norm):
        return float(norm)
    optimizer.step()
    optimizer.zero_grad()
    return float(accelerator.reduce(total, "sum")) / targets


def plan_micro(examples: list[Example], tokens: int) -> list[list[Example]]:
    """Cut one step's examples into batches that fit in memory: at most `tokens` padded tokens each."""
    parts: list[list[Example]] = []
    for example in sorted(examples, key=lambda example: len(example.ids)):
        if not parts or len(example.ids) * (len(parts[-1]) + 1) > tokens:
            parts.append([])
        parts[-1].append(example)
    return parts
