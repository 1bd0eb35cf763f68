"""Starting and ending vLLM's offline engine: its settings, the GPUs of one process among several, and what sees to it
that no process of the engine outlives ours. How the engine is sampled is in `rollouts/backends/vllm/sampler.py`.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing.connection import wait
from typing import TYPE_CHECKING

from rollouts.sampling.policies import check_adapter, pick_dtype
from rollouts.sampling.protocol import SamplingError

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from vllm import LLMEngine

    from rollouts.sampling.args import SamplerArgs, VLLMArgs

# what a launcher tells its processes about their group: the engine makes a group of its own, with ranks of its own
_LAUNCHER = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
_LAUNCHER_PREFIXES = ("TORCHELASTIC_", "ROLE_", "GROUP_WORLD_")
_DEFAULTS = {
    "VLLM_LOGGING_LEVEL": "ERROR",  # it warns of much that is as it should be
    "VLLM_NO_USAGE_STATS": "1",  # vLLM would report each start to its makers
    # a forked engine would inherit the threads, the CUDA context and the process group of a training process
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
_CPU_DEFAULTS = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else every engine of a machine binds to the same cores
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB; else a share of all memory
}
_CPU_BLOCK = 32  # tokens of a block of the cache: only whole ones are shared, and vLLM's own 128 exceed many prompts


def prepare() -> None:
    """Set what vLLM reads when it is imported. Raises ValueError, which says what to install, where it is missing."""
    if find_spec("vllm") is None:
        raise ValueError("sampler.backend=vllm needs the package vllm: pip install 'stepwise[vllm]'")
    for key, value in _DEFAULTS.items():
        os.environ.setdefault(key, value)


def check_lora(args: VLLMArgs) -> None:
    """Raise ValueError where `lora` is no folder of a LoRA adapter, or its rank is too large."""
    if args.lora is None:
        return
    rank = check_adapter(args.lora).get("r")
    if not isinstance(rank, int) or rank > args.max_lora_rank:
        raise ValueError(f"{args.lora}: rank {rank!r} is more than sampler.vllm.max_lora_rank={args.max_lora_rank}")


def own_environment(
    environment: Mapping[str, str], name: str, devices: Sequence[str], wanted: int
) -> dict[str, str | None]:
    """What a process of a launcher changes in its environment (None: takes out) while it starts an engine.

    Of the `devices` that the processes of this machine see, each takes the next `wanted` and names them in the
    variable `name`. On a CPU there are none to share.

    Raises:
        ValueError: there are too few devices.
    """
    changes: dict[str, str | None] = {
        key: None for key in environment if key in _LAUNCHER or key.startswith(_LAUNCHER_PREFIXES)
    }
    if int(environment.get("WORLD_SIZE", 1)) > 1 and devices:
        rank = int(environment.get("LOCAL_RANK", 0))
        own = devices[rank * wanted : (rank + 1) * wanted]
        if len(own) < wanted:
            raise ValueError(
                f"process {rank} of this machine finds no {wanted} GPUs of its own among {','.join(devices)}: "
                f"launch.num_processes times sampler.vllm.tensor_parallel_size={wanted} are needed"
            )
        changes[name] = ",".join(own)
    return changes


@contextmanager
def environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Change the environment of this process, and of those it starts, for a while."""
    before = {key: os.environ.get(key) for key in changes}
    _apply(changes)
    try:
        yield
    finally:
        _apply(before)


def _apply(changes: Mapping[str, str | None]) -> None:
    for key, value in changes.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value


class Watch:
    """Over the engine's processes and ours, of which neither notices that the other was killed.

    A shell kills the engine's when ours is gone: they would wait for ever, and hold their GPUs. It reads from a pipe
    of which only we hold the other end, so it sees any death. A thread calls `died` when one of the engine's ends.
    """

    def __init__(self, processes: Sequence[BaseProcess], died: Callable[[], None]) -> None:
        self.shell = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r line || kill -KILL "$@"', "sh", *(str(process.pid) for process in processes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in a terminal reaches the whole group
        )
        sentinels = [process.sentinel for process in processes]
        threading.Thread(target=lambda: wait(sentinels) and died(), name="engine watch", daemon=True).start()

    def end(self) -> None:
        """The processes have ended as they should."""
        self.shell.communicate(b"ended\n")


def device_kind(wanted: str) -> str:
    """What the installed vLLM runs on (cpu, cuda, …), for which this process is set up.

    Raises:
        ValueError: another device is wanted.
    """
    import torch
    from vllm.platforms import current_platform

    kind = current_platform.device_type
    if wanted != "auto" and torch.device(wanted).type != kind:
        raise ValueError(f"sampler.device={wanted}, but this vLLM runs on {kind}")
    if kind == "cpu":
        for key, value in _CPU_DEFAULTS.items():
            os.environ.setdefault(key, value)
    return kind


def start_engine(policy: str, args: SamplerArgs) -> tuple[LLMEngine, Watch]:
    """Start the engine and the watch over its processes.

    Raises:
        ValueError: settings and machine do not fit together.
        SamplingError: vLLM does not start; its own lines on the standard error say more.
    """
    from vllm import EngineArgs, LLMEngine
    from vllm.exceptions import VLLMError
    from vllm.platforms import current_platform
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.exceptions import EngineDeadError

    kind = device_kind(args.device)
    name = current_platform.device_control_env_var
    changes = own_environment(os.environ, name, _visible(kind, name), args.vllm.tensor_parallel_size)
    before = set(multiprocessing.active_children())
    try:
        with environment(changes):
            settings = EngineArgs(**engine_settings(policy, args, kind))
            engine = LLMEngine.from_engine_args(settings, usage_context=UsageContext.LLM_CLASS)
    except (ValueError, RuntimeError, OSError, VLLMError) as error:
        raise SamplingError(f"vLLM cannot open {policy}: {error}") from error
    processes = [process for process in multiprocessing.active_children() if process not in before]
    # where the core is killed outright, step() would wait for its outputs for ever
    return engine, Watch(processes, lambda: engine.engine_core.outputs_queue.put_nowait(EngineDeadError()))


def _visible(kind: str, name: str) -> list[str]:
    import torch

    if kind == "cpu":
        return []
    listed = os.environ.get(name)
    return list(map(str, range(torch.cuda.device_count()))) if listed is None else listed.split(",")


def engine_settings(policy: str, args: SamplerArgs, kind: str) -> dict[str, object]:
    """vLLM's names for our settings, on a device of this kind (cpu, cuda)."""
    import torch

    own = args.vllm
    settings = {
        "model": policy,
        "tokenizer": policy,
        "trust_remote_code": False,
        "load_format": "safetensors",
        "runner": "generate",  # a reward model is refused, not made into an embedder
        "dtype": str(pick_dtype(args.dtype, torch.device(kind))).removeprefix("torch."),
        "tensor_parallel_size": own.tensor_parallel_size,
        "max_num_seqs": own.max_num_seqs,
        "max_model_len": own.max_model_len,
        "gpu_memory_utilization": own.gpu_memory_utilization,
        "enforce_eager": own.enforce_eager,
        "enable_prefix_caching": True,
        # a sample of several is then given when it ends, not with the last of them and not token by token
        "stream_interval": 2**30,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if own.lora is not None:
        settings |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": own.max_lora_rank}
    if kind == "cpu":
        settings["block_size"] = _CPU_BLOCK
        # a prompt that is read in parts and has a seed ends the engine: it would turn back a generator, which torch's
        # cannot do on a CPU
        settings["enable_chunked_prefill"] = False
    return settings
