"""Does a training step wait for the device?

On a GPU torch's own sync debug mode says where. On a CPU the operations are counted that would make it wait there:
reads of single numbers, and shapes that depend on values.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.gpu.setting import Row, Setting, each, needs_gpu, release, row, short, synchronize
from tests.gpu.texts import families, random_model, shape_of

if TYPE_CHECKING:
    from training.distributed import Engine
    from training.loader import StepLoader

LAYOUTS = {"packed": False, "shared": True, "padded": False}  # and whether prefixes are shared
_WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "_unique2", "is_nonzero")
_ROOT = Path(__file__).parents[2]


def run(setting: Setting) -> Iterator[Row]:
    yield from each(list(LAYOUTS), lambda layout: _watch(setting, layout))
    if not setting.cuda:
        yield needs_gpu("torch.cuda.set_sync_debug_mode", "reads of values on the device were counted instead")


def _watch(setting: Setting, layout: str) -> Iterator[Row]:
    from rollouts.world.tokenizer import make_tokenizer
    from stages.processes import Processes
    from training.args import TrainArgs
    from training.attention.install import packed_attention, padded_attention
    from training.distributed import Engine
    from training.loader import StepLoader

    release(setting.device)
    config = shape_of(setting.dry)
    config.num_hidden_layers = 2  # each layer is like the others
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:2]
    model = random_model(config, setting.device)
    size = 256 if setting.dry else 8192
    args = TrainArgs(
        device=setting.device, tokens_per_step=2 * size, tokens_per_batch=size, share_prefixes=LAYOUTS[layout],
        layout="padded" if layout == "padded" else "packed",
    )  # fmt: skip
    lengths = {"prompt": (9, 20), "solution": (4, 24)} if setting.dry else {}
    examples = families(24 if setting.dry else 64, 4, config.vocab_size, **lengths)
    engine = Engine(model, args, Processes())
    loader = StepLoader(examples, args, make_tokenizer(50).pad_token_id, engine)
    with (padded_attention if layout == "padded" else packed_attention)(model):
        for number in range(2):  # kernels are chosen, states are made
            engine.read(_step(engine, loader, number))
        yield from (_debugged if setting.cuda else _counted)(engine, loader, layout)


def _step(engine: Engine, loader: StepLoader, number: int) -> Any:
    from training.completions import completion_loss

    step = loader.prepare(number)
    return engine.step(step.batches, step.counted, step.items, completion_loss, False)


def _debugged(engine: Engine, loader: StepLoader, layout: str) -> Iterator[Row]:
    """One step that lists the places that wait, and one in which the first of them is an error."""
    import torch

    synchronize("cuda")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            _step(engine, loader, 2)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [one for one in seen if "synchroniz" in str(one.message).lower()]
    places = Counter(f"{_named(one.filename)}:{one.lineno}" for one in waits)
    note = ", ".join(f"{place} ({count})" for place, count in places.most_common(8))
    yield row(f"{layout}: waits within a step", len(waits), limit=0, note=note)
    torch.cuda.set_sync_debug_mode("error")
    try:
        _step(engine, loader, 3)
        failed = ""
    except RuntimeError as error:
        failed = short(error)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    yield row(f"{layout}: a step with sync debug mode error", failed or "runs", ok=not failed)


def _named(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(_ROOT)) if path.is_relative_to(_ROOT) else "/".join(path.parts[-3:])


def _counted(engine: Engine, loader: StepLoader, layout: str) -> Iterator[Row]:
    """The operations within a step that would wait on a GPU, and where they are called; batches are made before."""
    import traceback

    from torch.utils._python_dispatch import TorchDispatchMode

    from training.completions import completion_loss

    seen: Counter[str] = Counter()

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.overloadpacket.__name__ in _WAITING:
                calls = [one for one in traceback.extract_stack() if "/torch/" not in one.filename]
                seen[f"{_named(calls[-2].filename)}:{calls[-2].lineno}"] += 1
            return func(*args, **(kwargs or {}))

    step = loader.prepare(2)
    with Count():
        engine.step(step.batches, step.counted, step.items, completion_loss, False)
    note = ", ".join(f"{place} ({count})" for place, count in seen.most_common(8))
    yield row(f"{layout}: operations within a step that would wait", sum(seen.values()), note=note)
