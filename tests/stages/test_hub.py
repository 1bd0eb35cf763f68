"""Hub ids where a folder could stand: their commit counts, and the stage gets the local folder."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from stages.artifacts import ArtifactError
from stages.hub import HubError, local_path, pin, snapshot
from stages.make import look_up, make
from stages.processes import Processes
from stages.stage import Stage, parent
from stages.workspace import Workspace
from tests.hub_cache import COMMIT, OTHER, put, use_cache

ROOT = Path(__file__).parents[2]


@dataclass
class Inner:
    lora: str | None = parent("train_policy", any_path=True, default=None)


@dataclass
class TuneArgs:
    policy: str = parent("train_policy", any_path=True)
    data: list[str] = parent(any_path=True, hub="dataset", default=[])
    inner: Inner = field(default_factory=Inner)


def tune(args: TuneArgs, space: Workspace) -> None:
    """Note where everything was read, by the arguments and by the parents."""
    parents = [space.parents["policy"], *space.parents["data"], space.parents["inner.lora"]]
    paths = [args.policy, *args.data, args.inner.lora]
    assert paths == [one and str(one.path) for one in parents]
    (space.folder / "read.txt").write_text("\n".join(str(path) for path in paths))


TUNE = Stage("tune", 1, TuneArgs, tune)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text("{}")
    cache = use_cache(tmp_path / "cache", monkeypatch)
    put(cache, "org/model", source)
    put(cache, "org/data", source, OTHER, "dataset")
    return cache


def test_a_stage_reads_the_folder_and_the_commit_counts(cache: Path, tmp_path: Path) -> None:
    args = TuneArgs("hub:org/model", ["hub:org/data@main"], Inner(f"hub:org/model@{COMMIT}"))
    made, reused = make(TUNE, args, tmp_path)
    model = cache / "models--org--model" / "snapshots" / COMMIT
    data = cache / "datasets--org--data" / "snapshots" / OTHER
    assert not reused and (made.path / "read.txt").read_text().split("\n") == [str(model), str(data), str(model)]
    parents = made.manifest["parents"]
    assert [parents["policy"]["key"], parents["data"][0]["key"]] == [f"hub:org/model@{COMMIT}", f"hub:org/data@{OTHER}"]
    assert made.manifest["args"]["policy"] == "hub:org/model"
    pinned = TuneArgs(f"hub:org/model@{COMMIT}", [f"hub:org/data@{OTHER}"], Inner("hub:org/model@main"))
    assert look_up(TUNE, pinned, tmp_path) == made


def test_a_branch_that_moves_is_another_key(cache: Path, tmp_path: Path) -> None:
    first, _ = make(TUNE, TuneArgs("hub:org/model"), tmp_path)
    put(cache, "org/model", tmp_path / "source", OTHER)
    assert make(TUNE, TuneArgs("hub:org/model"), tmp_path)[1]  # a process keeps to the commit that it has seen
    snapshot.cache_clear()
    second, reused = make(TUNE, TuneArgs("hub:org/model"), tmp_path)
    assert not reused and second.manifest["parents"]["policy"]["key"] == f"hub:org/model@{OTHER}" and first != second


def test_pin_and_local_path(cache: Path) -> None:
    assert pin("hub:org/model") == f"hub:org/model@{COMMIT}" and pin("some/folder") == "some/folder"
    assert local_path("hub:org/data", "dataset") == str(cache / "datasets--org--data" / "snapshots" / OTHER)
    assert local_path("some/folder") == "some/folder"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "hub:org/none",
            r"policy: hub:org/none \(model of the .* hub\): HF_HUB_OFFLINE is set, and the cache .*",
        ),
        (f"hub:org/model@{OTHER}", "HF_HUB_OFFLINE is set"),
        ("hub:org/data", "HF_HUB_OFFLINE is set"),  # a data set is no model
        ("hub:", "'hub:' is no hub id: hub:org/name@commit is one"),
        ("hub:org/model@", "is no hub id"),
        ("hub:../../etc", "is no hub id|cannot be fetched"),
        ("org/model", r"there is no such file or folder.*\(a model of the .* hub is written hub:org/model\)"),
    ],
)
def test_what_cannot_be_had_is_one_line(cache: Path, tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        make(TUNE, TuneArgs(name), tmp_path)
    assert "\n" not in str(caught.value) and not (tmp_path / "tune").exists()


def test_a_snapshot_that_is_not_whole_is_refused(cache: Path) -> None:
    """The library keeps a list of a commit's files; a download that was cut off has fewer."""
    from huggingface_hub._tree_cache import TreeCacheEntry, write_tree_cache

    def file(name: str) -> TreeCacheEntry:
        return TreeCacheEntry(size=2, blob_id="0" * 40, lfs_sha256=None, lfs_size=None, xet_hash=None)

    home = str(cache / "models--org--model")
    write_tree_cache(home, COMMIT, {name: file(name) for name in ("config.json", "x.json")})
    with pytest.raises(HubError, match="does not have all of it"):
        snapshot("hub:org/model")
    write_tree_cache(home, COMMIT, {name: file(name) for name in ("config.json", "x.bin")})
    assert snapshot("hub:org/model").folder.is_dir()  # what is never loaded is never fetched


def test_other_processes_take_the_commit_of_the_first(cache: Path, tmp_path: Path) -> None:
    """Between two looks a branch may move."""
    from stages.parents import find_parents

    told = {"policy": f"hub:org/model@{COMMIT}", "data": [], "inner.lora": None}

    class Second(Processes):
        def broadcast(self, value: object) -> object:
            return told

    put(cache, "org/model", tmp_path / "source", OTHER)
    found = find_parents(TuneArgs("hub:org/model"), Second(1, 2))
    assert found["policy"].key == f"hub:org/model@{COMMIT}" and found["policy"].path.name == COMMIT


def test_a_command_takes_a_hub_id(cache: Path, tmp_path: Path) -> None:
    """As it is typed, offline, with the library's own environment variables."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "experiments.sample", "sampler.backend=scripted", "problems.limit=1"]
    source = tmp_path / "scripted"
    source.mkdir()
    (source / "script.json").write_text('{"arithmetic/train/0": ["#### 1"]}')
    put(cache, "org/scripted", source)
    done = subprocess.run(
        [*command, "policy=hub:org/scripted@main"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and "(made in" in done.stdout, done.stderr
    lost = subprocess.run(
        [*command, "policy=hub:org/none"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert lost.returncode == 2 and lost.stderr.startswith("error: policy: hub:org/none (model of"), lost.stderr
    assert len(lost.stderr.splitlines()) == 1
