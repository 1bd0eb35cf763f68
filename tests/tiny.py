"""What tests of models share: the embedded tokenizer, models of a few thousand weights, and records made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollouts.records import Problem, Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

QUESTION = "Ann has 7 pens. Bob has 5 more pens than Ann. How many pens does Bob have?"
# the tokens of the prompt that asks QUESTION, by hand
PROMPT_TOKENS = [
    *("Q", ":", " Ann has ", "7", " pens", ".", " Bob has ", "5", " more", " pens", " than", " Ann", "."),
    *(" How", " many", " pens", " does", " Bob", " have", "?", "\n"),
]


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    import torch

    from rollouts.world.tokenizer import make_tokenizer

    torch.set_num_threads(1)
    return make_tokenizer(50)


def ids(*tokens: str) -> list[int]:
    """The ids of tokens that the embedded tokenizer must know."""
    known = tokenizer().get_vocab()
    return [known[token] for token in tokens]


def make_model(
    seed: int = 0, layers: int = 1, context: int = 128, hidden: int = 32, look_back: Sequence[int] = ()
) -> PreTrainedModel:
    from training.models import ModelArgs, make_policy

    shape = ModelArgs(
        hidden_size=hidden, layers=layers, heads=2, feed_forward=64, context=context, look_back=list(look_back)
    )
    return make_policy(shape, tokenizer(), seed).eval()


def save_policy(folder: Path, **shape: Any) -> str:
    from training.models import save_model

    save_model(make_model(**shape), tokenizer(), folder)
    return str(folder)


def save_reward(
    folder: Path,
    kind: str,
    bias: float | None = None,
    threshold: float | Sequence[float] = 0.5,
    final_threshold: float | None = None,
) -> str:
    """A reward model in `folder`; with a bias its head reads nothing, so that every step gets the same score."""
    import torch

    from rewards.reward_model import make_reward_model, save_reward_model

    model, words = make_reward_model(save_policy(folder / "body"), "cpu")
    with torch.no_grad():
        if bias is None:
            model.score.weight.normal_(generator=torch.Generator().manual_seed(1))
        else:
            model.score.bias.fill_(bias)
    save_reward_model(model, words, folder, kind, threshold, final_threshold=final_threshold)
    return str(folder)


def problem(name: str = "p", question: str = QUESTION, answer: str = "12") -> Problem:
    return Problem(name, question, answer, None, "hand", "train")


def rollout(steps: Sequence[str], correct: bool | None = False, sample: int = 0, problem_id: str = "p") -> Rollout:
    text = "".join(step + "\n" for step in steps)
    answer = steps[-1].removeprefix("#### ") if steps and steps[-1].startswith("####") else None
    return Rollout(
        id=f"{problem_id}#{sample}",
        problem_id=problem_id,
        sample=sample,
        text=text,
        steps=tuple(steps),
        answer=answer,
        correct=correct,
        rule="hash:number",
        finish_reason="stop",
        prompt_tokens=5,
        completion_tokens=len(steps),
        seed=sample,
    )


class Log:
    """A track that keeps what is logged, but for speed and memory, which differ from run to run."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def log(self, step: int, **metrics: float) -> None:
        kept = {name: value for name, value in metrics.items() if name not in ("tokens_per_second", "memory_gib")}
        self.rows.append({"step": step} | kept)

    def close(self) -> None: ...


class Bar:
    """A progress bar that counts."""

    def __init__(self) -> None:
        self.done = 0.0

    def advance(self, n: float = 1) -> None:
        self.done += n
