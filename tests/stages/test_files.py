"""Hashes of files and folders: what counts, and what is remembered."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from stages import files, parents
from stages.files import hash_contents, hash_file
from stages.make import make
from stages.processes import Processes
from stages.stage import Stage, parent
from tests.stages.test_artifacts import note


@pytest.fixture
def hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read to be hashed."""
    read: list[Path] = []

    def sha256(path: Path, plain=files.sha256) -> str:
        read.append(path)
        return plain(path)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "sha256", sha256)
    monkeypatch.setattr(files, "LARGE", 4)
    return read


def write(path: Path, text: str, age: float = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def test_a_large_file_is_read_once(tmp_path: Path, hashed: list[Path]) -> None:
    weights = write(tmp_path / "weights", "12345")
    first = hash_file(weights)
    assert hash_file(weights) == first == files.sha256(weights) and hashed == [weights] * 2
    write(weights, "54321", age=50)  # of the same size
    assert hash_file(weights) != first and len(hashed) == 3
    small = write(tmp_path / "small", "123")
    assert hash_file(small) == hash_file(small) and len(hashed) == 5


def test_what_changed_just_now_is_not_remembered(tmp_path: Path, hashed: list[Path]) -> None:
    weights = write(tmp_path / "weights", "12345", age=0)
    hash_file(weights)
    hash_file(weights)
    assert len(hashed) == 2


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"NAME": 1}', '{"NAME": [5, 1]}', '{"NAME": ["5", 1, 1, "x"]}'])
def test_a_damaged_cache_is_ignored(tmp_path: Path, hashed: list[Path], text: str) -> None:
    weights = write(tmp_path / "weights", "12345")
    cache = tmp_path / "cache" / "stepwise" / "hashes.json"
    cache.parent.mkdir(parents=True)
    cache.write_text(text.replace("NAME", str(weights)))
    assert hash_file(weights) == hash_file(weights) and len(hashed) == 1
    assert list(json.loads(cache.read_text())) == [str(weights)]


def test_a_home_that_cannot_be_written_to(tmp_path: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(write(tmp_path / "file", "no folder")))
    weights = write(tmp_path / "weights", "12345")
    assert hash_file(weights) == hash_file(weights) and len(hashed) == 2


@pytest.mark.parametrize("config", ["config.json", "adapter_config.json"])
def test_what_training_leaves_beside_a_model_does_not_count(tmp_path: Path, config: str) -> None:
    model, data = tmp_path / "model", tmp_path / "data"
    write(model / config, "{}")
    write(data / "rows.jsonl", "{}")
    before, rows = hash_contents(model), hash_contents(data)
    for name in (
        *(
            "README.md",
            "LICENSE.txt",
            "optimizer.pt",
            "optimizer.bin",
            "scheduler.pt",
            "rng_state_0.pth",
            ".gitattributes",
        ),
        *("trainer_state.json", "training_args.bin", "runs/events.out.tfevents.1"),
    ):
        for folder in (model, data):
            write(folder / name, "x")
        assert hash_contents(model) == before, name
        if not name.startswith("."):
            assert hash_contents(data) != rows, name  # anything may be read there
            (data / name).unlink()
    for name in ("model.safetensors", "tokenizer.json", "generation_config.json", "chat_template.jinja"):
        write(model / name, "x")
        assert hash_contents(model) != before, name
        (model / name).unlink()


def test_only_the_first_process_reads_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Args:
        policy: str = parent(any_path=True)

    write(tmp_path / "policy" / "config.json", "{}")
    args = Args(str(tmp_path / "policy"))
    made, _ = make(Stage("tune", 1, Args, note), args, tmp_path)

    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} is hashed")

    class Second(Processes):
        answers = iter([{"policy": made.manifest["parents"]["policy"]["key"]}, made.key, True])

        def broadcast(self, value: object) -> object:
            assert not value
            return next(self.answers)

    monkeypatch.setattr(parents, "hash_contents", refuse)
    assert make(Stage("tune", 1, Args, note), args, tmp_path, processes=Second(1, 2)) == (made, True)
