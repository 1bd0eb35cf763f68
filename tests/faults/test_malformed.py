"""Malformed inputs of every kind, met the way a user meets them: each ends in an error that names the file and line (or
the row), or in a quarantined row with its reason while the rest goes on. None is silent, none is a traceback."""

from __future__ import annotations

import json
import logging
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments import sample as sample_command
from refine.students.shipped import find_start
from rewards.labels.stepwise import LABEL_STEPS, LabelArgs
from rollouts.backends.scripted import ScriptedSampler
from rollouts.problems.args import ProblemArgs
from rollouts.problems.load import load_problems
from rollouts.problems.reading import ProblemFileError
from rollouts.records import Candidate, Judgement, Rollout
from rollouts.sampling.args import SamplerArgs
from rollouts.sampling.collect import collect
from rollouts.sampling.protocol import Request, Sampler, load_sampler
from rollouts.sampling.sample import SAMPLE, SampleArgs
from stages.artifacts import Artifact, ArtifactError, open_artifact
from stages.files import StoreError
from stages.journal import Entry, Journal, JournalIndex, _seal, read
from stages.make import make
from stages.rows import read_rows, schema_of, write_rows
from stages.workspace import Quarantined, Untracked, Workspace

JSONL = {"question": "What is 6 times 7?", "answer": 42}
GSM8K = {"question": "Ann has 2 pens and buys 3. How many?", "answer": "2+3 = <<2+3=5>>5\n#### 5"}
SVAMP = {"Body": "Dan had 8 nuts.", "Question": "How many are left?", "Equation": "( 8.0 - 3.0 )", "Answer": 5.0}
MATH = {"problem": "What is $1+1$?", "solution": "It is $\\boxed{2}$."}
FILES = {"jsonl": "a.jsonl", "gsm8k": "test.jsonl", "svamp": "SVAMP.json", "asdiv": "ASDiv.xml", "math": "test.jsonl"}
FOLDER = "a folder"
PROMPT = "Q: Ann has 7 pens. How many pens does Ann have?\n"


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def jsonl(**fields: Any) -> bytes:
    """A good line, and a second one with these fields (those that are ... are left out)."""
    row = {name: value for name, value in (JSONL | fields).items() if value is not ...}
    return ONE + json.dumps(row).encode() + b"\n"


def number(text: str) -> bytes:
    return ONE + b'{"question": "How many?", "answer": ' + text.encode() + b"}\n"


def gsm8k(answer: str) -> bytes:
    return lines(GSM8K, GSM8K | {"answer": answer})


def svamp(**fields: Any) -> bytes:
    row = {name: value for name, value in (SVAMP | fields).items() if value is not ...}
    return f"[\n{json.dumps(SVAMP)},\n{json.dumps(row)}]".encode()


def asdiv(**fields: str | None) -> bytes:
    texts = {"Body": "Two pens lie here.", "Question": "How many?", "Answer": "2 (pens)", "Formula": "1+1=2"} | fields
    inside = "".join(f"<{name}>{text}</{name}>\n" for name, text in texts.items() if text is not None)
    return f"<Root>\n<Problem ID='p1'>\n{inside}</Problem>\n</Root>".encode()


ONE = lines(JSONL)
LONG = lines(JSONL | {"question": "pens " * 10**6})
DEEP = b"[" * 100_000 + b"]" * 100_000
TORN = r", line 2: malformed JSON: "

