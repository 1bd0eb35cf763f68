"""The command evaluate_prm: F1 by hand from known scores, which subsets count, and real (tiny, random) models."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import rewards.evaluate_prm
from experiments.evaluate_prm import main, make_table
from rewards.evaluate_prm import EvaluateArgs, evaluate
from rewards.formats import Choices, FormatError, StepRecord
from rewards.formats.files import read_file
from rewards.prm import PRMArgs
from rollouts.sampling.sample import SampleArgs
from stages.artifacts import ArtifactError
from stages.make import make
from stages.stage import Stage
from tests.tiny import QUESTION, problem, rollout, save_reward

# (label, scores) of each solution; 3 steps
EASY = [(1, (0.9, 0.2, 0.9)), (0, (0.6, 0.9, 0.9)), (-1, (0.9, 0.9, 0.9)), (-1, (0.9, 0.9, 0.9))]
HARD = [(2, (0.9, 0.9, 0.4)), (2, (0.9, 0.4, 0.1)), (-1, (0.55, 0.9, 0.9)), (-1, (0.9, 0.3, 0.9))]


class Scripted:
    """A judge whose scores are written in the texts of the steps."""

    threshold = 0.5

    def judge(self, records: Sequence[StepRecord]) -> list[list[float]]:
        return [[float(step) for step in record.steps] for record in records]


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr(rewards.evaluate_prm, "load_judge", lambda args: Scripted())


def subset(folder: Path, name: str, solutions: list[tuple[int, tuple[float, ...]]]) -> str:
    rows = [
        {"id": f"{name}-{n}", "generator": "", "problem": f"Why {n // 2}?", "steps": list(map(str, scores))}
        | {"final_answer_correct": label == -1, "label": label}
        for n, (label, scores) in enumerate(solutions)
    ]
    path = folder / f"{name}.json"
    path.write_text(json.dumps(rows))  # a list, as the benchmark's own files are
    return str(path)


def values(result: dict, name: str) -> list[float]:
    return [result["subsets"][name][kind]["value"] for kind in ("error", "correct", "f1")]


def test_f1_by_hand(scripted, tmp_path):
    args = EvaluateArgs([subset(tmp_path, "gsm8k", EASY), subset(tmp_path, "math", HARD)], resamples=200)
    result = evaluate(args)
    assert (result["threshold"], result["threshold_from"]) == (0.5, "the model's own")
    # easy: one of two errors found, both right ones passed; hard: one of two, one of two
    assert values(result, "gsm8k") == [0.5, 1.0, pytest.approx(2 / 3)]
    assert values(result, "math") == [0.5, 0.5, 0.5]
    assert result["average"]["f1"]["value"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert result["average"]["over"] == ["gsm8k", "math"] and result["average"]["f1"]["n"] == 8
    for row in result["subsets"].values():
        assert row["f1"]["low"] <= row["f1"]["value"] <= row["f1"]["high"]
        assert [row[kind]["n"] for kind in ("error", "correct", "f1")] == [2, 2, 4]
    given = evaluate(replace(args, threshold=0.56))
    assert values(given, "math") == [0.5, 0.0, 0.0] and given["threshold_from"] == "given"


def test_a_threshold_is_chosen_on_one_subset_and_reported_on_the_others(scripted, tmp_path):
    args = EvaluateArgs([subset(tmp_path, "gsm8k", EASY), subset(tmp_path, "math", HARD)], choose_on="gsm8k")
    result = evaluate(replace(args, resamples=100))
    # best on gsm8k is (0.6, 0.9]: both errors and both right; on math it would never have been chosen
    assert result["threshold"] == pytest.approx(0.75) and result["threshold_from"] == "chosen on gsm8k"
    assert values(result, "gsm8k") == [1.0, 1.0, 1.0] and values(result, "math") == [0.5, 0.0, 0.0]
    assert result["average"]["over"] == ["math"] and result["average"]["f1"]["value"] == 0.0
    assert not result["subsets"]["gsm8k"]["reported"] and result["subsets"]["math"]["reported"]
    # what stands in the other subset has no say
    other = subset(tmp_path, "math", [(label, scores[::-1]) for label, scores in HARD])
    assert evaluate(replace(args, data=[args.data[0], other], resamples=1))["threshold"] == result["threshold"]


def test_solutions_of_a_question_are_drawn_together(scripted, tmp_path):
    """Two questions, one all hits and one all misses: half the resamples draw only one of them."""
    solutions = [(0, (0.1,)), (-1, (0.9,)), (0, (0.9,)), (-1, (0.1,))]
    result = evaluate(EvaluateArgs([subset(tmp_path, "a", solutions)], resamples=500))
    assert (result["subsets"]["a"]["f1"]["low"], result["subsets"]["a"]["f1"]["high"]) == (0.0, 1.0)
    assert values(result, "a") == [0.5, 0.5, 0.5]


def test_a_solution_that_is_too_long_is_left_out_and_counted(scripted, monkeypatch, tmp_path, caplog):
    args = EvaluateArgs([subset(tmp_path, "gsm8k", EASY)], resamples=10)
    judge = Scripted.judge
    monkeypatch.setattr(Scripted, "judge", lambda self, records: [None, *judge(self, records)[1:]])
    result = evaluate(args)
    row = result["subsets"]["gsm8k"]
    assert result["too_long"] == 1 and sum(row[kind]["n"] for kind in ("error", "correct")) == len(EASY) - 1
    assert "1 solutions are too long for the model and left out, such as gsm8k-0" in caplog.text


def test_table_and_predictions(scripted, tmp_path):
    from rich.console import Console

    args = EvaluateArgs([subset(tmp_path, "gsm8k", EASY), subset(tmp_path, "olympiadbench", HARD)], choose_on="gsm8k")
    args = replace(args, resamples=50, predictions=str(tmp_path / "out.jsonl"), prm=PRMArgs("m" * 200))
    console = Console(width=80, record=True, highlight=False, markup=False)
    console.print(make_table(evaluate(args)))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80 and "olympiadbench" in text and "average of 1" in text
    rows = [row for _, row in read_file(args.predictions)]
    assert len(rows) == 8 and rows[1] == {
        "subset": "gsm8k",
        "id": "gsm8k-1",
        "first_error": 0,
        "hit": True,
        "scores": [0.6, 0.9, 0.9],
    }


def test_a_score_that_is_no_number_names_its_solution(scripted, tmp_path):
    path = subset(tmp_path, "a", [(0, (0.1,)), (-1, (float("nan"),))])
    with pytest.raises(ValueError, match="score of step 0 of a-1 is nan"):
        evaluate(EvaluateArgs([path]))


def test_data_that_does_not_serve_is_named(scripted, tmp_path):
    right = subset(tmp_path, "right", [(-1, (0.9,))])
    with pytest.raises(ValueError, match="F1 needs solutions with and without an error: 0 of 1 have one"):
        evaluate(EvaluateArgs([right]))
    (tmp_path / "trl.jsonl").write_text(json.dumps({"prompt": "a", "completions": ["0.5"], "labels": [0.9]}))
    with pytest.raises(FormatError, match=r"trl.jsonl, line 1: the label of step 0 is 0.9.*give a threshold"):
        evaluate(EvaluateArgs([str(tmp_path / "trl.jsonl")], "trl"))
    (tmp_path / "bad.jsonl").write_text('{"problem": "a"}\n')
    with pytest.raises(FormatError, match=r"bad.jsonl, line 1: field 'steps' is missing"):
        evaluate(EvaluateArgs([str(tmp_path / "bad.jsonl")]))
    assert len(evaluate(EvaluateArgs([subset(tmp_path, "a", EASY)], limit=3, resamples=1))["subsets"]) == 1


WRONG = {"question": "Why?", "answer": "7", "final_answer_correct": False, "first_error_step": 1}


def test_gold_solutions_stand_on_the_other_side(monkeypatch, tmp_path):
    """They are read without what would give them away: marks of a calculator, and steps that are not numbered."""
    seen = []

    class Judge:
        threshold = 0.5

        def judge(self, records):
            seen.extend(records)
            return [[0.9] * len(one.steps) if "/gold" in one.id else [0.9, 0.1] for one in records]

    monkeypatch.setattr(rewards.evaluate_prm, "load_judge", lambda args: Judge())
    steps, gold = ["Step 1: 2+3 = 5", "Step 2: #### 8"], "2+3 = <<2+3=5>>5\n\n5+2=<<5+2=7>>7\n#### 7"
    path = tmp_path / "dev.jsonl"
    rows = [WRONG | {"id": name, "steps": steps, "solution": gold} for name in "ab"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = EvaluateArgs([str(path)], "mr_gsm8k_short", right="gold", resamples=10)
    result = evaluate(args)
    assert result["right_from"] == "gold" and values(result, "dev") == [1.0, 1.0, 1.0]
    assert [result["subsets"]["dev"][kind]["n"] for kind in ("error", "correct")] == [2, 1]  # one question
    assert [one.id for one in seen] == ["a", "b", "a/gold"]
    assert seen[-1].steps == ("Step 1: 2+3 = 5", "Step 2: 5+2=7", "Step 3: #### 7") and seen[-1].question == "Why?"
    rows[1]["steps"] = ["2+3 = 5", "#### 8"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluate(args)
    assert seen[-1].steps == ("2+3 = 5", "5+2=7", "#### 7")
    path.write_text(json.dumps(WRONG | {"id": "a", "steps": steps}) + "\n")
    with pytest.raises(FormatError, match=r"right=gold: .*dev.jsonl has no gold solutions"):
        evaluate(args)


def test_right_rollouts_stand_on_the_other_side(scripted, tmp_path):
    own = [rollout(["0.9", "0.8"], True), rollout(["0.9", "0.8"], True, 1), rollout(["0.9"], False, 2)]
    own += [rollout(["0.9", "0.3"], True, 3), rollout([], True, 4)]

    def write(_args, work) -> None:
        work.write_rows("problems", [problem()])
        work.write_rows("rows", own)

    (tmp_path / "policy").mkdir()
    policy = SampleArgs(policy=str(tmp_path / "policy"))
    right = str(make(Stage("sample", 1, SampleArgs, write), policy, tmp_path)[0].path)
    path = subset(tmp_path, "a", [(1, (0.9, 0.2)), (0, (0.9, 0.9))])
    result = evaluate(EvaluateArgs([path], right=right, resamples=10))
    # different right ones with steps: the first passes, of the other the second step is called wrong
    assert values(result, "a") == [0.5, 0.5, 0.5] and result["subsets"]["a"]["correct"]["n"] == 2
    with pytest.raises(ArtifactError, match="nowhere"):
        evaluate(EvaluateArgs([path], right="nowhere"))


DATA = Path(os.environ.get("STEPWISE_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
MARKED = DATA / "mr_gsm8k" / "dev.jsonl"


@pytest.mark.skipif(not MARKED.is_file(), reason=f"{MARKED} is not there")
def test_marks_of_people(monkeypatch):
    """Who knows the marks finds all of them, who calls every step right passes the gold solutions alone."""
    marks = {row["id"]: row["first_error_step"] for row in map(json.loads, MARKED.read_text().splitlines())}

    class Judge:
        threshold = 0.5

        def judge(self, records):
            return [[0.1 if at == marks.get(one.id) else 0.9 for at in range(len(one.steps))] for one in records]

    args = EvaluateArgs([str(MARKED)], "mr_gsm8k_short", right="gold", resamples=50)
    monkeypatch.setattr(rewards.evaluate_prm, "load_judge", lambda _: Judge())
    result = evaluate(args)
    assert values(result, "dev") == [1.0, 1.0, 1.0] and result["subsets"]["dev"]["error"]["n"] == len(marks) == 136
    assert result["subsets"]["dev"]["correct"]["n"] > 100
    assert values(evaluate(replace(args, threshold=0.0)), "dev") == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": []}, "must name at least one subset"),
        ({"data": ["a/x.json", "b/x.json"]}, "two subsets would have one name"),
        ({"choose_on": "b"}, "choose_on='b' is no subset of data: x, y"),
        ({"data": ["x.json"], "choose_on": "x"}, "leaves no subset to report"),
        ({"choose_on": "x", "threshold": 0.5}, "threshold=0.5 is given, so none is chosen on 'x'"),
        ({"threshold": 2.0}, r"threshold must be in \[0, 1\], not 2.0"),
        ({"format": "gsm8k"}, "format='gsm8k' is none of trl, "),
        ({"limit": 0}, "limit must be at least 1, not 0"),
    ],
)
def test_arguments_that_make_no_sense(change, message):
    with pytest.raises(ValueError, match=message):
        replace(EvaluateArgs(["x.json", "y.json"], choices=Choices()), **change).validate()


def test_a_foreign_model_needs_a_threshold(tmp_path):
    args = EvaluateArgs(["x.json"], prm=PRMArgs(str(tmp_path), head="causal_lm", separator="ки"))
    with pytest.raises(ValueError, match="no threshold of its own: give threshold, or choose_on"):
        evaluate(args)


def test_the_command_with_a_model_of_ours(tmp_path, monkeypatch, capsys):
    """A head that reads nothing gives every step 0.73: below a threshold of 0.8 all first steps are wrong."""
    save_reward(tmp_path / "reward", "sorm", bias=1.0, threshold=0.8)
    rows = [
        {"id": str(n), "problem": QUESTION, "steps": ["<<7+5=12>>12", "#### 12"], "label": label}
        for n, label in enumerate((0, 0, 1, -1))
    ]
    (tmp_path / "gsm8k.json").write_text(json.dumps(rows))
    monkeypatch.chdir(tmp_path)
    argv = ["evaluate_prm", "prm.model=reward", "data=[gsm8k.json]", "resamples=20", "prm.device=cpu"]
    monkeypatch.setattr(sys, "argv", argv)
    main()
    out = capsys.readouterr().out
    assert "reward: threshold 0.8, the model's own" in out and "66.7" in out
    (result,) = tmp_path.glob("runs/evaluate_prm/*/result.json")
    assert values(json.loads(result.read_text()), "gsm8k") == [pytest.approx(2 / 3), 0.0, 0.0]
    monkeypatch.setattr(sys, "argv", [*argv, "threshold=0.7"])
    main()
    assert "threshold 0.7, given" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*argv, "launch.num_processes=2"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "error: launch.num_processes=2 has no effect" in capsys.readouterr().err
