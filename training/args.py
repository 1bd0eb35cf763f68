"""Arguments of training, of every model and stage."""

from __future__ import annotations

from dataclasses import dataclass, field

from rollouts.sampling.policies import device_class, dtype_name, own_device_class
from stages.checks import check_choices, check_least, check_range
from stages.stage import resolved, runtime

LAYOUTS = ("packed", "padded")
SHARDS = ("auto", "none", "fsdp2")


@dataclass
class EarlyStoppingArgs:
    """Stop when `metric` of the evaluations has not become better `patience` times in a row, and keep the best
    weights. Without a metric nothing stops early, and the last weights are kept."""

    metric: str | None = None
    mode: str = "max"
    patience: int = 3

    def validate(self) -> None:
        """Raise ValueError naming the first setting out of range."""
        check_choices(self, "early_stopping.", mode=("max", "min"))
        check_least(self, "early_stopping.", patience=1)


@dataclass
class CheckpointArgs:
    """When a run keeps what it needs to go on, and how many of the last ones stay; nothing here changes results."""

    every_seconds: float | None = runtime(300.0)
    every_steps: int | None = runtime(None)
    keep: int = runtime(2)

    def validate(self) -> None:
        """Raise ValueError naming the first setting out of range."""
        check_range(self, "checkpoints.", every_seconds="(0, inf]")
        check_least(self, "checkpoints.", every_steps=1, keep=1)


def _own_dtype(args: TrainArgs) -> str:
    return dtype_name(args.dtype, device_class(args.device))


@dataclass
class TrainArgs:
    """How to train; the defaults suit a pretrained causal LM. `tokens_per_step` is the size of an optimizer step in
    tokens, over all processes; `tokens_per_batch` what one of them reads at a time. With dtype bfloat16 (`auto` on a
    GPU) the weights that are trained stay in float32.

    Examples share rows (`layout` packed) of `pack_tokens` tokens, by default the equal parts of at most
    `tokens_per_batch` that make up a step; padded is the same steps with a row for each example. With `share_prefixes`
    examples of one prompt come into the same step, and the tokens with which they begin are computed once: the same
    losses for less work (a model with dropout computes them for each). A shared prefix counts for each example in
    `tokens_per_step`, and once in `tokens_per_batch`. `shard` fsdp2 gives each rank a shard of every weight; auto does
    where accelerate's config file asks for FSDP.
    """

    epochs: float = 1.0  #: passes over the examples
    max_steps: int | None = None  #: at most so many optimiser steps
    # stop there with the learning rate of the whole run, as if it had been cut off: a checkpoint from midway
    stop_after: int | None = None
    tokens_per_step: int = 65536  #: tokens of an optimiser step
    tokens_per_batch: int = 16384  #: tokens of a forward pass
    pack_tokens: int | None = None
    layout: str = "packed"
    share_prefixes: bool = True
    learning_rate: float = 1e-5  #: the highest, after the warmup
    warmup: float = 0.05
    final_share: float = 0.05
    weight_decay: float = 0.01
    beta2: float = 0.999
    max_grad_norm: float = 1.0
    seed: int = 0  #: of order and dropout
    dtype: str = resolved("auto", _own_dtype)  #: auto, float32 or bfloat16
    gradient_checkpointing: bool = True  #: less memory, more time
    device: str = resolved("auto", own_device_class)
    shard: str = runtime("auto")
    # how often the model is evaluated, evenly spread, the last time at the end
    evaluations: int = 4
    early_stopping: EarlyStoppingArgs = field(default_factory=EarlyStoppingArgs)
    checkpoints: CheckpointArgs = field(default_factory=CheckpointArgs)

    def validate(self) -> None:
        """Raise ValueError naming the first setting out of range."""
        check_range(self, learning_rate="(0, inf)", epochs="(0, inf)", warmup="[0, 1)", beta2="[0, 1)")
        check_range(self, final_share="[0, 1]", weight_decay="[0, inf]", max_grad_norm="(0, inf]")
        check_least(
            self, max_steps=1, stop_after=1, tokens_per_step=1, tokens_per_batch=1, pack_tokens=1, evaluations=1
        )
        check_choices(self, dtype=("auto", "float32", "bfloat16"), layout=LAYOUTS, shard=SHARDS)
        self.early_stopping.validate()
        self.checkpoints.validate()