# name: (source, bytes, what the error says after the file's name)
BAD_FILES: dict[str, tuple[str, bytes | str | None, str]] = {
    "missing file": ("jsonl", None, r": cannot be read: No such file"),
    "missing file of gsm8k": ("gsm8k", None, r": cannot be read: No such file"),
    "folder in place of a file": ("jsonl", FOLDER, r": cannot be read: Is a directory"),
    "folder in place of SVAMP.json": ("svamp", FOLDER, r": cannot be read: Is a directory"),
    "empty": ("jsonl", b"", r": the file is empty"),
    "empty svamp": ("svamp", b"", r": the file is empty"),
    "empty asdiv": ("asdiv", b"", r": the file is empty"),
    "blank lines only": ("gsm8k", b"\n \r\n\t\n", r": the file is empty"),
    "byte order mark only": ("jsonl", b"\xef\xbb\xbf\n", r": the file is empty"),
    "binary": ("jsonl", ONE + bytes(range(256)), r", line 2: NUL byte"),
    "binary svamp": ("svamp", b"\x80\x04\x95\x0b" * 9, r", line 1: not UTF-8: byte 0x80"),
    "NUL bytes": ("gsm8k", lines(GSM8K) + b"\0" * 512, r", line 2: NUL byte at byte \d+"),
    "NUL in xml": ("asdiv", asdiv(Body="a\0b"), r", line 3: NUL byte"),
    "latin-1": ("jsonl", ONE + '{"question": "café?", "answer": 1}'.encode("latin-1"), r", line 2: not UTF-8: .*0xe9"),
    "latin-1 xml": ("asdiv", asdiv(Body="café.").decode().encode("latin-1"), r", line 3: not UTF-8: byte 0xe9"),
    "utf-16": ("jsonl", ONE.decode().encode("utf-16"), r", line 1: NUL byte"),
    "utf-16 without a mark": ("math", lines(MATH).decode().encode("utf-16-le"), r", line 1: NUL byte"),
    "surrogate as bytes": ("jsonl", ONE + b'{"question": "a\xed\xa0\x80", "answer": 1}', r", line 2: not UTF-8"),
    "torn line": ("jsonl", ONE + ONE[:-9], TORN),
    "torn in the middle": ("gsm8k", lines(GSM8K) + lines(GSM8K)[:30] + lines(GSM8K), TORN),
    "torn svamp": ("svamp", svamp()[:-9], r", line 3: malformed JSON"),
    "torn xml": ("asdiv", asdiv()[:-30], r", line \d: malformed XML"),
    "two rows in a line": ("jsonl", ONE + ONE[:-1] + ONE, TORN + "Extra data"),
    "torn line of 5 MB": ("jsonl", ONE + LONG[:-30], TORN),
    "trailing comma": ("jsonl", ONE + b'{"question": "Q?", "answer": 1,}', TORN),
    "trailing comma in a list": ("svamp", svamp()[:-1] + b",]", r", line 3: malformed JSON"),
    "comment": ("jsonl", ONE + b"// that was all\n", TORN),
    "comment svamp": ("svamp", b"/* all of them */" + svamp(), r", line 1: malformed JSON"),
    "single quotes": ("jsonl", ONE + b"{'question': 'Q?', 'answer': 1}", TORN),
    "csv": ("jsonl", ONE + b"question,answer\n", TORN),
    "raw tab in a text": ("jsonl", ONE + b'{"question": "a\tb", "answer": 1}', TORN + "Invalid control character"),
    "top-level array": ("jsonl", ONE + lines([JSONL]), r", line 2: expected an object with fields, not \[\{"),
    "array that is pretty": ("jsonl", json.dumps([JSONL], indent=1).encode(), r", line 1: malformed JSON"),
    "object of others in place of the list": ("svamp", lines({"a": 1}), r", line 1: field 'Answer' is missing"),
    "list in place of an object": ("svamp", b"[\n[1]]", r", line 2: expected an object with fields, not \[1\]"),
    "null line": ("math", lines(MATH, None), r", line 2: expected an object with fields, not None"),
    "number as a line": ("gsm8k", lines(GSM8K, 7), r", line 2: expected an object with fields, not 7"),
    "very deep": ("jsonl", ONE + DEEP, TORN + ".*recursion"),
    "very deep within a field": ("jsonl", ONE + b'{"question": "Q?", "answer": 1, "x": ' + DEEP + b"}", TORN),
    "very deep svamp": ("svamp", DEEP, r", line 1: malformed JSON: .*recursion"),
    "very deep xml": ("asdiv", b"<a>" * 100_000, r", line 1: malformed XML"),
    "duplicate ids": ("jsonl", ONE + lines(JSONL | {"id": "x"}) * 2, r", line 3: id 'x' is also that of .*, line 2"),
    "ids that are the same text": ("jsonl", lines(JSONL | {"id": 1}, JSONL | {"id": "1"}), r", line 2: id '1' is also"),
    "id like a row's number": ("jsonl", jsonl(id=0), r", line 2: id '0' is also"),
    "id of white space": ("jsonl", jsonl(id=" "), r", line 2: field 'id' is empty"),
    "id that is a list": ("jsonl", jsonl(id=[1]), r", line 2: field 'id' must be text, not \[1\]"),
    "id with half a character": ("jsonl", jsonl(id="\ud800"), r", line 2: field 'id' holds a NUL or a lone surrogate"),
    "duplicate keys": ("jsonl", number('1, "answer": 2'), r", line 2: .*given twice: \['answer'\]"),
    "duplicate keys within": ("jsonl", number('1, "x": {"a": 1, "a": 2}'), r", line 2: .*given twice: \['a'\]"),
    "duplicate elements": ("asdiv", asdiv(Body="A</Body><Body>B"), r", line 2, .*: field 'Body' is given twice"),
    "NaN": ("jsonl", number("NaN"), TORN + "NaN is not a number"),
    "Infinity": ("svamp", svamp(Answer=float("inf")), r", line 1: malformed JSON: Infinity is not a number"),
    "nan as text": ("jsonl", jsonl(answer="nan"), r", line 2: field 'answer' is 'nan', which stands for a value"),
    "NaN as a question": ("gsm8k", lines(GSM8K | {"question": "NaN"}), r", line 1: field 'question' is 'NaN'"),
    "nan as a final answer": ("gsm8k", gsm8k("2+3\n#### nan"), r", line 2: .* a number n, not 'nan'"),
    "nan in a box": ("math", lines(MATH, MATH | {"solution": r"\boxed{NaN}"}), r", line 2: .* no answer but 'NaN'"),
    "1e999999999": ("jsonl", number("1e999999999"), r", line 2: field 'answer' is out of range: 1E\+999999999"),
    "1e999999999 in svamp": ("svamp", svamp().replace(b"5.0}]", b"1e999999999}]"), r", line 3: .* out of range"),
    "1e-999999999": ("jsonl", number("1e-999999999"), r", line 2: field 'answer' is out of range: 1E-999999999"),
    "exponent beyond all": ("jsonl", number("1e99999999999999999999"), r", line 2: "),
    "integer of 32 digits": ("jsonl", number("9" * 32), r", line 2: field 'answer' is out of range: 9{32}"),
    "integer of 5000 digits": ("jsonl", number("9" * 5000), TORN),
    "number of the wrong type": ("svamp", svamp(Answer="five"), r", line 3: .*'Answer' must be a number, not 'five'"),
    "missing field": ("jsonl", jsonl(answer=...), r", line 2: field 'answer' is missing, there are \['question'\]"),
    "missing element": ("asdiv", asdiv(Answer=None), r", line 2, problem 'p1': field 'Answer' is missing"),
    "empty field": ("jsonl", jsonl(question=""), r", line 2: field 'question' is empty: ''"),
    "empty answer": ("svamp", svamp(Equation=""), r", line 3: field 'Equation' is empty"),
    "white space": ("gsm8k", lines(GSM8K | {"question": "\u00a0\u2003\t"}), r", line 1: field 'question' is empty"),
    "invisible text": ("jsonl", jsonl(question="\u200b\ufeff"), r", line 2: field 'question' is empty: '.u200b.ufeff'"),
    "null": ("jsonl", jsonl(question=None), r", line 2: field 'question' must be text, not None"),
    "mixed types": ("jsonl", jsonl(question=5), r", line 2: field 'question' must be text, not 5"),
    "true for a number": ("svamp", svamp(Answer=True), r", line 3: field 'Answer' must be a number, not True"),
    "object for a text": ("math", lines(MATH, MATH | {"problem": {"a": 1}}), r", line 2: .* text, not \{'a': 1\}"),
    "element within a text": ("asdiv", asdiv(Body="a <b>c</b>"), r", line 2, .*must be text, but holds an element 'b'"),
    "entity": ("asdiv", b"<!DOCTYPE r [<!ENTITY a 'ha'>]>" + asdiv(Body="&a;"), r", line 1: declares the entity 'a'"),
    "lone surrogate": ("jsonl", jsonl(question="a\ud800b"), r", line 2: .* lone surrogate: 'a.ud800b'"),
    "NUL as an escape": ("jsonl", jsonl(answer="4\0"), r", line 2: field 'answer' holds a NUL"),
    "Arabic-Indic digits": ("jsonl", jsonl(answer="٤٢"), r", line 2: .* digits that the grader does not read: '٤٢'"),
    "Arabic-Indic digits in gsm8k": ("gsm8k", gsm8k("x\n#### ٤٢"), r", line 2: .* a number n, not '٤٢'"),
    "full-width digits in gsm8k": ("gsm8k", gsm8k("x\n#### ４２"), r", line 2: .* a number n, not '４２'"),
    "Arabic-Indic digits only": ("asdiv", asdiv(Answer="٤٢"), r": none of the 1 problems has one number as its answer"),
    "gold without ####": ("gsm8k", gsm8k("The answer is 5."), r", line 2: field 'answer' has no line '#### n'"),
    "gold without steps": ("gsm8k", gsm8k("#### 5"), r", line 2: field 'answer' has no solution before its '####'"),
    "gold with two answers": ("gsm8k", gsm8k("2\n#### 4\n#### 5"), r", line 2: field 'answer' must have one '####'"),
    "gold that goes on": ("gsm8k", gsm8k("2\n#### 5\nDone."), r", line 2: .* of its last line: '2.n#### 5.nDone.'"),
    "solution without steps": ("jsonl", jsonl(solution="#### 42"), r", line 2: .* no step before its '####'"),
    "solution of another answer": ("jsonl", jsonl(solution="6*7\n#### 41"), r", line 2: .*41', but the answer is 42"),
    "solution that is a list": ("jsonl", jsonl(solution=["a"]), r", line 2: field 'solution' must be text"),
    "no box": ("math", lines(MATH, MATH | {"solution": "It is 2."}), r", line 2: field 'solution' has no .boxed"),
}  # fmt: skip

