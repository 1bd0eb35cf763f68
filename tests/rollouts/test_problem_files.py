"""Problem files as others publish them: each is read as it is meant, or refused with one line that says why.

The numbers beside some cases are those of public reports: each case stands for its kind.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from refine.train_policy import TRAIN_POLICY, TrainPolicyArgs
from rollouts.problems.args import FieldArgs, ProblemArgs
from rollouts.problems.asdiv import parse_answer
from rollouts.problems.load import load_problems
from rollouts.problems.reading import ProblemFileError, number_text
from rollouts.records import Problem
from rollouts.sampling.args import SamplerArgs
from rollouts.sampling.sample import SAMPLE, SampleArgs
from stages.artifacts import ArtifactError
from stages.bad_rows import SHOWN, BadRows
from stages.make import make
from stages.parents import find_parents
from stages.processes import Processes
from tests.hub_cache import put, use_cache
from tests.tiny import save_policy
from training.args import TrainArgs

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:1e08337133092e7b\nsize 886\n"
WORKED = "6*3 = <<6*3=18>>18 pens\n#### 18"
EQUATION = {"Body": "Ann has 8 pens. She gives away 3.", "Question": "How many are left?", "Equation": "( 8.0 - 3.0 )"}
LEFT = "8 - 3 = <<8-3=5>>5\n#### 5"
PHANTOM = r"So n is \boxed{5}. Check it with the square \boxed{\phantom{x}} below."


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def read(tmp_path: Path, source: str, name: str, content: str | bytes, **settings: Any) -> list[Problem]:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    args = ProblemArgs(source=source, path=str(tmp_path / name), split_shares=[1, 0, 0], **settings)
    return load_problems(args)


@pytest.mark.parametrize(
    ("answer", "found", "solution"),
    [
        (WORKED, "18", WORKED),  # PB04
        ("6*3 = 18\r\n#### 1,080", "1,080", "6*3 = 18\r\n#### 1,080"),
        ("It is so.\n#### x + 1", "x + 1", "It is so.\n#### x + 1"),
        ("#### 18", "18", None),
        (r"\boxed{18}", "18", None),
        (r"$\boxed{x+1}$.", "x+1", None),
        ("18 pens", "18 pens", None),
        ("\\begin{pmatrix} 1 \\\\\n2 \\end{pmatrix}", "\\begin{pmatrix} 1 \\\\\n2 \\end{pmatrix}", None),
        (5634.0, "5634", None),
        (-0.5, "-0.5", None),
    ],
)
def test_answers_of_jsonl(tmp_path, answer, found, solution):
    (problem,) = read(tmp_path, "jsonl", "p.jsonl", lines({"question": "How many?", "answer": answer}))
    assert (problem.answer, problem.solution) == (found, solution)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"answer": "6*3 = 18\n18"}, r"must be the answer alone, not 2 lines: '6\*3 = 18\\n18'"),
        ({"answer": r"6*3 is 18, so \boxed{18}."}, r"must be the answer alone, not a text that states it"),
        ({"answer": "So the answer is 18."}, r"must be the answer alone, not a text that states it"),
        ({"answer": "6*3 #### 18"}, r"must have one '####', at the start of its last line"),
        ({"answer": "6*3\n#### 18\nI checked."}, r"must have one '####', at the start of its last line"),
        ({"answer": "6*3\n####"}, r"field 'answer' gives no answer but ''"),
        ({"answer": r"\boxed{}"}, r"field 'answer' gives no answer but ''"),
        ({"answer": WORKED, "solution": "6*3"}, r"field 'answer' has a solution, and so has 'solution'"),
        ({"answer": "None"}, r"field 'answer' is 'None', which stands for a value that is missing"),
        ({"answer": "null"}, r"field 'answer' is 'null', which stands for"),
        ({"answer": "N/A"}, r"field 'answer' is 'N/A', which stands for"),
        ({"answer": "x\n#### None"}, r"field 'answer' gives no answer but 'None'"),
        ({"answer": None}, r"field 'answer' must be text, not None"),
        ({"question": "None"}, r"field 'question' is 'None', which stands for"),
    ],
)
def test_refused_by_jsonl(tmp_path, fields, message):
    row = {"question": "How many?", "answer": "18"} | fields
    with pytest.raises(ProblemFileError, match=rf"p\.jsonl, line 1: .*{message}"):
        read(tmp_path, "jsonl", "p.jsonl", lines(row))


def test_fields_of_another_file(tmp_path):
    """GSM-Hard's rows."""
    row = {"input": "Ann has 8 pens and 5000000 more.", "code": "def solution(): ...", "target": 5000008.0}
    names = FieldArgs(question="input", answer="target")
    (problem,) = read(tmp_path, "jsonl", "p.jsonl", lines(row), fields=names)
    assert (problem.question, problem.answer, problem.solution) == (row["input"], "5000008", None)
    with pytest.raises(ProblemFileError, match=r"line 1: field 'answer' is missing, there are .*'target'"):
        read(tmp_path, "jsonl", "p.jsonl", lines(row))
    with pytest.raises(ProblemFileError, match=r"problems\.fields\.solution='cot': no row has such a field"):
        read(tmp_path, "jsonl", "p.jsonl", lines(row), fields=FieldArgs("input", "target", "cot"))
    (worked,) = read(
        tmp_path, "jsonl", "p.jsonl", lines({**row, "cot": "x"}), fields=FieldArgs("input", "target", "cot")
    )
    assert worked.solution == "x"


