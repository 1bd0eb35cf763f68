"""How fast the backend hf samples, beside plain `model.generate` on the same prompts: both in turns, in one run.

python -m experiments.bench.sampling_speed
python -m experiments.bench.sampling_speed --model MODEL --gsm8k FOLDER --prompts 8 --rows 64 --max-tokens 64
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from experiments.bench.world import demo_world
from refine.students.shipped import SHIPPED, find_start
from rollouts.problems.args import ProblemArgs
from rollouts.problems.load import load_problems
from rollouts.prompts import render_prompt
from rollouts.sampling.args import SamplerArgs
from rollouts.sampling.policies import load_policy
from rollouts.sampling.protocol import Request, load_sampler
from rollouts.steps import encode_prompt

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=SHIPPED, help="a policy's folder; by default the student that is shipped")
    parser.add_argument("--gsm8k", metavar="FOLDER", help="take GSM8K's train problems, not the embedded world's")
    parser.add_argument("--max-steps", type=int, default=5, help="longest solutions of the embedded world's problems")
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--n", type=int, default=8, help="samples of each prompt")
    parser.add_argument("--rows", type=int, default=256, help="rows decoded at once, by both")
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    if args.rows < args.n:
        parser.error(f"--rows {args.rows} must hold the --n {args.n} samples of a prompt")
    return args


def load_prompts(args: argparse.Namespace) -> list[str]:
    if args.gsm8k:
        problems = ProblemArgs(source="gsm8k", path=args.gsm8k, split="train", limit=args.prompts)
    else:
        # with shorter and longer solutions than the demo's
        world = demo_world(min_steps=1, max_steps=args.max_steps)
        problems = ProblemArgs(source="arithmetic", split="train", limit=args.prompts, world=world)
    return [render_prompt(problem.question) for problem in load_problems(problems)]


def written_tokens(rows: torch.Tensor, ends: Sequence[int]) -> int:
    """How many tokens rows (batch, length) hold up to and with the first end token of each; padding is not counted."""
    import torch

    ended = torch.isin(rows, torch.tensor(sorted(ends), device=rows.device))
    first = torch.where(ended.any(-1), ended.int().argmax(-1) + 1, rows.shape[1])
    return int(first.sum())


def plain_generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: list[str], args: argparse.Namespace, seed: int
) -> int:
    """Sample as the library's manual says: batches padded on the left, in the given order, with its cache."""
    import torch

    torch.manual_seed(seed)
    ends = {tokenizer.eos_token_id, *_listed(model.generation_config.eos_token_id)}
    at_once, total = args.rows // args.n, 0
    for start in range(0, len(prompts), at_once):
        heads = [encode_prompt(tokenizer, prompt) for prompt in prompts[start : start + at_once]]
        given = tokenizer.pad({"input_ids": heads}, padding_side="left", return_tensors="pt").to(model.device)
        out = model.generate(
            input_ids=given["input_ids"],
            attention_mask=given["attention_mask"],
            do_sample=True,
            temperature=args.temperature,
            top_k=0,  # the whole distribution, as the other draws from
            top_p=1.0,
            num_return_sequences=args.n,
            max_new_tokens=args.max_tokens,
            use_cache=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=sorted(ends),
        )
        total += written_tokens(out[:, given["input_ids"].shape[1] :], sorted(ends))
    return total


def _listed(value: int | list[int] | None) -> list[int]:
    return [] if value is None else value if isinstance(value, list) else [value]


def compare(args: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Tokens a second of the backend and of plain generate, in each repeat; they take turns, after a short warm-up."""
    policy, prompts = find_start(args.model), load_prompts(args)
    sampler = load_sampler(
        policy,
        SamplerArgs(temperature=args.temperature, max_tokens=args.max_tokens, batch_size=args.rows, device=args.device),
    )
    model, tokenizer = load_policy(policy, device=args.device)  # another copy: the sampler changes its model

    def ours(prompts: list[str], seed: int) -> int:
        requests = [Request(f"r{i}", prompt, n=args.n, seed=seed) for i, prompt in enumerate(prompts)]
        samples = list(sampler.sample(requests))
        if refused := [sample.reason for sample in samples if sample.reason]:
            raise ValueError(f"{len(refused)} samples were refused: {refused[0]}")
        return sum(sample.completion_tokens for sample in samples)

    def plain(prompts: list[str], seed: int) -> int:
        return plain_generate(model, tokenizer, prompts, args, seed)

    show_setting(args, model, [len(encode_prompt(tokenizer, prompt)) for prompt in prompts])
    for run in (ours, plain):
        run(prompts[:2], 0)
    rates: tuple[list[float], list[float]] = ([], [])
    for seed in range(args.repeats):
        rates[0].append(timed(lambda: ours(prompts, seed)))  # noqa: B023 called at once
        rates[1].append(timed(lambda: plain(prompts, seed)))  # noqa: B023
        print(f"repeat {seed + 1}: hf {rates[0][-1]:.0f}, generate {rates[1][-1]:.0f} tokens a second", flush=True)
    return rates


def timed(run: Callable[[], int]) -> float:
    start = time.perf_counter()
    tokens = run()
    return tokens / (time.perf_counter() - start)


def show_setting(args: argparse.Namespace, model: PreTrainedModel, lengths: list[int]) -> None:
    import torch
    import transformers

    device = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else platform.processor() or "CPU"
    print(f"{args.model}: {model.num_parameters() / 1e6:.1f} million weights, {model.dtype}, {type(model).__name__}")
    print(
        f"device {model.device} ({device}), {torch.get_num_threads()} threads; load {os.getloadavg()[0]:.1f}; "
        f"python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    )
    print(
        f"{len(lengths)} prompts of {min(lengths)} to {max(lengths)} tokens, {args.n} samples each, {args.rows} rows "
        f"at once, at most {args.max_tokens} tokens, temperature {args.temperature}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    from transformers.utils import logging

    logging.disable_progress_bar()
    ours, plain = compare(parse_arguments(argv))
    ratios = [a / b for a, b in zip(ours, plain, strict=True)]
    print(f"backend hf      {statistics.median(ours):10.0f} tokens a second")
    print(f"model.generate  {statistics.median(plain):10.0f} tokens a second")
    print(f"ratio           {statistics.median(ratios):10.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
