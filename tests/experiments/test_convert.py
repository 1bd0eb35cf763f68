"""Files from one format to another, and into labels that a reward model is trained on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.convert import main
from rewards.formats import FORMATS, Choices, FormatError
from rewards.formats.convert import ConvertArgs, convert
from rewards.formats.files import ROWS_AT_ONCE, read_file, write_file
from rewards.labels.imports import IMPORT_LABELS, ImportArgs
from rewards.train import build_solutions
from rollouts.records import Problem, StepLabels
from stages.make import make
from tests.format_rows import ROWS

FLAT = [name for name, one in FORMATS.items() if one.columns is not None]


def write(path: Path, *rows: dict) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def rows_of(path: Path | str) -> list[dict]:
    return [row for _, row in read_file(path)]


def shepherd(n: int) -> dict:
    text = f"How many {n}? Step 1: {n} = {n}. %s\nStep 2: So {n}. %s"
    return {"input": text % ("ки", "ки"), "label": text % ("+", "+-"[n % 2]), "task": "GSM8K"}


def test_there_and_back_through_files(tmp_path):
    wanted = [shepherd(n) for n in range(50)]
    source = write(tmp_path / "in.jsonl", *wanted)
    for number, suffix in enumerate((".jsonl", ".json", ".parquet")):
        between, back = str(tmp_path / f"trl{suffix}"), str(tmp_path / f"back{number}.jsonl")
        found = convert(ConvertArgs(source, between, "math_shepherd", "trl"))
        assert (found["rows"], found["written"], found["steps"], found["bad"]) == (50, 50, 100, [])
        assert rows_of(between)[3]["labels"] == [True, False]
        convert(ConvertArgs(between, back, "trl", "math_shepherd"))
        assert rows_of(back) == wanted
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["in.jsonl", "trl.jsonl", "trl.json", "trl.parquet", "back0.jsonl", "back1.jsonl", "back2.jsonl"]
    )


@pytest.mark.parametrize("name", FLAT)
@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_each_flat_format_there_and_back_as_a_file(tmp_path, name, suffix):
    rows = [ROWS[name] | {"mine": n} for n in range(ROWS_AT_ONCE + 3)]  # more than are written at once
    assert write_file(tmp_path / f"a{suffix}", rows, FORMATS[name].columns) == len(rows)
    assert rows_of(tmp_path / f"a{suffix}") == rows


def test_trl_reads_the_parquet_file_as_its_own(tmp_path):
    """The columns of a stepwise data set: text, list of texts, list of booleans."""
    import datasets

    source = write(tmp_path / "in.jsonl", shepherd(0), shepherd(1))
    choices = Choices(extra="drop")
    convert(ConvertArgs(source, str(tmp_path / "out.parquet"), "math_shepherd", "trl", choices=choices))
    found = datasets.Dataset.from_parquet(str(tmp_path / "out.parquet"), cache_dir=str(tmp_path / "cache"))
    assert found.features["labels"] == datasets.List(datasets.Value("bool"))
    assert found[1]["labels"] == [True, False] and found[1]["prompt"] == "How many 1?"


def test_what_is_dropped_and_cut_is_counted(tmp_path):
    row = ROWS["processbench"]
    right = row | {"label": -1, "final_answer_correct": True}
    source = write(tmp_path / "in.jsonl", row, row | {"label": 0}, row | {"label": 2}, right)
    args = ConvertArgs(source, str(tmp_path / "cut.jsonl"), "processbench", "trl", choices=Choices(unlabelled="cut"))
    found = convert(args)
    assert (found["rows"], found["written"], found["steps"], found["steps_cut"]) == (4, 4, 9, 3)
    assert [row["labels"] for row in rows_of(args.output)] == [[True, False], [False], [True, True, False], [True] * 3]
    found = convert(replace(args, choices=Choices(unlabelled="drop")))
    assert (found["written"], found["dropped"]) == (2, 2)
    source = write(tmp_path / "in.jsonl", right, row | {"label": -1})
    found = convert(replace(args, choices=Choices(contradictory="drop")))
    assert (found["rows"], found["written"], found["left_out_no_wrong_step"]) == (2, 1, 1)


def test_bad_rows_end_it_or_are_counted_and_named(tmp_path):
    source = write(tmp_path / "in.jsonl", shepherd(0), {"input": "a", "label": "a"}, shepherd(1), {"input": 3})
    args = ConvertArgs(source, str(tmp_path / "out.jsonl"), "math_shepherd", "trl")
    with pytest.raises(FormatError, match=r"in.jsonl, line 2: no step tag"):
        convert(args)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]  # nothing half-written
    found = convert(replace(args, bad_rows="skip"))
    assert (found["rows"], found["written"], found["bad_rows"]) == (4, 2, 2)
    assert "line 2: no step tag" in found["bad"][0] and "line 4: field 'input' must be text" in found["bad"][1]
    soft = write(tmp_path / "soft.jsonl", {"prompt": "a", "completions": ["b"], "labels": [0.9]})
    with pytest.raises(FormatError, match=r"soft.jsonl, line 1: the label of step 0 is 0.9"):
        convert(ConvertArgs(soft, args.output, "trl", "trl"))
    assert convert(ConvertArgs(soft, args.output, "trl", "trl", choices=Choices(threshold=0.5)))["soft_labels"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "a"', r"line 1: malformed JSON: .* column 15"),
        ('{}\n\n{"a": NaN}\n', "line 3: malformed JSON: NaN is not a number"),
        ('{"a": 1, "a": 2}\n', r"line 1: malformed JSON: a field is given twice: \['a'\]"),
        ("[1]\n", r"line 1: expected an object with fields, not \[1\]"),
        ('{"prompt": "\\ud800"}\n', "line 1: malformed JSON: .*surrogates not allowed"),
        (b'{"prompt": "\xff"}\n', "line 1: malformed JSON: .*invalid start byte"),
        ("[" * 100000, "line 1: malformed JSON: .*recursion"),
    ],
    ids=range(7),
)
def test_malformed_files_are_refused_by_line(tmp_path, text, message):
    path = tmp_path / "in.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(FormatError, match=message):
        # also where bad rows are skipped: a torn file is not a bad row
        rows = [row for row in rows_of(path) if row]
        raise AssertionError(rows)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FormatError, match=r"a.csv: the suffix must be one of .jsonl, .json, .parquet"):
        rows_of(tmp_path / "a.csv")
    with pytest.raises(FormatError, match=r"a.json: there is no such file"):
        rows_of(tmp_path / "a.json")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(FormatError, match=r"a.parquet: cut short, damaged"):
        rows_of(tmp_path / "a.parquet")
    with pytest.raises(FormatError, match=r"nested and go to \.jsonl"):
        write_file(tmp_path / "b.parquet", [ROWS["prm800k"]], FORMATS["prm800k"].columns)
    with pytest.raises(FormatError, match="row 2: 'mine' is null"):
        write_file(
            tmp_path / "b.parquet", [ROWS["trl"] | {"mine": 1}, ROWS["trl"] | {"mine": None}], {"prompt": "string"}
        )
    assert not (tmp_path / "b.parquet").exists()


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in.jsonl", ROWS["prm800k"])
    argv = ["convert", "input=in.jsonl", "output=out.jsonl", "source_format=prm800k", "target_format=trl"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "in.jsonl, line 1: the rating of step 0 is 0: say what a neutral step is" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*argv, "choices.neutral=negative"])
    main()
    assert "out.jsonl: 1 of 1 rows, 3 steps\n" in capsys.readouterr().out
    (result,) = tmp_path.glob("runs/convert/*/result.json")
    assert json.loads(result.read_text())["written"] == 1
    assert rows_of("out.jsonl")[0]["labels"] == [False, True, False]


@pytest.mark.parametrize("override", ["launch.num_processes=2", "tracking.project=mine", "tracking=wandb"])
def test_what_convert_cannot_do_is_refused(tmp_path, monkeypatch, capsys, override):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in.jsonl", ROWS["trl"])
    argv = ["convert", "input=in.jsonl", "output=out.jsonl", "source_format=trl", "target_format=trl", override]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit, match="2"):
        main()
    name = override.replace("tracking=wandb", "tracking.mode=wandb")
    assert f"error: {name} has no effect: this is one process" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists() and not list(tmp_path.glob("runs/*/*"))


HANGING = """
import signal, sys
from rewards.formats.files import write_file
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as every command does
def rows():
    yield {"row": 1}
    print("ready", flush=True)
    sys.stdin.read()