# name: (source, bytes, the answers that must come out, exactly)
GOOD_FILES: dict[str, tuple[str, bytes, list[str]]] = {
    "svamp, a row a line": ("svamp", lines(SVAMP), ["5"]),
    "svamp, a number as text": ("svamp", svamp(Answer="5"), ["5", "5"]),
    "byte order mark": ("jsonl", b"\xef\xbb\xbf" + ONE, ["42"]),
    "byte order mark xml": ("asdiv", b"\xef\xbb\xbf" + asdiv(), ["2"]),
    "CRLF": ("jsonl", (ONE * 2).replace(b"\n", b"\r\n"), ["42", "42"]),
    "CRLF within a solution": ("gsm8k", gsm8k("2+3\r\n#### 5"), ["5", "5"]),
    "blank lines between": ("jsonl", b"\n\n" + ONE + b" \n" + ONE + b"\n", ["42", "42"]),
    "no line feed at the end": ("jsonl", ONE + ONE[:-1], ["42", "42"]),
    "integer of 30 digits": (
        "jsonl",
        number("123456789012345678901234567891"),
        ["42", "123456789012345678901234567891"],
    ),
    "30 digits after the point": ("jsonl", number("0." + "1" * 30), ["42", "0." + "1" * 30]),
    "30 digits in svamp": ("svamp", svamp(Answer=10**30 - 1), ["5", "9" * 30]),
    "30 digits in gsm8k": ("gsm8k", gsm8k("x\n#### " + "7" * 30), ["5", "7" * 30]),
    "line of 5 MB": ("jsonl", ONE + LONG, ["42", "42"]),
    "full-width digits": ("jsonl", jsonl(answer="４２"), ["42", "４２"]),  # the grader reads them: see below
    "a whole character as two escapes": ("jsonl", jsonl(question="😀?"), ["42", "42"]),
    "minus nothing": ("jsonl", number("-0.0"), ["42", "0"]),
}


