"""Problem sources: real files, hand-made good and bad ones, splits, and gold solutions made from equations."""

from __future__ import annotations

import ast
import json
import logging
import operator
import os
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from rollouts.problems.args import ON_HUB, SOURCES, FieldArgs, ProblemArgs
from rollouts.problems.asdiv import parse_answer
from rollouts.problems.load import LOADERS, load_problems
from rollouts.problems.math_dataset import find_boxes
from rollouts.problems.reading import ProblemFileError, SourceRow, number_text, plain_number
from rollouts.problems.splits import asked_key, question_key, split_point
from rollouts.problems.svamp import join_question, parse_arithmetic, solution_from_equations
from tests.hub_cache import put, use_cache

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("STEPWISE_DATA", ROOT.parent / "shared" / "data"))
SPLITS = ("train", "validation", "test")

GSM8K_ROW = {"question": "Ann has 2 pens and buys 3. How many?", "answer": "2+3 = <<2+3=5>>5\n#### 5"}
SVAMP_ROW = {"Body": "Dan had 8 nuts. He ate 3.", "Question": "How many are left?"}
SVAMP_ROW |= {"Equation": "( 8.0 - 3.0 )", "Answer": 5.0}
MATH_ROW = {"problem": "What is $1+1$?", "solution": "It is $\\boxed{2}$.", "level": "Level 1", "type": "Algebra"}
JSONL_ROW = {"question": "What is 6 times 7?", "answer": 42}


def needs(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"no {DATA / name}")
    return DATA / name


def load(source: str, path: Path, split: str = "train", **settings) -> list:
    return load_problems(ProblemArgs(source=source, path=str(path), split=split, **settings))


def every_split(source: str, path: Path, **settings) -> dict[str, list]:
    return {split: load(source, path, split, **settings) for split in SPLITS}


