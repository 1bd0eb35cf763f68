"""Corrections as rows of other projects: there and back, what is dropped and why, how a file becomes an artifact."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.export_corrections import main as export_main
from refine.lema.correct import CORRECT, CorrectArgs
from refine.lema.export import ExportCorrectionsArgs, export_corrections
from refine.lema.fields import Dropped
from refine.lema.formats import FORMATS, FormatRowError
from refine.lema.imports import IMPORT_CORRECTIONS, ROW_REASONS, ImportCorrectionsArgs
from refine.lema.judge import REASONS
from refine.lema.texts import render_revision
from rewards.formats.files import read_file
from rollouts.problems.args import ProblemArgs
from rollouts.records import Correction, Problem
from stages.artifacts import Artifact
from stages.make import make
from tests.refine.lema.made import HARD, PROBLEMS, QUESTION, WRONG, make_mistakes, world_mistakes, write_script


@pytest.fixture(scope="module")
def corrections(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    root = tmp_path_factory.mktemp("made")
    problems, own = world_mistakes(6, HARD)
    source = make_mistakes(root, write_script(root / "student", {"*": ["a"]}), own, problems)
    return make(CORRECT, CorrectArgs(mistakes=str(source.path)), root)[0]


def whole(one: Correction) -> tuple[Any, ...]:
    return one.mistake, one.wrong_step, one.explanation, one.steps


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("name", ["steps", "critique", "lemma"])
def test_what_is_written_is_read_back(corrections: Artifact, tmp_path: Path, name: str, suffix: str) -> None:
    kept = [one for one in corrections.rows(Correction) if one.reason is None]
    problems = {one.id: one for one in corrections.rows(Problem, "problems")}
    file = tmp_path / f"rows{suffix}"
    result = export_corrections(ExportCorrectionsArgs(str(corrections.path), str(file), name, answers=True))
    assert result["written"] == len(kept) > 20 and result["rows"] >= len(kept)
    made = make(IMPORT_CORRECTIONS, ImportCorrectionsArgs(input=str(file), format=name), tmp_path)[0]
    rows, questions = made.rows(Correction), {one.id: one for one in made.rows(Problem, "problems")}
    # of the wrong solution LEMMA's rows have the steps up to the wrong one only
    wanted = [replace(one, mistake=one.mistake[: one.wrong_step]) if name == "lemma" else one for one in kept]
    found = [row for row in rows if row.reason is None]
    assert set(map(whole, found)) == set(map(whole, wanted))
    assert {row.reason for row in rows} <= ({None, "duplicate"} if name == "lemma" else {None})
    assert {questions[row.problem_id].answer for row in found} == {problems[one.problem_id].answer for one in kept}
    assert made.manifest["counts"]["kept"] == len(found)


STEPS = {
    "question": QUESTION, "answer": "14", "mistake": list(WRONG), "wrong_step": 2, "explanation": "12 + 2 is 14.",
    "correction": ["4 * 3 = 12", "12 + 2 = 14", "#### 14"],
}  # fmt: skip
INPUT = f"Question: {QUESTION}\nSolution:\nStep 1: 4 * 3 = 12\nStep 2: 12 + 2 = 15\n#### 15"
OUTPUT = "Incorrect Step: Step 2\nExplanation: 12 + 2 is 14.\nCorrect Solution:\nStep 2: 12 + 2 = 14\n#### 14"
CRITIQUE = {"instruction": "Mend it.", "input": INPUT, "output": OUTPUT, "answer": 14}


def lemma(*lines: str) -> dict[str, Any]:
    return {"instruction": QUESTION, "input": "", "output": "\n".join(lines), "answer": "14"}


FIRST, SECOND, GOOD, LAST = "4 * 3 = 12", "12 + 2 = 15", "12 + 2 = 14", "#### 14"


@pytest.mark.parametrize(
    ("name", "row", "step"),
    [
        ("steps", STEPS, 2),
        ("critique", CRITIQUE, 2),
        ("critique", {"instruction": f"Mend it.\n\n{INPUT}", "output": OUTPUT, "answer": "14"}, 2),
        ("lemma", lemma(FIRST, SECOND, "Wait, step 2 is wrong. 12 + 2 is 14.", GOOD, LAST), 2),
        ("lemma", lemma(FIRST, SECOND, "Wait, 12 + 2 is 14.", GOOD, LAST), 2),
        ("lemma", lemma(FIRST, SECOND, "HOLD ON, that is not 15.", GOOD, LAST), 2),
        ("lemma", lemma(FIRST, SECOND, "Wait, that is odd. Let me solve it again.", "3 * 4 = 12", GOOD, LAST), 1),
    ],
)
def test_rows_of_each_format(name: str, row: dict[str, Any], step: int, tmp_path: Path) -> None:
    (found,) = import_rows(name, [row], tmp_path)
    assert (found.reason, found.wrong_step, found.steps[-2:]) == (None, step, (GOOD, LAST))
    assert found.mistake[:2] == WRONG[:2]


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("steps", STEPS | {"wrong_step": 0}, "no_such_step"),
        ("steps", STEPS | {"wrong_step": 4}, "no_such_step"),
        ("steps", STEPS | {"correction": ["5 * 3 = 15", GOOD, LAST]}, "prefix_changed"),
        ("steps", STEPS | {"correction": [FIRST]}, "missing_solution"),
        ("steps", STEPS | {"correction": [FIRST, SECOND, "#### 15"]}, "unchanged"),
        ("steps", STEPS | {"correction": [FIRST, GOOD, "#### 16"]}, "wrong_answer"),
        ("steps", STEPS | {"explanation": ""}, "missing_explanation"),
        ("steps", STEPS | {"explanation": "\x1b[31m"}, "control_characters"),
        ("steps", STEPS | {"mistake": [FIRST, GOOD, LAST]}, "not_wrong"),
        ("steps", STEPS | {"answer": None}, "no_reference"),
        ("critique", CRITIQUE | {"input": QUESTION}, "no_mistake"),
        ("critique", CRITIQUE | {"output": "It is fine."}, "no_fields"),
        ("critique", CRITIQUE | {"output": OUTPUT.replace("Step 2\n", "Step 0\n")}, "no_such_step"),
        ("critique", CRITIQUE | {"output": ""}, "empty"),
        ("lemma", lemma(FIRST, GOOD, LAST), "no_mistake"),
        ("lemma", lemma("Wait, what?", GOOD, LAST), "no_mistake"),
        ("lemma", lemma(FIRST, SECOND, "Wait, no.", SECOND, "Wait, no.", GOOD, LAST), "repeated"),
        ("lemma", lemma(FIRST, SECOND, "Wait, step 1 or step 2 is wrong.", GOOD, LAST), "several_steps"),
        ("lemma", lemma(FIRST, SECOND, "Wait, step 0 is wrong.", GOOD, LAST), "no_such_step"),
        ("lemma", lemma(FIRST, SECOND, "Wait, step 7 is wrong.", GOOD, LAST), "no_such_step"),
        ("lemma", lemma(FIRST, SECOND, "Wait, this is wrong."), "missing_solution"),
        ("lemma", lemma(FIRST, SECOND, "Wait, this is wrong.", GOOD, "#### 99"), "wrong_answer"),
        ("lemma", lemma("Provider returned error", "Wait, this is wrong.", "Try later."), "no_answer"),
    ],
)
def test_a_row_that_cannot_be_used_is_dropped_for_its_reason(name, row, reason, tmp_path) -> None:
    found = import_rows(name, [row], tmp_path)[0]
    assert found.reason == reason and reason in {**ROW_REASONS, **REASONS}


def import_rows(name: str, rows: list[dict[str, Any]], root: Path, **more: Any) -> list[Correction]:
    file = root / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    made = make(IMPORT_CORRECTIONS, ImportCorrectionsArgs(input=str(file), format=name, **more), root)[0]
    return made.rows(Correction)


def test_answers_come_from_the_source_and_its_test_problems_are_dropped(tmp_path: Path) -> None:
    """Half of the questions are test problems: their split is a hash of the question."""
    questions = [f"A box has {n} rows of 3 pens and {word} more. How many pens are there?" for n, word in
                 enumerate(["two red", "some blue", "four old", "five dry", "ten long", "six new"])]  # fmt: skip
    file = tmp_path / "p.jsonl"
    file.write_text("\n".join(json.dumps({"question": one, "answer": 14}) for one in questions))
    problems = ProblemArgs("jsonl", path=str(file), split_shares=[0.5, 0.0, 0.5])
    rows = [STEPS | {"question": one, "answer": None} for one in questions]
    found = import_rows("steps", rows, tmp_path, problems=problems)
    reasons = Counter(row.reason for row in found)
    assert set(reasons) <= {None, "test_copy"} and reasons["test_copy"] > 0
    (alone,) = import_rows("steps", [STEPS | {"answer": None}], tmp_path, trust_answers=True)
    assert alone.reason is None and alone.answer == "14"


def test_questions_that_differ_in_a_sign_have_answers_of_their_own(tmp_path: Path) -> None:
    asked = {"What is 4 * 3?": "12", "What is 4 + 3?": "7"}
    file = tmp_path / "p.jsonl"
    file.write_text("\n".join(json.dumps({"question": one, "answer": own}) for one, own in asked.items()))
    problems = ProblemArgs("jsonl", path=str(file), split_shares=[1.0, 0.0, 0.0])
    rows = [
        {"question": one, "answer": None, "mistake": ["So it is 5.", "#### 5"], "wrong_step": 1, "explanation": "No.",
         "correction": [f"So it is {answer}.", f"#### {answer}"]}
        for one, answer in (*asked.items(), ("what is 4×3", "12"))
    ]  # fmt: skip
    found = import_rows("steps", rows, tmp_path, problems=problems)
    assert [row.reason for row in found] == [None, None, "duplicate"] and [row.answer for row in found[:2]] == [
        "12",
        "7",
    ]
    assert found[0].problem_id == found[2].problem_id != found[1].problem_id
    wrong = ImportCorrectionsArgs(input="f", format="steps", problems=replace(problems, split="test"))
    with pytest.raises(ValueError, match=r"problems.split=test: corrections of these problems are all dropped"):
        wrong.validate()


def test_an_answer_that_is_there_anyway_is_not_asked_for() -> None:
    args = ExportCorrectionsArgs(corrections="c", output="f.jsonl", format="lemma", answers=True)
    args.validate()
    with pytest.raises(ValueError, match="answers=true has no effect: rows of format=steps have the answer"):
        replace(args, format="steps").validate()


def test_a_row_of_another_format_is_an_error_or_is_left_out_and_named(tmp_path: Path) -> None:
    rows = [STEPS, STEPS | {"wrong_step": "2"}, {"mistake": 3}]
    with pytest.raises(FormatRowError, match=r"line 2: field 'wrong_step' must be a whole number"):
        import_rows("steps", rows, tmp_path)
    assert len(import_rows("steps", rows, tmp_path, bad_rows="skip")) == 1
    with pytest.raises(ValueError, match="format='trl' is none of steps, critique, lemma"):
        ImportCorrectionsArgs(input="f", format="trl").validate()


TEXTS = st.lists(
    st.sampled_from(["Wait, step 2 is wrong.", "12", "#### 4", "```", "Step 1: 3", "\x00", ""]), max_size=9
)


@settings(max_examples=150, deadline=None)
@given(TEXTS, TEXTS)
def test_any_row_can_be_read_or_is_refused(asked: list[str], written: list[str]) -> None:
    row = {"instruction": "\n".join(asked), "input": "\n".join(asked), "output": "\n".join(written)}
    for name in ("critique", "lemma"):
        try:
            FORMATS[name].read(row)
        except Dropped as reason:
            assert str(reason) in {**ROW_REASONS, **REASONS}


def test_a_solution_that_goes_wrong_and_says_so() -> None:
    one = Correction(
        "c",
        PROBLEMS[0].id,
        "m",
        "s",
        "c",
        0,
        WRONG,
        None,
        2,
        "12 + 2 is 14.",
        (FIRST, GOOD, LAST),
        "14",
        None,
        "",
        1,
        1,
    )
    text, (start, stop) = render_revision(one)
    assert text == f"{FIRST}\n{SECOND}\nWait, step 2 is wrong. 12 + 2 is 14.\n{GOOD}\n{LAST}\n"
    assert text[start:stop] == f"{SECOND}\n"


def test_the_command_writes_the_columns_that_a_loader_expects(corrections, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["export", f"corrections={corrections.path}", "format=lemma", "output=lemma.jsonl"])
    assert export_main() in (0, None)
    assert "lemma.jsonl: " in capsys.readouterr().out
    assert {tuple(row) for _, row in read_file("lemma.jsonl")} == {("instruction", "input", "output")}
