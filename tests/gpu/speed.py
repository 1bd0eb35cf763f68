"""Twenty steps of a model of half a billion random weights: packed, padded, with shared prefixes, compiled where
training knows how, and beside TRL's SFTTrainer where that is installed.

Tokens a second count every token that is trained on, a shared prefix once for each of its examples. FLOPs are those of
the tokens that must be computed: no padding, shared prefixes once, and no second forward of checkpointing.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tests.gpu.setting import Peaks, Row, Setting, each, needs_gpu, peaks, release, row
from tests.gpu.texts import families, random_model, shape_of

if TYPE_CHECKING:
    from experiments.planning.models import Shape
    from training.examples import Example

STEPS, SKIPPED = 20, 4  # the first steps choose kernels, and compile
_LATER = 45  # seconds: another arm is not begun with less


class Rates:
    """A tracker that keeps the tokens a second and the memory of each step."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.memory = 0.0

    def log(self, step: int, **metrics: float) -> None:
        if "tokens_per_second" in metrics:
            self.rates.append(metrics["tokens_per_second"])
            self.memory = metrics["memory_gib"]

    def close(self) -> None: ...


def arms() -> dict[str, dict[str, Any]]:
    """Settings of training; those that compile only where `TrainArgs` can."""
    from training.args import TrainArgs

    own: dict[str, dict[str, Any]] = {
        "shared": {},
        "packed": {"share_prefixes": False},
        "padded": {"share_prefixes": False, "layout": "padded"},
        "shared, nothing computed again": {"gradient_checkpointing": False},
    }
    if "compile" in {field.name for field in fields(TrainArgs)}:
        own |= {f"{name}, compiled": own[name] | {"compile": True} for name in ("shared", "packed")}
    return own


def run(setting: Setting) -> Iterator[Row]:
    import torch

    config, tokens = shape_of(setting.dry), 512 if setting.dry else 65536
    steps = 3 if setting.dry else STEPS
    lengths = {"prompt": (9, 20), "solution": (4, 24)} if setting.dry else {}
    # enough for all steps: at least as many tokens as they read
    shortest = (9 + 4) * 4 if setting.dry else (60 + 60) * 4
    examples = families(steps * tokens // (2 * shortest) + 1, 4, config.vocab_size, **lengths)
    known = peaks(torch.device(setting.device))
    yield row("taken as the peak", known.flops / 1e12, "TFLOP/s", note=known.source)

    def train(name: str) -> Iterator[Row]:
        if setting.left < _LATER:
            yield row(name, None, note=f"not begun: {setting.left:.0f} s were left")
            return
        yield from _ours(setting, name, arms()[name], examples, steps, tokens, known)

    yield from each(list(arms()), train)
    if find_spec("trl") is None:
        yield row("TRL's SFTTrainer", None, note="trl is not installed: not compared")
    else:
        yield from each(["TRL's SFTTrainer"], lambda name: _trl(setting, name, examples, steps, tokens, known))
    if not setting.cuda:
        yield needs_gpu("speed, utilisation and memory", "each arm was trained in little; its figures are a CPU's")


def _ours(
    setting: Setting,
    name: str,
    changes: dict[str, Any],
    examples: Sequence[Example],
    steps: int,
    tokens: int,
    known: Peaks,
) -> Iterator[Row]:
    from rollouts.world.tokenizer import make_tokenizer
    from stages.workspace import Workspace
    from training.args import TrainArgs
    from training.completions import completion_loss
    from training.loop import fit

    release(setting.device)
    config = shape_of(setting.dry)
    given = TrainArgs(
        max_steps=steps,
        epochs=100,
        tokens_per_step=tokens,
        tokens_per_batch=tokens // 4,
        device=setting.device,
        **changes,
    )
    given.checkpoints.every_seconds = None
    rates = Rates()
    model = random_model(config, setting.device)
    with TemporaryDirectory(dir=setting.work("speed")) as folder:
        work = Workspace(Path(folder, "run"), {}, rates)
        figures = fit(model, make_tokenizer(50), examples, completion_loss, given, work).figures
    rate = statistics.median(rates.rates[min(SKIPPED, len(rates.rates) - 1) :])
    # the part of the trained tokens that had to be computed
    needed = 1 / max(1.0, figures["useful_tokens"])
    yield from _rows(setting, name, rate, needed, examples, rates.memory, known)
    yield row(
        f"{name}: tokens trained on of those computed", figures["useful_tokens"], note="over 1: prefixes are shared"
    )


def _rows(
    setting: Setting, name: str, rate: float, needed: float, examples: Sequence[Example], memory: float, known: Peaks
) -> Iterator[Row]:
    flops = needed_flops(_shape(setting), examples, needed)
    yield row(f"{name}: tokens a second", rate, "tokens/s")
    yield row(f"{name}: model FLOPs utilisation", rate * flops / known.flops, note=f"{flops / 1e9:.3g} GFLOP a token")
    yield row(f"{name}: most memory", memory, "GiB")


def needed_flops(shape: Shape, examples: Sequence[Example], needed: float = 1.0) -> float:
    """Operations a trained token of forward and backward: 6 for each weight of the body and of the head at targets, and
    attention over half of a text on average. `needed` is the share of tokens that must be computed."""
    tokens = sum(len(example.ids) for example in examples)
    pairs = sum(len(example.ids) ** 2 for example in examples) / 2
    body = 6 * shape.body * needed
    attention = 12 * shape.layers * shape.attention_width * pairs / tokens * needed
    head = 6 * shape.vocabulary * shape.hidden * sum(len(example.targets) for example in examples) / tokens
    return body + attention + head


def _shape(setting: Setting) -> Shape:
    from experiments.planning.models import find_shape

    folder = setting.work("speed") / "shape"
    shape_of(setting.dry).save_pretrained(folder)
    return find_shape(str(folder))


def _trl(
    setting: Setting, name: str, examples: Sequence[Example], steps: int, tokens: int, known: Peaks
) -> Iterator[Row]:
    """The same examples, padded in batches of as many tokens, with bfloat16 and checkpointing as ours."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from rollouts.world.tokenizer import make_tokenizer

    release(setting.device)
    mean = statistics.mean(len(example.ids) for example in examples)
    longest = max(len(example.ids) for example in examples)
    rows = max(1, tokens // 4 // longest)
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *given: Any, **others: Any) -> None:
            if setting.cuda:
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    with TemporaryDirectory(dir=setting.work("speed")) as folder:
        args = SFTConfig(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=rows,
            gradient_accumulation_steps=max(1, round(tokens / mean / rows)), learning_rate=1e-5, bf16=setting.cuda,
            use_cpu=not setting.cuda, gradient_checkpointing=True, optim="adamw_torch_fused", logging_strategy="no",
            save_strategy="no", report_to="none", disable_tqdm=True, max_length=None, completion_only_loss=True,
        )  # fmt: skip
        data = Dataset.from_list(
            [
                {
                    "input_ids": example.ids,
                    "completion_mask": [int(i >= example.prompt) for i in range(len(example.ids))],
                }
                for example in examples
            ]
        )
        model = random_model(shape_of(setting.dry), setting.device)
        SFTTrainer(
            model, args=args, train_dataset=data, processing_class=make_tokenizer(50), callbacks=[Clock()]
        ).train()
    gaps = [after - before for before, after in itertools.pairwise(ends)][min(SKIPPED, steps - 2) :]
    a_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * mean
    memory = torch.cuda.max_memory_allocated() / 2**30 if setting.cuda else 0.0
    yield from _rows(setting, name, a_step / statistics.median(gaps), 1.0, examples, memory, known)