@pytest.mark.parametrize(
    ("solution", "more", "answer"),
    [
        (PHANTOM, {"answer": "5"}, "5"),  # PB06
        (r"It is \boxed{\dfrac{1}{2}}.", {"answer": r"\frac{1}{2}"}, r"\frac{1}{2}"),
        (r"It is \boxed{1,000}.", {"answer": "1000"}, "1000"),
        (r"It is \boxed{\text{east}}.", {"answer": "{east}"}, "{east}"),
        (r"It is \boxed{5}.", {"answer": 5}, "5"),
        ("It is 5.", {"answer": "5"}, "5"),
        (r"$x$ is $\boxed{2}$ or $\boxed{-2}$.", {}, "2, -2"),
        (r"$\boxed{1}, \boxed{2}\text{ and }\boxed{3}$", {}, "1, 2, 3"),
        (r"$\boxed{2}$ or $\boxed{-2}$.", {"answer": "2, -2"}, "2, -2"),
        (r"First \boxed{0.5}. So it is \boxed{\frac12}.", {}, r"\frac12"),
    ],
)
def test_answers_of_math(tmp_path, solution, more, answer):
    (problem,) = read(tmp_path, "math", "m.jsonl", lines({"problem": "Find n.", "solution": solution} | more))
    assert (problem.answer, problem.solution) == (answer, solution)


@pytest.mark.parametrize(
    ("solution", "more", "message"),
    [
        (PHANTOM, {}, r"boxes that differ, '5' and '\\\\phantom{x}': a field 'answer' would say"),
        (r"A first try gave \boxed{4}. It is \boxed{5}.", {}, "boxes that differ, '4' and '5'"),
        (r"It is \boxed{5}.", {"answer": "6"}, "field 'answer' is '6', but the solution's box is '5'"),
        (r"It is \boxed{5}. Or \boxed{}.", {}, r"has no \\boxed{answer}"),
        (r"It is \boxed{None}.", {}, "gives no answer but 'None'"),
        (r"It is \boxed{5}.", {"answer": "None"}, "field 'answer' is 'None', which stands for"),
    ],
)
def test_refused_by_math(tmp_path, solution, more, message):
    with pytest.raises(ProblemFileError, match=rf"m\.jsonl, line 1: .*{message}"):
        read(tmp_path, "math", "m.jsonl", lines({"problem": "Find n.", "solution": solution} | more))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$5.50", "5.5"),
        ("$5.50 (dollars)", "5.5"),
        ("£1,250", "1250"),
        ("20%", "20"),
        ("20 (%)", "20"),
        ("12.5 percent", "12.5"),
        ("3 1/2 (cups)", "3.5"),
        ("3 1/2", "3.5"),
        ("1 1/3 cups", "4/3"),
        ("9 apples", "9"),
        ("9 square feet", "9"),
        ("-(1/3) (miles)", "-1/3"),
        ("7 p.m.", None),
        ("7 am", None),
        ("8 o'clock", None),
        ("6 by 12 inches", None),
        ("5 ft 3 in", None),
        ("3 dozen", None),
        ("17 r 2", None),
        ("$5 and $6", None),
        ("3 7/2", None),
        ("5 or 6", None),
        ("about 5", None),
    ],
)
def test_answers_of_asdiv(text, value):
    found = parse_answer(text)
    assert (found if found is None else number_text(found)) == value


