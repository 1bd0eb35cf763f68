"""The parents of an artifact, and whether they are still there.

A manifest names its parents by paths as they were; artifacts that were moved together are found beside each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from stages.artifacts import SERVED, Artifact, ArtifactError, open_artifact
from stages.files import hash_contents
from stages.hub import is_hub


@dataclass(frozen=True)
class Parent:
    """A parent as a manifest names it, in the argument `name`. `state` is there, missing, changed, or what is wrong;
    `stage` and `artifact` are None for what no stage made."""

    name: str
    stage: str | None
    key: str
    path: Path
    state: str = "there"
    artifact: Artifact | None = None


class Look:
    """How parents are looked at: with `check` by their hashes, each once, though it may be the parent of many."""

    def __init__(self, check: bool = False) -> None:
        self.check, self.open, self.hash = check, cache(partial(open_artifact, thorough=check)), cache(hash_contents)


def parents_of(artifact: Artifact, look: Look) -> Iterator[Parent]:
    """The parents of an artifact in the order of its arguments."""
    root = artifact.path.absolute().parents[1]
    for name, value in artifact.manifest.get("parents", {}).items():
        for n, one in enumerate(value if isinstance(value, list) else [value]):
            if one is not None:
                label = f"{name}[{n}]" if isinstance(value, list) else name
                yield _find(root, Parent(label, one.get("stage"), one["key"], Path(one["path"])), look)


def _find(root: Path, named: Parent, look: Look) -> Parent:
    """The parent as it is now, for a child that lies in `root`."""
    if named.key.startswith(SERVED) or is_hub(named.key):
        return named
    # a relative path was taken from where the command ran, which is mostly where `artifacts` lies
    places = [named.path, root.parent / named.path]
    if named.stage is None:
        for path in filter(Path.exists, places):
            changed = look.check and f"sha256:{look.hash(path)}" != named.key
            return replace(named, path=path, state="changed" if changed else "there")
        return replace(named, state="missing")
    for path in (*places, root / named.stage / named.key):
        if (path / "manifest.json").is_file():
            try:
                found = look.open(path)
            except ArtifactError as error:
                return replace(named, path=path, state=str(error))
            if found.key == named.key:
                return replace(named, path=path, artifact=found)
    return replace(named, state="missing")
