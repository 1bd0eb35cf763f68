"""A cache of the Hugging Face hub as its library lays it out, written by a test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from stages import hub

COMMIT, OTHER = "a" * 40, "b" * 40


def use_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let this process look for hub ids there, and nowhere else."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.snapshot.cache_clear()
    return folder


def put(cache: Path, name: str, source: Path, commit: str = COMMIT, kind: str = "model", ref: str = "main") -> Path:
    """Put the files of `source` there as a commit of `org/name`, to which `ref` points; returns the snapshot."""
    home = cache / f"{kind}s--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True, exist_ok=True)
    (home / "refs" / ref).write_text(commit)
    return Path(shutil.copytree(source, home / "snapshots" / commit))
