"""What every part of the GPU script gets and writes: its setting, its rows, and how long things take on the device."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Row = dict[str, Any]


@dataclass
class Setting:
    """`device` is cuda or cpu. With `dry` everything is tiny. `model` and `problems` are folders of a policy and of
    GSM8K; a part should end within `seconds`. What it finds goes to `folder`, what it needs meanwhile to `scratch`."""

    device: str
    dry: bool
    seconds: float
    folder: str
    scratch: str
    model: str | None = None
    problems: str | None = None
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def read(cls, text: str) -> Setting:
        return cls(**json.loads(text))

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"

    @property
    def left(self) -> float:
        """Seconds until this part is stopped."""
        return self.seconds - (time.monotonic() - self.began)

    def work(self, name: str) -> Path:
        """A folder for this part's own files."""
        path = Path(self.scratch, name)
        path.mkdir(parents=True, exist_ok=True)
        return path


def row(what: str, value: Any, unit: str = "", limit: float | None = None, note: str = "", **more: Any) -> Row:
    """One result. With a `limit` the value must be a number of at most it."""
    found = {"what": what, "value": value, "unit": unit, "limit": limit, "note": note} | more
    return found if limit is None else found | {"ok": bool(value <= limit)}


def needs_gpu(what: str, instead: str) -> Row:
    """The row of a check that only a GPU can do."""
    return row(what, None, note=f"needs a GPU: {instead}")


def short(error: BaseException) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def each(arms: Sequence[Any], run: Any) -> Iterator[Row]:
    """The rows of each arm; one that fails gives a row that says so, and the others go on."""
    for arm in arms:
        try:
            yield from run(arm)
        except Exception as error:  # whatever it is: the next arm may be the one that tells
            yield row(str(arm), None, note=f"failed: {short(error)}", ok=False)


def synchronize(device: str) -> None:
    """Wait for the device, so that a clock read next has all of its work."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def release(device: str) -> None:
    """Give cached memory back, and count the peak from here."""
    import gc

    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


@dataclass(frozen=True)
class Peaks:
    """FLOP/s in bfloat16 and bytes/s of the memory, and where the figures are from."""

    flops: float
    bandwidth: float
    source: str


def peaks(device: torch.device) -> Peaks:
    """The maker's figures where `experiments/planning` knows this GPU, else what is measured here in a second."""
    import torch

    from experiments.planning.args import ACCELERATORS

    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        gib = torch.cuda.get_device_properties(device).total_memory / 2**30
        for key, known in ACCELERATORS.items():
            # A100-80 and A100-40 have one name and two sizes
            if key.split("-")[0] in name.replace(" ", "") and abs(known.memory / gib - 1) < 0.1:
                return Peaks(1e12 * known.tflops, 1e12 * known.bandwidth, f"the maker's for {key}")
    return measured_peaks(device)


def measured_peaks(device: torch.device) -> Peaks:
    """What a large matrix product and a large copy reach here."""
    import torch

    gpu = device.type == "cuda"
    size, dtype = (8192, torch.bfloat16) if gpu else (256, torch.float32)
    a = torch.randn(size, size, dtype=dtype, device=device)
    source = torch.empty((2**32 if gpu else 2**22), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    multiply = _seconds(lambda: a @ a, device.type)
    copy = _seconds(lambda: target.copy_(source), device.type)
    return Peaks(2 * size**3 / multiply, 2 * source.numel() / copy, "measured here")


def _seconds(work: Any, device: str) -> float:
    """Seconds of one call, the mean of ten after three."""
    for _ in range(3):
        work()
    synchronize(device)
    start = time.perf_counter()
    for _ in range(10):
        work()
    synchronize(device)
    return max((time.perf_counter() - start) / 10, 1e-9)
