"""What the oracle says of drafts and labels, on solutions made by hand."""

from __future__ import annotations

import pytest

from refine.report.truth import judge_candidates, judge_labels, judge_prefixes, name_errors
from rollouts.records import Candidate, Problem, StepLabels, identity

# Ann 7, Bob 12, Cal 24; nobody needs Eva (5)
QUESTION = (
    "Ann has 7 pens. Bob has 5 more pens than Ann. Cal has 2 times as many pens as Bob. "
    "Eva has 2 fewer pens than Ann. How many pens does Cal have?"
)
PROBLEM = Problem("p", QUESTION, "24", None, "arithmetic", "test")
OTHER = Problem("q", "How many?", "24", None, "gsm8k", "test")
BOB, CAL, EVA, END = "<<7+5=12>>12 for Bob", "<<12*2=24>>24 for Cal", "<<7-2=5>>5 for Eva", "#### 24"


def candidate(kind: str, sample: int, steps: list[str], correct: bool | None) -> Candidate:
    text = "\n".join(steps)
    return Candidate("p", kind, "none", None, sample, text, tuple(steps), None, correct, 9)


def labels(steps: list[str], given: list[bool | None], correct: bool = False) -> StepLabels:
    zeros = (0,) * len(steps)
    return StepLabels("r", "p", tuple(steps), correct, tuple(given), zeros, zeros, None, ())


def test_a_needless_step_ends_what_is_right():
    assert judge_prefixes(PROBLEM, [BOB, CAL, END]) == [True, True, True]
    assert judge_prefixes(PROBLEM, [BOB, EVA, CAL, END]) == [True, False, False, False]
    assert judge_prefixes(PROBLEM, [BOB, CAL, EVA, "#### 5"]) == [True, True, False, False]


@pytest.mark.parametrize(
    ("steps", "kind"),
    [
        ([BOB, "<<12*2=23>>23 for Cal", "#### 23"], "arithmetic"),
        ([BOB, "<<12*5=60>>60 for Cal", "#### 60"], "lookup"),
        ([EVA, "<<5*2=10>>10 for Cal", "#### 10"], "side"),
        ([BOB, CAL, EVA, "#### 5"], "late"),
        ([BOB, "#### 12"], "early"),
        ([BOB, CAL], "unread"),
        ([], "unread"),
    ],
)
def test_every_kind_of_error_is_named(steps, kind):
    draft = candidate("draft", 0, steps, False)
    assert name_errors({"p": PROBLEM}, [draft]) == {identity(draft): kind}


def test_only_drafts_that_are_not_right_have_a_kind():
    right, ungraded = candidate("draft", 0, [BOB, CAL, END], True), candidate("draft", 1, [BOB, CAL, END], None)
    sample, refined = candidate("sample", 2, [END], False), candidate("global", 0, [BOB, "#### 12"], False)
    everything = [right, ungraded, sample, refined]
    assert name_errors({"p": PROBLEM}, everything) == {identity(ungraded): "unread"}
    assert judge_candidates({"p": PROBLEM}, everything).keys() == {identity(one) for one in everything[:3]}


def test_labels_are_right_by_what_can_be_reached_or_strictly():
    """A policy that never comes back from Eva labels her step as one that cannot reach the answer."""
    rows = [labels([BOB, EVA, "#### 5"], [True, False, False]), labels([EVA, "#### 5"], [True, None])]
    rows.append(labels([BOB, END], [False, False], correct=True))  # not counted: a right rollout
    assert judge_labels({"p": PROBLEM}, rows) == {"p": (3, 4)}
    assert judge_labels({"p": PROBLEM}, rows, strict=True) == {"p": (3, 4)}
    assert judge_labels({"p": PROBLEM}, rows[:1]) == {"p": (2, 3)}
    assert judge_labels({"p": PROBLEM}, rows[:1], strict=True) == {"p": (3, 3)}


def test_other_sources_have_no_oracle():
    draft, row = candidate("draft", 0, [END], False), labels([END], [True])
    assert name_errors({"p": OTHER}, [draft]) is judge_candidates({"p": OTHER}, [draft]) is None
    assert judge_labels({"p": OTHER}, [row]) is judge_labels({"p": OTHER}, [row], strict=True) is None
