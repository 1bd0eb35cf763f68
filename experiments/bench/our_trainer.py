"""Our side of `experiments/bench/training_speed.py`, one run in a process of its own; prints one line of JSON.

A training run through `fit()`, or the scores of solutions: with one forward for all steps, and with one a prefix.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from experiments.bench.training_rows import examples_of, read_jsonl
from experiments.bench.trl_trainers import cpu_seconds, digest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rewards.scorer import Scorer
    from rollouts.records import Problem
    from training.examples import Example


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", choices=("prm", "sft", "score"))
    parser.add_argument("--start", required=True, help="folder of the model and tokenizer to start from")
    parser.add_argument("--rows", required=True)
    parser.add_argument("--held-out", required=True)
    parser.add_argument("--layout", default="packed")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--tokens-per-step", type=int, default=1024)
    parser.add_argument("--warmup", type=float, default=0.05)
    return parser.parse_args(argv)


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Train for one epoch; the clock runs while the trainer's own would."""
    import torch
    import transformers

    from rewards.losses import reward_loss
    from rewards.reward_model import make_reward_model
    from rollouts.sampling.policies import load_policy
    from stages.workspace import Untracked, Workspace
    from training.args import TrainArgs
    from training.completions import completion_loss
    from training.loop import fit

    begun = time.perf_counter()
    if args.job == "prm":
        model, tokenizer = make_reward_model(args.start, "cpu")  # the head of a reward model is kept
    else:
        model, tokenizer = load_policy(args.start, "float32", "cpu")
    examples = examples_of(tokenizer, read_jsonl(args.rows))
    held_out = examples_of(tokenizer, read_jsonl(args.held_out))
    loss = reward_loss if args.job == "prm" else completion_loss
    given = TrainArgs(
        epochs=1,
        tokens_per_step=args.tokens_per_step,
        tokens_per_batch=args.tokens_per_step,
        layout="padded" if args.layout == "padded" else "packed",
        share_prefixes=args.layout == "shared",
        learning_rate=args.learning_rate,
        warmup=args.warmup,
        final_share=0.0,
        device="cpu",
    )
    loaded = time.perf_counter() - begun
    start_loss = held_out_loss(model, held_out, args.job)
    with TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), cpu_seconds()
        done = fit(model, tokenizer, examples, loss, given, Workspace(Path(folder, "run"), {}, Untracked()))
        wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    tokens = sum(len(example.ids) for example in examples)
    return {
        "seconds": wall,
        "cpu_seconds": cpu,
        "whole_seconds": loaded + wall,
        "steps": done.figures["steps"],
        "examples": len(examples),
        "tokens": tokens,
        "targets": sum(len(example.targets) for example in examples),
        "read": round(tokens / done.figures["useful_tokens"]),
        "digest": digest((e.ids, e.positions, e.targets) for e in examples),
        "start_loss": start_loss,
        "loss": held_out_loss(model, held_out, args.job),
        "threads": torch.get_num_threads(),
        "versions": f"transformers {transformers.__version__}, torch {torch.__version__}",
    }


def held_out_loss(model: PreTrainedModel, examples: Sequence[Example], job: str) -> float:
    """Mean loss a target, example by example, so that nothing hangs on batches."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

    total, number = 0.0, 0
    with torch.inference_mode():
        for example in examples:
            ids, targets = torch.tensor([example.ids]), torch.tensor(example.targets)
            logits = model(input_ids=ids, use_cache=False).logits[0, example.positions].float()
            if job == "prm":
                total += float(binary_cross_entropy_with_logits(logits[:, 0], targets, reduction="sum"))
            else:
                total += float(cross_entropy(logits, targets.long(), reduction="sum"))
            number += len(targets)
    return total / number


def score(args: argparse.Namespace) -> dict[str, Any]:
    """Tokens read and seconds to score all steps of the rows at once, and prefix by prefix."""
    import torch

    from rewards.reward_model import make_reward_model
    from rewards.scorer import Scorer
    from rollouts.prompts import parse_prompt
    from rollouts.records import Problem

    model, tokenizer = make_reward_model(args.start, "cpu")
    with torch.no_grad():  # a head of zeros would hide a mistake
        model.score.weight.normal_(generator=torch.Generator().manual_seed(0))
    rows = read_jsonl(args.rows)
    problems = [
        Problem(f"row {i}", parse_prompt(row["prompt"]), "", None, "bench", "test") for i, row in enumerate(rows)
    ]
    solutions = [row["completions"] for row in rows]
    found: dict[str, Any] = {"solutions": len(rows), "steps": sum(map(len, solutions))}
    scores = {}
    for name, run in (("whole", _score_whole), ("prefix", _score_prefixes), ("shared", _score_whole)):
        scorer = Scorer(model.eval(), tokenizer, "sorm", 0.5, share_prefixes=name == "shared")
        wall, cpu = time.perf_counter(), cpu_seconds()
        scores[name] = run(scorer, problems, solutions)
        found |= {f"{name}_seconds": time.perf_counter() - wall, f"{name}_cpu_seconds": cpu_seconds() - cpu}
        found[f"{name}_tokens"] = scorer.tokens
    gaps = [
        abs(a - b)
        for name in ("prefix", "shared")
        for one, other in zip(scores["whole"], scores[name], strict=True)
        for a, b in zip(one, other, strict=True)
    ]
    return found | {"largest_gap": max(gaps)}


def _score_whole(scorer: Scorer, problems: list[Problem], solutions: list[list[str]]) -> list[list[float]]:
    return scorer.score(problems, solutions)


def _score_prefixes(scorer: Scorer, problems: list[Problem], solutions: list[list[str]]) -> list[list[float]]:
    """The score of every step read at the end of the prefix that it ends: one row a prefix."""
    prefixes = [(i, steps[:n]) for i, steps in enumerate(solutions) for n in range(1, len(steps) + 1)]
    found: list[list[float]] = [[] for _ in solutions]
    for (i, _), scores in zip(
        prefixes, scorer.score([problems[i] for i, _ in prefixes], [steps for _, steps in prefixes]), strict=True
    ):
        found[i].append(scores[-1])
    return found


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    print("@result " + json.dumps(score(args) if args.job == "score" else train(args)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
