"""Models and data sets of the Hugging Face hub, written `hub:org/name@commit` where a folder could stand.

A branch, a tag or no revision at all means the commit that it stands for now. The library's cache is used: what is
there already works offline (HF_HUB_OFFLINE=1).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PREFIX = "hub:"
_NAME = re.compile(r"hub:(?P<id>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?")
# weights in formats that are never loaded here
_UNUSED = ["*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.ot", "*.gguf", "*.onnx", "*.onnx_data"]


class HubError(ValueError):
    """A hub id that cannot be used. The message names it."""


@dataclass(frozen=True)
class Snapshot:
    """One commit of a repository: its `name` (`hub:org/name@commit`) and the local folder with its files."""

    name: str
    folder: Path


def is_hub(path: str | Path) -> bool:
    """Whether this names a repository of the hub rather than a file or folder."""
    return str(path).startswith(PREFIX)


@cache
def snapshot(name: str, kind: str = "model") -> Snapshot:
    """The files of `hub:org/name[@revision]`, fetched where the cache lacks them; `kind` is model or dataset.

    Asked for again, a process gets the same commit.

    Raises:
        HubError: this is no hub id, there is no such repository or commit, or it cannot be fetched.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise HubError(f"{name!r} is no hub id: hub:org/name@commit is one")
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

    unused = _UNUSED if kind == "model" else None
    try:
        folder = snapshot_download(match["id"], revision=match["revision"], repo_type=kind, ignore_patterns=unused)
    except (OSError, ValueError, HTTPError) as error:
        if isinstance(error, LocalEntryNotFoundError) and constants.HF_HUB_OFFLINE:
            reason = f"HF_HUB_OFFLINE is set, and the cache {constants.HF_HUB_CACHE} does not have all of it"
        else:
            first = next(iter(str(error).splitlines()), "")
            reason = f"it cannot be fetched: {type(error).__name__}: {first}"
        raise HubError(f"{name} ({kind} of the Hugging Face hub): {reason}; a folder can be named instead") from error
    return Snapshot(f"{PREFIX}{match['id']}@{Path(folder).name}", Path(folder))


def pin(path: str, kind: str = "model") -> str:
    """A hub id with the commit that it stands for now; the path of a file or folder as it is."""
    return snapshot(path, kind).name if is_hub(path) else path


def local_path(path: str, kind: str = "model") -> str:
    """The folder that a hub id stands for; the path of a file or folder as it is."""
    return str(snapshot(path, kind).folder) if is_hub(path) else path
