"""The parents among a stage's arguments: found, opened, and what counts of each for the key.

An artifact counts by its own key, any other file or folder by its contents, a hub id by its commit, and a model that
only its server knows by its name and host.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from stages.artifacts import Artifact, ArtifactError, is_artifact, open_artifact, wanted_stage
from stages.files import hash_contents
from stages.hub import is_hub, snapshot
from stages.processes import Processes
from stages.stage import MISSING, counted_fields

Parents = dict[str, Artifact | list[Artifact] | None]  # by dotted field name


def find_parents(args: Any, processes: Processes) -> Parents:
    """The parents of these arguments; the first process looks at their contents, the others take its word.

    Raises:
        ArtifactError: one of them cannot be used.
    """
    found = _resolve(args, None) if processes.first else {}
    told = processes.broadcast({name: parent_keys(one) for name, one in found.items()})
    return found if processes.first else _resolve(args, told)


def parent_keys(found: Any) -> Any:
    """What counts of the parents of one field."""
    return [one.key for one in found] if isinstance(found, list) else found and found.key


def lineage(found: Any) -> Any:
    """The parents of one field as a manifest has them."""
    if isinstance(found, list):
        return [lineage(one) for one in found]
    return found and {"stage": found.stage, "key": found.key, "path": str(found.path)}


def with_local_paths(args: Any, parents: Parents, prefix: str = "") -> Any:
    """The arguments as a stage reads them: the folder of its parent in place of every hub id."""
    changes: dict[str, Any] = {}
    for one in counted_fields(args):
        value, name = getattr(args, one.name), prefix + one.name
        if "parent" in one.metadata:
            found = parents[name]
            if isinstance(value, list):
                pairs = zip(value, found, strict=True)
                changes[one.name] = [str(own.path) if is_hub(item) else item for item, own in pairs]
            elif found is not None and is_hub(value):
                changes[one.name] = str(found.path)
        elif dataclasses.is_dataclass(value):
            changes[one.name] = with_local_paths(value, parents, f"{name}.")
        elif isinstance(value, list) and any(map(dataclasses.is_dataclass, value)):
            changes[one.name] = [with_local_paths(item, parents, f"{name}[{n}].") for n, item in enumerate(value)]
    return dataclasses.replace(args, **changes)


def _resolve(args: Any, told: dict[str, Any] | None, prefix: str = "") -> Parents:
    """The parents by dotted field name; `told` are their keys, where they are known already."""
    parents: Parents = {}
    for one in counted_fields(args):
        value, name = getattr(args, one.name), prefix + one.name
        key = None if told is None else told.get(name)
        if "parent" in one.metadata:
            if isinstance(value, list):
                keys = key or [None] * len(value)
                parents[name] = [_open(args, one, item, f"{name}[{n}]", keys[n]) for n, item in enumerate(value)]
            else:
                parents[name] = None if value is None else _open(args, one, value, name, key)
        elif dataclasses.is_dataclass(value):
            parents |= _resolve(value, told, f"{name}.")
        elif isinstance(value, list):
            for n, item in enumerate(value):
                if dataclasses.is_dataclass(item):
                    parents |= _resolve(item, told, f"{name}[{n}].")
    return parents


def _open(args: Any, one: dataclasses.Field, value: Any, name: str, key: str | None) -> Artifact:
    stages, any_path, or_name = (one.metadata[what] for what in ("parent", "any_path", "or_name"))
    if not isinstance(value, str | Path) or str(value) in ("", MISSING):
        raise ArtifactError(f"{name}={value!r}: the path of a parent must be given{wanted_stage(stages)}")
    path = Path(value)
    if or_name is not None and (served := getattr(args, or_name)):
        return _outside(path, f"name:{served}")
    try:
        if any_path and is_hub(value):
            found = snapshot(key or str(value), one.metadata["hub"])
            return _outside(found.folder, found.name)
        if not any_path or is_artifact(path):
            return open_artifact(path, *stages, thorough=False)
    except ValueError as error:
        raise ArtifactError(f"{name}: {error}") from error
    if not path.exists():
        raise ArtifactError(f"{name}: {path}: there is no such file or folder{wanted_stage(stages)}{_hint(value, one)}")
    return _outside(path, key or f"sha256:{hash_contents(path)}")


def _hint(value: str | Path, one: dataclasses.Field) -> str:
    if not one.metadata["any_path"] or not re.fullmatch(r"[A-Za-z][\w.-]*/[\w.-]+", str(value)):
        return ""
    return f" (a {one.metadata['hub']} of the Hugging Face hub is written hub:{value})"


def _outside(path: Path, key: str) -> Artifact:
    """A parent that no stage made."""
    return Artifact(path, {"stage": None, "key": key})