def write_jsonl(path: Path, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def numbered(n: int) -> list[dict]:
    return [{"question": f"What is {i} plus 1?", "answer": i + 1} for i in range(n)]


def problem_xml(**fields: str) -> str:
    texts = {"Body": "Two red pens lie here.", "Question": "How many?", "Answer": "2 (pens)", "Formula": "1+1=2"}
    inside = "".join(f"<{name}>{text}</{name}>\n" for name, text in (texts | fields).items() if text is not None)
    return f"<Root><ProblemSet>\n<Problem ID='p1'>\n{inside}</Problem>\n</ProblemSet></Root>"


# real data


def test_gsm8k_real():
    path = needs("gsm8k")
    splits = every_split("gsm8k", path)
    assert len(splits["train"]) + len(splits["validation"]) == 7473
    assert len(splits["test"]) == 1319
    assert len(load("gsm8k", path, validation_share=0.0)) == 7473
    first = splits["test"][0]
    assert (first.id, first.answer) == ("gsm8k/test/0", "18")
    assert "<<16-3-4=9>>" in first.solution and first.solution.endswith("\n#### 18")
    assert any(problem.answer == "114200" for problem in splits["test"])  # written 114,200
    assert_disjoint(splits)


def test_svamp_real():
    splits = every_split("svamp", needs("svamp"))
    problems = [problem for split in splits.values() for problem in split]
    assert len(problems) == 1000
    # 554 has an equation without an operation, 679 one that does not come to its answer
    assert {p.id.split("/")[-1] for p in problems if p.solution is None} == {"554", "679"}
    first = splits["train"][0]
    assert first.question.endswith("on each pack, how much do you have to pay to buy each pack?")
    assert first.solution == "76 - 25 = <<76-25=51>>51\n#### 51"
    assert_disjoint(splits)


def test_asdiv_real(caplog):
    path = needs("asdiv")
    with caplog.at_level(logging.INFO):
        splits = every_split("asdiv", path)
    problems = [problem for split in splits.values() for problem in split]
    assert len(problems) == 2305 - 212
    assert "2093 problems" in caplog.text and "212 left out" in caplog.text
    assert sum(p.solution is not None for p in problems) > 1500
    assert {"5/2", "-1/3", "7.95"} & {p.answer for p in problems} == {"-1/3", "7.95"}  # 5/2 is written 2.5
    assert_disjoint(splits)


@pytest.mark.parametrize("source", ["svamp", "asdiv"])
def test_made_solutions_are_right(source):
    for problem in load(source, needs(source), split_shares=[1, 0, 0]):
        assert plain_number(problem.answer) is not None
        if problem.solution is not None:
            *steps, last = problem.solution.split("\n")
            assert last == f"#### {problem.answer}" and steps
            for step in steps:
                mark, result = step.split("<<")[1].split(">>")
                assert parse_arithmetic(mark.split("=")[0]).value == plain_number(result)


def assert_disjoint(splits: dict[str, list]) -> None:
    keys = {split: {question_key(p.question) for p in problems} for split, problems in splits.items()}
    assert all(keys.values())
    assert not keys["train"] & keys["test"]
    assert not keys["train"] & keys["validation"]
    assert not keys["validation"] & keys["test"]
    ids = [p.id for problems in splits.values() for p in problems]
    assert len(set(ids)) == len(ids)
    assert all(p.split == split for split, problems in splits.items() for p in problems)


# splits


def test_splits_never_share_a_question(tmp_path):
    rows = numbered(300)
    rows += [{"question": row["question"].upper().replace("?", " ??"), "answer": row["answer"]} for row in rows]
    splits = every_split("jsonl", write_jsonl(tmp_path / "a.jsonl", rows))
    assert_disjoint(splits)
    assert sum(map(len, splits.values())) == 600
    assert 0.6 < len(splits["train"]) / 600 < 0.8 and 0.13 < len(splits["test"]) / 600 < 0.27


def test_train_leaves_out_what_the_test_file_has(tmp_path, caplog):
    rows = [GSM8K_ROW | {"question": f"What is {i} and {i}?"} for i in range(50)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    write_jsonl(tmp_path / "test.jsonl", [rows[3] | {"question": "what is 3 AND 3"}, *rows[50:], GSM8K_ROW])
    splits = every_split("gsm8k", tmp_path)
    assert_disjoint(splits)
    assert len(splits["train"]) + len(splits["validation"]) == 49
    assert "1 of 50 questions of the train file are left out" in caplog.text


def test_split_does_not_depend_on_order_or_other_rows(tmp_path):
    rows = numbered(100)
    questions = {p.question for p in load("jsonl", write_jsonl(tmp_path / "a.jsonl", rows))}
    again = {p.question for p in load("jsonl", write_jsonl(tmp_path / "b.jsonl", rows[::-1]))}
    half = {p.question for p in load("jsonl", write_jsonl(tmp_path / "c.jsonl", rows[:50]))}
    assert questions == again and half == questions & {row["question"] for row in rows[:50]}


def test_split_point_is_pinned():
    # a change here moves problems between splits, and makes old and new numbers incomparable
    assert split_point("How many?") == split_point("  how MANY ") == pytest.approx(0.24800547128788, abs=1e-12)


def test_signs_make_other_questions_but_never_another_split():
    same = ["Is 3 + 5 well-known?", "is 3+5 well known"]
    others = ["Is 3 * 5 well-known?", "Is 3 - 5 well-known?", "Is 3 5 well-known?", "Is 3/5 well-known?"]
    assert asked_key(same[0]) == asked_key(same[1]) and len({*map(asked_key, [*same, *others])}) == 5
    assert asked_key("Is 3 − 5 or 4×2?") == asked_key("Is 3 - 5 or 4 * 2?") and asked_key("?") == "?"
    assert len({*map(split_point, [*same, *others])}) == 1


@given(st.text(min_size=1))
def test_split_point_range(text):
    assert 0 <= split_point(text.encode(errors="replace").decode()) < 1


def test_shares_of_one_give_every_problem(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", numbered(200))
    for split, shares in zip(SPLITS, ([1, 0, 0], [0, 1, 0], [0, 0, 1]), strict=True):
        assert len(load("jsonl", path, split, split_shares=shares)) == 200


# order and number


def test_limit_offset_and_shuffle(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", numbered(100))
    everything = load("jsonl", path, split_shares=[1, 0, 0])
    assert [p.id for p in everything] == [f"jsonl/train/{n}" for n in range(100)]
    assert load("jsonl", path, split_shares=[1, 0, 0], limit=5, offset=10) == everything[10:15]
    assert len(load("jsonl", path, split_shares=[1, 0, 0], limit=500, offset=98)) == 2
    mixed = load("jsonl", path, split_shares=[1, 0, 0], shuffle_seed=1)
    assert mixed != everything and sorted(mixed, key=lambda p: int(p.answer)) == everything
    assert load("jsonl", path, split_shares=[1, 0, 0], shuffle_seed=1, limit=7) == mixed[:7]
    assert load("jsonl", path, split_shares=[1, 0, 0], shuffle_seed=2) != mixed


def test_arithmetic_goes_the_same_way():
    args = ProblemArgs(limit=3, offset=2)
    args.world.size = 8
    problems = load_problems(args)
    assert [p.id for p in problems] == [f"arithmetic/train/{n}" for n in (2, 3, 4)]


# files that are good


def test_gsm8k_reads_a_folder(tmp_path):
    rows = [GSM8K_ROW, GSM8K_ROW | {"question": " Two? ", "answer": "x\r\n #### -1,234.50 "}]
    write_jsonl(tmp_path / "test.jsonl", rows)
    one, two = load("gsm8k", tmp_path, "test")
    assert (one.answer, one.solution) == ("5", GSM8K_ROW["answer"])
    assert (two.id, two.question, two.answer) == ("gsm8k/test/1", "Two?", "-1234.5")


def test_gsm8k_from_the_hub(tmp_path, monkeypatch):
    cache, source = use_cache(tmp_path / "cache", monkeypatch), tmp_path / "source"
    (source / "main").mkdir(parents=True)
    train = [GSM8K_ROW | {"question": f"Q{i}?"} for i in range(40)]
    for part, rows in (
        ("train-00000-of-00002", train[:30]),
        ("train-00001-of-00002", train[30:]),
        ("test-0", train[:1]),
    ):
        pq.write_table(pa.Table.from_pylist(rows), source / "main" / f"{part}.parquet")
    put(cache, "openai/gsm8k", source, kind="dataset")
    splits = every_split("gsm8k", "hub:openai/gsm8k", validation_share=0.5)
    assert [len(splits["train"]) + len(splits["validation"]), len(splits["test"])] == [39, 1]
    assert_disjoint(splits)
    assert max(int(p.id.rpartition("/")[2]) for split in ("train", "validation") for p in splits[split]) == 39
    assert load("gsm8k", source, "test") == splits["test"]  # fetched in another way
    with pytest.raises(ValueError, match=r"hub:openai/none \(dataset of the Hugging Face hub\)"):
        load("gsm8k", "hub:openai/none")
    (source / "main" / "test-0.parquet").write_text("PAR1")
    with pytest.raises(ProblemFileError, match=r"test-0.parquet: cut short, damaged, or not a Parquet file"):
        load("gsm8k", source, "test")


def test_svamp_file_or_folder(tmp_path):
    rows = [SVAMP_ROW, SVAMP_ROW | {"Question": "Is it 7?", "Answer": 7}]
    (tmp_path / "SVAMP.json").write_text(json.dumps(rows), encoding="utf-8")
    problems = load("svamp", tmp_path, split_shares=[1, 0, 0])
    assert problems == load("svamp", tmp_path / "SVAMP.json", split_shares=[1, 0, 0])
    assert problems[0].solution == "8 - 3 = <<8-3=5>>5\n#### 5"
    assert (problems[1].answer, problems[1].solution) == ("7", None)


def test_asdiv_answers(tmp_path):
    (tmp_path / "ASDiv.xml").write_text(problem_xml(Answer="2 (red &amp; blue pens)"), encoding="utf-8")
    (problem,) = load("asdiv", tmp_path, split_shares=[1, 0, 0])
    assert (problem.id, problem.answer) == ("asdiv/train/0", "2")
    assert problem.question == "Two red pens lie here. How many?"
    assert problem.solution == "1 + 1 = <<1+1=2>>2\n#### 2"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("9 (apples)", "9"),
        ("7.95 (dollars)", "7.95"),
        ("1,250 (sq. ft)", "1250"),
        ("5/2", "5/2"),
        ("-(1/3)", "-1/3"),
        ("-4", "-4"),
        ("5:6", None),
        ("3:30 p.m.", None),
        ("60; 72", None),
        ("6 (inches); 12 (inches)", None),
        ("Yes", None),
        ("6th", None),
        ("Rug B", None),
        ("1,25", None),
        ("3/0", None),
        ("-", None),
        ("٣", None),
    ],
)
def test_asdiv_one_number_or_none(text, value):
    assert parse_answer(text) == (None if value is None else Fraction(value))


def test_math_folder_of_folders(tmp_path):
    for n in (10, 9, 1):
        write_jsonl(tmp_path / "train" / "algebra" / f"{n}.json", [MATH_ROW | {"problem": f"What is {n}?"}])
    write_jsonl(tmp_path / "test" / "geometry" / "1.json", [MATH_ROW])
    problems = load("math", tmp_path, validation_share=0.0)
    assert [p.id for p in problems] == [f"math/train/algebra/{n}" for n in (1, 9, 10)]
    assert (problems[0].answer, problems[0].solution) == ("2", MATH_ROW["solution"])
    assert [p.id for p in load("math", tmp_path, "test")] == ["math/test/geometry/1"]


def test_math_jsonl(tmp_path):
    path = write_jsonl(tmp_path / "test.jsonl", [MATH_ROW])
    write_jsonl(tmp_path / "train.jsonl", [MATH_ROW | {"problem": "Other?"}])
    assert [p.id for p in load("math", tmp_path, "test")] == ["math/test/0"]
    assert [p.question for p in load("math", tmp_path, validation_share=0.0)] == ["Other?"]
    assert [p.question for p in load("math", path, split_shares=[1, 0, 0])] == [MATH_ROW["problem"]]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so $\boxed{2}$", "2"),
        (r"\boxed{1} then \boxed{\frac{3}{4}}.", r"\frac{3}{4}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\left\{x\right.}", r"\left\{x\right."),
        (r"\fbox{7}", "7"),
        (r"$\boxed 5$.", "5"),
        (r"\boxed5", "5"),
        (r"\boxed{ 3 }", "3"),
        (r"\boxed{3", None),
        (r"\boxed", None),
        (r"\boxed{}", ""),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{\boxed{\boxed{5}}}", None),
        (r"\boxedtext{5} is \boxed{6}", "6"),
        ("nothing", None),
        ("\\boxed{" * 5000, None),
        ("\\boxed{" * 5000 + "}" * 5000, None),
    ],
)
def test_last_box(text, answer):
    assert next((content for _, _, content in reversed(list(find_boxes(text)))), None) == answer


