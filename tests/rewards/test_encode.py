"""Label placement by exact ids: every label stands at the last token of its step, and nowhere else."""

from __future__ import annotations

import math

import pytest

from rewards.encode import LabelledSolution, encode_labels, encode_solutions, warn_of_lost
from rewards.labels.cleaning import to_solutions
from rewards.labels.outcome import from_rollout, label_outcomes
from rollouts.records import StepLabels
from tests.tiny import PROMPT_TOKENS, QUESTION, ids, rollout, tokenizer

STEPS = ("<<7+5=12>>12", "<<12-5=7>>7", "#### 7")
# by hand; the prompt's 21 tokens come before
TOKENS = [
    *("<<", "7", "+", "5", "=", "12", ">>", "12", "\n"),  # 21 … 29
    *("<<", "12", "-", "5", "=", "7", ">>", "7", "\n"),  # 30 … 38
    *("#### ", "7", "\n"),  # 39 … 41
]
ENDS = [29, 38, 41]


def encode(solution: LabelledSolution, max_length: int = 512):
    return encode_labels(tokenizer(), QUESTION, solution, max_length)


@pytest.mark.parametrize("correct", [True, False])
def test_the_orm_on_all_steps(correct):
    (solution,) = label_outcomes([from_rollout(rollout(STEPS, correct))], "all_steps")
    example = encode(solution)
    assert example.ids == ids(*PROMPT_TOKENS, *TOKENS)
    assert (example.positions, example.targets) == (ENDS, [float(correct)] * 3)


def test_the_orm_on_the_last_step():
    (solution,) = label_outcomes([from_rollout(rollout(STEPS, True))], "last")
    example = encode(solution)
    assert example.ids == ids(*PROMPT_TOKENS, *TOKENS)
    assert (example.positions, example.targets) == ([41], [1.0])


def test_the_sorm_on_labelled_steps():
    row = StepLabels("p#0", "p", STEPS, False, (True, None, False), (3, 0, 0), (8, 0, 0), None, ())
    (solution,) = to_solutions([row])
    example = encode(solution)
    assert example.ids == ids(*PROMPT_TOKENS, *TOKENS)
    assert (example.positions, example.targets) == ([29, 41], [1.0, 0.0])


def test_steps_that_restate_their_fact():
    steps = (
        "As Bob has 5 more pens than Ann, <<7+5=12>>12",
        "As Tom has as many pens as Ann and Bob together, <<7+12=19>>19",
        "#### 19",
    )
    written = [
        *("As", " Bob has ", "5", " more", " pens", " than", " Ann,"),  # 21 … 27
        *(" <<", "7", "+", "5", "=", "12", ">>", "12", "\n"),  # 28 … 36
        *("As", " Tom has", " as", " many", " pens", " as", " Ann", " and", " Bob", " together", ","),  # 37 … 47
        *(" <<", "7", "+", "12", "=", "19", ">>", "19", "\n"),  # 48 … 56
        *("#### ", "19", "\n"),  # 57 … 59
    ]
    example = encode(LabelledSolution("p", steps, (1.0, 0.0, 0.0)))
    assert example.ids == ids(*PROMPT_TOKENS, *written)
    assert (example.positions, example.targets) == ([36, 56, 59], [1.0, 0.0, 0.0])


def test_soft_labels_stay_soft():
    assert encode(LabelledSolution("p", STEPS, (0.99, 0.0, 1.0))).targets == [0.99, 0.0, 1.0]


@pytest.mark.parametrize(("max_length", "kept"), [(42, 3), (41, 2), (39, 2), (38, 1), (30, 1), (29, 0)])
def test_labels_beyond_the_length_are_lost(max_length, kept):
    example = encode(LabelledSolution("p", STEPS, (1.0, 1.0, 0.0)), max_length)
    assert example.positions == ENDS[:kept] and len(example.ids) == min(42, max_length)
    assert example.targets == [1.0, 1.0, 0.0][:kept]


def test_lost_labels_are_counted_and_empty_examples_dropped(caplog):
    solutions = [
        LabelledSolution("p", STEPS, (1.0, None, 0.0)),
        LabelledSolution("p", STEPS[:1], (1.0,)),
        LabelledSolution("p", STEPS, (None, None, 1.0)),
    ]
    examples, owners, lost = encode_solutions(tokenizer(), {"p": QUESTION}, solutions, 38)
    assert [example.positions for example in examples] == [[29], [29]] and lost == 2
    assert owners == ["p", "p"]
    warn_of_lost(lost, sum(len(example.targets) for example in examples), 38)
    warn_of_lost(0, 4, 42)
    wanted = "2 labels (50.0%) are lost: they stand beyond max_length=38 tokens"
    assert [record.getMessage() for record in caplog.records] == [wanted]
    assert encode_solutions(tokenizer(), {"p": QUESTION}, solutions, 42)[2] == 0
    assert encode_solutions(tokenizer(), {}, [], 42) == ([], [], 0)


@pytest.mark.parametrize("labels", [(1.0, 1.0), (1.0, 1.0, 2.0), (1.0, -0.1, None), (math.nan, None, None)])
def test_labels_that_do_not_fit_are_refused_wherever_they_stand(labels):
    with pytest.raises(ValueError, match=r"p\b"):
        encode(LabelledSolution("p", STEPS, labels), max_length=10)