def put(folder: Path, source: str, data: bytes | str | None) -> ProblemArgs:
    path = folder / FILES[source]
    if data == FOLDER:
        path.mkdir()
    elif data is not None:
        path.write_bytes(data)
    whole = source in ("jsonl", "math")
    return ProblemArgs(source=source, path=str(path if whole else folder), split="test", split_shares=[0, 0, 1])


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_problem_file_is_named_with_its_line(tmp_path, name):
    source, data, message = BAD_FILES[name]
    with pytest.raises(ProblemFileError) as caught:
        load_problems(put(tmp_path, source, data))
    text = str(caught.value)
    assert text.startswith(str(tmp_path / FILES[source]))
    assert re.match(message, text.removeprefix(str(tmp_path / FILES[source]))), text
    assert len(text) < 500 + 2 * len(str(tmp_path))


@pytest.mark.parametrize("name", GOOD_FILES)
def test_a_file_that_only_looks_bad_is_read_exactly(tmp_path, name):
    source, data, answers = GOOD_FILES[name]
    assert [problem.answer for problem in load_problems(put(tmp_path, source, data))] == answers


def test_full_width_digits_are_what_the_grader_reads(tmp_path):
    args = SampleArgs(
        script(tmp_path / "policy", {"*": ["6*7\n#### 42"]}), put(tmp_path, "jsonl", jsonl(answer="４２"))
    )
    rows = sampled(args, tmp_path).rows(Rollout)
    assert [row.correct for row in rows] == [True, True]


# the command


def script(folder: Path, texts: dict[str, list[str]]) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "script.json").write_text(json.dumps(texts))
    return str(folder)


def sampled(args: SampleArgs, tmp_path: Path) -> Artifact:
    """The artifact of a scripted policy, one sample a problem."""
    args.n, args.sampler = 1, SamplerArgs(backend="scripted")
    return make(SAMPLE, args, tmp_path / "artifacts")[0]


