"""How fast the backend hf samples, beside plain `model.generate` on the same prompts: both in turns, in one run.

python -m experiments.bench.sampling_speed
python -m experiments.bench.sampling_speed --model MODEL --gsm8k FOLDER --prompts 8 --rows 64 --max-tokens 64
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.bench.measure import bench_problems, in_turns, make_parser, print_header, print_rates
from refine.students.shipped import SHIPPED, find_start
from rollouts.prompts import render_prompt
from rollouts.sampling.args import SamplerArgs
from rollouts.sampling.policies import load_policy
from rollouts.sampling.protocol import Request, load_sampler
from rollouts.steps import encode_prompt

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

# longer and shorter solutions than the demo's
WORLD = {"min_steps": 1, "max_steps": 5}


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--model", default=SHIPPED, help="a policy's folder; by default the student that is shipped")
    parser.add_argument("--gsm8k", metavar="FOLDER", help="take GSM8K's train problems, not the embedded world's")
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--n", type=int, default=8, help="samples of each prompt")
    parser.add_argument("--rows", type=int, default=256, help="rows decoded at once, by both")
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    if args.rows < args.n:
        parser.error(f"--rows {args.rows} must hold the --n {args.n} samples of a prompt")
    return args


def load_prompts(args: argparse.Namespace) -> list[str]:
    return [render_prompt(problem.question) for problem in bench_problems("train", args.prompts, args.gsm8k, **WORLD)]


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
    known = model.generation_config.eos_token_id
    ends = sorted({tokenizer.eos_token_id, *(known if isinstance(known, list) else [known])} - {None})
    at_once, total = args.rows // args.n, 0
    for start in range(0, len(prompts), at_once):
        heads = [encode_prompt(tokenizer, prompt) for prompt in prompts[start : start + at_once]]
        given = tokenizer.pad({"input_ids": heads}, padding_side="left", return_tensors="pt").to(model.device)
        out = model.generate(
            input_ids=given["input_ids"],
            attention_mask=given["attention_mask"],
            do_sample=True,
            temperature=1.0,
            top_k=0,  # the whole distribution, as the other draws from
            top_p=1.0,
            num_return_sequences=args.n,
            max_new_tokens=args.max_tokens,
            use_cache=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=ends,
        )
        total += written_tokens(out[:, given["input_ids"].shape[1] :], ends)
    return total


def compare(args: argparse.Namespace) -> dict[str, list[float]]:
    """Tokens a second of the backend and of plain generate in each round."""
    policy, prompts = find_start(args.model), load_prompts(args)
    settings = SamplerArgs(temperature=1.0, max_tokens=args.max_tokens, batch_size=args.rows, device=args.device)
    sampler = load_sampler(policy, settings)
    model, tokenizer = load_policy(policy, device=args.device)  # another copy: the sampler changes its model
    lengths = [len(encode_prompt(tokenizer, prompt)) for prompt in prompts]
    print_header(
        f"{args.model}: {model.num_parameters() / 1e6:.1f} million weights, {model.dtype}, on {model.device}\n"
        f"{len(prompts)} prompts of {min(lengths)} to {max(lengths)} tokens, {args.n} samples each, {args.rows} rows "
        f"at once, at most {args.max_tokens} tokens, temperature 1"
    )

    def of_round(number: int) -> list[str]:
        return prompts if number >= 0 else prompts[:2]

    def ours(number: int) -> int:
        requests = [
            Request(f"r{i}", prompt, n=args.n, seed=max(0, number)) for i, prompt in enumerate(of_round(number))
        ]
        samples = list(sampler.sample(requests))
        if refused := [sample.reason for sample in samples if sample.reason]:
            raise ValueError(f"{len(refused)} samples were refused: {refused[0]}")
        return sum(sample.completion_tokens for sample in samples)

    def plain(number: int) -> int:
        return plain_generate(model, tokenizer, of_round(number), args, max(0, number))

    return in_turns({"backend hf": ours, "model.generate": plain}, args.rounds)


def main(argv: Sequence[str] | None = None) -> int:
    from transformers.utils import logging

    logging.disable_progress_bar()
    print_rates(compare(parse_arguments(argv)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
