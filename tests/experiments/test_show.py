"""What `python -m experiments.show` says of artifacts and rows, in this process where it can be."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.commands.catalogue import COMMANDS, stage_named
from experiments.show.command import run
from refine.pairs import BUILD_PAIRS, PairArgs
from rewards.labels.stepwise import LABEL_STEPS, LabelArgs
from rollouts.problems.args import ProblemArgs
from rollouts.records import Problem
from rollouts.sampling.args import SamplerArgs
from rollouts.sampling.sample import SAMPLE, SampleArgs
from stages.artifacts import Artifact, open_artifact
from stages.make import make
from stages.rows import read_rows, write_rows
from stages.stage import Stage, parent
from stages.workspace import Quarantined, Workspace

ROOT = Path(__file__).parents[2]
SCRIPTED = SamplerArgs(backend="scripted", max_tokens=40)


@dataclass
class MixArgs:
    of: list[str] = parent(default=[])
    policy: str = parent(any_path=True, or_name="served")
    served: bool = False


def mix(args: MixArgs, work: Workspace) -> None:
    """A stage that no command has, with an empty file and things left out."""
    (work.folder / "empty").touch()
    work.quarantine(Quarantined(f"r{i:02d}", f"[bold]{i}[/bold]\x1b[31m") for i in range(12))
    work.note("promise of mix", "none")


MIX = Stage("mix", 1, MixArgs, mix)


@dataclass(frozen=True)
class Made:
    root: Path
    policy: Path
    args: SampleArgs
    sample: Artifact
    labels: Artifact
    pairs: Artifact
    mix: Artifact


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Made]:
    """Four artifacts, one above the other, and the folder where the command that made them ran."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        policy, root = Path("policy"), Path("artifacts")
        policy.mkdir()
        (policy / "script.json").write_text(json.dumps({"*": ["one\n#### 0", "two [red]\n#### 0"]}))
        args = SampleArgs(policy="policy", problems=ProblemArgs(limit=3), sampler=SCRIPTED, n=2)
        sample = make(SAMPLE, args, root)[0]
        labels = make(LABEL_STEPS, LabelArgs(rollouts=str(sample.path), policy="policy", sampler=SCRIPTED), root)[0]
        pairs = make(BUILD_PAIRS, PairArgs(rollouts=str(sample.path), labels=str(labels.path)), root)[0]
        above = MixArgs([str(sample.path), str(labels.path), str(pairs.path)], "gpt", served=True)
        return folder, Made(root, policy, args, sample, labels, pairs, make(MIX, above, root)[0])