write_file(sys.argv[1], rows())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_killed_process_leaves_aside_is_removed(tmp_path, number):
    target = tmp_path / "out.jsonl"
    command = [sys.executable, "-c", HANGING, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        (aside,) = tmp_path.iterdir()
        write_file(target, [{"row": 2}])  # what another one is writing stays
        assert aside.exists()
        child.send_signal(number)
        child.wait()
    assert aside.exists() == (number == signal.SIGKILL)
    write_file(target, [{"row": 3}])
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"] and rows_of(target) == [{"row": 3}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source_format": "trls"}, "source_format='trls' is none of trl, "),
        ({"target_format": "step_labels"}, "import_labels makes an artifact"),
        ({"output": "in.jsonl"}, "the same file"),
        ({"output": ""}, "output='' must not be empty"),
        ({"input": " "}, "input=' ' must not be empty"),
        ({"bad_rows": "ignore"}, "bad_rows='ignore' is none of error, skip"),
    ],
)
def test_arguments_that_make_no_sense(change, message):
    args = replace(ConvertArgs("in.jsonl", "out.jsonl", "trl", "trl"), **change)
    with pytest.raises(ValueError, match=message):
        args.validate()
    with pytest.raises(ValueError, match="neutral='maybe' is none of positive, negative, drop"):
        Choices(neutral="maybe").validate()


