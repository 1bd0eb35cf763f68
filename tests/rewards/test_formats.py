"""Rows of other projects' data sets: there and back for every format, by way of every other."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.formats import FORMATS, Choices, FormatError, StepRecord, read_record, write_record
from rewards.formats.files import read_file
from rewards.formats.step_labels import from_step_labels, one_line_steps, to_step_labels
from rollouts.records import Problem, StepLabels
from tests.format_rows import ROWS

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("STEPWISE_DATA", ROOT.parent / "shared" / "data"))
POSITIVE = Choices(neutral="positive")
KEEP = Choices(contradictory="keep", aside="keep")

LABELS = {
    "trl": (1.0, 0.0),
    "math_shepherd": (1.0, 0.0),
    "prm800k": (1.0, 1.0, 0.0),
    "processbench": (1.0, 0.0, None),
    "mr_gsm8k": (1.0, 1.0, 0.0, None),
    "mr_gsm8k_short": (1.0, 1.0, 0.0),
    **dict.fromkeys(("rlhflow", "er_prm", "math_aps", "paddlenlp"), (1.0, 0.0)),
}


def as_json(row: Any) -> str:
    return json.dumps(row, sort_keys=True)


def there_and_back(name: str, row: dict[str, Any], choices: Choices = POSITIVE) -> dict[str, Any]:
    return write_record(name, read_record(name, row, choices), choices)


@pytest.mark.parametrize("name", FORMATS)
def test_rows_by_hand(name):
    record = read_record(name, ROWS[name], POSITIVE)
    assert record.labels == LABELS[name] and len(record.steps) == len(record.labels)
    assert as_json(there_and_back(name, ROWS[name])) == as_json(ROWS[name])


def test_what_a_record_says():
    record = read_record("prm800k", ROWS["prm800k"], POSITIVE)
    assert (record.question, record.answer) == ("What is the GCF of $20!$ and 200,000?", "40,\\!000")
    assert record.steps == ("I look.", "I factor.", "So it is 1.\n\n# Answer\n\n1")
    record = read_record("math_shepherd", ROWS["math_shepherd"], Choices())
    assert record == StepRecord(
        "How many?",
        ("Step 1: 5+8 = <<5+8=13>>13.", "Step 2: 13-1=11. The answer is: 11"),
        (1.0, 0.0),
        extra={"math_shepherd": {"task": "GSM8K"}},
    )
    record = read_record("mr_gsm8k", ROWS["mr_gsm8k"], Choices(after_error="negative"))
    assert (record.id, record.answer, record.correct) == ("0056b847", "7000", False)
    assert record.labels == (1.0, 1.0, 0.0, 0.0)


@pytest.mark.parametrize("by", FORMATS)
@pytest.mark.parametrize("name", FORMATS)
def test_back_by_way_of_another_format(name, by):
    # where every step has a label, or the format can hold that some have none
    choices = Choices(neutral="positive", after_error="negative", number_steps=False)
    record = read_record(name, ROWS[name], choices)
    if FORMATS[by].numbered and not record.steps[0].startswith("Step 1:"):
        with pytest.raises(FormatError, match="number_steps=true"):
            write_record(by, record, choices)
        return
    if by == "math_aps" and any(step != step.strip() for step in record.steps):
        with pytest.raises(FormatError, match="math_aps cannot hold this: steps"):
            write_record(by, record, choices)
        return
    between = write_record(by, record, choices)
    assert as_json(write_record(name, read_record(by, between, choices), choices)) == as_json(ROWS[name])


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
hard = st.lists(st.sampled_from([1.0, 0.0]), max_size=5)
rated = st.lists(st.sampled_from([1.0, 0.0, None]), max_size=5)
located = st.tuples(st.integers(0, 4), st.integers(0, 3)).map(
    lambda n: (1.0,) * n[0] + (0.0,) * (n[1] > 0) + (None,) * (n[1] - 1 if n[1] else 0)
)
others = texts.filter(lambda name: name != "stepwise")  # the field that conversions write
values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts)


def records(labels: st.SearchStrategy) -> st.SearchStrategy[StepRecord]:
    return labels.flatmap(
        lambda given: st.builds(
            StepRecord,
            question=texts,
            steps=st.tuples(*[texts] * len(given)),
            labels=st.just(tuple(given)),
            id=st.one_of(st.none(), texts),
            answer=st.one_of(st.none(), texts),
            correct=st.sampled_from([None, True, False]),
        )
    )


@pytest.mark.parametrize(("name", "labels"), [("trl", hard), ("prm800k", rated), ("paddlenlp", hard)])
def test_every_record_there_and_back(name, labels):
    @settings(deadline=None)
    @given(records(labels))
    def check(record):
        row = json.loads(json.dumps(write_record(name, record, KEEP)))
        assert read_record(name, row, KEEP) == record

    check()


@pytest.mark.parametrize("name", ["processbench", "mr_gsm8k", "mr_gsm8k_short"])
@settings(deadline=None)
@given(record=records(located))
def test_every_first_error_there_and_back(name, record):
    row = json.loads(json.dumps(write_record(name, record, KEEP)))
    assert read_record(name, row, KEEP) == record


@settings(deadline=None)
@given(records(hard))
def test_math_shepherd_gives_back_or_refuses(record):
    numbered = Choices(number_steps=True)
    fits = record.steps and record.question == record.question.strip()
    fits = fits and all(step and step == step.rstrip() for step in record.steps)
    try:
        row = write_record("math_shepherd", record, numbered)
    except FormatError:
        assert not fits or "ки" in "".join((record.question, *record.steps)) or "tep 1:" in record.question
        return
    steps = tuple(f"Step {n}: {step}" for n, step in enumerate(record.steps, start=1))
    found = read_record("math_shepherd", row, KEEP)
    assert (found.question, found.steps, found.labels) == (record.question, steps, record.labels)
    assert (found.id, found.answer, found.correct) == (record.id, record.answer, record.correct)


@settings(deadline=None)
@given(texts, st.lists(st.tuples(texts, st.booleans(), texts), min_size=1, max_size=4), st.dictionaries(others, values))
def test_math_shepherd_of_any_layout(question, steps, more):
    """White space of any kind around texts and tags, and fields that nobody knows."""
    row = {"input": question, "label": question}
    for n, (step, good, gap) in enumerate(steps):
        step = f"{gap} Step {n + 1}: {step} {gap}"
        row = {"input": f"{row['input']}{step}ки", "label": f"{row['label']}{step}{'+' if good else '-'}"}
    row = {**more, **row}
    if any("ки" in text for text in (question, *(part for step, _, gap in steps for part in (step, gap)))):
        return
    assert as_json(there_and_back("math_shepherd", row)) == as_json(row)


@settings(deadline=None)
@given(st.data())
def test_prm800k_rows_of_both_phases(data):
    """Any number of completions, chosen or written by a person, and fields that are not understood."""
    completion = st.fixed_dictionaries(
        {"text": texts, "rating": st.sampled_from([-1, 0, 1, None]), "flagged": st.sampled_from([None, True, False])}
    )
    human = st.fixed_dictionaries({"text": texts, "rating": st.none(), "source": st.just("human")})
    steps = []
    for _ in range(data.draw(st.integers(0, 4))):
        completions = data.draw(st.lists(completion, min_size=1, max_size=3))
        written = data.draw(st.one_of(st.none(), human))
        chosen = None if written else data.draw(st.integers(0, len(completions) - 1))
        steps.append({"completions": completions, "human_completion": written, "chosen_completion": chosen})
    row = {
        "labeler": data.draw(texts),
        "question": {"problem": data.draw(texts), "ground_truth_answer": data.draw(texts)},
        "label": {"steps": steps, "total_time": 7, "finish_reason": "give_up"},
        **{f"more {name}": value for name, value in data.draw(st.dictionaries(texts, values, max_size=2)).items()},
    }
    neutral = data.draw(st.sampled_from(["positive", "negative", "drop"]))
    choices = replace(KEEP, neutral=neutral)
    assert as_json(there_and_back("prm800k", row, choices)) == as_json(row)
    for by in ("trl", "prm800k"):
        record = read_record("prm800k", row, choices)
        if by == "trl" and None in record.labels:
            continue
        between = json.loads(json.dumps(write_record(by, record, choices)))
        assert as_json(write_record("prm800k", read_record(by, between, choices), choices)) == as_json(row)


def test_step_labels_there_and_back():
    problem = Problem("a/1", "Why?", "7", None, "gsm8k", "train")
    row = StepLabels("a/1#0", "a/1", ("a", "b"), False, (True, None), (3, 0), (8, 0), 1, ("c", "#### 7"))
    assert to_step_labels(from_step_labels(row, problem), "unused") == (row, problem)
    by = read_record("prm800k", write_record("prm800k", from_step_labels(row, problem), Choices()), Choices())
    assert to_step_labels(by, "unused") == (row, problem)


def test_records_of_others_as_step_labels():
    record = read_record("trl", ROWS["trl"], Choices())
    row, problem = to_step_labels(record, "trl/0")
    assert (row.rollout_id, row.labels, row.correct) == ("trl/0", (True, False), False)
    assert row.successes == row.trials == (0, 0) and problem.id == row.problem_id
    again = StepRecord("is 9.8 over 9.11", ("x",), (1.0,))
    assert to_step_labels(again, "trl/1")[1].id == problem.id  # one question, whatever its punctuation
    with pytest.raises(FormatError, match=r"0\.99.*give a threshold"):
        to_step_labels(StepRecord("Why?", ("a",), (0.99,)), "x")


def test_steps_of_several_lines():
    record = read_record("processbench", ROWS["processbench"], Choices())
    with pytest.raises(FormatError, match=r"step 0 has several lines.*lines=join"):
        one_line_steps(record, "error")
    assert one_line_steps(record, "join").steps[0] == "On Friday, 18. Then more."
    with pytest.raises(FormatError, match="step 1 is blank"):
        one_line_steps(StepRecord("", ("a", " "), (1.0, 1.0)), "join")


@pytest.mark.skipif(not (DATA / "mr_gsm8k" / "dev.jsonl").is_file(), reason="MR-GSM8K is not here")
def test_the_real_mr_gsm8k():
    rows = [row for _, row in read_file(DATA / "mr_gsm8k" / "dev.jsonl")]
    assert len(rows) == 136
    choices, errors = Choices(after_error="negative"), Counter()
    for row in rows:
        record = read_record("mr_gsm8k_short", row, choices)
        assert record.labels.index(0.0) == row["first_error_step"]
        errors[row["first_error_step"]] += 1
        for by in FORMATS:
            between = write_record(by, record, choices)
            assert write_record("mr_gsm8k_short", read_record(by, between, choices), choices) == row
    assert sum(errors.values()) == 136 and max(errors) > 3
