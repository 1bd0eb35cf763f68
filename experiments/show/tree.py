"""Where an artifact comes from: its parents, theirs, and so on, and whether they are still there.

A manifest names its parents by paths as they were; artifacts that were moved together are found beside each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.show.reading import part
from stages.artifacts import Artifact, ArtifactError, open_artifact
from stages.files import hash_contents
from stages.hub import is_hub

PLAIN, SERVED = "sha256:", "name:"  # how the keys of parents that no stage made begin


@dataclass(eq=False)
class Node:
    """An artifact, or a file, folder or served model that no stage made, as parent `name` of another.

    `state` is there, missing, changed or what is wrong. `again`: its own parents are with the first node of its key.
    """

    name: str
    stage: str | None
    key: str
    path: Path
    state: str
    artifact: Artifact | None = None
    again: bool = False
    parents: list[Node] = field(default_factory=list)

    @property
    def lost(self) -> bool:
        return self.state != "there"


class Look:
    """How parents are looked at: with `check` by their hashes, each once, though it may be the parent of many."""

    def __init__(self, check: bool = False) -> None:
        self.check = check
        self._opened: dict[Path, Artifact | ArtifactError] = {}
        self._hashes: dict[Path, str] = {}

    def artifact(self, path: Path) -> Artifact:
        """Open an artifact; raises ArtifactError as `open_artifact` does."""
        if path not in self._opened:
            try:
                self._opened[path] = open_artifact(path, thorough=self.check)
            except ArtifactError as error:
                self._opened[path] = error
        found = self._opened[path]
        if isinstance(found, ArtifactError):
            raise found
        return found

    def changed(self, path: Path, key: str) -> bool:
        """Whether a file or folder that no stage made is another than it was."""
        if self.check and path not in self._hashes:
            self._hashes[path] = f"{PLAIN}{hash_contents(path)}"
        return self.check and self._hashes[path] != key


def parents_of(artifact: Artifact, look: Look) -> list[Node]:
    """The parents that an artifact has, in the order of its arguments, without their own."""
    found = []
    for name, value in part(artifact.manifest, "parents", dict, {}).items():
        several = isinstance(value, list)
        for n, one in enumerate(value if several else [value]):
            if one is not None:
                found.append(_parent(artifact, f"{name}[{n}]" if several else name, one, look))
    return found


def _parent(artifact: Artifact, name: str, known: Any, look: Look) -> Node:
    if not isinstance(known, dict) or not all(isinstance(known.get(part), str) for part in ("key", "path")):
        raise ArtifactError(f"{artifact.path / 'manifest.json'}: parent {name} cannot be {known!r}")
    stage, key, recorded = known.get("stage"), known["key"], Path(known["path"])
    if key.startswith(SERVED) or is_hub(key):
        return Node(name, None, key, recorded, "there")
    root = artifact.path.absolute().parents[1]
    # a relative path was taken from where the command ran, which is mostly where `artifacts` lies
    places = [recorded, root.parent / recorded]
    if stage is None:
        path = next((place for place in places if place.exists()), None)
        state = "missing" if path is None else "changed" if look.changed(path, key) else "there"
        return Node(name, None, key, path or recorded, state)
    for path in (*places, root / str(stage) / key):
        if (path / "manifest.json").is_file():
            try:
                found = look.artifact(path)
            except ArtifactError as error:
                return Node(name, stage, key, path, str(error))
            if found.key == key:
                return Node(name, stage, key, path, "there", found)
    return Node(name, stage, key, recorded, "missing")


def grow(artifact: Artifact, check: bool = False) -> Node:
    """The whole ancestry of an artifact; what is the parent of several has its own parents listed once."""
    root, look = Node("", artifact.stage, artifact.key, artifact.path, "there", artifact), Look(check)
    seen: set[str] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        node.again = node.stage is not None and node.key in seen
        seen.add(node.key)
        if node.artifact is not None and not node.again:
            node.parents = parents_of(node.artifact, look)
            waiting += reversed(node.parents)  # the first parent next, as they are printed
    return root


def walk(node: Node) -> Iterator[Node]:
    """A node and everything below it, in the order in which a tree is printed."""
    yield node
    for one in node.parents:
        yield from walk(one)


def faults(root: Node) -> list[str]:
    """What is not there, or not as it was, once each."""
    found = {}
    for node in walk(root):
        if node.lost:
            found[node.key] = node.state if node.state not in ("missing", "changed") else f"{node.path} is {node.state}"
    return list(found.values())


def nested(node: Node) -> dict[str, Any]:
    """A tree as plain values; `manifest` is given once, and `again` says that it came before."""
    known = {"name": node.name, "stage": node.stage, "key": node.key, "path": str(node.path), "state": node.state}
    manifest = None if node.again or node.artifact is None else node.artifact.manifest
    return known | {"again": node.again, "manifest": manifest, "parents": [nested(one) for one in node.parents]}