def test_jsonl_fields(tmp_path):
    rows = [
        {"id": "a", "question": "One?", "answer": "x+1", "solution": "Say x+1.\n#### x+1", "note": [1]},
        {"id": 7, "question": "Two\u2028lines?", "answer": 0.5, "solution": None},
        {"question": "Three?", "answer": 1e3},
    ]
    path = tmp_path / "a.jsonl"
    text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    one, two, three = load("jsonl", path, split_shares=[1, 0, 0])
    assert (one.id, one.answer, one.solution) == ("jsonl/train/a", "x+1", "Say x+1.\n#### x+1")
    assert (two.id, two.question, two.answer, two.solution) == ("jsonl/train/7", "Two\u2028lines?", "0.5", None)
    assert (three.id, three.answer) == ("jsonl/train/2", "1000")


# files that are bad: (source, name of the file, its bytes, what the message must say)

ONE = json.dumps(JSONL_ROW).encode() + b"\n"
G1 = json.dumps(GSM8K_ROW).encode() + b"\n"
M1 = json.dumps(MATH_ROW).encode() + b"\n"
LOL = "<!DOCTYPE l [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;'>]>" + problem_xml(Body="&b;")


def line(**fields) -> bytes:
    return json.dumps({name: value for name, value in (JSONL_ROW | fields).items() if value != "drop"}).encode()


