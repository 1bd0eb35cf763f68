"""vLLM's engine, run for real: the contract, what is the engine's own, and that none of its processes stays behind.

Runs where vLLM is installed (`make test-vllm`); what needs no engine is tested in `test_vllm_engine.py`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from rollouts.backends.vllm.sampler import VLLMSampler
from rollouts.sampling.args import VLLMArgs
from rollouts.sampling.policies import load_tokenizer
from rollouts.sampling.protocol import Request, SamplingError, load_sampler, sample_seed
from tests.rollouts.backends.contract import (
    MAX_TOKENS,
    SamplerContract,
    by_name,
    questions,
    requests_of,
    sampler_args,
    student,
    texts,
)

if find_spec("vllm") is None:
    pytest.skip("vLLM is not installed", allow_module_level=True)


def opened_with(**settings) -> VLLMSampler:
    """Eager: compiling would take longer than all tests."""
    return load_sampler(student(), sampler_args(backend="vllm", vllm=VLLMArgs(enforce_eager=True, **settings)))


def engine_processes() -> list[psutil.Process]:
    """The engine's core, and the workers that it started."""
    cores = [psutil.Process(process.pid) for process in multiprocessing.active_children()]
    return [*cores, *(worker for core in cores for worker in core.children(recursive=True))]


def still_there(processes: list[psutil.Process], seconds: float = 60) -> list[psutil.Process]:
    """Those that do not end; one that has ended and that nobody has asked about yet is no longer there."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


class TestVLLM(SamplerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def opened(cls) -> Iterator[VLLMSampler]:
        sampler = opened_with(max_num_seqs=8)
        yield sampler
        sampler.close()

    def test_some_of_n_are_the_children_of_n(self, opened) -> None:
        """PB72: vLLM seeds child i of a request with seed + i: asked for alone, with that seed, it writes the same."""
        whole = by_name(opened.sample([Request("x", questions()[1], n=9, seed=3)]))
        some = by_name(opened.sample([Request("x", questions()[1], n=9, seed=3, wanted=(7, 2, 8))]))
        assert texts(some) == {("x", i): texts(whole)["x", i] for i in (2, 7, 8)}
        assert len({sample.text for sample in whole.values()}) > 2
        first = sample_seed(3, "x", 0)
        assert {i: sample.seed for (_, i), sample in whole.items()} == {i: (first + i) % 2**63 for i in range(9)}

    def test_samples_come_as_they_end(self, opened) -> None:
        """A long one does not hold back the short ones of the same request, nor those of the next."""
        requests = [Request("long", questions()[1], n=2, max_tokens=300, temperature=2.0)]
        requests += [Request(f"short{i}", questions()[0], n=2, max_tokens=2) for i in range(20)]
        came = [sample.request_id for sample in opened.sample(requests)]
        assert came.index("long") > 20 and len(came) == 42

    def test_what_is_handed_over_is_bounded(self, opened) -> None:
        """Many requests do not lie in the engine at once, and it is never short of rows while there are any."""
        most = 0
        read = []

        class Listed(list):
            def __iter__(self):
                for request in super().__iter__():
                    read.append(request)
                    yield request

        for drawn, _ in enumerate(
            opened.sample(Listed(replace(r, id=f"{r.id}-{k}") for k in range(30) for r in requests_of()))
        ):
            most = max(most, 3 * len(read) - drawn)
        assert len(read) == 180 and opened.room == 16 and most <= opened.room + 3

    def test_prompts_and_prefixes_that_were_read_are_found_again(self, opened) -> None:
        prompt = max(questions(20), key=len)
        length = len(load_tokenizer(student())(prompt).input_ids)
        assert length > 64  # two blocks of the cache
        before = opened.prompt_tokens, opened.cached_tokens
        (one,) = opened.sample([Request("a", prompt, n=1, temperature=0.0)])
        list(opened.sample([Request("b", prompt, n=8), Request("c", prompt, prefix=one.text.split("\n")[0] + "\n")]))
        read, found = opened.prompt_tokens - before[0], opened.cached_tokens - before[1]
        assert read > 10 * length and found >= 9 * 64 and found < read

    def test_a_token_that_is_none_of_the_policy_s_is_refused(self, opened, wanted) -> None:
        good = requests_of()[:2]
        found = by_name(opened.sample([good[0], Request("odd", (5, 251, 6)), Request("low", (5, -1)), good[1]]))
        assert {key: s.reason for key, s in found.items() if s.finish_reason == "refused"} == {
            ("odd", 0): "the prompt has token 251, but the model knows only 251",
            ("low", 0): "the prompt has token -1, but the model knows only 251",
        }
        assert len(found) == 8 and all(found[key].text == wanted[key].text for key in found if key in wanted)

    def test_settings_that_vllm_does_not_take_are_the_user_s_error(self, opened) -> None:
        good, bad = requests_of(n=1)[:2]
        with pytest.raises(ValueError, match=r"'r1': vLLM does not sample so: temperature must be in \[0, 2\]"):
            list(opened.sample([good, replace(bad, temperature=2.5)]))
        assert len(list(opened.sample([good]))) == 1

    def test_two_streams_at_once_are_refused(self, opened) -> None:
        stream = opened.sample(requests_of())
        next(stream)
        with pytest.raises(RuntimeError, match="one call"):
            next(opened.sample(requests_of(seed=1)))
        assert len(list(stream)) == 17

    def test_left_midway_the_engine_has_nothing_to_do(self, opened) -> None:
        stream = opened.sample(requests_of(n=8, seed=5))
        next(stream)
        assert opened.engine.has_unfinished_requests()
        stream.close()
        assert not opened.engine.has_unfinished_requests()


def test_an_engine_that_does_not_start_is_an_error() -> None:
    with pytest.raises(SamplingError, match=r"vLLM cannot open .*(?s:.*)max_model_len"):
        opened_with(max_model_len=4096)
    assert engine_processes() == []


def test_settings_are_checked_before_the_engine_starts() -> None:
    with pytest.raises(ValueError, match="temperature must be in"):
        load_sampler(student(), sampler_args(backend="vllm", temperature=2.5))
    with pytest.raises(ValueError, match=r"sampler\.device=cuda, but this vLLM runs on cpu"):
        load_sampler(student(), sampler_args(backend="vllm", device="cuda"))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> str:
    """A LoRA adapter that turns the student's head."""
    peft = pytest.importorskip("peft")
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(student())
    model = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    return str(folder)


