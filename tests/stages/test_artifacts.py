"""Artifacts: their keys, their parents, and that a folder under a key is always complete."""

from __future__ import annotations

import enum
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from rollouts.problems.args import ProblemArgs
from rollouts.records import Problem
from stages.artifacts import Artifact, ArtifactError, find, open_artifact
from stages.files import hash_contents
from stages.make import look_up, make
from stages.stage import Stage, artifact_key, parent, runtime
from stages.workspace import Untracked, Workspace

ROOT = Path(__file__).parents[2]


class Colour(enum.Enum):
    red = 1
    blue = 2


@dataclass
class SourceArgs:
    path: str | None = parent(any_path=True, or_name="served", default=None)
    host: str | None = None
    limit: int | None = None

    @property
    def served(self) -> str | None:
        return None if self.host is None else f"{self.path}@{self.host}"


@dataclass
class CookArgs:
    problems: SourceArgs = field(default_factory=SourceArgs)
    colour: Colour = Colour.red
    sizes: list[int] = field(default_factory=lambda: [1, 2])
    rate: float = 0.5
    threads: int = runtime(1)
    fail: bool = False


@dataclass
class EatArgs:
    food: str = parent("cook")
    salt: str | None = parent("cook", any_path=True, default=None)
    extras: list[str] = parent("cook", "eat", default=[])


def cook(args: CookArgs, space: Workspace) -> None:
    with space.progress(2, "eggs", "cooking") as bar:
        bar.advance(2)
    problems = [Problem(f"p{n}", "1+1?", "2", None, "made", "train") for n in args.sizes]
    space.write_rows("rows", problems, Problem)
    (space.folder / "model").mkdir()
    (space.folder / "model" / "weights.bin").write_bytes(b"\0" * 10)
    space.count(eggs=2, share=0.25)
    space.spend(30)
    space.spend(12)
    if args.fail:
        raise KeyboardInterrupt


def note(args: object, space: Workspace) -> None:
    (space.folder / "note.txt").write_text("done")


COOK = Stage("cook", 1, CookArgs, cook)
EAT = Stage("eat", 1, EatArgs, note)


def key(args: CookArgs, stage: Stage = COOK, path: str | None = None) -> str:
    return artifact_key(stage, args, {"problems.path": path})


def test_key_is_stable_and_depends_on_everything_but_runtime() -> None:
    base = key(CookArgs())
    assert base == "4a932da69ebb1b3c"  # changes only with a reason: every artifact on disk is lost
    assert len(base) == 16 and set(base) <= set("0123456789abcdef")
    assert key(CookArgs(threads=8)) == base
    others = [
        key(CookArgs(), replace(COOK, version=2)),
        key(CookArgs(), replace(COOK, name="fry")),
        key(CookArgs(rate=0.25)),
        key(CookArgs(colour=Colour.blue)),
        key(CookArgs(sizes=[2, 1])),
        key(CookArgs(problems=SourceArgs(limit=3))),
        key(CookArgs(), path="sha256:0"),
    ]
    assert len({base, *others}) == len(others) + 1
    assert key(CookArgs(problems=SourceArgs(path="anywhere"))) == base  # the path itself does not count


def test_key_refuses_what_has_no_canonical_form() -> None:
    with pytest.raises(TypeError, match=r"argument rate .* object"):
        key(CookArgs(rate=object()))


