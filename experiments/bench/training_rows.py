"""The rows that the benches of training read: solutions with step labels in TRL's form, made without sampling.

Gold solutions, and copies in which one step states another result: every step before it is right, it and all after it
are wrong. Both sides of a bench read the same files.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollouts.prompts import render_prompt
from rollouts.records import Problem
from rollouts.steps import join_steps, split_steps

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from training.examples import Example

# shorter and longer solutions than the demo's
WORLD = {"min_steps": 1, "max_steps": 6, "min_distractors": 0, "shortcuts": True}
_RESULT = re.compile(r"=(-?[0-9.,]+)>>\1")  # <<7+5=12>>12
Row = dict[str, Any]


def corrupt(steps: Sequence[str], rng: random.Random) -> tuple[list[str], list[bool]] | None:
    """A copy of a right solution with a wrong result in one step, and its labels; None where no step states one."""
    places = [i for i, step in enumerate(steps) if _RESULT.search(step)]
    if not places:
        return None
    wrong = rng.choice(places)

    def other(found: re.Match[str]) -> str:
        value = int(re.sub(r"[^0-9]", "", found[1]) or 0) % 50
        changed = rng.choice([n for n in range(max(1, value - 5), value + 6) if n != value and n <= 50])
        return f"={changed}>>{changed}"

    changed = [*steps[:wrong], _RESULT.sub(other, steps[wrong], count=1), *steps[wrong + 1 :]]
    return changed, [i < wrong for i in range(len(steps))]


def step_rows(problems: Iterable[Problem], solutions: int, seed: int = 0) -> list[Row]:
    """`solutions` different ones of each problem (fewer where there are not so many), one of them right."""
    rng = random.Random(f"bench/{seed}")
    rows = []
    for problem in problems:
        steps = split_steps(problem.solution or "")
        own = {tuple(steps): [True] * len(steps)}
        for _ in range(4 * solutions):
            if len(own) < solutions and (found := corrupt(steps, rng)):
                own.setdefault(tuple(found[0]), found[1])
        prompt = render_prompt(problem.question)
        rows += [{"prompt": prompt, "completions": list(steps), "labels": labels} for steps, labels in own.items()]
    return rows


def text_rows(problems: Iterable[Problem]) -> list[Row]:
    """The gold solutions, to be written after their prompts."""
    return [
        {"prompt": render_prompt(problem.question), "completion": join_steps(split_steps(problem.solution or ""))}
        for problem in problems
    ]


def as_tuples(examples: Iterable[Example]) -> list[tuple[list[int], list[int], list[float]]]:
    """Examples in the form that both sides can read."""
    return [(example.ids, example.positions, example.targets) for example in examples]


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def examples_of(tokenizer: PreTrainedTokenizerFast, rows: Iterable[Row]) -> list[Example]:
    """Rows of either kind as what we train on."""
    from rewards.encode import LabelledSolution, encode_labels
    from rollouts.prompts import parse_prompt
    from training.completions import Text, encode_completion

    found = []
    for row in rows:
        if "labels" in row:
            solution = LabelledSolution("row", tuple(row["completions"]), tuple(map(float, row["labels"])))
            found.append(encode_labels(tokenizer, parse_prompt(row["prompt"]), solution, sys.maxsize))
        else:
            found.append(encode_completion(tokenizer, Text(row["prompt"], row["completion"])))
    return found
