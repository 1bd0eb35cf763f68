"""One training run in a process of its own, ours or TRL's: how it gets its settings, is measured and gives its figures.

It also runs in TRL's environment, which has torch but nothing that the rest of this project needs.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Example = tuple[Sequence[int], Sequence[int], Sequence[float]]  # token ids, positions with a target, the targets


def digest(examples: Iterable[Example]) -> str:
    """A hash of what is trained on, whatever its order."""
    lines = sorted(json.dumps([list(ids), list(at), [float(t) for t in to]]) for ids, at, to in examples)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def clocks() -> tuple[float, float]:
    """Seconds of wall time, and of processor time of this process and of the ended ones that it started."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return time.perf_counter(), sum(one.ru_utime + one.ru_stime for one in used)


def held_out_loss(model: torch.nn.Module, examples: Sequence[Example]) -> float:
    """Mean loss a target, example by example, so that nothing depends on batches. A head of one label is a logit."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

    total = 0.0
    with torch.inference_mode():
        for ids, at, to in examples:
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, at].float()
            if logits.shape[-1] == 1:
                summed = binary_cross_entropy_with_logits(logits[:, 0], torch.tensor(to).float(), reduction="sum")
            else:
                summed = cross_entropy(logits, torch.tensor(to).long(), reduction="sum")
            total += float(summed)
    return total / sum(len(to) for _, _, to in examples)


def measure(
    model: torch.nn.Module,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    begun: float,
    train: Callable[[], dict[str, float]],
) -> dict[str, Any]:
    """Train and measure; `train` returns its `steps` and how many tokens it `read`, padding included.

    `begun` is when loading began: `whole_seconds` has it, the other clocks only run while the trainer does.
    """
    import torch

    loaded = time.perf_counter() - begun
    start_loss = held_out_loss(model.eval(), held_out)
    before = clocks()
    counted = train()
    wall, cpu = (after - start for after, start in zip(clocks(), before, strict=True))
    return counted | {
        "seconds": wall,
        "cpu_seconds": cpu,
        "whole_seconds": loaded + wall,
        "examples": len(examples),
        "tokens": sum(len(ids) for ids, _, _ in examples),
        "targets": sum(len(to) for _, _, to in examples),
        "digest": digest(examples),
        "start_loss": start_loss,
        "loss": held_out_loss(model.eval(), held_out),
        "threads": torch.get_num_threads(),
    }


def read_jsonl(path: str) -> list[Any]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def run_given(work: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """What `python -m MODULE SETTINGS.json RESULT.json` does: the figures that `work` gives for the settings."""
    settings, result = map(Path, sys.argv[1:])
    result.write_text(json.dumps(work(json.loads(settings.read_text()))))
