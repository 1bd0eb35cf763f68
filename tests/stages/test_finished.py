"""Finished artifacts: exactly the files of the manifest, and which program made them."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from pathlib import Path

import pytest

from stages import provenance
from stages.artifacts import Artifact, ArtifactError, find, open_artifact
from stages.make import look_up, make
from stages.stage import Stage
from tests.stages.test_artifacts import COOK, EAT, CookArgs, EatArgs


@pytest.fixture
def made(tmp_path: Path) -> Artifact:
    return make(COOK, CookArgs(), tmp_path)[0]


def edit(made: Artifact, **changes: object) -> None:
    (made.path / "manifest.json").write_text(json.dumps(made.manifest | changes))


@pytest.mark.parametrize("name", ["adapter_config.json", "model/adapter_model.safetensors", ".hidden", "new/deep/x"])
def test_an_unlisted_file_is_refused_by_name(made: Artifact, tmp_path: Path, name: str) -> None:
    file = made.path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{}")
    for look in (lambda: open_artifact(made.path), lambda: make(COOK, CookArgs(), tmp_path)):
        with pytest.raises(ArtifactError, match=f"{name}: the manifest does not list it, .*; move it away"):
            look()
    with pytest.raises(ArtifactError, match=name):
        make(EAT, EatArgs(food=str(made.path)), tmp_path)
    file.unlink()
    assert open_artifact(made.path) == made


def test_a_linked_folder_is_not_listed_either(made: Artifact, tmp_path: Path) -> None:
    (made.path / "adapter").symlink_to(tmp_path)
    with pytest.raises(ArtifactError, match="adapter: the manifest does not list it"):
        open_artifact(made.path)


def test_what_file_managers_leave_is_no_part_of_it(made: Artifact) -> None:
    for name in (".DS_Store", "model/._weights.bin", "Thumbs.db", ".nfs000000001"):
        (made.path / name).write_text("x")
    assert open_artifact(made.path) == made


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a\\b", "", "a//b", "./a", "a/."])
def test_names_that_lead_elsewhere_are_refused(made: Artifact, tmp_path: Path, name: str) -> None:
    edit(made, files=made.manifest["files"] | {name: {"size": 1, "sha256": ""}})
    with pytest.raises(ArtifactError) as caught:
        open_artifact(made.path)
    assert str(caught.value) == f"{made.path / 'manifest.json'}: {name!r} is no name of a file within the folder"
    # as a parent that may be any folder, it is not taken for one that no stage made
    with pytest.raises(ArtifactError, match="is no name of a file"):
        make(EAT, EatArgs(food=str(made.path), salt=str(made.path)), tmp_path)
    food, _ = make(COOK, CookArgs(rate=0.1), tmp_path)
    with pytest.raises(ArtifactError, match=r"salt: .* is no name of a file"):
        make(EAT, EatArgs(food=str(food.path), salt=str(made.path)), tmp_path)


def test_a_manifest_without_files_is_refused(made: Artifact, tmp_path: Path) -> None:
    edit(made, files={})
    with pytest.raises(ArtifactError, match="lists no file"):
        open_artifact(made.path)
    with pytest.raises(ArtifactError, match="stage idle wrote no file"):
        make(Stage("idle", 1, CookArgs, lambda args, space: None), CookArgs(), tmp_path)
    assert not any(path.is_dir() for path in (tmp_path / "idle").iterdir())


def git(folder: Path, *command: str) -> str:
    person = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *person, *command], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_of_a_checkout_and_whether_it_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*provenance.OURS, "notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    (tmp_path / "notes" / "a.py").write_text("not of the program")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert provenance.checkout(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "stages" / "new.py").write_text("")
    assert provenance.checkout(tmp_path) == {"commit": commit, "dirty": True}
    # installed in an environment that lies in somebody's checkout; without git; with a broken one
    assert provenance.checkout(tmp_path / "stages") is None
    with monkeypatch.context() as patched:
        patched.setenv("PATH", str(tmp_path))
        assert provenance.checkout(tmp_path) is None
    (tmp_path / ".git" / "HEAD").unlink()
    assert provenance.checkout(tmp_path) is None


def test_the_manifest_names_what_made_it(made: Artifact) -> None:
    root = Path(provenance.__file__).parents[1]
    known = provenance.checkout(root)
    assert made.manifest["code"] == (known or {"version": provenance.versions()["stepwise"]})


def test_an_artifact_of_another_commit_is_reused_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def at(**facts: object) -> None:
        monkeypatch.setattr(provenance, "code", lambda: facts)

    at(commit="1" * 40, dirty=True)
    made, _ = make(COOK, CookArgs(), tmp_path)
    assert make(COOK, CookArgs(), tmp_path)[1] and not caplog.messages
    at(commit="2" * 40, dirty=False)
    assert make(COOK, CookArgs(), tmp_path) == (made, True)
    assert look_up(COOK, CookArgs(), tmp_path) == made
    assert caplog.messages == [
        f"{made.path}: reused; made by commit {'1' * 12} with changes; this is commit {'2' * 12}"
    ]
    assert made.manifest["code"] == {"commit": "1" * 40, "dirty": True}
    at(version="0.1.0")
    assert make(COOK, CookArgs(), tmp_path)[1] and caplog.messages[-1].endswith("this is version 0.1.0")


def test_leftovers_of_a_finished_artifact_go_when_it_is_found(made: Artifact, tmp_path: Path) -> None:
    """A kill between the artifact's rename and the end of its journals and checkpoints."""
    folder = made.path.parent

    def leave() -> list[Path]:
        left = [folder / f".{made.key}{suffix}" for suffix in (".unfinished", ".partial", ".partial.3")]
        for path in left:
            (path / "checkpoints").mkdir(parents=True)
            (path / "checkpoints" / "weights").write_text("gigabytes")
        return left

    for look in (lambda: make(COOK, CookArgs(), tmp_path), lambda: look_up(COOK, CookArgs(), tmp_path)):
        left = leave()
        assert look() and not any(path.exists() for path in left)
    assert find(tmp_path, "cook", made.key) == made and os.listdir(folder).count(made.key) == 1


def test_leftovers_stay_while_somebody_holds_the_lock(made: Artifact, tmp_path: Path) -> None:
    from filelock import FileLock

    left = made.path.with_name(f".{made.key}.unfinished")
    left.mkdir()
    with FileLock(made.path.with_name(f"{made.key}.lock")):
        assert make(COOK, CookArgs(), tmp_path)[1] and left.exists()
