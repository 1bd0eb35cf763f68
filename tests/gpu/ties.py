"""How often a reward model's scores tie in bfloat16: a tie between a draft and a refinement keeps the draft.

The same head reads the same solutions in float32, as the project scores in bfloat16, and in bfloat16 with the head
alone in float32. The solutions of a problem differ in one number.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tests.gpu.setting import Row, Setting, release, row, synchronize

if TYPE_CHECKING:
    import torch

    from rewards.scorer import Scorer
    from rollouts.records import Problem


def run(setting: Setting) -> Iterator[Row]:
    from rewards.scorer import load_scorer

    folder = _reward_model(setting)
    problems, solutions = _solutions(8 if setting.dry else 400, 8, setting.problems)
    found: dict[str, list[float]] = {}
    for name in ("float32", "bfloat16", "bfloat16, head in float32"):
        release(setting.device)
        scorer = load_scorer(folder, name.split(",")[0], setting.device)
        if name.endswith("head in float32"):
            _widen(scorer.model.score)
        _score(scorer, problems[:8], solutions[:8])  # kernels are chosen
        before, read = time.perf_counter(), scorer.tokens
        found[name] = _score(scorer, problems, solutions)
        synchronize(setting.device)
        rate = (scorer.tokens - read) / (time.perf_counter() - before)
        yield row(f"{name}: tokens read a second", rate, "tokens/s")
    groups = [list(own) for _, own in itertools.groupby(range(len(problems)), key=lambda i: problems[i].id)]
    truth = found["float32"]
    for name, scores in found.items():
        pairs = [(a, b) for group in groups for a, b in itertools.combinations(group, 2)]
        tied = sum(scores[a] == scores[b] for a, b in pairs)
        best = sum(max(group, key=scores.__getitem__) != max(group, key=truth.__getitem__) for group in groups)
        gap = max(abs(own - true) for own, true in zip(scores, truth, strict=True))
        yield row(f"{name}: pairs of solutions that tie", tied / len(pairs), note=f"{tied} of {len(pairs)}")
        yield row(f"{name}: another solution is the best", best / len(groups), note=f"{best} of {len(groups)} problems")
        yield row(f"{name}: largest difference of a probability to float32", gap)


def _reward_model(setting: Setting) -> str:
    """A policy's body with a random head, whose logits are about as large as those of a trained one."""
    import torch

    from refine.students.shipped import find_start
    from rewards.reward_model import make_reward_model, save_reward_model

    folder = setting.work("ties") / "orm"
    model, tokenizer = make_reward_model(find_start(setting.model or "shipped"), "cpu")
    with torch.no_grad():
        size = model.score.weight.shape[1]
        model.score.weight.normal_(0.0, 2 / size**0.5, generator=torch.Generator().manual_seed(0))
    save_reward_model(model, tokenizer, folder, "orm", 0.5)
    return str(folder)


def _solutions(count: int, each: int, gsm8k: str | None) -> tuple[list[Problem], list[list[str]]]:
    """Problems, each once for each of its solutions, and those."""
    from experiments.bench.measure import bench_problems
    from experiments.bench.training_rows import step_rows

    problems, solutions = [], []
    for problem in bench_problems("train", count, gsm8k):
        for one in step_rows([problem], each):
            problems.append(problem)
            solutions.append(one["completions"])
    return problems, solutions


def _score(scorer: Scorer, problems: Sequence[Problem], solutions: Sequence[Sequence[str]]) -> list[float]:
    """The probability after the last step of each solution."""
    return [own[-1] if own else 0.0 for own in scorer.score(problems, solutions)]


def _widen(head: torch.nn.Module) -> None:
    """Let a head read and compute in float32, whatever the body's precision."""
    head.float()
    head.register_forward_pre_hook(lambda _module, given: (given[0].float(),))