def test_make_then_find(tmp_path: Path) -> None:
    made, reused = make(COOK, CookArgs(), tmp_path)
    assert not reused
    assert made.path == tmp_path / "cook" / made.key and made.stage == "cook"
    assert [problem.id for problem in made.rows(Problem)] == ["p1", "p2"]
    manifest = json.loads((made.path / "manifest.json").read_text())
    assert manifest == made.manifest
    assert manifest["counts"] == {"rows": 2, "eggs": 2, "share": 0.25}
    assert manifest["tokens"] == 42 and manifest["seconds"] >= 0
    assert manifest["args"]["colour"] == "red" and manifest["args"]["threads"] == 1
    assert manifest["parents"] == {"problems.path": None}
    assert manifest["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert set(manifest["files"]) == {"rows.parquet", "model/weights.bin"}
    assert manifest["files"]["model/weights.bin"]["size"] == 10
    again, reused = make(COOK, CookArgs(threads=4), tmp_path)
    assert reused and again == made
    assert find(tmp_path, "cook", made.key) == made
    assert find(tmp_path, "cook", "0" * 16) is None


def test_empty_table_is_kept(tmp_path: Path) -> None:
    made, _ = make(COOK, CookArgs(sizes=[]), tmp_path)
    assert made.rows(Problem) == [] and made.manifest["counts"]["rows"] == 0


def test_stopped_or_failed_stage_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(COOK, CookArgs(fail=True), tmp_path)
    assert [path.name for path in (tmp_path / "cook").iterdir() if not path.name.endswith(".lock")] == []


def test_leftovers_of_a_kill_are_wiped(tmp_path: Path) -> None:
    made, _ = make(COOK, CookArgs(), tmp_path)
    os.replace(made.path, partial := tmp_path / "cook" / f".{made.key}.partial")
    (partial / "stale").write_text("")
    again, reused = make(COOK, CookArgs(), tmp_path)
    assert not reused and not (again.path / "stale").exists() and not partial.exists()


def test_killed_while_writing(tmp_path: Path) -> None:
    program = (
        "import os, signal\n"
        "from tests.stages.test_artifacts import *\n"
        "def run(args, space):\n"
        "    (space.folder / 'half').write_text('x')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"make(Stage('cook', 1, CookArgs, run), CookArgs(), {str(tmp_path)!r})\n"
    )
    killed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert killed.returncode == -9
    made, reused = make(COOK, CookArgs(), tmp_path)
    assert not reused and not (made.path / "half").exists()
    assert len([path for path in (tmp_path / "cook").iterdir() if path.is_dir()]) == 1


def test_two_processes_make_it_once(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from tests.stages.test_artifacts import *\n"
        "def run(args, space):\n"
        "    print('made', flush=True)\n"
        "    sys.stdin.read()\n"  # holds the lock until the test lets go
        "    cook(args, space)\n"
        f"made, reused = make(Stage('cook', 1, CookArgs, run), CookArgs(), {str(tmp_path)!r})\n"
        "print(reused)\n"
    )
    options = {"cwd": ROOT, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "text": True}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    first = subprocess.Popen([sys.executable, "-c", program], **options, **pipes)
    assert first.stdout.readline() == "made\n"
    second = subprocess.Popen([sys.executable, "-c", program], **options, **pipes)
    assert "another process is making this artifact" in second.stderr.readline()
    assert first.communicate("")[0] == "False\n" and second.communicate("")[0] == "True\n"
    assert first.returncode == second.returncode == 0


def test_parents_count_by_what_they_contain(tmp_path: Path) -> None:
    small, _ = make(COOK, CookArgs(), tmp_path / "a")
    large, _ = make(COOK, CookArgs(sizes=[1, 2, 3]), tmp_path / "a")
    moved = Path(str(tmp_path / "b"))
    os.replace(small.path, moved)
    first, _ = make(EAT, EatArgs(food=str(moved)), tmp_path)
    assert first.manifest["parents"]["food"] == {"stage": "cook", "key": small.key, "path": str(moved)}
    assert first.manifest["parents"]["salt"] is None and first.manifest["parents"]["extras"] == []
    os.replace(moved, small.path)
    same, reused = make(EAT, EatArgs(food=str(small.path)), tmp_path)
    assert reused and same.key == first.key
    assert make(EAT, EatArgs(food=str(large.path)), tmp_path)[0].key != first.key
    more, _ = make(EAT, EatArgs(food=str(small.path), extras=[str(large.path), str(first.path)]), tmp_path)
    assert [one["key"] for one in more.manifest["parents"]["extras"]] == [large.key, first.key]


def test_plain_parents_count_by_content(tmp_path: Path) -> None:
    data = tmp_path / "train.jsonl"
    data.write_text("one")
    keys = [make(COOK, CookArgs(problems=SourceArgs(path=str(data))), tmp_path)[0].key]
    copy = tmp_path / "copy.jsonl"
    copy.write_text("one")
    keys.append(make(COOK, CookArgs(problems=SourceArgs(path=str(copy))), tmp_path)[0].key)
    data.write_text("two")
    keys.append(make(COOK, CookArgs(problems=SourceArgs(path=str(data))), tmp_path)[0].key)
    assert keys[0] == keys[1] != keys[2]


def test_a_name_counts_as_it_stands(tmp_path: Path) -> None:
    one, _ = make(COOK, CookArgs(problems=SourceArgs(path="a-model", host="here")), tmp_path)
    two, _ = make(COOK, CookArgs(problems=SourceArgs(path="other", host="here")), tmp_path)
    assert one.key != two.key
    assert one.manifest["parents"]["problems.path"]["key"] == "name:a-model@here"


def test_parents_inside_lists_of_dataclasses(tmp_path: Path) -> None:
    @dataclass
    class MixArgs:
        sources: list[SourceArgs] = field(default_factory=list)

    stage = Stage("mix", 1, MixArgs, note)
    data = tmp_path / "a.txt"
    data.write_text("one")
    one, _ = make(stage, MixArgs([SourceArgs(str(data))]), tmp_path)
    data.write_text("two")
    two, _ = make(stage, MixArgs([SourceArgs(str(data))]), tmp_path)
    assert one.key != two.key and list(one.manifest["parents"]) == ["sources[0].path"]


def test_look_up_makes_nothing(tmp_path: Path) -> None:
    assert look_up(COOK, CookArgs(), tmp_path) is None and list(tmp_path.iterdir()) == []
    made, _ = make(COOK, CookArgs(), tmp_path)
    assert look_up(COOK, CookArgs(threads=9), tmp_path) == made


def test_plain_parent_without_stages_may_be_any_artifact(tmp_path: Path) -> None:
    """It counts by its key: its manifest holds a date, which would change with every making."""

    @dataclass
    class ListArgs:
        anything: list[str] = parent(any_path=True, default=[])

    made, _ = make(COOK, CookArgs(), tmp_path)
    (tmp_path / "note.txt").write_text("plain")
    stage = Stage("list", 1, ListArgs, note)
    listed, _ = make(stage, ListArgs([str(made.path), str(tmp_path / "note.txt")]), tmp_path)
    one, two = listed.manifest["parents"]["anything"]
    assert (one["stage"], one["key"]) == ("cook", made.key)
    assert two["stage"] is None and two["key"].startswith("sha256:")


def test_a_pipe_in_a_folder_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "data" / "inner").mkdir(parents=True)
    (tmp_path / "data" / ".cache").mkdir()
    os.mkfifo(tmp_path / "data" / "inner" / "train.jsonl")
    with pytest.raises(ValueError, match=r"data/inner/train.jsonl: is a pipe, not a file"):
        hash_contents(tmp_path / "data")


