"""What the backend vllm decides without an engine: settings, GPUs, environment, the requests that ours become."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rollouts.backends.vllm import sampler as backend
from rollouts.backends.vllm.engine import Watch, check_lora, engine_settings, environment, own_environment
from rollouts.backends.vllm.sampler import calls
from rollouts.sampling.args import SamplerArgs, VLLMArgs
from rollouts.sampling.protocol import Request, fill, sample_seed

TORCHRUN = {
    "RANK": "5",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
    "ROLE_RANK": "5",
    "ROLE_NAME": "default",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCHELASTIC_RUN_ID": "x",
}
KEPT = {"OMP_NUM_THREADS": "1", "PATH": "/bin"}


def test_nothing_of_the_launcher_reaches_the_engine() -> None:
    """Where TORCHELASTIC_USE_AGENT_STORE is set, torch serves no store for a new group: the launcher would."""
    assert own_environment(TORCHRUN | KEPT, "CUDA_VISIBLE_DEVICES", [], 1) == dict.fromkeys(TORCHRUN)
    assert own_environment(KEPT, "CUDA_VISIBLE_DEVICES", ["0", "1"], 2) == {}


@pytest.mark.parametrize(
    ("rank", "devices", "wanted", "own"),
    [
        (0, "0 1 2 3", 1, "0"),
        (3, "0 1 2 3", 1, "3"),
        (1, "0 1 2 3", 2, "2,3"),
        (1, "4 6 GPU-ab MIG-cd", 1, "6"),
        (1, "4 6 GPU-ab MIG-cd", 2, "GPU-ab,MIG-cd"),
    ],
)
def test_each_process_takes_its_own_gpus(rank: int, devices: str, wanted: int, own: str) -> None:
    launched = TORCHRUN | {"LOCAL_RANK": str(rank)}
    changes = own_environment(launched, "CUDA_VISIBLE_DEVICES", devices.split(), wanted)
    assert changes == dict.fromkeys(TORCHRUN) | {"CUDA_VISIBLE_DEVICES": own}


@pytest.mark.parametrize(("rank", "devices", "wanted"), [(2, "0 1", 1), (1, "0 1 2", 2), (0, "0", 2)])
def test_too_few_gpus_are_an_error(rank: int, devices: str, wanted: int) -> None:
    launched = TORCHRUN | {"LOCAL_RANK": str(rank)}
    with pytest.raises(ValueError, match=f"process {rank} .* no {wanted} GPUs of its own among {devices[0]}"):
        own_environment(launched, "CUDA_VISIBLE_DEVICES", devices.split(), wanted)


def test_one_process_alone_leaves_the_gpus_to_vllm() -> None:
    alone = {"WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    assert own_environment(alone, "CUDA_VISIBLE_DEVICES", ["0"], 1) == dict.fromkeys(alone)


def test_the_environment_is_put_back(monkeypatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    before = dict(os.environ)
    with pytest.raises(ZeroDivisionError), environment({"RANK": None, "CUDA_VISIBLE_DEVICES": "1"}):
        assert "RANK" not in os.environ and os.environ["CUDA_VISIBLE_DEVICES"] == "1"
        raise ZeroDivisionError
    assert dict(os.environ) == before


def filled(n: int, **settings) -> Request:
    return fill(Request("x", "Q: ?\n", n=n, seed=4, **settings), SamplerArgs())


def test_all_n_are_one_request_of_the_engine() -> None:
    first = sample_seed(4, "x", 0)
    (call,) = calls(filled(8), [1, 2])
    assert (list(call.indices), call.seed, call.prompt) == (list(range(8)), first, [1, 2])
    (call,) = calls(filled(3, wanted=(0, 1, 2)), [1])
    assert list(call.indices) == [0, 1, 2]


def test_some_of_n_are_a_request_each_with_the_seed_of_the_child() -> None:
    first = sample_seed(4, "x", 0)
    found = [(list(call.indices), call.seed) for call in calls(filled(8, wanted=(6, 1)), [1])]
    assert found == [([6], (first + 6) % 2**63), ([1], (first + 1) % 2**63)]
    assert calls(filled(8, wanted=()), [1]) == []


def test_greedy_samples_are_a_request_each() -> None:
    """vLLM refuses n > 1 at temperature 0."""
    assert [list(call.indices) for call in calls(filled(3, temperature=0.0), [1])] == [[0], [1], [2]]


def test_seeds_wrap_around_where_vllm_s_would_not(monkeypatch) -> None:
    monkeypatch.setattr("rollouts.sampling.protocol.sample_seed", lambda *_: 2**63 - 2)
    found = [(list(call.indices), call.seed) for call in calls(filled(4), [1])]
    assert found == [([0], 2**63 - 2), ([1], 2**63 - 1), ([2], 0), ([3], 1)]
    (call,) = calls(filled(2), [1])
    assert list(call.indices) == [0, 1]


def test_settings_in_the_engine_s_words() -> None:
    args = SamplerArgs(vllm=VLLMArgs(tensor_parallel_size=2, max_num_seqs=7, max_model_len=99, enforce_eager=True))
    found = engine_settings("a/policy", args, "cuda")
    assert {
        "model": "a/policy",
        "dtype": "bfloat16",
        "tensor_parallel_size": 2,
        "max_num_seqs": 7,
    }.items() <= found.items()
    assert {"max_model_len": 99, "enforce_eager": True, "enable_prefix_caching": True}.items() <= found.items()
    assert found["trust_remote_code"] is False and found["load_format"] == "safetensors"
    assert "enable_lora" not in found and "block_size" not in found
    assert engine_settings("p", SamplerArgs(), "cpu")["dtype"] == "float32"
    assert engine_settings("p", SamplerArgs(dtype="float16"), "cuda")["dtype"] == "float16"
    found = engine_settings("p", SamplerArgs(vllm=VLLMArgs(lora="a", max_lora_rank=8)), "cuda")
    assert (found["enable_lora"], found["max_lora_rank"]) == (True, 8)


def test_an_adapter_that_cannot_be_is_named_before_the_engine_starts(tmp_path: Path) -> None:
    check_lora(VLLMArgs())
    with pytest.raises(ValueError, match=r"has no adapter_config\.json"):
        check_lora(VLLMArgs(lora=str(tmp_path)))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 32}))
    (tmp_path / "adapter_model.bin").write_bytes(b"a pickle")
    with pytest.raises(ValueError, match=r"has no adapter_model\.safetensors"):
        check_lora(VLLMArgs(lora=str(tmp_path)))
    save_file({"lora_A": torch.zeros(2)}, tmp_path / "adapter_model.safetensors")
    check_lora(VLLMArgs(lora=str(tmp_path), max_lora_rank=32))
    with pytest.raises(ValueError, match=r"rank 32 is more than sampler\.vllm\.max_lora_rank=16"):
        check_lora(VLLMArgs(lora=str(tmp_path), max_lora_rank=16))


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_error_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pip install 'stepwise\[vllm\]'"):
        backend.load(str(tmp_path), SamplerArgs(backend="vllm"))


@pytest.fixture
def engine() -> Iterator[multiprocessing.Process]:
    """Stands for an engine's process: it waits for ever."""
    process = multiprocessing.get_context("spawn").Process(target=signal.pause)
    process.start()
    yield process
    process.kill()
    process.join()


def test_the_watch_kills_the_engine_when_nobody_is_left(engine) -> None:
    watch = Watch([engine], died=lambda: None)
    watch.shell.stdin.close()  # as the system does when we die
    engine.join(timeout=60)
    assert engine.exitcode == -signal.SIGKILL and watch.shell.wait(timeout=60) == 0


def test_the_watch_that_is_ended_kills_nothing(engine) -> None:
    watch = Watch([engine], died=lambda: None)
    watch.end()
    assert watch.shell.returncode == 0 and engine.is_alive()


def test_the_watch_tells_when_the_engine_has_died(engine) -> None:
    told = threading.Event()
    watch = Watch([engine], died=told.set)
    assert not told.is_set()
    engine.kill()
    assert told.wait(timeout=60)
    watch.end()


def test_a_watch_over_nothing_tells_nothing() -> None:
    told = threading.Event()
    watch = Watch([], died=told.set)
    watch.end()
    assert not told.is_set()
