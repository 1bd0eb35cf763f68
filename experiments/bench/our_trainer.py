"""Our side of `experiments/bench/training_speed.py`, one run in a process of its own.

A training run through `fit()`, or the scores of solutions: with one forward for all steps, and with one a prefix.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from experiments.bench.training_rows import as_tuples, examples_of
from experiments.bench.training_run import clocks, measure, read_jsonl, run_given

if TYPE_CHECKING:
    from rewards.scorer import Scorer
    from rollouts.records import Problem


def train(settings: dict[str, Any]) -> dict[str, Any]:
    """Train for one epoch, in the `layout` shared, packed or padded."""
    from rewards.losses import reward_loss
    from rewards.reward_model import make_reward_model
    from rollouts.sampling.policies import load_policy
    from stages.workspace import Untracked, Workspace
    from training.args import TrainArgs
    from training.completions import completion_loss
    from training.loop import fit

    begun = time.perf_counter()
    if settings["job"] == "prm":
        model, tokenizer = make_reward_model(settings["start"], "cpu")  # the head of a reward model is kept
    else:
        model, tokenizer = load_policy(settings["start"], "float32", "cpu")
    examples = examples_of(tokenizer, read_jsonl(settings["rows"]))
    loss = reward_loss if settings["job"] == "prm" else completion_loss
    given = TrainArgs(
        epochs=1,
        tokens_per_step=settings["tokens_per_step"],
        tokens_per_batch=settings["tokens_per_step"],
        layout="padded" if settings["layout"] == "padded" else "packed",
        share_prefixes=settings["layout"] == "shared",
        learning_rate=settings["learning_rate"],
        warmup=settings["warmup"],
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

    return measure(model, as_tuples(examples), read_jsonl(settings["held_out_ids"]), begun, run)


def score(settings: dict[str, Any]) -> dict[str, Any]:
    """Tokens read and seconds to score all steps of the held-out rows at once, and prefix by prefix."""
    import torch

    from rewards.reward_model import make_reward_model
    from rewards.scorer import Scorer
    from rollouts.prompts import parse_prompt
    from rollouts.records import Problem

    model, tokenizer = make_reward_model(settings["start"], "cpu")
    with torch.no_grad():  # a head of zeros would hide a mistake
        model.score.weight.normal_(generator=torch.Generator().manual_seed(0))
    rows = read_jsonl(settings["held_out"])
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


def main() -> None:
    run_given(lambda settings: score(settings) if settings["job"] == "score" else train(settings))


if __name__ == "__main__":
    main()