def svamp(**fields) -> bytes:
    row = {name: value for name, value in (SVAMP_ROW | fields).items() if value != "drop"}
    return f"[\n{json.dumps(SVAMP_ROW)},\n {json.dumps(row)}]".encode()


def math(**fields) -> bytes:
    return json.dumps({name: value for name, value in (MATH_ROW | fields).items() if value != "drop"}).encode()


BAD = [
    ("jsonl", "a.jsonl", b"", r"a\.jsonl: the file is empty"),
    ("jsonl", "a.jsonl", b"\n \n", r"the file is empty"),
    ("jsonl", "a.jsonl", ONE + ONE[:-6], r"a\.jsonl, line 2: malformed JSON: .* near '.*6 times 7"),
    ("jsonl", "a.jsonl", ONE + b"question,answer\n", r"line 2: malformed JSON"),
    # PB88
    (
        "jsonl",
        "a.jsonl",
        rb'{"question": "Find $\mathrm{x}$.", "answer": 5}',
        r"line 1: malformed JSON: .* at column 21",
    ),
    ("jsonl", "a.jsonl", ONE + ONE[:-1] + ONE, r"line 2: malformed JSON: Extra data"),
    ("jsonl", "a.jsonl", b"[" * 100_000, r"line 1: malformed JSON: .*recursion.* characters\)"),
    ("jsonl", "a.jsonl", b"\n\n[1, 2]", r"line 3: expected an object with fields, not \[1, 2\]"),
    ("jsonl", "a.jsonl", ONE + b"null", r"line 2: expected an object with fields, not None"),
    ("jsonl", "a.jsonl", line(question="drop"), r"line 1: field 'question' is missing, there are \['answer'\]"),
    ("jsonl", "a.jsonl", line(answer="drop"), r"line 1: field 'answer' is missing"),
    ("jsonl", "a.jsonl", line(question=5), r"field 'question' must be text, not 5"),
    ("jsonl", "a.jsonl", line(question=None), r"field 'question' must be text, not None"),
    ("jsonl", "a.jsonl", line(question=" \t"), r"field 'question' is empty"),
    ("jsonl", "a.jsonl", line(answer=""), r"field 'answer' is empty"),
    ("jsonl", "a.jsonl", line(answer=True), r"field 'answer' must be text, not True"),
    ("jsonl", "a.jsonl", line(answer=["5"]), r"field 'answer' must be text, not \['5'\]"),
    ("jsonl", "a.jsonl", line(answer=float("nan")), r"line 1: malformed JSON: NaN is not a number"),
    ("jsonl", "a.jsonl", line(answer=-float("inf")), r"-Infinity is not a number"),
    ("jsonl", "a.jsonl", line(answer="NaN"), r"field 'answer' is 'NaN', which stands for a value"),
    ("jsonl", "a.jsonl", line(question="nan"), r"field 'question' is 'nan', which stands for a value that is missing"),
    ("jsonl", "a.jsonl", b'{"question": "Q?", "answer": 1e999999999}', r"'answer' is out of range: 1E\+999999999"),
    ("jsonl", "a.jsonl", b'{"question": "Q?", "answer": 1e-99999999999999999999}', r"line 1: "),
    ("jsonl", "a.jsonl", b'{"question": "Q?", "answer": ' + b"9" * 5000 + b"}", r"line 1: malformed JSON"),
    ("jsonl", "a.jsonl", b'{"question": "Q?", "answer": 1, "answer": 2}', r"given twice: \['answer'\]"),
    ("jsonl", "a.jsonl", line(answer="٤٢"), r"line 1: field 'answer' has digits that the grader does not read: '٤٢'"),
    ("jsonl", "a.jsonl", line(answer="\u200b\ufeff"), r"field 'answer' is empty: '\\u200b\\ufeff'"),
    ("jsonl", "a.jsonl", line(solution="#### 42"), r"field 'solution' has no step before its '####': '#### 42'"),
    ("jsonl", "a.jsonl", line(solution="6*7=41\n#### 41"), r"'solution' ends in '#### 41', but the answer is 42"),
    ("jsonl", "a.jsonl", line(solution=7), r"field 'solution' must be text, not 7"),
    ("jsonl", "a.jsonl", line(solution=""), r"field 'solution' is empty"),
    ("jsonl", "a.jsonl", line(id="x") + b"\n" + line(id="x"), r"line 2: id 'x' is also that of .*a\.jsonl, line 1"),
    ("jsonl", "a.jsonl", ONE + line(id=0), r"line 2: id '0' is also that of .*line 1"),
    ("jsonl", "a.jsonl", line(id=1.5), r"field 'id' must be text, not 1\.5"),
    ("jsonl", "a.jsonl", line(id=""), r"field 'id' is empty"),
    ("jsonl", "a.jsonl", ONE + b'{"question": "caf\xe9", "answer": 1}', r"line 2: not UTF-8: byte 0xe9"),
    ("jsonl", "a.jsonl", ONE + b'{"question": "a\0b", "answer": 1}', r"line 2: NUL byte at byte "),
    ("jsonl", "a.jsonl", line(question="a\0b"), r"field 'question' holds a NUL"),
    ("jsonl", "a.jsonl", line(question="a\ud800b"), r"lone surrogate: 'a\\ud800b'"),
    ("jsonl", "a.jsonl", ONE.decode().encode("utf-16"), r"line 1: NUL byte"),
    ("jsonl", "other.jsonl", ONE, r"a\.jsonl: cannot be read: No such file"),
    (
        "gsm8k",
        "test.jsonl",
        G1 + b'{"question": "Q?", "answer": "5"}',
        r"line 2: field 'answer' has no line '#### n': '5'",
    ),
    ("gsm8k", "test.jsonl", b'{"question": "Q?", "answer": "x\\n#### five"}', r"must end in '#### n' .*, not 'five'"),
    ("gsm8k", "test.jsonl", b'{"question": "Q?", "answer": "x\\n#### 1,80"}', r"not '1,80'"),
    ("gsm8k", "test.jsonl", b'{"question": "Q?", "answer": "x\\n####"}', r"not ''"),
    ("gsm8k", "test.jsonl", b'{"question": "Q?", "answer": "#### 5"}', r"no solution before its '####'"),
    ("gsm8k", "test.jsonl", b'{"question": "Q?", "answer": 5}', r"field 'answer' must be text, not 5"),
    ("gsm8k", "test.jsonl", b'{"question": "Q?", "answer": "x #### 5"}', r"one '####', at the start of its last line"),
    ("gsm8k", "test.jsonl", b'{"question": "Q?", "answer": "x\\n#### 4\\n#### 5"}', r"must have one '####'"),
    ("gsm8k", "train.jsonl", G1, r"test\.jsonl: cannot be read: No such file"),
    ("svamp", "SVAMP.json", b'{"a": 1}', r"line 1: field 'Answer' is missing, there are \['a'\]"),
    ("svamp", "SVAMP.json", b"[]", r"holds no problems"),
    ("svamp", "SVAMP.json", svamp()[:-9], r"line 3: malformed JSON"),
    ("svamp", "SVAMP.json", svamp(Body="drop"), r"SVAMP\.json, line 3: field 'Body' is missing"),
    ("svamp", "SVAMP.json", svamp(Answer="drop"), r"line 3: field 'Answer' is missing"),
    ("svamp", "SVAMP.json", svamp(Answer="5 nuts"), r"line 3: field 'Answer' must be a number, not '5 nuts'"),
    ("svamp", "SVAMP.json", svamp(Answer=True), r"field 'Answer' must be a number, not True"),
    ("svamp", "SVAMP.json", svamp(Answer=1e99), r"field 'Answer' is out of range: 1E\+99"),
    ("svamp", "SVAMP.json", svamp(Answer=float("nan")), r"NaN is not a number"),
    ("svamp", "SVAMP.json", svamp(Question=""), r"line 3: field 'Question' is empty"),
    ("svamp", "SVAMP.json", b"[\n1]", r"line 2: expected an object with fields, not 1"),
    ("asdiv", "ASDiv.xml", problem_xml()[:-30].encode(), r"ASDiv\.xml, line 7: malformed XML: .*, column "),
    ("asdiv", "ASDiv.xml", b"<a>\n<b></a>", r"line 2: malformed XML: mismatched tag"),
    ("asdiv", "ASDiv.xml", b"plain text", r"line 1: malformed XML"),
    ("asdiv", "ASDiv.xml", b"<Root></Root>", r"holds no <Problem> elements"),
    ("asdiv", "ASDiv.xml", problem_xml(Answer=None).encode(), r"line 2, problem 'p1': field 'Answer' is missing"),
    ("asdiv", "ASDiv.xml", problem_xml(Formula="").encode(), r"line 2, problem 'p1': field 'Formula' is empty"),
    ("asdiv", "ASDiv.xml", problem_xml(Body="<b>A</b>").encode(), r"'Body' must be text, but holds an element 'b'"),
    ("asdiv", "ASDiv.xml", problem_xml(Body="A</Body><Body>B").encode(), r"field 'Body' is given twice"),
    ("asdiv", "ASDiv.xml", problem_xml(Answer="Yes").encode(), r"none of the 1 problems has one number"),
    ("asdiv", "ASDiv.xml", LOL.encode(), r"line 1: declares the entity 'a', which is not allowed"),
    ("asdiv", "ASDiv.xml", problem_xml(Body="caf\xe9").encode("latin-1"), r"line 3: not UTF-8: byte 0xe9"),
    ("math", "test.jsonl", M1 + math(solution="It is 2."), r"line 2: field 'solution' has no \\boxed{answer}"),
    ("math", "test.jsonl", math(solution="\\boxed{2"), r"with balanced braces: '\\\\boxed{2'"),
    ("math", "test.jsonl", math(solution="\\boxed{ }"), r"has no \\boxed{answer}"),
    ("math", "test.jsonl", math(solution="\\boxed{nan}"), r"field 'solution' gives no answer but 'nan'"),
    ("math", "test.jsonl", math(solution="\\boxed{٣}"), r"'solution' has digits that the grader does not read: '٣'"),
    ("math", "test.jsonl", math(problem="drop"), r"line 1: field 'problem' is missing"),
    ("math", "test/algebra/1.json", M1[:20], r"1\.json, line 1: malformed JSON"),
    ("math", "test/algebra/1.json", math(solution=3), r"1\.json, line 1: field 'solution' must be text, not 3"),
    ("math", "test/1.json", M1, r"test: holds no SUBJECT/NUMBER\.json files"),
    ("math", "train.jsonl", M1, r"has neither a folder test nor a file test\.jsonl"),
]


