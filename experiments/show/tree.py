"""Where an artifact comes from: its parents, theirs, and so on, and whether they are still there.

A manifest names its parents by paths as they were; artifacts that were moved together are found beside each other.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

from stages.artifacts import Artifact, ArtifactError, open_artifact
from stages.files import hash_contents
from stages.hub import is_hub

PLAIN, SERVED = "sha256:", "name:"  # how the keys of parents that no stage made begin


def part(manifest: dict[str, Any], name: str, kind: type | tuple[type, ...], default: Any) -> Any:
    """One entry of a manifest.

    Raises:
        ArtifactError: it is of another type.
    """
    value = manifest.get(name, default)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ArtifactError(f"manifest.json of {manifest['stage']} {manifest['key']}: {name} cannot be {value!r}")
    return value


class Look:
    """How parents are looked at: with `check` by their hashes, each once, though it may be the parent of many."""

    def __init__(self, check: bool = False) -> None:
        self.check, self.open, self.hash = check, cache(partial(open_artifact, thorough=check)), cache(hash_contents)


def parents_of(artifact: Artifact, look: Look | None = None) -> list[dict[str, Any]]:
    """The parents of an artifact in the order of its arguments, each with its `state`: there, missing, changed or what
    is wrong. `again` and `parents` are for `grow` to fill."""
    look = look or Look()
    found = []
    for name, value in part(artifact.manifest, "parents", dict, {}).items():
        for n, one in enumerate(value if isinstance(value, list) else [value]):
            label = f"{name}[{n}]" if isinstance(value, list) else name
            if one is None:
                continue
            if not isinstance(one, dict) or not all(isinstance(one.get(item), str) for item in ("key", "path")):
                raise ArtifactError(f"{artifact.path / 'manifest.json'}: parent {label} cannot be {one!r}")
            known = {"name": label, "stage": one.get("stage"), "key": one["key"], "path": one["path"]}
            found.append(known | {"state": "there", "again": False, "manifest": None, "parents": []})
            found[-1] |= _find(artifact.path.absolute().parents[1], found[-1], look)
    return found


def _find(root: Path, node: dict[str, Any], look: Look) -> dict[str, Any]:
    """Where a parent is now, and in which state, for a child that lies in `root`."""
    stage, key, recorded = node["stage"], node["key"], Path(node["path"])
    if key.startswith(SERVED) or is_hub(key):
        return {}
    # a relative path was taken from where the command ran, which is mostly where `artifacts` lies
    places = [recorded, root.parent / recorded]
    if stage is None:
        path = next((place for place in places if place.exists()), None)
        if path is None:
            return {"state": "missing"}
        changed = look.check and f"{PLAIN}{look.hash(path)}" != key
        return {"path": str(path), "state": "changed" if changed else "there"}
    for path in (*places, root / str(stage) / key):
        if (path / "manifest.json").is_file():
            try:
                found = look.open(path)
            except ArtifactError as error:
                return {"path": str(path), "state": str(error)}
            if found.key == key:
                return {"path": str(path), "manifest": found.manifest}
    return {"state": "missing"}


def grow(artifact: Artifact, check: bool = False) -> tuple[dict[str, Any], list[str]]:
    """The whole ancestry of an artifact, and what of it is not as it was. What is the parent of several has its own
    parents listed once; `again` says that they came before."""
    known = {"name": "", "stage": artifact.stage, "key": artifact.key, "path": str(artifact.path), "state": "there"}
    root = known | {"again": False, "manifest": artifact.manifest, "parents": []}
    seen: set[str] = set()
    faults: dict[str, str] = {}
    waiting, look = [root], Look(check)
    while waiting:
        node = waiting.pop()
        if node["state"] != "there" and node["key"] not in faults:
            short = node["state"] in ("missing", "changed")
            faults[node["key"]] = f"{node['path']} is {node['state']}" if short else node["state"]
        if node["stage"] is not None and node["manifest"] is not None:
            if node["key"] in seen:
                node |= {"again": True, "manifest": None}
                continue
            seen.add(node["key"])
            node["parents"] = parents_of(Artifact(Path(node["path"]), node["manifest"]), look)
            waiting += reversed(node["parents"])  # the first parent next, as they are printed
    return root, list(faults.values()) if check else []