@pytest.fixture
def made(once: tuple[Path, Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """A copy of them, in the folder where the command runs."""
    shutil.copytree(once[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return once[1]


def ask(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """What the command prints when it goes well."""
    capsys.readouterr()
    code = run([str(word) for word in argv])
    out, err = capsys.readouterr()
    assert (code, err) == (0, ""), err
    assert all(len(line) <= 80 for line in out.splitlines())
    return out


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[str, str]:
    """What it prints on stdout and as its one line of error."""
    capsys.readouterr()
    assert run([str(word) for word in argv]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")
    return out, err


def flat(text: str) -> str:
    return re.sub(r"[\s│├└─]+", " ", text)


def test_an_artifact(made, capsys):
    out = ask(capsys, made.sample.path)
    assert out.startswith(f"sample {made.sample.key}\n")
    text = flat(out)
    for name in ("created", "seconds", "tokens", "version"):
        assert re.search(rf" {name} {re.escape(str(made.sample.manifest[name]))[:4]}", text), name
    # two rollouts a problem depend on each other; of 0 of 3 problems Wilson's upper limit is z²/(n+z²)
    assert "accuracy 0.0% " in text and "accuracy 0.0% (" not in text
    assert f"solved_problems 0.0% (Wilson, 95%: 0.0–{384.15 / (3 + 3.8415):.1f})" in text
    assert "policy policy, made by no stage (sha256:" in text and "…): there" in text
    assert "promise of sample a script gives the same texts, always" in text
    assert "rows.parquet" in text and "Versions python 3." in text
    assert [f"rows.parquet, row {n} of 6 (Rollout)" in out for n in range(4)] == [True, True, True, False]
    assert "text two [red] #### 0 steps" in text  # no markup


def test_arguments_are_those_that_are_no_defaults(made, capsys):
    text = ask(capsys, made.sample.path, "--rows", 0)
    found = text.split("Arguments")[1].split("Parents")[0]
    assert re.findall(r"^  (\S+) +(\S+)", found, re.M) == [
        ("problems.limit", "3"), ("sampler.backend", "scripted"), ("sampler.max_tokens", "40"), ("n", "2"),
    ]  # fmt: skip
    assert "row 0" not in text


def test_of_a_stage_that_is_not_known_all_arguments_are_shown(made, capsys):
    text = ask(capsys, made.mix.path)
    assert "Arguments\n  served  true" in text
    assert "gpt, the name of a model on a server" in text and f"of[2]   build_pairs {made.pairs.key}: there" in text


def test_what_was_left_out_is_shown_and_steers_no_terminal(made, capsys):
    text = ask(capsys, made.mix.path, "--rows", 9)
    assert "quarantine.parquet, row 8 of 12 (Quarantined)" in text and "row 9" not in text
    assert "[bold]8[/bold]\\x1b[31m" in text and "\x1b" not in text


def test_an_older_version_of_a_stage_is_marked(made, capsys):
    old = make(Stage("sample", 1, SampleArgs, SAMPLE.run), replace(made.args, n=1), made.root)[0]
    assert f"version 1 (this program makes version {SAMPLE.version}, and does not find it)" in flat(
        ask(capsys, old.path)
    )


@pytest.mark.parametrize("stage", sorted(COMMANDS))
def test_every_command_of_a_stage_has_defaults(stage):
    found = stage_named(stage)
    assert found is None or found.args() == found.args()
    assert stage_named("sample") is SAMPLE and stage_named("os") is None and stage_named("../x") is None


def test_the_manifest_file_will_do(made, capsys):
    assert ask(capsys, made.pairs.path / "manifest.json") == ask(capsys, made.pairs.path)


def test_the_tree_has_every_ancestor_once(made, capsys):
    text = flat(ask(capsys, made.mix.path, "--tree"))
    for name, one in {"of[1]": made.labels, "labels": made.labels, "of[2]": made.pairs}.items():
        assert f"{name}: {one.stage} {one.key}, " in text
    assert f"of[0]: sample {made.sample.key}, 6 rows, 0.0% right, 15 tokens " in text
    assert text.count(f"rollouts: sample {made.sample.key}, see above") == 2
    assert "policy: gpt (on a server)" in text and "all is whole" not in text
    assert f"labels: label_steps {made.labels.key}, see above" in text and text.count("see above") == 3
    assert "all is whole" in ask(capsys, made.mix.path, "--tree", "--check")


def test_what_is_gone_is_marked(made, capsys):
    made.sample.path.rename(made.root / "elsewhere")
    (made.policy / "script.json").unlink()
    made.policy.rmdir()
    text = flat(ask(capsys, made.mix.path, "--tree"))
    assert f"of[0]: sample {made.sample.key}: missing" in text and "policy: policy: missing" in text
    shown = flat(ask(capsys, made.labels.path))
    assert f"sample {made.sample.key}: missing {made.sample.path}" in shown and "policy, made by no stage" in shown
    assert "see above" not in text.split("rollouts: ")[0]
    out, err = refused(capsys, made.mix.path, "--tree", "--check")
    assert f"{made.sample.path} is missing; policy is missing" in err and "missing" in out


def test_artifacts_that_were_moved_together_find_each_other(made, capsys, tmp_path, monkeypatch):
    (tmp_path / "else").mkdir()
    made.root.rename(tmp_path / "else" / "other")
    monkeypatch.chdir("/")
    text = flat(ask(capsys, tmp_path / "else" / "other" / "build_pairs" / made.pairs.key, "--tree"))
    assert f"labels: label_steps {made.labels.key}, " in text and f"{made.sample.key}: missing" not in text
    assert "policy: policy: missing" in text  # no stage made it, and it stayed behind


def test_check_finds_a_changed_file_of_the_same_size(made, capsys):
    path = made.sample.path / "rows.parquet"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    ask(capsys, made.sample.path, "--rows", 0)
    assert "rows.parquet: changed: SHA-256" in refused(capsys, made.sample.path, "--check")[1]
    out, err = refused(capsys, made.pairs.path, "--tree", "--check")
    assert "rows.parquet: changed: SHA-256" in flat(out) and "rows.parquet: changed" in err
    (made.policy / "script.json").write_text("{}")
    assert "policy is changed" in refused(capsys, made.labels.path, "--tree", "--check")[1]
    out, err = refused(capsys, made.root, "--check")
    assert "rows.parquet: changed" in err and out.count("damaged") == 1
    assert "all is whole" in ask(capsys, made.labels.path, "--check") and "all is whole" not in ask(capsys, made.root)


def test_an_artifact_with_a_file_too_many_is_damaged(made, capsys):
    (made.sample.path / "adapter_config.json").write_text("{}")
    for how in ([], ["--check"]):
        assert "adapter_config.json: the manifest does not list it" in refused(capsys, made.sample.path, *how)[1]
    assert "adapter_config.json" in refused(capsys, made.root, "--check")[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": 3}, "not the manifest of an artifact"),
        ({"args": "x"}, "args cannot be 'x'"),
        ({"parents": {"p": {"key": 3}}}, "parent p cannot be {'key': 3}"),
        ({"parents": {"p": ["x"]}}, "parent p cannot be 'x'"),
    ],
)
def test_a_manifest_of_wrong_types_is_named(made, capsys, change, message):
    file = made.labels.path / "manifest.json"
    file.write_text(json.dumps(made.labels.manifest | change))
    assert re.search(message, refused(capsys, made.labels.path)[1])


@pytest.mark.parametrize("change", [{"seconds": True}, {"tokens": "1"}, {"counts": []}, {"created": 1}])
def test_a_list_names_a_manifest_of_wrong_types(made, capsys, change):
    file = made.labels.path / "manifest.json"
    file.write_text(json.dumps(made.labels.manifest | change))
    out, err = refused(capsys, made.root)
    assert f"{file}: {next(iter(change))} cannot be" in err and out.count("damaged") == 1
    assert f"{file}: {next(iter(change))} cannot be" in refused(capsys, made.labels.path)[1]


def test_a_manifest_of_few_words_will_do(made, capsys):
    file = made.labels.path / "manifest.json"
    file.write_text(json.dumps({name: made.labels.manifest[name] for name in ("stage", "version", "key", "files")}))
    for argv in ([made.labels.path], [made.labels.path, "--tree"], [made.root]):
        assert made.labels.key in ask(capsys, *argv)


def test_a_folder_of_artifacts_is_a_table(made, capsys):
    for argv in ([], [made.root]):
        lines = ask(capsys, *argv).splitlines()
        stages = [line.split()[0] for line in lines if re.match(r" [a-z_]+ +[0-9a-f]{4}", line)]
        assert stages == ["build_pairs", "label_steps", "mix", "sample"]
    rows = {line.split()[1]: line.split()[2:] for line in lines if line.startswith(" sample")}
    assert rows[made.sample.key][:2] == ["6", "15"] and rows[made.sample.key][3] == made.sample.manifest["created"][:10]
    assert made.sample.key in ask(capsys, made.root / "sample")


# rows


def test_a_file_of_rows(made, capsys):
    text = ask(capsys, made.sample.path / "problems.parquet", "--rows", 1, "--check")
    assert "record  Problem" in text and "rows    3 " in text
    assert "problems.parquet, row 0 of 3 (Problem)" in text and "row 1" not in text and "question  string" in text


def test_a_foreign_file_of_rows(tmp_path, capsys):
    table = pa.table({"x": [float("nan"), 1.0], "long": ["a" * 999, "\n" * 50 + "."], "when": [b"\x00", None]})
    pq.write_table(table, tmp_path / "x.parquet")
    text = ask(capsys, tmp_path / "x.parquet")
    assert "record  –" in text and "(999 characters)" in text and "nan" in text and "(51 lines)" in text


def test_texts_of_any_script_are_shown_and_none_is_obeyed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    nasty = "p😀`x`\x1b]0;owned\x07\u202e\u2028\x9b2J"
    for cls in (Problem(nasty, nasty + " 苹果🍎?", "2", None, nasty, "train"),):
        write_rows("fol😀der.parquet", [cls])
        assert read_rows("fol😀der.parquet", Problem) == [cls]
    assert json.loads(json.dumps(nasty)) == nasty
    for argv in (["fol😀der.parquet"], ["fol😀der.parquet", "--check"]):
        out = ask(capsys, *argv)
        assert all(line.isprintable() for line in out.split("\n")), argv
        assert "苹果🍎" in out
    assert refused(capsys, "no\x1b[31m\u202e😀")[1].startswith("error: no\\x1b[31m\\u202e😀: there is no")


def test_a_damaged_file_of_rows(made, capsys):
    path = made.sample.path / "rows.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    assert "rows.parquet: cut short, damaged, or not a Parquet file" in refused(capsys, path)[1]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere"], "nowhere: there is no such file or folder"),
        (["empty"], "empty: neither an artifact, rows (*.parquet) nor a folder of artifacts"),
        (["text.txt"], "text.txt: neither an artifact, rows (*.parquet) nor"),
        (["metrics.jsonl"], "metrics.jsonl: neither an artifact, rows"),
        (["manifest.json"], "manifest.json, line 1: malformed JSON"),
        (["empty", "--tree"], "empty: only an artifact has a tree"),
        ([], "artifacts: there is no such file or folder"),
    ],
)
def test_what_cannot_be_looked_at(tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    for name in ("text.txt", "metrics.jsonl", "manifest.json"):
        Path(name).write_text("no such thing" * 100)
    assert message in refused(capsys, *argv)[1]


@pytest.mark.parametrize("argv", [["--rows", "-1"], ["--rows", "x"], ["--rows", "٣"], ["a", "b"], ["--nothing"]])
def test_arguments_that_make_no_sense(capsys, argv):
    with pytest.raises(SystemExit) as stopped:
        run(argv)
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1


def test_as_a_command_into_a_pipe_that_is_closed(made):
    command = [sys.executable, "-m", "experiments.show", str(made.sample.path)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    whole = subprocess.run(command, env=env, capture_output=True, text=True)
    assert (whole.returncode, whole.stderr) == (0, "") and "95%: 0.0\\u201356.1" in whole.stdout
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(command, env=env, stdout=closed, stderr=subprocess.PIPE, text=True)
    assert done.stderr == "" and done.returncode < 0  # ended by the signal, as other commands are
    assert open_artifact(made.sample.path).key == made.sample.key


def test_rows_by_the_values_of_a_column(made, capsys):
    """So one sees examples of each reason for which corrections were dropped."""
    out = ask(capsys, made.sample.path, "--by", "text", "--rows", 1)
    text = flat(out)
    assert "rows.parquet: rows by text one; #### 0 3 two [red]; #### 0 3" in text
    assert "text one; #### 0, 1 of 3" in text and ", 2 of 3" not in text
    assert re.findall(r"^  id +(\S+)", out, re.M) == ["arithmetic/train/0#0", "arithmetic/train/0#1"]
    assert out == ask(capsys, made.sample.path / "rows.parquet", "--by", "text", "--rows", 1)
    for path, by, said in (
        (made.sample.path, "reason", "has no column reason, but id, problem_id, sample"),
        (made.root, "text", "--by text is for an artifact or a file of rows"),
        (made.mix.path, "text", "there is no such file of rows"),
    ):
        assert said in refused(capsys, path, "--by", by)[1]