@pytest.mark.parametrize(("source", "name", "data", "message"), BAD)
def test_malformed_file(tmp_path, source, name, data, message):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    target = tmp_path if source in ("gsm8k", "math") else tmp_path / {"jsonl": "a.jsonl"}.get(source, name)
    with pytest.raises(ProblemFileError, match=message) as caught:
        load(source, target, "test", split_shares=[0, 0, 1])
    assert str(tmp_path) in str(caught.value) and len(str(caught.value)) < 600 + len(str(tmp_path)) * 2


def test_path_of_the_wrong_kind(tmp_path):
    path = write_jsonl(tmp_path / "train.jsonl", [GSM8K_ROW])
    with pytest.raises(ProblemFileError, match="gsm8k needs the folder"):
        load("gsm8k", path)
    with pytest.raises(ProblemFileError, match="cannot be read: Is a directory"):
        load("jsonl", tmp_path)
    with pytest.raises(ProblemFileError, match=r"SVAMP\.json: cannot be read"):
        load("svamp", tmp_path)


def test_nothing_left(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", numbered(20))
    with pytest.raises(ProblemFileError, match=r"a\.jsonl: split 'test' is empty .*split_shares=\[1, 0, 0\]"):
        load("jsonl", path, "test", split_shares=[1, 0, 0])
    with pytest.raises(ProblemFileError, match="offset 20 leaves none of 20 train problems"):
        load("jsonl", path, split_shares=[1, 0, 0], offset=20)
    write_jsonl(tmp_path / "train.jsonl", [GSM8K_ROW])
    write_jsonl(tmp_path / "test.jsonl", [GSM8K_ROW | {"question": "Other?"}])
    with pytest.raises(ProblemFileError, match=r"split 'validation' is empty .validation_share=0\.0"):
        load("gsm8k", tmp_path, "validation", validation_share=0.0)


# settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"source": "gms8k"},
            "problems.source='gms8k' is none of arithmetic, gsm8k, svamp, asdiv, math, commonsenseqa, jsonl",
        ),
        ({"split": "dev"}, "problems.split='dev' is none of train, validation, test"),
        ({"source": "svamp"}, "problems.path=null: source svamp needs a path: a file or folder, or hub:org/name"),
        ({"source": "svamp", "path": ""}, "problems.path=null: source svamp needs a path"),
        ({"path": "x"}, "problems.path='x': source arithmetic makes its problems"),
        ({"bad_rows": "drop"}, "problems.bad_rows='drop' is none of error, skip"),
        ({"source": "gsm8k", "fields": FieldArgs(answer="target")}, "read by source jsonl only, not by gsm8k"),
        ({"limit": 0}, "problems.limit must be at least 1, not 0"),
        ({"limit": -3}, "not -3"),
        ({"offset": -1}, "problems.offset must be at least 0, not -1"),
        ({"validation_share": 1.0}, r"problems.validation_share must be in \[0, 1\), not 1.0"),
        ({"validation_share": float("nan")}, "not nan"),
        ({"split_shares": [0.5, 0.5]}, r"three shares that sum to 1, not \[0.5, 0.5\]"),
        ({"split_shares": [0.5, 0.2, 0.2]}, "sum to 1"),
        ({"split_shares": [1.5, -0.5, 0.0]}, "sum to 1"),
        ({"split_shares": [float("nan"), 0.5, 0.5]}, "sum to 1"),
    ],
)
def test_validate(settings, message):
    with pytest.raises(ValueError, match=message):
        ProblemArgs(**settings).validate()
    with pytest.raises(ValueError, match=message):
        load_problems(ProblemArgs(**settings))