def test_hash_contents_of_folders(tmp_path: Path) -> None:
    def folder(name: str, files: dict[str, str]) -> str:
        for file, text in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(text)
        return hash_contents(tmp_path / name)

    base = folder("a", {"x": "1", "sub/y": "2"})
    assert folder("b", {"sub/y": "2", "x": "1"}) == base
    assert folder("c", {"x": "1", "sub/y": "2", ".cache/stamp": "now"}) == base
    assert len({base, folder("d", {"x": "2", "sub/y": "1"}), folder("e", {"y": "1", "sub/x": "2"})}) == 3


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (EatArgs(), r"food='\?\?\?': the path of a parent must be given; wanted is an artifact of stage cook"),
        (EatArgs(food=""), "food='': the path of a parent must be given"),
        (EatArgs(food="nowhere"), "food: nowhere: there is no such artifact folder; wanted is .* stage cook"),
        (EatArgs(food="{tmp}"), "food: .*: not an artifact, it has no manifest.json"),
        (EatArgs(food="{cook}", salt="nowhere"), "salt: nowhere: there is no such file or folder; wanted .* cook"),
        (EatArgs(food="{eat}"), "food: .*: made by stage eat; wanted is an artifact of stage cook"),
        (EatArgs(food="{cook}", salt="{eat}"), "salt: .*: made by stage eat; wanted is an artifact of stage cook"),
        (EatArgs(food="{cook}", extras=["{cook}", "{tmp}"]), r"extras\[1\]: .*: not an artifact"),
    ],
)
def test_wrong_parents(tmp_path: Path, args: EatArgs, message: str) -> None:
    made, _ = make(COOK, CookArgs(), tmp_path / "root")
    eaten, _ = make(EAT, EatArgs(food=str(made.path)), tmp_path / "root")
    names = {"cook": made.path, "eat": eaten.path, "tmp": tmp_path}
    args = EatArgs(
        args.food.format(**names), args.salt and args.salt.format(**names), [x.format(**names) for x in args.extras]
    )
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ArtifactError, match=message):
        make(EAT, args, tmp_path / "root")
    assert sorted(tmp_path.rglob("*")) == before


