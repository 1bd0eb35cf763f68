"""A reward model that says what it is told, for tests of searches; and folders that stand for its artifact."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest

from rewards.scorer import TooLong
from rewards.train import TRAIN_REWARD, TrainRewardArgs
from rollouts.prompts import PLAIN, Template
from rollouts.records import Problem
from rollouts.sampling.protocol import load_sampler
from stages.make import make
from tests.refine.lema.made import make_sample, write_script
from tests.tiny import save_reward
from training.examples import Example

TOKENS = 10  # of every step


class Told:
    """Scores each step by its text; `asked` has every solution that was read, in order."""

    template: Template = PLAIN

    def __init__(self, scores: Mapping[str, float], kind: str = "sorm", threshold: float = 0.5) -> None:
        self.longest = 99  # steps that it can read
        self.scores, self.kind, self.threshold, self.final_threshold = scores, kind, threshold, threshold
        self.asked: list[tuple[str, ...]] = []

    def encode(self, problem: Problem, steps: Sequence[str]) -> Example:
        if len(steps) > self.longest:
            raise TooLong(f"{len(steps)} steps")
        self.asked.append(tuple(steps))
        return Example([0] * TOKENS * len(steps), list(range(len(steps))), [self.scores[step] for step in steps])

    def length(self, problem: Problem, steps: Sequence[str]) -> int:
        return TOKENS * len(steps)

    def stream(self, examples: Sequence[Example], names: Sequence[str]) -> Iterator[tuple[int, list[float], int]]:
        for at, example in enumerate(examples):
            yield at, list(example.targets), len(example.ids)


def make_judge(root: Path, kind: str = "sorm") -> str:
    """An artifact of `train_reward`, whose model is `Told` where the test patches `load_scorer`."""
    policy = write_script(root / f"policy-{kind}", {"*": [""]})
    source = {"rollouts": str(make_sample(root, policy, []).path)} if kind == "orm" else {"labels": None}
    stage = dataclasses.replace(TRAIN_REWARD, run=lambda _args, work: save_reward(work.folder, kind) and None)
    return str(make(stage, TrainRewardArgs(kind=kind, policy=policy, **source), root)[0].path)


def load_told(monkeypatch: pytest.MonkeyPatch, judges: Mapping[str, Told]) -> None:
    """`load_scorer` gives these, by the folder of the artifact."""
    monkeypatch.setattr("rewards.scorer.load_scorer", lambda path, **_: judges[str(path)])


class Killed(Exception):
    """In place of a kill."""


class KilledAfter:
    """Samplers of `module` that draw until there are `limit` samples in all (None: to the end). `drawn` has all that
    was drawn: request, number and text."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
        self.drawn: list[tuple[str, int, str]] = []
        self.limit: int | None = None
        monkeypatch.setattr(module, "load_sampler", self._load)

    def _load(self, policy, args, stop=()):
        inner = load_sampler(policy, args, stop)
        original = inner.sample

        def stream(requests):
            with closing(original(requests)) as samples:
                for one in samples:
                    if len(self.drawn) == self.limit:
                        raise Killed
                    self.drawn.append((one.request_id, one.index, one.text))
                    yield one

        inner.sample = stream
        return inner
