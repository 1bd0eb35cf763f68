"""What a report is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rewards.intervals import RESAMPLES
from rewards.metrics import Threshold
from rollouts.records import Candidate, CandidateKey, Choice, Judgement, Problem, StepLabels


@dataclass(frozen=True)
class ReportInputs:
    """What a report is made from. `scorer`, `where` and `when` name the arm of the headline, and `aggregate` the score
    of a solution by which is chosen.

    `step_truth[key][i]` says whether that draft or sample has only right steps up to step i (0-based), and
    `error_kinds[key]` what went wrong first in that draft, which is not right; None where no oracle exists.
    `label_truth` counts (right, given) labels by training problem, and `strict_label_truth` the same where needless
    steps are wrong. `stages` holds seconds and tokens of each stage, in order. `test_labels` are step labels of drafts
    or samples, from many continuations. `given` names what was put in the place of a stage's own artifact. `apart` says
    whether the test problems were compared with those trained on. `samples` is the n of best_of_n. `thresholds` say
    where a scorer sees the first error, `final_thresholds` when it takes a solution for right (where there is none:
    that of the last position).
    """

    title: str
    model: str
    source: str
    seed: int
    problems: Sequence[Problem]
    candidates: Sequence[Candidate]
    judgements: Sequence[Judgement]
    choices: Sequence[Choice]
    thresholds: dict[str, Threshold]
    final_thresholds: dict[str, float] = field(default_factory=dict)
    step_truth: dict[CandidateKey, list[bool]] | None = None
    error_kinds: dict[CandidateKey, str] | None = None
    label_truth: dict[str, tuple[int, int]] | None = None
    strict_label_truth: dict[str, tuple[int, int]] | None = None
    test_labels: Sequence[StepLabels] | None = None
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    scorer: str = "orm"
    where: str = "sorm"
    when: str = "always"
    aggregate: str = "last"
    given: dict[str, str] = field(default_factory=dict)
    apart: bool = True
    samples: int = 3
    resamples: int = RESAMPLES