def greedy_with(folder: str) -> dict[str, str]:
    """What the student with the adapter writes, by the library."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(student())
    model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(student()), folder).eval()
    written = {}
    for request in requests_of():
        prompt = torch.tensor([tokenizer(request.prompt).input_ids])
        ids = model.generate(input_ids=prompt, max_new_tokens=MAX_TOKENS, do_sample=False)[0, prompt.shape[1] :]
        written[request.id] = tokenizer.decode(ids, skip_special_tokens=True)
    return written


@pytest.fixture(scope="module")
def adapted(adapter) -> Iterator[VLLMSampler]:
    """With the adapter, and as many rows at once as vLLM likes."""
    sampler = opened_with(lora=adapter, max_lora_rank=8)
    yield sampler
    sampler.close()


def test_an_adapter_is_used(adapted, adapter) -> None:
    found = {s.request_id: s.text for s in adapted.sample(requests_of(n=1, temperature=0.0))}
    assert found == greedy_with(adapter)


def test_more_prompts_than_one_step_reads(adapted) -> None:
    """On a CPU, vLLM's engine ends where it reads part of a prompt that has a seed."""
    many = [Request(str(i), prompt, max_tokens=2) for i, prompt in enumerate(questions(400))]
    found = by_name(adapted.sample(many))
    assert len(found) == 400
    assert (
        sum(s.prompt_tokens for s in found.values())
        > 2 * adapted.engine.vllm_config.scheduler_config.max_num_batched_tokens
    )


def test_an_engine_that_dies_is_an_error(adapted) -> None:
    processes = engine_processes()
    stream = adapted.sample(requests_of(n=50))
    next(stream)
    processes[0].kill()
    with pytest.raises(SamplingError, match="vLLM has failed"):
        list(stream)
    assert processes and still_there(processes) == []
    with pytest.raises(SamplingError, match="closed"):
        list(adapted.sample(requests_of()))


PROGRAM = """
import itertools, sys
from tests.rollouts.backends.test_vllm import engine_processes, opened_with, requests_of
if __name__ == "__main__":
    sampler = opened_with()
    try:
        for seed in itertools.count():
            for sample in sampler.sample(requests_of(n=20, seed=seed)):
                if seed == 0 and sample.request_id == "r5" and sample.index == 0:
                    print("under way", *(process.pid for process in engine_processes()), flush=True)
    except KeyboardInterrupt:
        sys.exit(130)  # as a command does
"""


# as torchrun sets them, but there is no other process to meet
LAUNCHED = {
    "RANK": "1",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_process_that_is_stopped_leaves_none_behind(how: signal.Signals, tmp_path: Path) -> None:
    """SIGINT ends it by an exception, as Ctrl-C and a command's SIGTERM do; SIGTERM outright, as kill -9 does.

    It is the second of two processes of a launcher.
    """
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    root = Path(__file__).parents[3]
    sampling = subprocess.Popen(
        [sys.executable, str(program)],
        cwd=root,
        env=os.environ | LAUNCHED | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said = next((line for line in sampling.stdout if line.startswith("under way")), "")
        engine = [psutil.Process(int(pid)) for pid in said.split()[2:]]
        assert len(engine) >= 1, "it never sampled"
        sampling.send_signal(how)
        assert sampling.wait(timeout=120) == (130 if how == signal.SIGINT else -how)
        assert still_there(engine) == []
    finally:
        sampling.kill()
        sampling.communicate()