def run_sample(monkeypatch, capsys, folder: Path, *argv: str) -> tuple[int, str]:
    """Exit code and stderr of `python -m experiments.sample` with these arguments, in this process."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["sample", f"policy={folder / 'policy'}", "sampler.backend=scripted", *argv])
    handler, root = signal.getsignal(signal.SIGTERM), logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    try:
        sample_command.main()
        code = 0
    except SystemExit as stopped:
        code = stopped.code
    finally:
        signal.signal(signal.SIGTERM, handler)
        root.setLevel(level)
        root.handlers[:] = handlers
    return code, capsys.readouterr().err


@pytest.mark.parametrize("name", ["torn line", "latin-1", "duplicate ids", "missing file", "gold without ####"])
def test_the_command_says_it_in_one_line(tmp_path, monkeypatch, capsys, name):
    source, data, message = BAD_FILES[name]
    path = put(tmp_path, source, data).path
    script(tmp_path / "policy", {"*": ["#### 0"]})
    argv = (f"problems={source}", f"problems.path={path}", "problems.split=test", "n=1")
    code, err = run_sample(monkeypatch, capsys, tmp_path, *argv)
    # a path that is not there is refused as a parent, before anything is read
    wanted = r": there is no such file" if name == "missing file" else message
    assert code == 2 and re.fullmatch(rf"error: .*{re.escape(str(tmp_path / FILES[source]))}{wanted}.*\n", err), err
    assert not list(tmp_path.glob("artifacts/sample/*/manifest.json"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"*": ["a"', r"script\.json, line 1: malformed JSON"),
        ('{"*": [1]}', r"script\.json: '\*' must have a list of texts, not \[1\]"),
        ('{"x": ["a"]}', r"the script has no text for request 'arithmetic/train/0'"),
        ("[]", r"script\.json: a script maps names to lists"),
    ],
)
def test_the_command_with_a_bad_policy(tmp_path, monkeypatch, capsys, text, message):
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "script.json").write_text(text)
    code, err = run_sample(monkeypatch, capsys, tmp_path, "problems.limit=1", "n=1")
    assert code == 2 and re.fullmatch(rf"error: .*{message}.*", err.splitlines()[-1]), err
    assert "Traceback" not in err and not list(tmp_path.glob("artifacts/sample/*/manifest.json"))


# prompts

# name: (what the request has, the reason that the student's backend gives, and that of a script, which has no context)
STUDENT = json.loads((Path(find_start("shipped")) / "config.json").read_text())
KNOWN, CONTEXT = STUDENT["vocab_size"], STUDENT["max_position_embeddings"]
LONGER, IDS = rf"prompt tokens and max_tokens=\d+ are more than the model's context of {CONTEXT}", "text or token ids"
PROMPTS: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "empty": ({"prompt": ""}, "the prompt is empty", "the prompt is empty"),
    "no token ids": ({"prompt": ()}, "the prompt is empty", "the prompt is empty"),
    "over-long": ({"prompt": PROMPT * CONTEXT}, LONGER, None),
    "over-long ids": ({"prompt": (5,) * CONTEXT}, f"{CONTEXT} {LONGER}", None),
    "over-long prefix": ({"prompt": PROMPT, "prefix": "7 pens\n" * CONTEXT}, LONGER, None),
    "max_tokens over the context": ({"prompt": PROMPT, "max_tokens": CONTEXT}, LONGER, None),
    "huge max_tokens": ({"prompt": PROMPT, "max_tokens": 10**9}, LONGER, None),
    "token id over the vocabulary": ({"prompt": (5, KNOWN)}, f"token {KNOWN}, but the model knows only {KNOWN}", None),
    "huge token id": ({"prompt": (2**70,)}, f"token {2**70}, but the model knows only {KNOWN}", None),
    "negative token id": ({"prompt": (5, -1)}, f"token -1, but the model knows only {KNOWN}", None),
    "fractional token id": ({"prompt": (1.5,)}, IDS + r", not \(1\.5,\)", IDS),
    "text as a token id": ({"prompt": ("a",)}, IDS + r", not \('a',\)", IDS),
    "bytes": ({"prompt": b"Q: "}, IDS + ", not b'Q: '", IDS),
    "nothing": ({"prompt": None}, IDS + ", not None", IDS),
    "lone surrogate": ({"prompt": "a\ud800"}, r"lone surrogate '.ud800'", "lone surrogate"),
    "lone surrogate in a prefix": ({"prompt": PROMPT, "prefix": "\udfff"}, r"surrogate '.udfff'", "lone surrogate"),
}


@pytest.fixture(scope="module")
def student() -> Iterator[Sampler]:
    with closing(load_sampler(find_start("shipped"), SamplerArgs(max_tokens=4, device="cpu"))) as sampler:
        yield sampler


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Workspace]:
    (tmp_path / "work").mkdir()
    with closing(Workspace(tmp_path / "work", {}, Untracked())) as space:
        yield space


def left_out(work: Workspace) -> dict[str, str]:
    work.finish()
    return {one.id: one.reason for one in read_rows(work.folder / "quarantine.parquet", Quarantined)}


def test_bad_prompts_are_put_aside_and_the_others_sampled(student, work, caplog):
    requests = [Request(name, **settings) for name, (settings, _, _) in PROMPTS.items()]
    with caplog.at_level(logging.WARNING):
        found = collect(student, [*requests[:5], Request("good", PROMPT, n=2), *requests[5:]], work, "draw")
    assert [sample.finish_reason for sample in found["good"]] == ["length"] * 2
    assert all(found[name][0].finish_reason == "refused" and not found[name][0].text for name in PROMPTS)
    reasons = left_out(work)
    assert set(reasons) == set(PROMPTS) and f"{len(PROMPTS)} of {len(PROMPTS) + 1} requests" in caplog.text
    for name, (_, reason, _) in PROMPTS.items():
        assert re.search(reason, reasons[name]), (name, reasons[name])


def test_bad_prompts_of_a_script_are_put_aside(tmp_path, work):
    sampler = load_sampler(script(tmp_path / "policy", {"*": ["one"]}), SamplerArgs(backend="scripted"))
    requests = [Request(name, **settings) for name, (settings, _, _) in PROMPTS.items()]
    found = collect(sampler, [*requests, Request("good", PROMPT)], work, "draw")
    assert found["good"][0].text == "one"
    reasons = left_out(work)
    for name, (_, _, reason) in PROMPTS.items():
        assert (reason is None and name not in reasons) or re.search(reason, reasons[name])


@pytest.mark.parametrize(
    "text", ["a\0b", "</s>", f"{PROMPT}</s></s>", "<pad><s>", "😀", "\u202etxet", "\x1b[31m", "Q:\r\n", "\n", " "]
)
def test_strange_text_is_text(student, work, text):
    """Nothing in it ends the prompt or is left out: what comes after it is still read."""
    (sample,) = student.sample([Request("r", text)])
    assert sample.finish_reason != "refused" and sample.prompt_tokens > 0 and sample.completion_tokens > 0
    (more,) = student.sample([Request("r", text + " 7 pens")])
    assert more.prompt_tokens > sample.prompt_tokens
    (kept,) = collect(student, [Request(text, text)], work, "draw")[text]
    assert (kept.request_id, kept.prompt_tokens) == (text, sample.prompt_tokens)


def test_a_special_token_in_a_question_is_text(student):
    found = student.sample([Request("a", PROMPT), Request("b", PROMPT + "</s>")])
    counts = {sample.request_id: sample.prompt_tokens for sample in found}
    assert counts["b"] > counts["a"] + 1  # not the one token that ends a text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": float("nan")}, "request 'bad' needs finite temperature"),
        ({"temperature": -0.1}, "not -0.1, 1.0 and 4"),
        ({"top_p": 0.0}, "not 1.0, 0.0 and 4"),
        ({"max_tokens": 0}, "not 1.0, 1.0 and 0"),
        ({"stop": ("",)}, r"'bad': stop must be .* not \(''"),
        ({"n": 0}, "not 'bad' and 0"),
    ],
)
def test_settings_of_a_request_that_make_no_sense_stop_it_by_name(student, work, settings, message):
    with pytest.raises(ValueError, match=message):
        collect(student, [Request("good", PROMPT), Request("bad", PROMPT, **settings)], work, "draw")


def test_one_over_long_problem_does_not_stop_the_others(tmp_path):
    rows = [JSONL | {"id": "a"}, JSONL | {"id": "long", "question": "pens " * 10_000}, JSONL | {"id": "b"}]
    problems = put(tmp_path, "jsonl", lines(*rows))
    args = SampleArgs(find_start("shipped"), problems, SamplerArgs(max_tokens=4, device="cpu"), n=2)
    made = make(SAMPLE, args, tmp_path / "artifacts")[0]
    (aside,) = made.rows(Quarantined, "quarantine")
    assert aside.id == "jsonl/test/long" and re.match(r"\d+ prompt tokens .* context of \d+$", aside.reason)
    rows = made.rows(Rollout)
    assert [(row.problem_id[-1], row.finish_reason == "refused", row.correct) for row in rows] == [
        *[("a", False, False)] * 2, *[("g", True, None)] * 2, *[("b", False, False)] * 2,
    ]  # fmt: skip
    assert made.manifest["counts"]["refused"] == 2 and made.manifest["counts"]["quarantine"] == 1


# policies


def edit_weights(folder: Path, value: float) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"].fill_(value)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


POLICIES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "NaN weights": (lambda folder: edit_weights(folder, float("nan")), "model.norm.weight is not finite"),
    "infinite weights": (lambda folder: edit_weights(folder, float("inf")), "model.norm.weight is not finite"),
    "cut weights": (lambda folder: cut(folder / "model.safetensors", 0.7), "has no model that loads"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has no .*safetensors weights"),
    "empty weights": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "has no model that loads"),
    "no tokenizer": (lambda folder: [file.unlink() for file in folder.glob("tokenizer*")], "has no tokenizer"),
    "cut tokenizer": (lambda folder: cut(folder / "tokenizer.json", 0.5), "has no tokenizer that loads"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "more layers than weights": (lambda folder: edit_config(folder, num_hidden_layers=9), "lacks weights"),
    "a file in place of the folder": (lambda folder: (shutil.rmtree(folder), folder.write_text("x")), "config.json"),
}


@pytest.mark.parametrize("name", POLICIES)
def test_a_bad_policy_is_named(tmp_path, name):
    damage, message = POLICIES[name]
    folder = tmp_path / "student"
    shutil.copytree(find_start("shipped"), folder)
    damage(folder)
    args = SampleArgs(str(folder), ProblemArgs(limit=1), SamplerArgs(max_tokens=4, device="cpu"))
    with pytest.raises(ValueError, match=message) as caught:
        make(SAMPLE, args, tmp_path / "artifacts")
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.glob("artifacts/sample/*/manifest.json"))


# finished rows and manifests


def write_table(path: Path, schema: pa.Schema, **columns: list[Any]) -> None:
    pq.write_table(pa.table(columns, schema=schema), path)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


JUDGEMENT = {
    "problem_id": "p",
    "kind": "draft",
    "where": "none",
    "sample": 0,
    "scorer": "orm",
    "probabilities": [0.5],
    "tokens": 9,
}


def judgements(path: Path, **change: Any) -> None:
    """Two rows, the second one changed, in the columns that they should have but for what must be null."""
    schema = schema_of(Judgement)
    loose = pa.schema([field.with_nullable(True) for field in schema], schema.metadata)
    table = pa.Table.from_pylist([JUDGEMENT, JUDGEMENT | change], loose)
    pq.write_table(table.cast(schema) if None not in change.values() else table, path)


ROWS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut short": (lambda path: (judgements(path), cut(path, 0.8)), ": cut short, damaged, or not a Parquet file"),
    "only the start": (lambda path: (judgements(path), cut(path, 0.01)), ": cut short, damaged"),
    "empty": (lambda path: path.write_bytes(b""), ": cut short, damaged"),
    "flipped byte": (lambda path: (judgements(path), flip(path, 60)), ": cut short, damaged"),
    "text": (lambda path: path.write_text('{"problem_id": "p"}\n'), ": cut short, damaged, or not a Parquet file"),
    "folder": (lambda path: path.mkdir(), ": there is no such file of Judgement rows"),
    "missing": (lambda path: None, ": there is no such file of Judgement rows"),
    "NaN": (lambda path: judgements(path, probabilities=[float("nan")]), ", row 1: .*probabilities must be finite"),
    "infinite": (lambda path: judgements(path, probabilities=[0.5, float("inf")]), ", row 1: .* must be finite, not"),
    "null": (lambda path: judgements(path, scorer=None), "not a file of Judgement rows|row 1: .*scorer must be str"),
    "null in a list": (lambda path: judgements(path, probabilities=None), "not a file of Judgement rows|row 1: "),
    "other record": (
        lambda path: pq.write_table(pa.Table.from_pylist([], schema_of(Candidate)), path),
        ": holds Candidate rows, not Judgement rows",
    ),
    "foreign columns": (
        lambda path: pq.write_table(pa.table({"a": [1]}), path),
        r": not a file of Judgement rows: missing columns \['kind'.* unknown \['a'\]",
    ),
    "wrong type": (
        lambda path: pq.write_table(pa.Table.from_pylist([JUDGEMENT | {"sample": "0"}]), path),
        r"of another type .*'sample: string'",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_bad_rows_are_named(tmp_path, name):
    damage, message = ROWS[name]
    damage(tmp_path / "rows.parquet")
    with pytest.raises(StoreError) as caught:
        Artifact(tmp_path, {}).rows(Judgement)
    text = str(caught.value)
    assert text.startswith(str(tmp_path / "rows.parquet")) and re.search(message, text), text


def test_whichever_byte_of_rows_flips_it_is_refused_or_does_no_harm(tmp_path):
    rows = [Judgement(f"p{n}", "draft", "none", n, "orm", (0.5, 0.25)) for n in range(40)]
    path = tmp_path / "rows.parquet"
    write_rows(path, rows)
    whole, refused = path.read_bytes(), 0
    for at in range(0, len(whole), 5):
        flip(path, at)
        try:
            assert read_rows(path, Judgement) == rows, at
        except StoreError:
            refused += 1
        path.write_bytes(whole)
    assert refused > len(whole) / 10


MANIFESTS = {
    "torn": (lambda text: text[:40], r"manifest\.json, line 4: malformed JSON"),
    "empty": (lambda text: "", r"manifest\.json, line 1: malformed JSON"),
    "binary": (lambda text: "\0\x01\x02", r"manifest\.json, line 1: malformed JSON"),
    "list": (lambda text: f"[{text}]", r"manifest\.json: not the manifest of an artifact"),
    "stage of the wrong type": (lambda text: text.replace('"stage": "sample"', '"stage": 3', 1), "not the manifest"),
    "no key": (lambda text: text.replace('"key": "', '"kee": "', 1), "not the manifest of an artifact"),
    "files of the wrong type": (lambda text: text.replace('"files": {', '"files": 3, "x": {'), "not the manifest"),
    "another stage": (lambda text: text.replace('"sample"', '"revise"', 1), "made by stage revise; wanted .* sample"),
    "size of the wrong type": (
        lambda text: re.sub(r'"size": (\d+)', r'"size": "\1"', text),
        r"bytes, but the manifest says '\d",
    ),
    "hash of another file": (
        lambda text: re.sub(r'(?<="sha256": ").', "x", text),
        "changed: SHA-256 .* manifest says x",
    ),
    "a file too many": (lambda text: text.replace('"rows.parquet"', '"rows2.parquet"'), "rows2.parquet: missing"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("finished")
    args = SampleArgs(script(folder / "policy", {"*": ["one\n#### 0"]}), ProblemArgs(limit=2))
    return sampled(args, folder)


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_bad_manifest_stops_what_builds_on_it(tmp_path, finished, name):
    change, message = MANIFESTS[name]
    folder = tmp_path / "artifacts" / "sample" / finished.key
    shutil.copytree(finished.path, folder)
    text = (folder / "manifest.json").read_text()
    assert change(text) != text
    (folder / "manifest.json").write_text(change(text))
    with pytest.raises(ArtifactError, match=message):
        open_artifact(folder, "sample")
    policy = script(tmp_path / "policy", {"*": ["#### 0"]})
    args = LabelArgs(rollouts=str(folder), policy=policy, sampler=SamplerArgs(backend="scripted"))
    with pytest.raises(ArtifactError, match=message) as caught:
        make(LABEL_STEPS, args, tmp_path / "artifacts")
    assert str(folder) in str(caught.value) and not list(tmp_path.glob("artifacts/label_steps/*/manifest.json"))


# rows of unfinished work


class Interrupted(Exception):
    pass


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[SampleArgs, Path]:
    """A `sample` stage that was stopped after 60 of 90 samples, and the journal that it left."""
    texts = {"*": [f"{n} " + "é" * 300 + "\n#### 0" for n in range(90)]}
    args = SampleArgs(script(tmp_path / "policy", texts), ProblemArgs(limit=1), SamplerArgs(backend="scripted"), n=90)
    whole = ScriptedSampler.sample

    def some(self, requests):
        for n, sample in enumerate(whole(self, requests)):
            if n == 60:
                raise Interrupted
            yield sample

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(ScriptedSampler, "sample", some)
        make(SAMPLE, args, tmp_path / "artifacts")
    (path,) = tmp_path.glob("artifacts/sample/.*.unfinished/sample/*.jsonl")
    return args, path


def change_entry(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change sample 7 in a journal, with the checksum that belongs to it."""
    rows = path.read_bytes().splitlines(keepends=True)
    entry = json.loads(rows[7])
    assert entry["sample"] == 7 and entry.pop("crc32")
    body = json.dumps(change(entry)).encode()[:-1]
    rows[7] = body + _seal(body)
    path.write_bytes(b"".join(rows))