def test_validate_looks_at_the_world():
    args = ProblemArgs()
    args.world.size = 0
    with pytest.raises(ValueError, match="size"):
        args.validate()


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_conf(source):
    schema = OmegaConf.structured(ProblemArgs)
    text = (ROOT / "conf" / "problems" / f"{source}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# ")
    config = OmegaConf.merge(schema, OmegaConf.create(text))
    assert config.source == source
    if source in ON_HUB:
        assert OmegaConf.to_object(config).path == ON_HUB[source]
    elif source != "arithmetic":
        # OmegaConf merges `???` over a default of None to None, so that it is validate() that asks for the path
        with pytest.raises(ValueError, match=f"source {source} needs a path"):
            OmegaConf.to_object(config).validate()
        config.path = "somewhere"
    args = OmegaConf.to_object(config)
    assert isinstance(args, ProblemArgs)
    args.validate()


# numbers and equations


@pytest.mark.parametrize(
    ("equations", "answer", "solution"),
    [
        (["( 8.0 - 3.0 )"], "5", "8 - 3 = <<8-3=5>>5\n#### 5"),
        (["( ( 5.0 + 3.0 ) * 2.0 )"], "16", "(5 + 3) * 2 = <<(5+3)*2=16>>16\n#### 16"),
        (["( ( 5.0 + 3.0 ) - 2.0 )"], "6", "5 + 3 - 2 = <<5+3-2=6>>6\n#### 6"),
        (["( 9.0 - ( 5.0 - 3.0 ) )"], "7", "9 - (5 - 3) = <<9-(5-3)=7>>7\n#### 7"),
        (["8/(4/2)=4"], "4", "8 / (4 / 2) = <<8/(4/2)=4>>4\n#### 4"),
        (["3 - -4"], "7", "3 - (-4) = <<3-(-4)=7>>7\n#### 7"),
        (["0.60*2=1.2"], "1.2", "0.6 * 2 = <<0.6*2=1.2>>1.2\n#### 1.2"),
        (["1/3"], "1/3", "1 / 3 = <<1/3=1/3>>1/3\n#### 1/3"),
        (["43+19=62", " 62-60=2"], "2", "43 + 19 = <<43+19=62>>62\n62 - 60 = <<62-60=2>>2\n#### 2"),
        (["8.0"], "8", None),
        (["-8"], "-8", None),
        (["8-3=5"], "6", None),
        (["8-3=6"], "6", None),
        (["8-3=6"], "5", None),
        (["1/3"], "0.33", None),
        (["17/5=3 r2"], "3", None),
        (["8-3=", "5+0"], "5", None),
        (["1/0"], "0", None),
        (["1/(2-2)"], "0", None),
        ([""], "0", None),
        ([], "0", None),
        (["2 3"], "23", None),
        (["(2+3"], "5", None),
        (["2+3)"], "5", None),
        (["2+"], "2", None),
        (["2**3"], "8", None),
        (["2^3"], "8", None),
        (["1,000-1"], "999", None),
        (["__import__('os')"], "0", None),
        (["(" * 199], "0", None),
        (["-" * 199 + "1"], "-1", None),
        (["9*" * 150 + "9"], "0", None),
        (["1\ud800+1"], "2", None),
    ],
)
def test_solution_from_equations(equations, answer, solution):
    assert solution_from_equations(equations, Fraction(answer)) == solution


