"""What formats leave open or cannot hold: a choice is asked for, a row refused, and nothing is lost silently."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.formats import FORMATS, Choices, FormatError, StepRecord, read_record, write_record
from tests.format_rows import ROWS

POSITIVE = Choices(neutral="positive")


def test_the_meaning_of_neutral_has_to_be_chosen():
    with pytest.raises(FormatError, match=r"rating of step 0 is 0: say what .* neutral=positive, negative or drop"):
        read_record("prm800k", ROWS["prm800k"], Choices())
    found = {n: read_record("prm800k", ROWS["prm800k"], Choices(neutral=n)).labels[0] for n in ("negative", "drop")}
    assert found == {"negative": 0.0, "drop": None}


def test_a_step_that_a_person_wrote_is_right_unless_corrected():
    row = json.loads(json.dumps(ROWS["prm800k"]))
    row["label"]["steps"][1] |= {"chosen_completion": None, "human_completion": {"text": "By hand.", "rating": None}}
    record = read_record("prm800k", row, POSITIVE)
    assert record.steps[1] == "By hand." and record.labels == (1.0, 1.0, 0.0)
    row["label"]["steps"][1]["human_completion"]["corrected_rating"] = -1
    assert read_record("prm800k", row, POSITIVE).labels == (1.0, 0.0, 0.0)
    row["label"]["steps"][1]["human_completion"] = None
    with pytest.raises(FormatError, match="step 1 has neither a chosen nor a human completion but 2 others, and is"):
        read_record("prm800k", row, POSITIVE)
    row["label"]["steps"][1]["completions"].pop(0)  # where there is one only, it was followed
    assert read_record("prm800k", row, POSITIVE).steps[1] == "I factor."


SOFT = StepRecord("Why?", ("Step 1: a", "b"), (0.99, 0.2))


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"er_prm"}))
def test_soft_labels_are_never_rounded_silently(name):
    with pytest.raises(FormatError, match=r"label of step 0 is 0.99, .*give a threshold"):
        write_record(name, SOFT, Choices())
    cut = read_record(name, write_record(name, SOFT, Choices(threshold=0.99)), Choices(after_error="negative"))
    assert cut.labels == (1.0, 0.0)
    if name != "prm800k":
        higher = write_record(name, SOFT, Choices(threshold=0.995))
        assert read_record(name, higher, Choices(after_error="negative")).labels == (0.0, 0.0)


def test_soft_labels_of_trl_are_read_as_they_are():
    row = {"prompt": "Why?", "completions": ["a", "b"], "labels": [0.99, 1]}
    record = read_record("trl", row, Choices())
    assert record.labels == (0.99, 1.0)
    assert write_record("trl", record, Choices(threshold=0.5))["labels"] == [True, True]


OPEN = StepRecord("Why?", ("Step 1: a", "b", "c"), (1.0, None, 0.0), id="x")


@pytest.mark.parametrize("name", ["trl", "math_shepherd", "processbench", "mr_gsm8k"])
def test_steps_without_label_take_a_choice(name):
    with pytest.raises(FormatError, match="step 1 has no label"):
        write_record(name, OPEN, Choices())
    assert write_record(name, OPEN, Choices(unlabelled="drop")) is None
    if FORMATS[name].holds == "boolean":
        cut = read_record(name, write_record(name, OPEN, Choices(unlabelled="cut")), Choices())
        assert (cut.steps, cut.labels) == (("Step 1: a",), (1.0,))
        first = StepRecord("Why?", ("a",), (None,))
        assert write_record(name, first, Choices(unlabelled="cut")) is None
    else:  # a part of a solution without an error is not a solution without one
        with pytest.raises(FormatError, match="first error is not known"):
            write_record(name, OPEN, Choices(unlabelled="cut"))


def test_labels_after_the_first_error_take_a_choice():
    mixed = StepRecord("Why?", ("a", "b", "c"), (1.0, 0.0, 1.0))
    with pytest.raises(FormatError, match=r"step 2 is labelled as right after the first error, step 1.*later=drop"):
        write_record("processbench", mixed, Choices())
    assert write_record("processbench", mixed, Choices(later="drop"))["label"] == 1


def test_what_has_no_field_is_kept_or_dropped():
    record = read_record("processbench", ROWS["processbench"], Choices(after_error="negative"))
    row = write_record("trl", record, Choices())
    assert row["stepwise"] == {
        "id": "gsm8k-0",
        "correct": False,
        "extra": {"processbench": {"generator": "Qwen2-7B-Instruct"}},
    }
    assert set(write_record("trl", record, Choices(extra="drop"))) == {"prompt", "completions", "labels"}


def test_labels_that_were_changed_are_not_written_with_old_details():
    record = read_record("prm800k", ROWS["prm800k"], POSITIVE)
    changed = StepRecord(record.question, record.steps, (1.0, 0.0, 0.0), extra=record.extra)
    with pytest.raises(FormatError, match="the row's own fields say otherwise than its labels"):
        write_record("prm800k", changed, POSITIVE)


TRL, SHEPHERD, BENCH, MR = (ROWS[name] for name in ("trl", "math_shepherd", "processbench", "mr_gsm8k"))


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("trl", TRL | {"labels": [True]}, "1 labels for 2 steps"),
        ("trl", TRL | {"labels": [True, 1.5]}, "label of step 1 is 1.5, outside"),
        ("trl", TRL | {"labels": [True, "no"]}, "'labels' must be a list of booleans"),
        ("trl", TRL | {"labels": None}, "'labels' must be a list of booleans, not None"),
        ("trl", TRL | {"prompt": [{"role": "user", "content": "Why?"}]}, "'prompt' must be text"),
        ("trl", {"prompt": "", "labels": []}, "'completions' is missing, there are"),
        ("trl", TRL | {"stepwise": {"id": 3}}, "'stepwise' is not what a conversion writes"),
        ("math_shepherd", SHEPHERD | {"label": SHEPHERD["input"]}, r"no \+ or - in the place of step tag 0"),
        ("math_shepherd", SHEPHERD | {"label": SHEPHERD["label"] + "x"}, "goes on otherwise"),
        ("math_shepherd", {"input": "Why? ки", "label": "Why? +"}, "no 'Step 1:' is found"),
        ("math_shepherd", {"input": "Step 1: a", "label": "Step 1: a"}, "no step tag ки is found"),
        ("math_shepherd", {"input": "Step 1: a ки ки", "label": "Step 1: a + -"}, "step 1 is empty"),
        ("math_shepherd", {"input": "Step 1: a ки b", "label": "Step 1: a + b"}, "text without a label after the last"),
        ("prm800k", {"question": {}, "label": {"steps": []}}, "'problem' is missing"),
        ("prm800k", {"question": "Why?", "label": {"steps": []}}, "no PRM800K row: question is 'Why"),
        ("processbench", BENCH | {"label": 3}, r"step 3 \(from 0\) is marked as wrong, but there are 3"),
        ("processbench", BENCH | {"label": -2}, "first wrong step from 0, or -1, not -2"),
        ("processbench", BENCH | {"label": True}, "first wrong step from 0, or -1, not True"),
        ("processbench", BENCH | {"steps": "a"}, "'steps' must be a list of texts"),
        ("mr_gsm8k", MR | {"model_output_solution_first_error_step": "N/A"}, "is wrong, but its first wrong step is"),
        ("mr_gsm8k", MR | {"model_output_solution_first_error_step": 0}, r"step -1 \(from 0\)"),
        ("mr_gsm8k", MR | {"model_output_solution_correctness": "correct"}, "is correct, but its first wrong"),
        ("mr_gsm8k", MR | {"model_output_solution_correctness": "maybe"}, "must be correct or wrong, not 'maybe'"),
    ],
)  # fmt: skip
def test_rows_that_are_not_of_the_format(name, row, message):
    with pytest.raises(FormatError, match=message):
        read_record(name, row, POSITIVE)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (StepRecord("Why?", ("Step 1: ки", "b"), (1.0, 1.0)), "step 0 holds the step tag ки"),
        (StepRecord("Сколько уток? утки", ("Step 1: a",), (1.0,)), "the question holds the step tag"),
        (StepRecord("In Step 1: what", ("Step 1: a",), (1.0,)), "'Step 1:' stands 2 times before the first step ends"),
        (StepRecord("Why? ", ("Step 1: a",), (1.0,)), "question 'Why. ' would be read back as 'Why.'"),
        (StepRecord("Why?", ("Step 1: a", "b "), (1.0, 1.0)), "steps .* would be read back"),
        (StepRecord("Why?", (), ()), "without steps"),
    ],
)
def test_what_math_shepherd_cannot_hold(record, message):
    with pytest.raises(FormatError, match=message):
        write_record("math_shepherd", record, Choices())


anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(-1, 2), st.sampled_from(["", "a", "correct"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "rating", "steps"]), inner),
    max_leaves=6,
)


@pytest.mark.parametrize("name", FORMATS)
@settings(deadline=None)
@given(data=st.data())
def test_a_row_with_anything_in_it_is_read_or_refused(name, data):
    """Whatever stands in a field or deeper down: a record that gives the row back, or an error that says why."""
    row = json.loads(json.dumps(ROWS[name]))
    inner = data.draw(st.sampled_from([row, *(value for value in row.values() if isinstance(value, dict))]))
    if data.draw(st.booleans()) and isinstance(inner.get("steps"), list) and isinstance(inner["steps"][0], dict):
        inner = inner["steps"][data.draw(st.integers(0, 2))]
        if data.draw(st.booleans()):
            inner = inner["completions"][0]
    inner[data.draw(st.sampled_from([*inner, "stepwise"]))] = data.draw(anything)
    try:
        record = read_record(name, row, POSITIVE)
    except FormatError as error:
        assert str(error)
        return
    assert len(record.labels) == len(record.steps) and all(isinstance(step, str) for step in record.steps)
    try:
        found = write_record(name, record, Choices(neutral="positive", unlabelled="drop", threshold=0.5))
    except FormatError:
        return
    if found is not None and "stepwise" not in row and name != "trl":
        assert json.dumps(found, sort_keys=True) == json.dumps(row, sort_keys=True)