def spoil_page(path: Path) -> None:
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = b"\xa5" * 4096
    path.write_bytes(data)


def replace_bytes(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data and len(old) == len(new)
    path.write_bytes(data.replace(old, new))


def lose_line(path: Path) -> None:
    rows = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(rows[:30] + rows[31:]))


OTHER = {"problem_id": "p", "kind": "draft"}
UNUSED = r"1 kept samples are not used: damaged; the first: .*0\.jsonl, line "
# name: (what happens to the journal, the error, or None where the stage goes on, what it warns of, samples drawn again)
JOURNALS: dict[str, tuple[Callable[[Path], Any], str | None, str, int | None]] = {
    "torn page": (spoil_page, None, UNUSED, None),
    "cut short": (lambda path: cut(path, 0.6), None, r"0\.jsonl: the last line was cut off in a crash", None),
    "cut in the middle": (lose_line, None, "", 31),
    "no journal": (lambda path: path.write_bytes(b"x" * 5000), None, r"0\.jsonl: the last line was cut off", 90),
    "binary": (lambda path: path.write_bytes(bytes(range(256)) * 99), None, "99 kept samples .* line 1$", 90),
    "a database": (lambda path: path.write_bytes(b"SQLite format 3\0" + b"\0" * 4080), None, "0.jsonl: the last", 90),
    "flipped byte": (lambda path: replace_bytes(path, "17 é".encode(), "71 é".encode()), None, UNUSED + "18$", 31),
    "no end of a line": (lambda path: replace_bytes(path, b'"}\n{"request"', b'"} {"request"'), None, UNUSED, 90),
    "no JSON": (lambda path: replace_bytes(path, b',"sample":7,', b',"sample"=7,'), None, UNUSED + "8$", 31),
    "no entry": (lambda path: change_entry(path, lambda _: {"a": 1}), None, UNUSED + "8$", 31),
    "no object": (lambda path: change_entry(path, lambda entry: entry | {"row": [1]}), None, UNUSED + "8$", 31),
    "a number beyond 64 bits": (
        lambda path: change_entry(path, lambda entry: entry | {"sample": 2**70}), None, "not asked for now.*line 8", 31,
    ),
    "row of another record": (
        lambda path: change_entry(path, lambda entry: entry | {"row": OTHER}),
        r"sample: a row kept for arithmetic/train/0: .*missing fields .*; delete the folder", "", None,
    ),
    "NaN for a number": (
        lambda path: change_entry(path, lambda entry: entry | {"row": entry["row"] | {"sample": float("nan")}}),
        r"a row kept for arithmetic/train/0: Rollout.sample must be int, not nan; delete", "", None,
    ),
    "same samples in two files": (
        lambda path: shutil.copy(path, path.with_name("1.jsonl")), None,
        r"60 kept samples are not used: there twice; the first: .*1\.jsonl, line 1$", 30,
    ),
    "same lines twice": (
        lambda path: path.write_bytes(path.read_bytes() * 2), None, r"60 .*: there twice; .*0\.jsonl, line 61$", 30,
    ),
    "other requests": (
        lambda path: replace_bytes(path, key_of(path), b"f" * 16), None, "60 kept samples .*: damaged", 90,
    ),
    "nothing in it": (lambda path: path.write_bytes(b""), None, "", 90),
}  # fmt: skip


