"""A run that is stopped after a checkpoint and goes on: are its weights those of a run in one go, bit for bit?

On a GPU sums may be made in another order each time, so the same run is made twice too: what is resumed may be off by
four times that.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tests.gpu.setting import Row, Setting, each, needs_gpu, release, row
from tests.gpu.texts import families, random_model, shape_of

if TYPE_CHECKING:
    import torch

STEPS, STOPPED = 8, 5  # a checkpoint is kept after every second step: it goes on from the fourth
LAYOUTS = {"shared": {}, "packed": {"share_prefixes": False}}


class Stopped(Exception):
    """What stands for a kill."""


class Stopper:
    """A tracker that stops the run at a step."""

    def __init__(self, at: int | None) -> None:
        self.at, self.first = at, None

    def log(self, step: int, **metrics: float) -> None:
        self.first = step if self.first is None else self.first
        if step == self.at:
            raise Stopped

    def close(self) -> None: ...


def run(setting: Setting) -> Iterator[Row]:
    yield from each(list(LAYOUTS), lambda layout: _compare(setting, layout))
    if not setting.cuda:
        yield needs_gpu("resuming on a GPU", "the same was checked on the CPU, in float32")


def _compare(setting: Setting, layout: str) -> Iterator[Row]:
    with TemporaryDirectory(dir=setting.work("resume")) as folder:
        first, second = (_train(setting, layout, Path(folder, name), None) for name in ("first", "second"))
        twice = _gap(first, second)
        yield row(f"{layout}: the same run twice", twice, "of the largest weight", note="" if twice else "bit for bit")
        stopped = Path(folder, "stopped")
        try:
            _train(setting, layout, stopped, STOPPED)
        except Stopped:
            kept = len(list(stopped.rglob("*.safetensors")))
        else:
            raise RuntimeError(f"the run was not stopped at step {STOPPED}")
        gap = _gap(first, _train(setting, layout, stopped, None))
        note = f"{'bit for bit; ' if not gap else ''}{kept} files of checkpoints were there"
        yield row(f"{layout}: stopped and resumed", gap, "of the largest weight", 4 * twice, note)


def _train(setting: Setting, layout: str, folder: Path, at: int | None) -> dict[str, torch.Tensor]:
    """The weights after a run; the same folder goes on with what is there."""
    from rollouts.world.tokenizer import make_tokenizer
    from stages.workspace import Workspace
    from training.args import TrainArgs
    from training.completions import completion_loss
    from training.loop import fit

    release(setting.device)
    config = shape_of(setting.dry)
    config.num_hidden_layers = 2
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:2]
    size = 256 if setting.dry else 8192
    given = TrainArgs(
        max_steps=STEPS, epochs=100, tokens_per_step=2 * size, tokens_per_batch=size, device=setting.device,
        learning_rate=1e-3, **LAYOUTS[layout],
    )  # fmt: skip
    given.checkpoints.every_steps = 2
    lengths = {"prompt": (9, 20), "solution": (4, 24)} if setting.dry else {}
    examples = families(24 if setting.dry else 64, 4, config.vocab_size, **lengths)
    model = random_model(config, setting.device)
    track = Stopper(at)
    fit(
        model,
        make_tokenizer(50),
        examples,
        completion_loss,
        given,
        Workspace(folder / "run", {}, track, folder / "kept"),
    )
    return {name: weight.detach().cpu() for name, weight in model.state_dict().items()}


def _gap(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    largest = max(float(weight.abs().max()) for weight in one.values())
    return max(float((weight - other[name]).abs().max()) for name, weight in one.items()) / largest
