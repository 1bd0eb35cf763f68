"""Requests, their settings and seeds."""

from __future__ import annotations

import pytest

from rollouts.sampling.args import OpenAIArgs, RayArgs, SamplerArgs, VLLMArgs
from rollouts.sampling.protocol import (
    Request,
    fill,
    load_sampler,
    prompt_fault,
    refuse,
    request_fault,
    sample_seed,
)
from rollouts.sampling.sample import SampleArgs


def test_a_seed_is_a_function_of_run_request_and_number():
    assert sample_seed(0, "a", 0) == 0x4AA040E13D4E7414  # the same in every process and version
    seeds = [sample_seed(run, name, index) for run in (0, 1) for name in ("a", "b", "a0") for index in range(20)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (SamplerArgs(backend="telepathy"), "telepathy"),
        (SamplerArgs(temperature=-1.0), "-1.0"),
        (SamplerArgs(temperature=float("nan")), "nan"),
        (SamplerArgs(temperature=float("inf")), "inf"),
        (SamplerArgs(top_p=0.0), "0.0"),
        (SamplerArgs(top_p=1.5), "1.5"),
        (SamplerArgs(max_tokens=0), "max_tokens .* 0"),
        (SamplerArgs(batch_size=0), "batch_size .* 0"),
        (SamplerArgs(stop=["a", ""]), "'a', ''"),
        (SamplerArgs(vllm=VLLMArgs(gpu_memory_utilization=1.5)), "vllm.gpu_memory_utilization .* 1.5"),
        (SamplerArgs(vllm=VLLMArgs(max_num_seqs=0)), "vllm.max_num_seqs .* 0"),
        (SamplerArgs(openai=OpenAIArgs(api="telepathy")), "openai.api=.*telepathy"),
        (SamplerArgs(openai=OpenAIArgs(base_urls=["localhost:8000"])), "base_urls .*'localhost:8000'"),
        (SamplerArgs(openai=OpenAIArgs(timeout=0.0)), "openai.timeout .* not 0.0"),
        (SamplerArgs(ray=RayArgs(backend="ray")), "ray.backend='ray'"),
        (SamplerArgs(ray=RayArgs(actors=0)), "ray.actors .* not 0"),
        (SamplerArgs(ray=RayArgs(gpus=-1.0)), "ray.gpus .* -1.0"),
    ],
)
def test_settings_out_of_range_are_refused_by_value(bad, message):
    with pytest.raises(ValueError, match=message):
        load_sampler("nowhere", bad)


def test_a_request_takes_the_sampler_s_settings_where_it_has_none():
    args = SamplerArgs(max_tokens=5, temperature=0.5, top_p=0.9, stop=["a"])
    assert fill(Request("r", "x"), args) == Request("r", "x", max_tokens=5, temperature=0.5, top_p=0.9, stop=("a",))
    own = Request("r", "x", max_tokens=7, temperature=0.0, top_p=1.0, stop=())
    assert fill(own, args) == own


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": float("nan")}, "'r' needs finite temperature .* not nan, 1.0 and 256"),
        ({"temperature": -1.0}, "-1.0"),
        ({"temperature": float("inf")}, "inf"),
        ({"top_p": 0.0}, "1.0, 0.0 and 256"),
        ({"top_p": float("nan")}, "nan"),
        ({"max_tokens": 0}, "1.0 and 0"),
        ({"stop": ("a", "")}, r"'r': stop must be .* not \('a', ''\)"),
        ({"stop": "ab"}, "not 'ab'"),
    ],
)
def test_a_request_s_settings_out_of_range_are_refused_by_value(settings, message):
    with pytest.raises(ValueError, match=message):
        fill(Request("r", "x", **settings), SamplerArgs())


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (Request("r", "a\ud800b"), r"the prompt holds the lone surrogate '\ud800'"),
        (Request("r", "a", prefix="\udfff"), r"lone surrogate '\udfff'"),
        (Request("r", (1,), prefix="\udfff"), r"lone surrogate '\udfff'"),
        (Request("r", (1, 2.0)), "the prompt must be text or token ids, not (1, 2.0)"),
        (Request("r", (True,)), "not (True,)"),
        (Request("r", None), "not None"),
        (Request("r", b"x" * 99), "xxx…"),
        (Request("r", "\0 😀"), None),
        (Request("r", [1]), None),
        (Request("r", ""), None),  # empty, which the backend says
    ],
)
def test_what_no_policy_can_read(request_, reason):
    found = request_fault(request_)
    assert found is None if reason is None else reason in found


def test_which_samples_are_drawn():
    assert list(Request("r", "x", n=3).indices) == [0, 1, 2]
    assert list(Request("r", "x", n=3, wanted=(2,)).indices) == [2]
    refused = list(refuse(Request("r", "x", n=3, seed=4, wanted=(0, 2)), "too long", 9))
    assert [(s.index, s.finish_reason, s.reason, s.prompt_tokens) for s in refused] == [
        (0, "refused", "too long", 9),
        (2, "refused", "too long", 9),
    ]
    assert refused[1].seed == sample_seed(4, "r", 2) and refused[1].text == "" and refused[1].completion_tokens == 0


def test_what_a_prompt_may_be():
    assert prompt_fault([1] * 6, 4, 10) is None and prompt_fault([1] * 900, 4, None) is None
    assert "6 prompt tokens and max_tokens=5" in prompt_fault([1] * 6, 5, 10)
    assert "empty" in prompt_fault([], 5, 10)
    assert prompt_fault([0, 6], 1, None, 7) is None
    assert prompt_fault([0, 7, 9], 1, None, 7) == "the prompt has token 7, but the model knows only 7"
    assert "token -1" in prompt_fault([6, -1], 1, 10, 7)


def test_a_policy_on_a_server_goes_by_its_name(tmp_path):
    server = SamplerArgs(backend="openai", openai=OpenAIArgs(base_urls=["http://b:1/v1", "https://a.org/v1"]))
    assert SampleArgs("some-model", sampler=server).served == "some-model@a.org,b"
    for policy, args in ((str(tmp_path), server), ("hub:org/some-model", server), ("some-model", SamplerArgs())):
        assert SampleArgs(policy, sampler=args).served is None
