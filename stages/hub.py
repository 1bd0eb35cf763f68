"""Models and data sets of the Hugging Face hub, written `hub:org/name@commit` where a folder could stand.

A branch, a tag or no revision at all means the commit that it stands for now. The library's cache is used: what is
there already works offline (HF_HUB_OFFLINE=1). `upload` makes a repository of some files.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from stages.text import keep_secret

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
    repository, revision = _parse(name)
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

    unused = _UNUSED if kind == "model" else None
    try:
        folder = snapshot_download(repository, revision=revision, repo_type=kind, ignore_patterns=unused)
    except (OSError, ValueError, HTTPError) as error:
        if isinstance(error, LocalEntryNotFoundError) and constants.HF_HUB_OFFLINE:
            reason = f"HF_HUB_OFFLINE is set, and the cache {constants.HF_HUB_CACHE} does not have all of it"
        else:
            first = next(iter(str(error).splitlines()), "")
            reason = f"it cannot be fetched: {type(error).__name__}: {first}"
        raise HubError(f"{name} ({kind} of the Hugging Face hub): {reason}; a folder can be named instead") from error
    return Snapshot(f"{PREFIX}{repository}@{Path(folder).name}", Path(folder))


def _parse(name: str) -> tuple[str, str | None]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise HubError(f"{name!r} is no hub id: hub:org/name@commit is one")
    return match["id"], match["revision"]


def target(name: str) -> str:
    """The repository to which `hub:org/name` uploads.

    Raises:
        HubError: it is no such name, or says which commit.
    """
    repository, revision = _parse(name)
    if revision is not None or "/" not in repository:
        raise HubError(f"{name!r} names no repository to upload to: hub:org/name does, without a commit")
    return repository


def upload(
    name: str, kind: str, files: dict[str, Path | bytes], message: str, public: bool = False, delete: bool = False
) -> str:
    """Make a repository (`kind` is model or dataset) hold these files and no others, in one commit; returns its name,
    `hub:org/name@commit`. A new repository is private unless `public`.

    Raises:
        HubError: it holds other files and `delete` is not set, or it cannot be made or written.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
    from huggingface_hub.errors import HTTPError

    repository, api = target(name), HfApi()
    keep_secret(get_token() or "")
    try:
        api.create_repo(repository, repo_type=kind, private=not public, exist_ok=True)
        others = sorted(set(api.list_repo_files(repository, repo_type=kind)) - files.keys() - {".gitattributes"})
        if others and not delete:
            raise HubError(f"holds {', '.join(others[:3])} ({len(others)} files), which --delete would remove")
        changes = [CommitOperationAdd(path_in_repo=one, path_or_fileobj=file) for one, file in files.items()]
        changes += [CommitOperationDelete(path_in_repo=one) for one in others]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a repository of models gets Parquet: rows left out, beside a model
            made = api.create_commit(repository, changes, repo_type=kind, commit_message=message)
    except (OSError, ValueError, RuntimeError, HTTPError) as error:
        told = "" if isinstance(error, HubError) else f"cannot be uploaded to: {type(error).__name__}: "
        raise HubError(f"{name} ({kind} of the Hugging Face hub) {told}{str(error).partition(chr(10))[0]}") from error
    return f"{PREFIX}{repository}@{made.oid}"


def pin(path: str, kind: str = "model") -> str:
    """A hub id with the commit that it stands for now; the path of a file or folder as it is."""
    return snapshot(path, kind).name if is_hub(path) else path


def local_path(path: str, kind: str = "model") -> str:
    """The folder that a hub id stands for; the path of a file or folder as it is."""
    return str(snapshot(path, kind).folder) if is_hub(path) else path
