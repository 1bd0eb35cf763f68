"""The benchmark of sampling counts what was written, and nothing else, for both sides."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import pytest
import torch

from experiments.bench import vllm_speed
from experiments.bench.measure import bench_problems, demo_world, in_turns, print_rates
from experiments.bench.sampling_speed import load_prompts, main, parse_arguments, plain_generate, written_tokens
from rollouts.sampling.args import SamplerArgs
from rollouts.sampling.policies import load_policy
from rollouts.sampling.protocol import Request, Sample
from tests.tiny import save_policy, tokenizer


def test_tokens_count_up_to_and_with_the_end():
    rows = torch.tensor([[5, 6, 1, 0, 0], [5, 1, 1, 1, 1], [5, 6, 7, 8, 9], [2, 5, 5, 1, 5]])
    assert written_tokens(rows[:1], [1]) == 3
    assert written_tokens(rows, [1]) == 3 + 2 + 5 + 4
    assert written_tokens(rows, [2, 1]) == 3 + 2 + 5 + 1


def test_plain_generate_answers_every_prompt_as_often_as_asked(tmp_path, monkeypatch):
    model, tokenizer = load_policy(save_policy(tmp_path / "policy"), device="cpu")
    given = []
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda **kwargs: given.append(kwargs) or generate(**kwargs))
    args = parse_arguments(["--prompts", "5", "--n", "3", "--rows", "7", "--max-tokens", "4"])
    prompts = load_prompts(args)
    assert 5 * 3 <= plain_generate(model, tokenizer, prompts, args, 0) <= 5 * 3 * 4
    assert [len(one["input_ids"]) for one in given] == [2, 2, 1]
    mask = given[0]["attention_mask"]
    assert mask[:, -1].all() and (mask.sum(-1) == (given[0]["input_ids"] != tokenizer.pad_token_id).sum(-1)).all()


def test_it_prints_both_rates_and_their_ratio(tmp_path, capsys):
    policy = save_policy(tmp_path / "policy")
    assert main(["--model", policy, *"--prompts 3 --n 2 --rows 4 --max-tokens 4 --rounds 2 --device cpu".split()]) == 0
    out = capsys.readouterr().out
    assert "3 prompts of" in out and f"{torch.get_num_threads()} threads" in out and f"torch {torch.__version__}" in out
    ours, plain, ratio = (
        float(re.search(rf"^{name} +([\d.]+)", out, re.M)[1]) for name in ("backend hf", "model.generate", "ratio")
    )
    assert ours > 0 and plain > 0 and ratio > 0


def test_the_world_of_the_benches_is_the_demos():
    world = demo_world()
    assert (world.min_steps, world.max_steps, world.max_factor, world.shortcuts) == (2, 4, 4, False)
    easy, hard = (bench_problems("train", 30, None, max_steps=most, min_steps=most) for most in (1, 4))
    assert {problem.solution.count("<<") for problem in easy} == {1}
    assert {problem.solution.count("<<") for problem in hard} == {4}


def test_arms_take_turns_and_the_warm_up_does_not_count(capsys):
    called = []
    arms = {name: lambda number, name=name: called.append((number, name)) or 5 for name in ("ours", "theirs")}
    rates = in_turns(arms, 2)
    assert called == [(-1, "ours"), (-1, "theirs"), (0, "theirs"), (0, "ours"), (1, "ours"), (1, "theirs")]
    assert [len(own) for own in rates.values()] == [2, 2]
    print_rates({"ours": [10.0, 40.0, 30.0], "theirs": [10.0, 10.0, 10.0]})
    assert "ratio           3.000 (1.000 to 4.000)" in capsys.readouterr().out


@pytest.mark.parametrize("other", ["", "!"])
def test_vllms_arms_must_write_the_same(monkeypatch, capsys, other):
    """The bench of the backend vllm on a scripted engine: both arms, the share in the cache, other texts refused."""

    def complete(request: Request) -> list[Sample]:
        engine.prompt_tokens += 10
        engine.cached_tokens += 4
        return [Sample(request.id, i, f"a\nb{i}\n", "stop", 10, 3, 0) for i in range(request.n)]

    def outputs(prompts: list, settings: list, use_tqdm: bool) -> list:
        parts = [SimpleNamespace(index=i, text=f"a\nb{i}\n{other}", token_ids=[1, 2, 3]) for i in range(2)]
        return [SimpleNamespace(outputs=parts) for _ in prompts]

    resets = []
    args, llm_engine = SamplerArgs(), SimpleNamespace(reset_prefix_cache=lambda: resets.append(1))
    engine = SimpleNamespace(args=args, tokenizer=tokenizer(), prompt_tokens=0, cached_tokens=0)
    engine.sample = lambda requests: (sample for request in requests for sample in complete(request))
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=SimpleNamespace))
    monkeypatch.setattr(vllm_speed, "store_rows", lambda folder, sampler, asked: list(sampler.sample(asked)))
    llm, requests = SimpleNamespace(generate=outputs, llm_engine=llm_engine), [Request("p", "Q: Ann\n", n=2)]
    if other:
        with pytest.raises(ValueError, match="different texts"):
            vllm_speed.bench(llm, engine, requests, 1)
        return
    vllm_speed.bench(llm, engine, requests, 1)
    out = capsys.readouterr().out
    assert "n samples 40.0%" in out and "continuations 40.0%" in out and len(resets) == 2 * 2 + 1
    assert re.search(r"^backend +\d.* tokens a second$", out, re.M)


def test_rows_that_cannot_hold_a_prompt_are_refused(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--n", "8", "--rows", "4"])
    assert "--rows 4 must hold the --n 8 samples" in capsys.readouterr().err