def test_deep_nesting_within_the_limit():
    assert parse_arithmetic("(" * 90 + "1" + ")" * 90).value == 1
    assert parse_arithmetic("(" * 200 + "1" + ")" * 200) is None


TREES = st.recursive(
    st.integers(0, 999).map(str) | st.decimals(0, 99, places=2).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
    max_leaves=8,
)


OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def exact(tree: str) -> Fraction | None:
    """The value by Python's own grammar, every number a Fraction; None for a division by 0."""

    def value(node: ast.expr) -> Fraction:
        if isinstance(node, ast.Constant):
            return Fraction(ast.get_source_segment(tree, node))
        return OPERATIONS[type(node.op)](value(node.left), value(node.right))

    try:
        return value(ast.parse(tree, mode="eval").body)
    except ZeroDivisionError:
        return None


@settings(deadline=None, max_examples=300)
@given(TREES)
def test_arithmetic_agrees_with_python(tree):
    value = exact(tree)
    term = parse_arithmetic(tree)
    if value is None or len(tree) > 200:
        assert term is None
    else:
        assert term.value == value
        assert exact(term.text) == value  # rendered with fewer parentheses, it still means the same


@given(st.text(alphabet="0123456789.+-*/() =x", max_size=60))
def test_arithmetic_never_raises(text):
    parse_arithmetic(text)
    solution_from_equations([text], Fraction(1))