@pytest.mark.parametrize("answer", ["5.0", "5", 5, 5.0])  # PB43
@pytest.mark.parametrize("layout", ["list", "lines", "jsonl", "parquet"])
def test_svamp_as_others_publish_it(tmp_path, answer, layout):
    rows = [EQUATION | {"ID": "1", "Answer": answer, "Type": "Subtraction"}]
    name = {"list": "SVAMP.json", "lines": "SVAMP.json", "jsonl": "svamp.jsonl", "parquet": "svamp.parquet"}[layout]
    if layout == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
        content: str | bytes = (tmp_path / name).read_bytes()
    else:
        content = json.dumps(rows) if layout == "list" else lines(*rows)
    (problem,) = read(tmp_path, "svamp", name, content)
    assert (problem.answer, problem.solution) == ("5", LEFT)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("jsonl", "p.jsonl"),
        ("jsonl", "p.parquet"),
        ("math", "m.jsonl"),
        ("svamp", "SVAMP.json"),
        ("asdiv", "ASDiv.xml"),
    ],
)
def test_git_lfs_pointer(tmp_path, source, name):  # PB61
    with pytest.raises(ProblemFileError, match=rf"{name}: a Git LFS pointer .* `git lfs pull`"):
        read(tmp_path, source, name, POINTER)


def test_git_lfs_pointers_of_gsm8k(tmp_path):
    (tmp_path / "main").mkdir()
    (tmp_path / "main" / "test-00000-of-00001.parquet").write_text(POINTER)
    with pytest.raises(ProblemFileError, match=r"test-00000-of-00001\.parquet: a Git LFS pointer"):
        load_problems(ProblemArgs(source="gsm8k", path=str(tmp_path), split="test"))


def test_byte_order_marks(tmp_path):
    """Two files of Windows, put together."""
    row = {"question": "How many?", "answer": 5}
    content = b"\xef\xbb\xbf" + lines(row).encode() + b"\xef\xbb\xbf" + lines(row).encode()
    assert [problem.answer for problem in read(tmp_path, "jsonl", "p.jsonl", content)] == ["5", "5"]
    xml = "<Problem><Body>A.</Body><Question>B?</Question><Answer>2</Answer><Formula>1+1</Formula></Problem>"
    assert read(tmp_path, "asdiv", "ASDiv.xml", b"\xef\xbb\xbf" + xml.encode())[0].answer == "2"


def test_gsm8k_as_the_hub_has_it(tmp_path):
    folder = tmp_path / "main"
    folder.mkdir()
    rows = [{"question": f"Q{n}?", "answer": f"1+{n} = {n + 1}\n#### {n + 1}"} for n in range(3)]
    pq.write_table(pa.Table.from_pylist(rows[:2]), folder / "train-00000-of-00001.parquet")
    pq.write_table(pa.Table.from_pylist(rows[2:]), folder / "test-00000-of-00001.parquet")
    for path in (tmp_path, folder):
        args = ProblemArgs(source="gsm8k", path=str(path), validation_share=0.0)
        assert [problem.answer for problem in load_problems(args)] == ["1", "2"]


def test_math_as_the_hub_has_it(tmp_path):
    for n, subject in enumerate(("algebra", "geometry")):
        (tmp_path / subject).mkdir()
        for side in ("train", "test"):
            row = {"problem": f"{subject} {side}?", "solution": rf"\boxed{{{n}}}", "level": "Level 1", "type": subject}
            pq.write_table(pa.Table.from_pylist([row]), tmp_path / subject / f"{side}-00000-of-00001.parquet")
    problems = load_problems(ProblemArgs(source="math", path=str(tmp_path), validation_share=0.0))
    assert [(p.id, p.question, p.answer) for p in problems] == [
        ("math/train/0", "algebra train?", "0"),
        ("math/train/1", "geometry train?", "1"),
    ]


