"""Find a stage's artifact or make it: the key, the lock, the run, the manifest, the card.

A folder gets its name when it is complete, and two jobs that want the same artifact do not both make it.
Left out: finished folders (`stages/artifacts.py`), parents (`stages/parents.py`), and what remains of work that is not
finished (`stages/unfinished.py`).
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stages import provenance
from stages.artifacts import CARD, Artifact, ArtifactError, find, open_artifact
from stages.cards import render_card
from stages.files import files_in, sha256, sync, write_json
from stages.parents import Parents, find_parents, lineage, parent_keys, with_local_paths
from stages.processes import Processes, current
from stages.stage import Stage, artifact_key, plain_args
from stages.tracking import Tracker, Untracked
from stages.unfinished import Attempts, clean_up, leftovers, locked
from stages.workspace import Workspace

logger = logging.getLogger(__name__)


def make(
    stage: Stage,
    args: Any,
    root: str | Path,
    track: Callable[[Path, str], Tracker] | None = None,
    processes: Processes | None = None,
) -> tuple[Artifact, bool]:
    """Find this stage's artifact or make it; also say whether it was there already.

    `track` opens the tracker, given the folder that the stage writes in and the key. A second job that wants the same
    artifact waits for the first, and takes over if that one dies. A stage that fails or is stopped leaves no artifact,
    but what it has in `Workspace.unfinished` stays for the next attempt. All ranks of a launch call this.

    Raises:
        ArtifactError: a parent cannot be used, or the artifact that is there is damaged.
    """
    processes = processes or current()
    folder = Path(root) / stage.name
    parents = find_parents(args, processes)
    key = processes.broadcast(_key(stage, args, parents) if processes.first else None)
    if processes.broadcast(processes.first and _found(root, stage, key) is not None):
        return _reused(folder / key, stage, processes), True
    if processes.first:
        _check_parents(parents)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / f"{key}.lock") if processes.first else nullcontext():
        if processes.broadcast(processes.first and _found(root, stage, key) is not None):
            return _reused(folder / key, stage, processes), True
        _make(stage, args, key, folder, parents, track, processes)
    return open_artifact(folder / key, stage.name, thorough=False), False


def look_up(stage: Stage, args: Any, root: str | Path) -> Artifact | None:
    """The finished artifact of this stage with these arguments, or None; nothing is made.

    Raises:
        ArtifactError: a parent cannot be used, or the artifact that is there is damaged.
    """
    return _found(root, stage, _key(stage, args, find_parents(args, Processes())))


def _key(stage: Stage, args: Any, parents: Parents) -> str:
    return artifact_key(stage, args, {name: parent_keys(found) for name, found in parents.items()})


def _found(root: str | Path, stage: Stage, key: str) -> Artifact | None:
    """The finished artifact, without what a killed process left beside it."""
    found = find(root, stage.name, key)
    if found is not None:
        clean_up(found.path.parent, key)
    return found


def _reused(path: Path, stage: Stage, processes: Processes) -> Artifact:
    found = open_artifact(path, stage.name, thorough=False)
    if processes.first and (lines := made_elsewhere(found)):
        logger.info("%s: reused; %s", path, "; ".join(lines))
    return found


def made_elsewhere(found: Artifact) -> list[str]:
    """Which other program made this artifact, and which this is, in short lines; none if this one did."""
    then, now = provenance.describe(found.manifest.get("code")), provenance.describe(provenance.code())
    return [f"made by {then}", f"this is {now}"] if then != now else []


def _check_parents(parents: Parents) -> None:
    """Check the parents' files against the hashes of their manifests."""
    for found in parents.values():
        for one in found if isinstance(found, list) else [found]:
            if one is not None and one.stage is not None:
                open_artifact(one.path, one.stage)


def _make(
    stage: Stage,
    args: Any,
    key: str,
    folder: Path,
    parents: Parents,
    track: Callable[[Path, str], Tracker] | None,
    processes: Processes,
) -> None:
    unfinished, partial = folder / f".{key}.unfinished", folder / f".{key}.partial"
    if not processes.first:  # its folder is dropped in the end
        partial = folder / f".{key}.partial.{processes.rank}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
    attempts = Attempts(unfinished, partial)
    space = Workspace(partial, parents, Untracked(), unfinished, processes)
    try:
        if processes.first:
            for path in leftovers(folder, key, processes.count):
                shutil.rmtree(path, ignore_errors=True)
            attempts.begin()
            if track is not None:
                space.track = track(partial, key)
        made_by = provenance.code() if processes.first else {}  # before the work: the checkout may change meanwhile
        _run(stage, args, space)
        if processes.first:
            manifest = _write_manifest(stage, args, key, space, made_by, attempts.seconds)
            (partial / CARD).write_text(render_card(partial, manifest, stage.card), encoding="utf-8")
            sync(partial / CARD)
        processes.wait()
        if processes.first:
            os.replace(partial, folder / key)
            sync(folder)
            shutil.rmtree(unfinished, ignore_errors=True)
        processes.wait()
        if processes.first:
            space.track.end(open_artifact(folder / key, stage.name, thorough=False))
    except BaseException:
        if processes.first:
            attempts.fail()
        space.track.end(None)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _run(stage: Stage, args: Any, space: Workspace) -> None:
    try:
        stage.run(with_local_paths(args, space.parents), space)
        space.finish()
    finally:
        space.track.close()
        space.close()


def _write_manifest(
    stage: Stage, args: Any, key: str, space: Workspace, made_by: dict[str, Any], seconds: float
) -> dict[str, Any]:
    for name in ("manifest.json", CARD):
        if (space.folder / name).exists():
            raise ArtifactError(f"stage {stage.name} wrote a {name} of its own")
    manifest = {
        "stage": stage.name,
        "version": stage.version,
        "key": key,
        "args": plain_args(args),
        "parents": {name: lineage(found) for name, found in space.parents.items()},
        "counts": space.counts,
        "notes": space.notes,
        "tokens": space.tokens,
        "seconds": round(seconds, 3),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": made_by,
        "versions": provenance.versions(),
        "files": {},
    }
    for file in files_in(space.folder):
        sync(file)
        name = file.relative_to(space.folder).as_posix()
        manifest["files"][name] = {"size": file.stat().st_size, "sha256": sha256(file)}
    if not manifest["files"]:
        raise ArtifactError(f"stage {stage.name} wrote no file")
    write_json(space.folder / "manifest.json", manifest)
    sync(space.folder)
    return manifest