@given(st.fractions())
def test_number_text_there_and_back(value):
    assert plain_number(number_text(value)) == value


@given(st.decimals(-(10**9), 10**9, places=4))
def test_number_text_is_a_decimal_where_one_is_exact(value):
    assert Decimal(number_text(Fraction(value))) == value


@pytest.mark.parametrize("text", ["", "1,80", "1,,000", ",100", "1.", ".5", "1e3", "1/0", "1.5/2", "٣", "NaN", "1 000"])
def test_not_plain_numbers(text):
    assert plain_number(text) is None


def test_join_question():
    assert join_question("He has 3.", "How many?") == "He has 3. How many?"
    assert join_question("He has 3. If he eats one", "How many?") == "He has 3. If he eats one, how many?"
    assert join_question("If he has 3,", "how many?") == "If he has 3, how many?"
    assert join_question("He has 3", "How many?") == "He has 3. How many?"


# anything at all


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(["gsm8k", "svamp", "asdiv", "math", "jsonl"]), st.data())
def test_damaged_files_raise_only_our_error(tmp_path_factory, source, data):
    good = {"gsm8k": G1, "svamp": svamp(), "asdiv": problem_xml().encode(), "math": M1, "jsonl": ONE}[source]
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, min(len(good), start + 8)))
    damaged = good[:start] + data.draw(st.binary(max_size=6)) + good[end:]
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / {"svamp": "SVAMP.json", "asdiv": "ASDiv.xml"}.get(source, "test.jsonl")
    path.write_bytes(damaged)
    try:
        problems = load(source, path if source == "jsonl" else folder, "test", split_shares=[0, 0, 1])
    except ProblemFileError as error:
        assert str(folder) in str(error)
    else:
        assert all(p.question and p.answer and p.question.encode() for p in problems)


def test_row_messages_are_short():
    with pytest.raises(ProblemFileError) as caught:
        SourceRow("f, line 1", 0, {"question": ["x" * 10**6]}).text("question")
    assert len(str(caught.value)) < 250 and "1,000,004 characters" in str(caught.value)


def test_every_named_source_has_a_loader() -> None:
    assert tuple(LOADERS) == SOURCES
