"""The benchmark of sampling counts what was written, and nothing else, for both sides."""

from __future__ import annotations

import re

import pytest
import torch

from experiments.bench.measure import bench_problems, demo_world
from experiments.bench.sampling_speed import load_prompts, main, parse_arguments, plain_generate, written_tokens
from rollouts.sampling.policies import load_policy
from tests.tiny import save_policy


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


def test_rows_that_cannot_hold_a_prompt_are_refused(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--n", "8", "--rows", "4"])
    assert "--rows 4 must hold the --n 8 samples" in capsys.readouterr().err