@pytest.mark.parametrize("name", ["trl", "math_shepherd", "prm800k", "processbench", "mr_gsm8k"])
def test_every_format_becomes_labels_to_train_on(tmp_path, name):
    rows = [
        json.loads(json.dumps(ROWS[name]).replace("?", f" {n}?").replace("gsm8k-0", f"gsm8k-{n}")) for n in range(3)
    ]
    rows = [row | ({"uuid": str(n)} if "uuid" in row else {}) for n, row in enumerate(rows)]
    args = ImportArgs(write(tmp_path / "in.jsonl", *rows), name, Choices(neutral="positive"), lines="join")
    artifact, _ = make(IMPORT_LABELS, args, tmp_path / "artifacts")
    labels, problems = artifact.rows(StepLabels), artifact.rows(Problem, "problems")
    assert len(labels) == 3 and {row.problem_id for row in labels} == {problem.id for problem in problems}
    counts = artifact.manifest["counts"]
    assert counts["solutions"] == 3 and counts["negative_labels"] == 3 and counts["bad_rows"] == 0
    assert counts["joined_steps"] == {"prm800k": 3, "processbench": 3, "trl": 3}.get(name, 0)
    assert all("\n" not in step for row in labels for step in row.steps)


def test_imported_labels_are_what_training_reads(tmp_path):
    from rewards.train import TrainRewardArgs
    from stages.artifacts import open_artifact

    path = write(tmp_path / "in.jsonl", *(shepherd(n) for n in range(20)))
    artifact, _ = make(IMPORT_LABELS, ImportArgs(path, "math_shepherd"), tmp_path / "artifacts")
    work = SimpleNamespace(parents={"labels": open_artifact(artifact.path)})
    args = TrainRewardArgs("sorm", "policy", labels=str(artifact.path), balance_lengths=False, validation_share=0.2)
    train, held = build_solutions(args, work)
    assert len(train) == 16 and len(held) == 4
    assert {solution.labels for solution in train + held} == {(1.0, 1.0), (1.0, 0.0)}
    assert train[0].steps[1].startswith("Step 2: So ")


def test_import_names_what_it_leaves_out(tmp_path):
    row = ROWS["trl"]
    path = write(tmp_path / "in.jsonl", row, row | {"labels": [0.9, 0.1]}, row | {"completions": ["a", ""]})
    with pytest.raises(FormatError, match=r"line 1: step 0 has several lines|line 2: the label of step 0 is 0.9"):
        make(IMPORT_LABELS, ImportArgs(path, "trl"), tmp_path / "artifacts")
    artifact, _ = make(IMPORT_LABELS, ImportArgs(path, "trl", lines="join", bad_rows="skip"), tmp_path / "artifacts")
    assert artifact.manifest["counts"]["bad_rows"] == 2 and artifact.manifest["counts"]["rows"] == 1
    assert any("line 3: step 1 is blank" in note for note in artifact.manifest["notes"].values())
    with pytest.raises(FormatError, match="no row of 1 can be used"):
        only = write(tmp_path / "bad.jsonl", row | {"completions": ["a", ""]})
        make(IMPORT_LABELS, ImportArgs(only, "trl", bad_rows="skip"), tmp_path / "artifacts")


def test_two_rows_of_one_id_are_refused(tmp_path):
    path = write(tmp_path / "in.jsonl", ROWS["mr_gsm8k"], ROWS["mr_gsm8k"])
    with pytest.raises(FormatError, match="line 2: id '0056b847' is also that of another row"):
        make(IMPORT_LABELS, ImportArgs(path, "mr_gsm8k"), tmp_path / "artifacts")


def test_step_labels_are_converted_from_their_artifact(tmp_path):
    path = write(tmp_path / "in.jsonl", *(shepherd(n) for n in range(4)))
    artifact, _ = make(IMPORT_LABELS, ImportArgs(path, "math_shepherd"), tmp_path / "artifacts")
    out = tmp_path / "out.jsonl"
    convert(ConvertArgs(str(artifact.path), str(out), "step_labels", "processbench"))
    assert [row["label"] for row in rows_of(out)] == [-1, 1, -1, 1]
    convert(ConvertArgs(str(out), str(tmp_path / "back.jsonl"), "processbench", "math_shepherd"))
    assert [row["label"] for row in rows_of(tmp_path / "back.jsonl")] == [shepherd(n)["label"] for n in range(4)]
