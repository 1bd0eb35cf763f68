"""What there is: the GPU and what it reaches, versions, and which kernels for variable lengths torch has."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from tests.gpu.setting import Row, Setting, measured_peaks, needs_gpu, peaks, row

_PACKAGES = ("torch", "transformers", "accelerate", "peft", "trl", "vllm", "flash-attn", "liger-kernel", "triton")


def run(setting: Setting) -> Iterator[Row]:
    import torch

    from training.attention.attend import _variable_length

    device = torch.device(setting.device)
    yield row("python, processor, cores", f"{platform.python_version()}, {platform.machine()}, {os.cpu_count()}")
    yield row("packages", ", ".join(f"{name} {_version(name)}" for name in _PACKAGES))
    found = _variable_length()
    yield row("torch's variable-length attention", "there" if found else "not there", note="with scale and window")
    if setting.cuda:
        facts = torch.cuda.get_device_properties(device)
        yield row("GPU", facts.name, note=f"{torch.cuda.device_count()} of them, CUDA {torch.version.cuda}")
        yield row("its memory", facts.total_memory / 2**30, "GiB")
        yield row("compute capability", f"{facts.major}.{facts.minor}", ok=torch.cuda.is_bf16_supported())
    else:
        yield needs_gpu("GPU, its memory and capability", "the rates below are the CPU's")
    own, known = measured_peaks(device), peaks(device)
    kind = "bfloat16, 8192 x 8192" if setting.cuda else "float32, 256 x 256"
    yield row("matrix product", own.flops / 1e12, "TFLOP/s", note=kind)
    yield row("copy within memory", own.bandwidth / 1e12, "TB/s", note="bytes read and written")
    yield row(
        "taken as its peak", f"{known.flops / 1e12:.4g} TFLOP/s, {known.bandwidth / 1e12:.3g} TB/s", note=known.source
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "–"
