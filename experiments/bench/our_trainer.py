"""Our side of `experiments/bench/training_speed.py`, one run in a process of its own; prints one line of JSON.

A training run through `fit()`, or the scores of solutions: with one forward for all steps, and with one a prefix.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from experiments.bench.training_rows import as_tuples, examples_of, read_jsonl
from experiments.bench.training_run import clocks, measure, print_result

if TYPE_CHECKING:
    from rewards.scorer import Scorer
    from rollouts.records import Problem


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", choices=("prm", "sft", "score"))
    parser.add_argument("--start", required=True, help="folder of the model and tokenizer to start from")
    parser.add_argument("--rows", help="to train on")
    parser.add_argument("--held-out", required=True, help="to measure the loss on, or to score")
    parser.add_argument("--layout", default="packed")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--tokens-per-step", type=int, default=1024)
    parser.add_argument("--warmup", type=float, default=0.05)
    return parser.parse_args(argv)


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Train for one epoch."""
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
    examples, held_out = (examples_of(tokenizer, read_jsonl(file)) for file in (args.rows, args.held_out))
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
        beta2=0.98,
        dtype="float32",
        gradient_checkpointing=False,
        device="cpu",
    )

    def run() -> dict[str, float]:
        with TemporaryDirectory() as folder:
            work = Workspace(Path(folder, "run"), {}, Untracked())
            figures = fit(model, tokenizer, examples, loss, given, work).figures
        return {
            "steps": figures["steps"],
            "read": round(sum(len(example.ids) for example in examples) / figures["useful_tokens"]),
        }

    return measure(model, as_tuples(examples), as_tuples(held_out), begun, run)


def score(args: argparse.Namespace) -> dict[str, Any]:
    """Tokens read and seconds to score all steps of the held-out rows at once, and prefix by prefix."""
    import torch

    from rewards.reward_model import make_reward_model
    from rewards.scorer import Scorer
    from rollouts.prompts import parse_prompt
    from rollouts.records import Problem

    model, tokenizer = make_reward_model(args.start, "cpu")
    with torch.no_grad():  # a head of zeros would hide a mistake
        model.score.weight.normal_(generator=torch.Generator().manual_seed(0))
    rows = read_jsonl(args.held_out)
    problems = [
        Problem(f"row {i}", parse_prompt(row["prompt"]), "", None, "bench", "test") for i, row in enumerate(rows)
    ]
    solutions = [row["completions"] for row in rows]
    found: dict[str, Any] = {"solutions": len(rows), "steps": sum(map(len, solutions))}
    scores = {}
    for name, run in (("whole", Scorer.score), ("prefix", _score_prefixes), ("shared", Scorer.score)):
        scorer = Scorer(model.eval(), tokenizer, "sorm", 0.5, share_prefixes=name == "shared")
        before = clocks()
        scores[name] = [value for own in run(scorer, problems, solutions) for value in own]
        wall, cpu = (after - start for after, start in zip(clocks(), before, strict=True))
        found |= {f"{name}_seconds": wall, f"{name}_cpu_seconds": cpu, f"{name}_tokens": scorer.tokens}
    gaps = [abs(a - b) for name in ("prefix", "shared") for a, b in zip(scores["whole"], scores[name], strict=True)]
    return found | {"largest_gap": max(gaps)}


def _score_prefixes(scorer: Scorer, problems: list[Problem], solutions: list[list[str]]) -> list[list[float]]:
    """The score of every step, read at the end of the prefix that it ends: one row a prefix."""
    prefixes = [(p, steps[:n]) for p, steps in zip(problems, solutions, strict=True) for n in range(1, len(steps) + 1)]
    return [scores[-1:] for scores in scorer.score([p for p, _ in prefixes], [steps for _, steps in prefixes])]


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    print_result(score(args) if args.job == "score" else train(args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