def key_of(path: Path) -> bytes:
    return json.loads(path.read_bytes().splitlines()[0])["key"].encode()


@pytest.mark.parametrize("name", JOURNALS)
def test_a_bad_journal_is_named_and_what_is_lost_of_it_made_anew(tmp_path, stopped, caplog, name):
    args, path = stopped
    damage, error, warning, again = JOURNALS[name]
    damage(path)
    if error is not None:
        with pytest.raises(StoreError, match=error):
            make(SAMPLE, args, tmp_path / "artifacts")
        assert path.exists() and not list(tmp_path.glob("artifacts/sample/*/manifest.json"))
        return
    with caplog.at_level(logging.INFO):
        made = make(SAMPLE, args, tmp_path / "artifacts")[0]
    assert re.search(warning, caplog.text, re.MULTILINE)
    to_go = int((re.search(r"there from before, (\d+) to go", caplog.text) or [0, 90])[1])
    assert to_go == again if again else 30 < to_go < 90
    shutil.rmtree(made.path)  # and it is what an undisturbed run makes
    again = make(SAMPLE, args, tmp_path / "artifacts")[0]
    assert again.manifest["files"] == made.manifest["files"] and len(again.rows(Rollout)) == 90


def test_whichever_byte_of_a_journal_flips_it_costs_two_rows_at_most_and_none_is_taken_for_another(tmp_path):
    path = tmp_path / "0.jsonl"
    with closing(Journal(path)) as kept:
        for i in range(60):
            kept.add(Entry(f"r{i}", f"key{i}", 0, i, None, {"text": f"{i} " + "é" * 80}))
    whole, wanted, lost = path.read_bytes(), {f"key{i}": 1 for i in range(60)}, set()
    for at in range(0, len(whole), 13):
        path.write_bytes(whole)
        flip(path, at)
        index = JournalIndex(tmp_path, wanted)
        index.update()
        with closing(index):
            found = {i: list(index.rows(f"key{i}")) for i in range(60)}
        assert all(not rows or rows == [{"text": f"{i} " + "é" * 80}] for i, rows in found.items()), at
        known = [i for i, rows in found.items() if rows]
        assert index.tokens == sum(known) and len(list(read(path))) >= 59
        lost.add(60 - len(known))
    assert lost == {1, 2}
