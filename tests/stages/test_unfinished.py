"""What is kept of attempts that fail or are killed, and locks that a file system does not give."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from stages.artifacts import Artifact, ArtifactError
from stages.make import make
from stages.processes import Processes
from stages.stage import Stage, runtime
from stages.tracking import Tracker
from stages.unfinished import Attempts
from stages.workspace import Workspace

ROOT = Path(__file__).parents[2]


@dataclass
class WorkArgs:
    size: int = 1
    fail: bool = runtime(False)
    kept: bool = runtime(True)
    logs: bool = runtime(True)


def work(args: WorkArgs, space: Workspace) -> None:
    if args.logs:
        space.track.log(1, loss=0.5)
    if args.kept:
        space.unfinished.mkdir(exist_ok=True)
        (space.unfinished / "journal").write_text("rows")
    if args.fail:
        raise ValueError("no")
    (space.folder / "done").write_text("")


WORK = Stage("work", 1, WorkArgs, work)


def tracker(folder: Path, key: str) -> Tracker:
    return Tracker(folder)


def attempt(tmp_path: Path, **args: bool) -> Artifact:
    return make(WORK, WorkArgs(**args), tmp_path, tracker)[0]


def unfinished(tmp_path: Path) -> Path:
    (folder,) = (tmp_path / "work").glob(".*.unfinished")
    return folder


def test_metrics_of_failed_attempts_are_kept_beside_the_unfinished_work(tmp_path: Path) -> None:
    for number in (1, 2):
        with pytest.raises(ValueError, match="no"):
            attempt(tmp_path, fail=True)
        row = json.loads((unfinished(tmp_path) / f"metrics.{number}.jsonl").read_text())
        assert row["loss"] == 0.5
    assert not list((tmp_path / "work").glob(".*.partial*"))
    made = attempt(tmp_path)
    assert len((made.path / "metrics.jsonl").read_text().splitlines()) == 1
    assert not list((tmp_path / "work").glob(".*"))


def test_a_failure_that_leaves_nothing_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"):
        attempt(tmp_path, fail=True, kept=False, logs=False)
    assert not list((tmp_path / "work").glob(".*"))


def test_seconds_are_those_of_all_attempts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"):
        attempt(tmp_path, fail=True)
    file = unfinished(tmp_path) / "attempts.json"
    known = json.loads(file.read_text())
    assert known["began"] is None and 0 <= known["seconds"] < 100
    file.write_text(json.dumps(known | {"seconds": 5000.0}))  # as if it had taken so long
    with pytest.raises(ValueError, match="no"):
        attempt(tmp_path, fail=True)
    assert 5000 <= attempt(tmp_path).manifest["seconds"] < 5100


def test_an_attempt_that_was_killed_lasted_until_the_last_sign_of_it(tmp_path: Path) -> None:
    program = (
        "import os, signal\n"
        "from tests.stages.test_unfinished import *\n"
        "def run(args, space):\n"
        "    work(WorkArgs(), space)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"make(Stage('work', 1, WorkArgs, run), WorkArgs(), {str(tmp_path)!r}, tracker)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert killed.returncode == -signal.SIGKILL
    folder = unfinished(tmp_path)
    began = json.loads((folder / "attempts.json").read_text())["began"]
    assert abs((folder / "journal").stat().st_mtime - began) < 60
    os.utime(folder / "journal", (began + 700, began + 700))
    with pytest.raises(ValueError, match="no"):
        attempt(tmp_path, fail=True)
    assert json.loads((folder / "metrics.1.jsonl").read_text())["loss"] == 0.5  # of the one that was killed
    assert 700 <= attempt(tmp_path).manifest["seconds"] < 800


def test_seconds_of_an_attempt_that_left_nothing_to_go_on_from_do_not_count(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"):
        attempt(tmp_path, fail=True, kept=False)
    file = unfinished(tmp_path) / "attempts.json"
    file.write_text(json.dumps({"seconds": 5000.0, "began": None}))
    assert attempt(tmp_path, kept=False).manifest["seconds"] < 100


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"seconds": "x", "began": null}', '{"seconds": 1}'])
def test_a_damaged_record_of_attempts_counts_as_none(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "unfinished"
    folder.mkdir()
    (folder / "journal").write_text("")
    (folder / "attempts.json").write_text(text)
    attempts = Attempts(folder, tmp_path / "partial")
    attempts.begin()
    assert attempts.before == 0


def test_folders_of_more_processes_than_now_are_dropped(tmp_path: Path) -> None:
    key = attempt(tmp_path).key
    folder = tmp_path / "work"
    (folder / key).rename(tmp_path / "elsewhere")
    names = [f".{key}.partial.{rank}" for rank in (1, 2, 17)]
    for name in names:
        (folder / name).mkdir()

    class First(Processes):
        """The first of two, whose other does not look."""

        def wait(self) -> None: ...

        def broadcast(self, value: object) -> object:
            return value

    made, reused = make(WORK, WorkArgs(), tmp_path, tracker, First(0, 2))
    assert not reused and made.key == key
    assert [(folder / name).exists() for name in names] == [True, False, False]  # the other's own


@pytest.mark.parametrize("cause", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EIO])
def test_a_file_system_without_locks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(cause, os.strerror(cause))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ArtifactError) as caught:
        attempt(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'work'}: no file can be locked there (")
    assert os.strerror(cause) in str(caught.value) or cause == errno.ENOSYS
    assert "run.artifacts" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_system_that_gives_one_lock_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with pytest.raises(ArtifactError, match=r"work: no file can be locked there \(it gives one lock twice\)"):
        attempt(tmp_path)
    assert [path.suffix for path in (tmp_path / "work").iterdir()] == [".lock"]
    monkeypatch.undo()
    attempt(tmp_path)
