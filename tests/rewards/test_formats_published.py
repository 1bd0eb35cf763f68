"""Rows as they are published, odd ones too: read as they are meant, or refused with one line that says why.

The numbers beside some cases are those of public reports: each case stands for its kind.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rewards.formats import Choices, FormatError, StepRecord, read_record, write_record
from rewards.formats.files import read_file
from rewards.formats.reading import Reading
from rewards.formats.record import LeftOut
from tests.format_rows import ROWS

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:1e08337133092e7b\nsize 886\n"


def shepherd(text: str, signs: str) -> dict[str, str]:
    """A row of Math-Shepherd, whose tags are these signs."""
    pieces = text.split("ки")
    assert len(pieces) == len(signs) + 1
    return {"input": text, "label": "".join(a + b for a, b in zip(pieces, [*signs, ""], strict=True)), "task": "GSM8K"}


@pytest.mark.parametrize(
    ("text", "question"),
    [
        (  # PB03
            "In Step 1: Ann mixes 2 cups with 2. How many cups? Step 1: 2 + 2 = 4 ки\nStep 2: It is 4 ки",
            "In Step 1: Ann mixes 2 cups with 2. How many cups?",
        ),
        ("How many? Step 1: As said for Step 1: 2 + 2 = 4 ки\nStep 2: It is 4 ки", "How many?"),
        ("How many cups\nStep 1: 2 + 2 = 4 ки\nStep 2: By Step 1: 4 ки", "How many cups"),
        ("How many? Step 1: Look. ки\nStep 10: It is 4 ки", "How many?"),
    ],
)
def test_questions_that_say_step_1(text, question):
    row = shepherd(text, "+-")
    record = read_record("math_shepherd", row, Choices())
    assert (record.question, len(record.steps), record.labels) == (question, 2, (1.0, 0.0))
    assert write_record("math_shepherd", record, Choices()) == row


@pytest.mark.parametrize(
    ("text", "signs", "message"),
    [
        # PB86
        (
            "Pia sells pens ки at 2 each. How many? Step 1: 3 * 2 = 6 ки",
            "++",
            r"step tag stands before 'Step 1:', within",
        ),
        ("In Step 1: sell ки at 2. How many? Step 1: 3 * 2 = 6 ки", "++", "step tag stands before 'Step 1:', within"),
        ("Do it. Step 1: Mix. Step 1: 2 + 2 = 4 ки", "+", "'Step 1:' stands 2 times before the first step ends"),
        ("In Step 1: mix and Step 1: 2 + 2 = 4 ки", "+", "'Step 1:' stands 2 times before the first step ends"),
        ("How many? 2 + 2 = 4 ки", "+", "no 'Step 1:' is found before the first step ends"),
    ],
)
def test_questions_that_cannot_be_told_from_the_steps(text, signs, message):
    with pytest.raises(FormatError, match=message):
        read_record("math_shepherd", shepherd(text, signs), Choices())


def rated(**fields: Any) -> dict[str, Any]:
    label = ROWS["prm800k"]["label"] | {"finish_reason": fields.pop("finish_reason", "solution")}
    return ROWS["prm800k"] | {"label": label} | fields


@pytest.mark.parametrize(  # PB07
    ("fields", "reason"),
    [
        ({"finish_reason": "bad_problem"}, "bad_problem"),
        ({"finish_reason": "give_up"}, "give_up"),
        ({"is_quality_control_question": True}, "quality_control"),
        ({"is_initial_screening_question": True}, "screening"),
    ],
)
def test_rows_of_prm800k_that_are_not_for_training(tmp_path, fields, reason):
    row = rated(**fields)
    with pytest.raises(FormatError, match="say what becomes of such rows, aside=drop or keep"):
        read_record("prm800k", row, Choices(neutral="drop"))
    with pytest.raises(LeftOut, match=reason):
        read_record("prm800k", row, Choices(neutral="drop", aside="drop"))
    keep = Choices(neutral="drop", aside="keep")
    assert write_record("prm800k", read_record("prm800k", row, keep), keep) == row
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps(rated()) + "\n")
    reading = Reading(str(path), "prm800k", Choices(neutral="drop", aside="drop"), "error")
    assert len(list(reading)) == 1 and reading.counts == {"rows": 2, f"left_out_{reason}": 1}


@pytest.mark.parametrize(  # PB09
    ("name", "row"),
    [
        ("processbench", {"problem": "P?", "steps": ["2 + 2 = 5"], "final_answer_correct": False, "label": -1}),
        ("mr_gsm8k_short", {"question": "P?", "steps": ["5"], "final_answer_correct": False, "first_error_step": None}),
        ("trl", {"prompt": "P?", "completions": ["5"], "labels": [True], "stepwise": {"correct": False}}),
    ],
)
def test_wrong_answers_without_a_wrong_step(name, row):
    with pytest.raises(
        FormatError, match=r"final answer is wrong, but every step is right: .* contradictory=drop or keep"
    ):
        read_record(name, row, Choices())
    with pytest.raises(LeftOut, match="no_wrong_step"):
        read_record(name, row, Choices(contradictory="drop"))
    record = read_record(name, row, Choices(contradictory="keep"))
    assert record.labels == (1.0,) and record.correct is False


def test_first_wrong_step_that_is_not_given():  # PB89
    row = ROWS["mr_gsm8k"] | {"model_output_solution_first_error_step": "N/A"}
    with pytest.raises(FormatError, match="the solution is wrong, but its first wrong step is 'N/A'"):
        read_record("mr_gsm8k", row, Choices())


STEPS = ("Step 1: a", "Step 2: b")
TURNS = [("user", "Q? Step 1: a"), ("assistant", "+"), ("user", "Step 2: b"), ("assistant", " - ")]
TURNS_ROW = {"conversations": [{"role": role, "content": text} for role, text in TURNS]}


@pytest.mark.parametrize(  # PB63
    ("name", "row", "record"),
    [
        ("rlhflow", TURNS_ROW, StepRecord("Q?", STEPS, (1.0, 0.0))),
        ("er_prm", {"text": "Q? Step 1: a ки Step 2: b ки", "value": [0.9, 0.1]}, StepRecord("Q?", STEPS, (0.9, 0.1))),
        ("er_prm", {"text": "Q? Step 1: a ки\nStep 2: b ки", "value": [1, 0]}, StepRecord("Q?", STEPS, (1.0, 0.0))),
        ("math_aps", {"question": "Q?", "process": STEPS[0], "label": ["-"]}, StepRecord("Q?", STEPS[:1], (0.0,))),
        (
            "math_aps",
            {"question": "Q?", "process": "Step 1: a\nStep 2: b", "label": ["-"]},
            StepRecord("Q?", STEPS, (None, 0.0)),
        ),
        (
            "math_aps",
            {"question": "Q?", "process": "Step 1: a ки\nStep 2: b ки", "label": ["+", "-"]},
            StepRecord("Q?", STEPS, (1.0, 0.0)),
        ),
        (
            "paddlenlp",
            {"src": ["Q?"], "tgt": [], "responses": ["a", "b"], "labels": ["+", "-"]},
            StepRecord("Q?", ("a", "b"), (1.0, 0.0)),
        ),
    ],
)
def test_other_step_data(name, row, record):
    found = read_record(name, row, Choices())
    assert (found.question, found.steps, found.labels) == (record.question, record.steps, record.labels)
    assert write_record(name, found, Choices()) == row
    written = write_record(name, record, Choices())  # a row of our own, without what the published one had
    again = read_record(name, written, Choices())
    assert (again.question, again.steps, again.labels) == (record.question, record.steps, record.labels)


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("rlhflow", {"conversations": []}, "must be a list of turns"),
        ("rlhflow", {"conversations": TURNS_ROW["conversations"][:3]}, "the user's and the assistant's by turns"),
        ("rlhflow", {"conversations": TURNS_ROW["conversations"][::-1]}, "the user's and the assistant's by turns"),
        (
            "rlhflow",
            {"conversations": [{"role": "user", "content": "Q? Step 1: a"}, {"role": "assistant", "content": "yes"}]},
            r"a label must be \+ or -, not 'yes'",
        ),
        (
            "rlhflow",
            {"conversations": [{"role": "user", "content": "Q? a"}, {"role": "assistant", "content": "+"}]},
            "no 'Step 1:' is found",
        ),
        ("er_prm", {"text": "Q? Step 1: a ки", "value": [0.9, 0.1]}, "has 2 numbers for 1 step tags"),
        ("er_prm", {"text": "Q? Step 1: a ки", "value": [1.5]}, r"outside \[0, 1\]"),
        ("er_prm", {"text": "Q? Step 1: a ки", "value": [True]}, "must be a list of numbers"),
        ("er_prm", {"text": "Q? Step 1: a ки and more", "value": [0.5]}, "text without a label after the last"),
        ("math_aps", {"question": "Q?", "process": "Step 1: a", "label": ["+", "-"]}, "has 2 labels for 1 steps"),
        ("math_aps", {"question": "Q?", "process": "", "label": ["+"]}, "step 0 is empty"),
        ("math_aps", {"question": "Q?", "process": "a", "label": [1]}, r"a label must be \+ or -, not 1"),
        ("paddlenlp", {"src": ["Q?", "R?"], "responses": ["a"], "labels": ["+"]}, "'src' must be one question"),
        ("paddlenlp", {"src": ["Q?"], "responses": ["a"], "labels": ["+", "-"]}, "2 labels for 1 steps"),
    ],
)
def test_other_step_data_refused(name, row, message):
    with pytest.raises(FormatError, match=message):
        read_record(name, row, Choices())


def test_soft_labels_are_written_as_they_are():
    soft = StepRecord("Q?", STEPS, (0.25, 1.0))
    assert write_record("er_prm", soft, Choices())["value"] == [0.25, 1.0]
    with pytest.raises(FormatError, match=r"label of step 0 is 0\.25, .*give a threshold"):
        write_record("rlhflow", soft, Choices())
    with pytest.raises(FormatError, match="a row has a label for each step or for the last one"):
        write_record("math_aps", StepRecord("Q?", STEPS, (1.0, None)), Choices())
    numbered = write_record("er_prm", StepRecord("Q?", ("a", "b"), (0.5, 0.5)), Choices(number_steps=True))
    assert read_record("er_prm", numbered, Choices()).steps == STEPS


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_git_lfs_pointer(tmp_path: Path, suffix: str):  # PB61
    path = tmp_path / f"phase2_train.{suffix}"
    path.write_text(POINTER)
    with pytest.raises(FormatError, match=rf"phase2_train\.{suffix}: a Git LFS pointer .* `git lfs pull`"):
        list(read_file(path))