# a set of the hub needs no path


@pytest.mark.parametrize(("source", "path"), [("gsm8k", "hub:openai/gsm8k"), ("math", "hub:EleutherAI/hendrycks_math")])
def test_no_path_means_the_hub(tmp_path, monkeypatch, source, path):
    cache = use_cache(tmp_path / "cache", monkeypatch)
    with pytest.raises(
        ProblemFileError, match=rf"^problems\.path: {path} .*HF_HUB_OFFLINE is set.*; a folder can be named instead$"
    ):
        load_problems(ProblemArgs(source=source))
    with pytest.raises(ArtifactError, match=rf"^problems\.path: {path} .*; a folder can be named instead$"):
        find_parents(SampleArgs(str(tmp_path), ProblemArgs(source=source)), Processes())
    folder = tmp_path / "source"
    folder.mkdir()
    row = {"question": "Q?", "answer": WORKED, "problem": "Q?", "solution": r"\boxed{18}"}
    (folder / "test.jsonl").write_text(lines(row if source == "gsm8k" else row | {"answer": 18}))
    put(cache, path.removeprefix("hub:"), folder, kind="dataset")
    use_cache(cache, monkeypatch)
    (problem,) = load_problems(ProblemArgs(source=source, split="test"))
    assert problem.answer == "18"


# rows that cannot be used

ROWS = [
    {"problem": "P1", "solution": r"So \boxed{}."},
    {"problem": "P2", "solution": r"\boxed{3}"},
    {"problem": "P3", "error": "'text'"},
]


def test_bad_rows_are_an_error_or_counted_and_named(tmp_path, caplog):  # PB44
    with pytest.raises(ProblemFileError, match=r"m\.jsonl, line 1: .*no \\boxed"):
        read(tmp_path, "math", "m.jsonl", lines(*ROWS))
    args = ProblemArgs(source="math", path=str(tmp_path / "m.jsonl"), split_shares=[1, 0, 0], bad_rows="skip")
    bad = BadRows("skip")
    with caplog.at_level(logging.WARNING):
        (problem,) = load_problems(args, bad)
    assert (problem.id, problem.answer) == ("math/train/1", "3")  # its number in the file
    assert bad.count == 2 and "line 1: " in bad.named[0] and "line 3: field 'solution' is missing" in bad.named[1]
    assert "2 rows that cannot be used are left out, the first: " in caplog.text


@pytest.mark.parametrize(
    ("source", "name", "good", "wrong"),
    [
        ("jsonl", "p.jsonl", {"question": "A?", "answer": 1}, {"question": "B?", "answer": None}),
        ("svamp", "s.jsonl", EQUATION | {"Answer": 5}, EQUATION | {"Answer": "five"}),
    ],
)
def test_bad_rows_of_every_source(tmp_path, source, name, good, wrong):
    many = [wrong] * (SHOWN + 5)
    (problem,) = read(tmp_path, source, name, lines(*many, good), bad_rows="skip")
    assert problem.id == f"{source}/train/{len(many)}"
    with pytest.raises(ProblemFileError, match=r"line 1: "):
        read(tmp_path, source, name, lines(*many, good))
    with pytest.raises(ProblemFileError, match=r"split 'train' is empty .*bad rows: 25"):
        read(tmp_path, source, name, lines(*many), bad_rows="skip")
    with pytest.raises(ProblemFileError, match="line 2: malformed JSON"):  # not a row but the file is broken
        read(tmp_path, source, name, lines(good) + "{\n" + lines(good), bad_rows="skip")


def test_bad_rows_of_gsm8k_and_asdiv(tmp_path):
    for side in ("train", "test"):
        (tmp_path / f"{side}.jsonl").write_text(lines({"question": f"{side}?", "answer": WORKED}, {"question": "Q?"}))
    (problem,) = load_problems(ProblemArgs(source="gsm8k", path=str(tmp_path), validation_share=0, bad_rows="skip"))
    assert problem.question == "train?"
    body = "<Body>A.</Body><Question>B?</Question><Answer>2</Answer>"
    xml = f"<S><Problem ID='a'>{body}</Problem><Problem ID='b'>{body}<Formula>1+1</Formula></Problem></S>"
    (problem,) = read(tmp_path, "asdiv", "ASDiv.xml", xml, bad_rows="skip")
    assert problem.id == "asdiv/train/1"


