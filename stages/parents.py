"""The parents among a stage's arguments: found, opened, and what counts of each for the key.

An artifact counts by its own key, any other file or folder by its contents, a hub id by its commit, and a model that
only its server knows by its name and host.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.artifacts import SERVED, Artifact, ArtifactError, is_artifact, open_artifact, wanted_stage
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


def see(one: ParentField, path: str, name: str) -> None:
    """See that there is a parent at this path, without a look at its contents; `name` is how a user sets it.

    Raises:
        ArtifactError: it cannot be used.
    """
    if not is_hub(path):
        _open(one, path, name, "not hashed")


def key_of(one: ParentField, path: str) -> str:
    """What counts of a parent at this path; contents are hashed where no stage made it.

    Raises:
        ArtifactError: it cannot be used.
    """
    return _open(one, path, one.name, None).key


def parent_keys(found: Any) -> Any:
    """What counts of the parents of one field."""
    return [one.key for one in found] if isinstance(found, list) else found and found.key


def lineage(found: Any) -> Any:
    """The parents of one field as a manifest has them."""
    if isinstance(found, list):
        return [lineage(one) for one in found]
    return found and {"stage": found.stage, "key": found.key, "path": str(found.path)}


def with_local_paths(args: Any, parents: Parents) -> Any:
    """The arguments as a stage reads them: the folder of its parent in place of every hub id."""
    args = copy.deepcopy(args)
    for one in parent_fields(args):
        found = parents[one.name]
        folders = found if isinstance(found, list) else [found]
        local = [str(own.path) if is_hub(path) else path for path, own in zip(one.paths, folders, strict=False)]
        if local != one.paths:
            setattr(one.owner, one.field.name, local if isinstance(found, list) else local[0])
    return args


@dataclass(frozen=True)
class ParentField:
    """A field of a stage's arguments that holds a parent: its dotted `name` and the dataclass that it is in."""

    name: str
    owner: Any
    field: dataclasses.Field

    @property
    def value(self) -> Any:
        return getattr(self.owner, self.field.name)

    @property
    def paths(self) -> list[Any]:
        """What is given: a path for each parent, or none."""
        if isinstance(self.value, list):
            return self.value
        return [] if self.value is None else [self.value]


def parent_fields(args: Any, prefix: str = "") -> Iterator[ParentField]:
    """The fields among arguments that hold parents and count, also those of dataclasses within (`problems.path`)."""
    for one in counted_fields(args):
        value, name = getattr(args, one.name), prefix + one.name
        if "parent" in one.metadata:
            yield ParentField(name, args, one)
        elif dataclasses.is_dataclass(value):
            yield from parent_fields(value, f"{name}.")
        elif isinstance(value, list):
            for n, item in enumerate(value):
                if dataclasses.is_dataclass(item):
                    yield from parent_fields(item, f"{name}[{n}].")


def _resolve(args: Any, told: dict[str, Any] | None) -> Parents:
    """The parents by dotted field name; `told` are their keys, where they are known already."""
    parents: Parents = {}
    for one in parent_fields(args):
        key = None if told is None else told.get(one.name)
        if isinstance(one.value, list):
            keys = key or [None] * len(one.value)
            names = [f"{one.name}[{n}]" for n in range(len(one.value))]
            parents[one.name] = [_open(one, *three) for three in zip(one.value, names, keys, strict=True)]
        else:
            parents[one.name] = None if one.value is None else _open(one, one.value, one.name, key)
    return parents


def _open(one: ParentField, value: Any, name: str, key: str | None) -> Artifact:
    metadata = one.field.metadata
    stages, any_path, or_name = (metadata[what] for what in ("parent", "any_path", "or_name"))
    if not isinstance(value, str | Path) or str(value) in ("", MISSING):
        raise ArtifactError(f"{name}={value!r}: the path of a parent must be given{wanted_stage(stages)}")
    path = Path(value)
    if or_name is not None and (served := getattr(one.owner, or_name)):
        return _outside(path, f"{SERVED}{served}")
    try:
        if any_path and is_hub(value):
            found = snapshot(key or str(value), metadata["hub"])
            return _outside(found.folder, found.name)
        if not any_path or is_artifact(path):
            return open_artifact(path, *stages, thorough=False)
        if path.exists():
            return _outside(path, key or f"sha256:{hash_contents(path)}")
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise ArtifactError(f"{name}: {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ArtifactError(f"{name}: {error}") from error
    hint = ""
    if any_path and re.fullmatch(r"[A-Za-z][\w.-]*/[\w.-]+", str(value)):
        hint = f" (a {metadata['hub']} of the Hugging Face hub is written hub:{value})"
    wanted = wanted_stage(stages)
    if any_path and stages:
        wanted = f"; wanted is a model's folder, hub:org/name, or an artifact of stage {' or '.join(stages)}"
    raise ArtifactError(f"{name}: {path}: there is no such file or folder{wanted}{hint}")


def _outside(path: Path, key: str) -> Artifact:
    """A parent that no stage made."""
    return Artifact(path, {"stage": None, "key": key})
