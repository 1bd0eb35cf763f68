"""The backend openai against `vllm serve` of the shipped student, on this machine. Skipped where there is no vllm.

The server takes a minute or two to load, and is loaded once.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from rollouts.sampling.args import OpenAIArgs
from rollouts.sampling.policies import load_tokenizer
from rollouts.sampling.protocol import Request, Sampler, SamplingError, load_sampler
from rollouts.steps import encode_prompt
from tests.rollouts.backends.contract import (
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

LOADING = 400  # seconds
SETTINGS = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_until_up(process: subprocess.Popen, port: int, log: Path) -> None:
    """Until /health answers.

    Raises:
        AssertionError: the server ended, or did not load in time; with the end of its log.
    """
    deadline = time.monotonic() + LOADING
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            try:
                code = process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(f"vllm serve ended with code {code}:\n{log.read_text()[-3000:]}") from None
    raise AssertionError(f"vllm serve did not load in {LOADING} s:\n{log.read_text()[-3000:]}")


def end_group(process: subprocess.Popen) -> None:
    """End the server and its engine, whether it listens or not."""
    for how, patience in ((signal.SIGTERM, 30), (signal.SIGKILL, 30)):
        try:
            os.killpg(process.pid, how)
            process.wait(timeout=patience)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log, port = tmp_path_factory.mktemp("vllm") / "serve.log", free_port()
    # what `vllm serve` runs; that command itself asks for a distribution named vllm, which vllm-cpu is not
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", student()]
    command += ["--dtype", "float32", "--max-num-seqs", "32", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | SETTINGS, start_new_session=True
        )
        try:
            wait_until_up(process, port, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            end_group(process)


def open_student(url: str, policy: str | None = None, **settings) -> Sampler:
    settings = {"base_urls": [url], "vllm": True, "concurrency": 16, "timeout": 120.0} | settings
    return load_sampler(policy or student(), sampler_args(backend="openai", openai=OpenAIArgs(**settings)))


class TestVLLMServe(SamplerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def opened(cls, url: str) -> Iterator[Sampler]:
        sampler = open_student(url)
        yield sampler
        sampler.close()

    def test_a_text_goes_as_well_as_its_token_ids(self, url: str, opened: Sampler, wanted) -> None:
        """Without a tokenizer here, the server's own cuts the same prompts into the same tokens."""
        plain = open_student(url, policy="some name", model=student())
        assert texts(by_name(plain.sample(requests_of()))) == texts(wanted)

    def test_without_its_extensions_the_server_counts_tokens(self, url: str, opened: Sampler, wanted) -> None:
        plain = open_student(url, vllm=False)
        found = by_name(plain.sample(requests_of()))
        assert {key: sample.text for key, sample in found.items()} == {key: s.text for key, s in wanted.items()}
        for i in range(6):
            of_one = [sum(samples[f"r{i}", k].completion_tokens for k in range(3)) for samples in (found, wanted)]
            assert of_one[0] == of_one[1]

    def test_a_text_that_ran_into_the_end_of_the_context_is_refused(self, opened: Sampler) -> None:
        tokenizer = load_tokenizer(student())
        ids = encode_prompt(tokenizer, questions()[0])
        almost = tuple((ids * 20)[-509:])
        (sample,) = opened.sample([Request("almost", almost, max_tokens=40, temperature=0.0)])
        assert sample.finish_reason == "refused" and "context" in sample.reason, sample

    def test_a_prompt_too_long_as_text_is_refused(self, url: str, opened: Sampler) -> None:
        plain = open_student(url, policy=None, model=student(), api="completions")
        plain.tokenizer = None
        for length in (400, 40_000):
            (sample,) = plain.sample([Request("long", "Ann has 7 pens. " * length)])
            assert sample.finish_reason == "refused" and "context" in sample.reason, sample

    def test_a_model_that_is_not_served_ends_it(self, url: str) -> None:
        with pytest.raises(SamplingError, match=r"404.*nobody"):
            list(open_student(url, model="nobody").sample(requests_of()))

    def test_both_ends_of_seeds_are_taken(self, opened: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
        for first in (0, 2**63 - 2):
            monkeypatch.setattr("rollouts.sampling.protocol.sample_seed", lambda *_, first=first: first)
            found = by_name(opened.sample(requests_of(n=3)[:1]))
            assert [found["r0", i].finish_reason in ("stop", "length") for i in range(3)] == [True] * 3