def test_a_manifest_names_bad_rows(tmp_path):
    rows = [{"question": "A?", "answer": WORKED}, {"question": "B?"}]
    (tmp_path / "p.jsonl").write_text(lines(*rows))
    problems = ProblemArgs(source="jsonl", path=str(tmp_path / "p.jsonl"), split_shares=[1, 0, 0], bad_rows="skip")
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "script.json").write_text(json.dumps({"*": ["#### 18"]}))
    sampled = SampleArgs(str(tmp_path / "policy"), problems, SamplerArgs(backend="scripted"), n=1)
    start, train = save_policy(tmp_path / "start"), TrainArgs(max_steps=1, tokens_per_step=64, device="cpu")
    for stage, args in (
        (SAMPLE, sampled),
        (TRAIN_POLICY, TrainPolicyArgs(policy=start, problems=problems, train=train)),
    ):
        manifest = make(stage, args, tmp_path)[0].manifest
        assert manifest["counts"]["bad_rows"] == 1
        assert "p.jsonl, line 2: field 'answer' is missing" in manifest["notes"]["bad row 1"]


# multiple choice

AUTHORS = {
    "id": "1a",
    "answerKey": "B",
    "question": {
        "question_concept": "money",
        "stem": "Where is money kept?",
        "choices": [{"label": "A", "text": "sea"}, {"label": "B", "text": "bank"}],
    },
}
HUB = {
    "id": "1a",
    "question": "Where is money kept?",
    "question_concept": "money",
    "choices": {"label": ["A", "B"], "text": ["sea", "bank"]},
    "answerKey": "B",
}


@pytest.mark.parametrize("layout", ["hub", "lines", "authors"])
def test_commonsenseqa(tmp_path, layout):
    own = AUTHORS if layout == "authors" else HUB
    names = {
        "authors": ("train_rand_split.jsonl", "dev_rand_split.jsonl"),
        "lines": ("train.jsonl", "validation.jsonl"),
    }
    if layout == "hub":
        (tmp_path / "data").mkdir()
        for side in ("train", "validation"):
            pq.write_table(pa.Table.from_pylist([own]), tmp_path / "data" / f"{side}-00000-of-00001.parquet")
    else:
        train, test = names[layout]
        (tmp_path / train).write_text(lines(own))
        (tmp_path / test).write_text(lines(own))
    (problem,) = load_problems(ProblemArgs(source="commonsenseqa", path=str(tmp_path), split="test"))
    question = "Where is money kept?\nAnswer choices: (A) sea (B) bank"
    expected = ("commonsenseqa/test/0", question, "(B) bank", None)
    assert (problem.id, problem.question, problem.answer, problem.solution) == expected
    with pytest.raises(ProblemFileError, match="split 'train' is empty"):  # its question is one of the test file
        load_problems(ProblemArgs(source="commonsenseqa", path=str(tmp_path)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"answerKey": ""}, "field 'answerKey' is empty"),  # the published test file
        ({"answerKey": "F"}, r"field 'answerKey' is 'F', and the choices are \['A', 'B'\]"),
        ({"choices": {"label": ["A"], "text": ["sea", "bank"]}}, "field 'choices' must have a letter and a text each"),
        ({"choices": {"label": ["B", "B"], "text": ["sea", "bank"]}}, "field 'choices' must have a letter and a text"),
        (
            {"choices": {"label": ["1", "2"], "text": ["sea", "bank"]}},
            r"field 'choices' must be labelled with letters, not \['1', '2'\]",
        ),
        ({"choices": ["sea", "bank"]}, "field 'choices' must have a letter and a text each"),
        ({"choices": None}, "field 'choices' must have a letter and a text each, not None"),
    ],
)
def test_refused_by_commonsenseqa(tmp_path, fields, message):
    (tmp_path / "validation.jsonl").write_text(lines(HUB | fields))
    with pytest.raises(ProblemFileError, match=rf"validation\.jsonl, line 1: {message}"):
        load_problems(ProblemArgs(source="commonsenseqa", path=str(tmp_path), split="test"))
