"""What a report is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rewards.intervals import RESAMPLES
from rollouts.records import Candidate, CandidateKey, Choice, Judgement, Problem


@dataclass(frozen=True)
class ReportInputs:
    """What a report is made from. `scorer` and `where` name the arm of the headline.

    `step_truth[key][i]` says whether that draft or sample is free of error up to step i (0-based); None where no oracle
    exists. `label_truth` counts (right, given) labels by training problem; `stages` holds seconds and tokens of each
    stage, in order. `given` names what was put in the place of a stage's own artifact. `apart` says whether the test
    problems were compared with those trained on. `samples` is the n of best_of_n.
    """

    title: str
    model: str
    source: str
    seed: int
    problems: Sequence[Problem]
    candidates: Sequence[Candidate]
    judgements: Sequence[Judgement]
    choices: Sequence[Choice]
    thresholds: dict[str, float]
    step_truth: dict[CandidateKey, list[bool]] | None = None
    label_truth: dict[str, tuple[int, int]] | None = None
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    scorer: str = "orm"
    where: str = "sorm"
    given: dict[str, str] = field(default_factory=dict)
    apart: bool = True
    samples: int = 3
    resamples: int = RESAMPLES
