"""The README.md of an artifact: rows load by default, and nothing that checks, finds or names an artifact sees it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from stages.artifacts import CARD, ArtifactError, open_artifact
from stages.cards import ancestry, render_card
from stages.make import make
from stages.stage import Stage, parent
from stages.workspace import Quarantined, Workspace
from tests.cards import head


@dataclass(frozen=True)
class Word:
    id: str
    text: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Figure:
    name: str
    value: float | None


@dataclass
class WriteArgs:
    words: int = 3
    before: str | None = parent("write", default=None)


def write(args: WriteArgs, work: Workspace) -> None:
    work.write_rows("rows", [Word(f"w{n}", "x" * n, ("a",) * n) for n in range(args.words)], Word)
    work.write_rows("figures", [Figure("one", 1.0), Figure("none", None)])
    work.quarantine([Quarantined("w9", "too long")])
    work.track.log(1, loss=0.5)


WRITE = Stage("write", 1, WriteArgs, write)
LOAD = """
import json, sys
from datasets import load_dataset
found = {name or "": load_dataset(sys.argv[1], name, split="train") for name in [None, *sys.argv[2:]]}
print(json.dumps({name: [data.column_names, data.num_rows, data[0]] for name, data in found.items()}))
"""


def loaded(folder: Path, cache: Path, *names: str) -> dict[str, list]:
    """What the library makes of a folder, in a process of its own: it reads its settings on import."""
    pytest.importorskip("datasets")
    program = f"import os\nos.environ['HF_DATASETS_CACHE'] = {str(cache)!r}\n{LOAD}"
    done = subprocess.run([sys.executable, "-c", program, str(folder), *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_rows_load_by_default(tmp_path: Path) -> None:
    made, _ = make(WRITE, WriteArgs(), tmp_path / "artifacts")
    found = loaded(made.path, tmp_path / "cache", "rows", "figures", "quarantine")
    assert found[""] == found["rows"] == [["id", "text", "parts"], 3, {"id": "w0", "text": "", "parts": []}]
    assert found["figures"] == [["name", "value"], 2, {"name": "one", "value": 1.0}]
    assert found["quarantine"][1:] == [1, {"id": "w9", "reason": "too long"}]


def test_a_file_without_rows_is_named_and_not_loaded(tmp_path: Path) -> None:
    made, _ = make(WRITE, WriteArgs(0), tmp_path)
    assert [one["config_name"] for one in head(made.path)["configs"]] == ["figures", "quarantine"]
    assert not any("default" in one for one in head(made.path)["configs"])
    assert "`rows.parquet`: 0 rows" in (made.path / CARD).read_text()


def test_the_card_says_what_is_there_and_where_it_comes_from(tmp_path: Path) -> None:
    first, _ = make(WRITE, WriteArgs(), tmp_path)
    second, _ = make(WRITE, WriteArgs(4, str(first.path)), tmp_path)
    made, _ = make(WRITE, WriteArgs(5, str(second.path)), tmp_path)
    card = (made.path / CARD).read_text()
    assert [one["config_name"] for one in head(made.path)["configs"]] == ["rows", "figures", "quarantine"]
    assert head(made.path)["configs"][0] == {"config_name": "rows", "data_files": "rows.parquet", "default": True}
    assert "`rows.parquet`: 5 rows (`Word`)" in card and "| `figures` | 2 |" in card
    assert f"- `before`: `write` `{second.key}`\n  - `before`: `write` `{first.key}`\n" in card
    assert str(tmp_path) not in card
    moved = tmp_path / "elsewhere" / "artifacts"
    shutil.move(tmp_path / "write", moved / "write")
    assert [one.key for one in ancestry(moved / "write" / made.key, made.manifest)] == [second.key, first.key]


def test_a_card_is_no_part_of_an_artifact(tmp_path: Path) -> None:
    made, _ = make(WRITE, WriteArgs(), tmp_path)
    assert CARD not in made.manifest["files"]
    edited, old = tmp_path / "edited", tmp_path / "old"
    for folder in (edited, old):
        shutil.copytree(made.path, folder)
    (edited / CARD).write_text("My licence.")
    (old / CARD).unlink()  # of before there were cards
    assert open_artifact(edited).manifest == open_artifact(old).manifest == made.manifest
    (made.path / CARD).write_text("My licence.")
    assert make(WRITE, WriteArgs(), tmp_path) == (made, True)
    assert (made.path / CARD).read_text() == "My licence."
    (edited / "other.md").write_text("x")
    with pytest.raises(ArtifactError, match=r"other\.md: the manifest does not list it"):
        open_artifact(edited)


def test_what_the_hubs_client_leaves_in_a_download_is_passed_over(tmp_path: Path) -> None:
    made, _ = make(WRITE, WriteArgs(), tmp_path)
    (made.path / ".gitattributes").write_text("*.parquet filter=lfs")
    (made.path / ".cache" / "huggingface" / "download").mkdir(parents=True)
    (made.path / ".cache" / "huggingface" / "download" / "rows.parquet.metadata").write_text("x")
    assert open_artifact(made.path) == made
    (made.path / ".cache" / "other").write_text("x")
    with pytest.raises(ArtifactError, match="does not list it"):
        open_artifact(made.path)


def test_a_stage_has_no_card_of_its_own_beside_it(tmp_path: Path) -> None:
    stage = replace(WRITE, run=lambda args, work: (work.folder / CARD).write_text("x"))
    with pytest.raises(ArtifactError, match=r"stage write wrote a README\.md of its own"):
        make(stage, WriteArgs(), tmp_path)


def test_texts_of_a_manifest_are_data(tmp_path: Path) -> None:
    evil = "a\n---\nlicense: mit\n---\n# Owned <b>`"
    manifest = {
        "stage": evil,
        "key": evil,
        "created": "\n# Owned",
        "code": {"commit": "\n# Owned"},
        "notes": {evil: evil},
    }
    manifest["parents"] = {evil: {"stage": evil, "key": evil, "path": evil}}
    card = render_card(tmp_path, manifest)
    (tmp_path / CARD).write_text(card)
    assert head(tmp_path)["license"] == "unknown" and head(tmp_path)["tags"] == ["stepwise", evil]
    assert card.count("\n---\n") == 1 and "\n# Owned" not in card and "license: mit" not in card.splitlines()


def test_counts_and_notes_of_an_old_manifest_are_shown_whatever_they_are(tmp_path: Path) -> None:
    manifest = {"stage": "write", "key": "ab", "counts": {"a": "<b>", "c": [1]}, "notes": {"n": 3}}
    card = render_card(tmp_path, manifest)
    assert "| `a` | `<b>` |" in card and "| `c` | `[1]` |" in card and "No rows to load." in card
