"""Mistakes of the embedded world and of scripted policies, as artifacts that tests of LeMa begin with."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refine.lema.mistakes import COLLECT_MISTAKES, MistakeArgs
from rewards.labels.corrupt import CorruptArgs, corrupt
from rollouts.problems.args import ProblemArgs
from rollouts.records import Mistake, Problem, Rollout
from rollouts.sampling.sample import SAMPLE, SampleArgs
from rollouts.world.args import WorldArgs
from stages.artifacts import Artifact
from stages.make import make
from tests.tiny import rollout
from tests.worlds import some_problems

QUESTION = "A box has 4 rows of 3 pens and 2 more. How many pens are there?"
PROBLEMS = [Problem(f"p{i}", QUESTION, "14", None, "jsonl", "train") for i in range(4)]
WRONG = ("4 * 3 = 12", "12 + 2 = 15", "#### 15")
REPLY = "Incorrect Step: Step 2\nExplanation: 12 + 2 is 14.\nCorrect Solution:\nStep 2: 12 + 2 = 14\n#### 14"
HARD = WorldArgs(rivals=1, followers=1, max_distractors=3, operations=["more", "fewer", "times", "share", "sum"])


def write_script(folder: Path, script: dict[str, list[str]]) -> str:
    folder.mkdir(parents=True)
    (folder / "script.json").write_text(json.dumps(script))
    return str(folder)


def make_sample(
    root: Path, policy: str, rows: Sequence[Rollout], problems: Sequence[Problem] = PROBLEMS, seed: int = 0
) -> Artifact:
    """An artifact of `sample` with these rows, as if this policy had written them."""

    def write(_args: SampleArgs, work: Any) -> None:
        work.write_rows("problems", problems)
        work.write_rows("rows", rows, Rollout)

    return make(dataclasses.replace(SAMPLE, run=write), SampleArgs(policy=policy, seed=seed), root)[0]


def make_mistakes(root: Path, policy: str, own: Sequence[Mistake], problems: Sequence[Problem]) -> Artifact:
    """An artifact of `collect_mistakes` with the steps of these mistakes."""
    rows = [
        dataclasses.replace(rollout(one.steps, False, n, one.problem_id), answer=one.answer)
        for n, one in enumerate(own)
    ]
    sample = make_sample(root, policy, rows, problems)
    return make(COLLECT_MISTAKES, MistakeArgs(rollouts=[str(sample.path)], max_per_problem=99), root)[0]


def world_mistakes(limit: int, world: WorldArgs) -> tuple[list[Problem], list[Mistake]]:
    """Gold solutions of the embedded world with one mistake of every kind in each."""
    problems, found = some_problems(world, limit), []
    args = CorruptArgs(problems=ProblemArgs(world=world), per_problem=9)
    for problem in problems:
        for row in corrupt(problem, args, Counter()):
            if not row.correct:
                answer = row.steps[-1].removeprefix("#### ")
                found.append(Mistake(row.rollout_id, problem.id, "a", "k", row.rollout_id, row.steps, answer))
    return problems, found