def damage(made: Artifact, how: str) -> None:
    weights = made.path / "model" / "weights.bin"
    if how == "missing":
        weights.unlink()
    elif how == "short":
        weights.write_bytes(b"\0" * 9)
    elif how == "flipped":
        weights.write_bytes(b"\0" * 9 + b"\1")
    else:
        (made.path / "manifest.json").write_text(how)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"model/weights.bin: missing, though the manifest lists it; delete the folder"),
        ("short", r"model/weights.bin: 9 bytes, but the manifest says 10"),
        ("flipped", r"model/weights.bin: changed: SHA-256 .* but the manifest says"),
        ('{"stage":', r"manifest.json, line 1: malformed JSON"),
        ("[1]", r"manifest.json: not the manifest of an artifact"),
        ('{"stage": "cook", "version": 1, "key": "k", "files": {"a": 3}}', r"not the manifest of an artifact"),
    ],
)
def test_damaged_artifact(tmp_path: Path, how: str, message: str) -> None:
    made, _ = make(COOK, CookArgs(), tmp_path)
    damage(made, how)
    with pytest.raises(ArtifactError, match=message):
        open_artifact(made.path)
    with pytest.raises(ArtifactError, match=message):
        make(EAT, EatArgs(food=str(made.path)), tmp_path)
    if how == "flipped":  # finding looks at sizes only, so that a second run ends within seconds
        assert find(tmp_path, "cook", made.key) == made
    else:
        with pytest.raises(ArtifactError, match=message):
            make(COOK, CookArgs(), tmp_path)


def test_a_folder_with_the_name_of_another_is_refused(tmp_path: Path) -> None:
    made, _ = make(COOK, CookArgs(), tmp_path)
    other = make(COOK, CookArgs(rate=0.75), tmp_path / "elsewhere")[0].key
    made.path.rename(made.path.with_name(other))
    with pytest.raises(ArtifactError, match=rf"{other}: holds artifact {made.key}, not the one"):
        make(COOK, CookArgs(rate=0.75), tmp_path)


def test_counts_must_be_finite_and_stay(tmp_path: Path) -> None:
    space = Workspace(tmp_path, {}, Untracked())
    with pytest.raises(ValueError, match="count loss must be a finite number, not nan"):
        space.count(loss=float("nan"))
    with pytest.raises(ValueError, match="not 'many'"):
        space.count(rows="many")
    space.count(rows=3)
    space.count(rows=3)
    with pytest.raises(ValueError, match="count rows is already 3, and cannot become 4"):
        space.count(rows=4)


def test_tracker_is_opened_in_the_folder_and_closed(tmp_path: Path) -> None:
    seen = []

    class Tracker:
        def __init__(self, folder: Path, key: str) -> None:
            self.file = (folder / "metrics.jsonl").open("w")

        def log(self, step: int, **metrics: float) -> None:
            self.file.write(f"{step} {metrics}")

        def close(self) -> None:
            self.file.close()
            seen.append("closed")

        def end(self, made: Artifact | None) -> None:
            seen.append(made and made.path)

    def run(args: CookArgs, space: Workspace) -> None:
        space.track.log(1, loss=0.5)
        if args.fail:
            raise ValueError("no")

    stage = Stage("cook", 1, CookArgs, run)
    made, _ = make(stage, CookArgs(), tmp_path, Tracker)
    assert (made.path / "metrics.jsonl").read_text() == "1 {'loss': 0.5}" and "metrics.jsonl" in made.manifest["files"]
    with pytest.raises(ValueError, match="no"):
        make(stage, CookArgs(fail=True), tmp_path, Tracker)
    assert seen == ["closed", made.path, "closed", None]


def test_stage_may_not_write_a_manifest(tmp_path: Path) -> None:
    stage = Stage("cook", 1, CookArgs, lambda args, space: (space.folder / "manifest.json").write_text("{}"))
    with pytest.raises(ArtifactError, match="wrote a manifest"):
        make(stage, CookArgs(), tmp_path)


def test_problem_files_count_by_content(tmp_path: Path) -> None:
    stage = Stage("load", 1, ProblemArgs, note)
    file = tmp_path / "problems.jsonl"
    keys = []
    for text in ("one", "two", "one"):
        file.write_text(text)
        keys.append(make(stage, ProblemArgs(source="jsonl", path=str(file)), tmp_path)[0].key)
    assert keys[0] == keys[2] != keys[1]
    assert make(stage, ProblemArgs(), tmp_path)[0].manifest["parents"]["path"] is None
