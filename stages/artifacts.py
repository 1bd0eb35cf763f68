"""A finished stage's folder `<root>/<stage>/<key>/`: rows or a checkpoint, and `manifest.json`.

Left out: how an artifact is made (`stages/make.py`), and how its key comes about (`stages/stage.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from stages.files import StoreError, read_json, sha256
from stages.rows import read_rows

T = TypeVar("T")
# what a manifest must have, and of which kinds the rest of it is
_KINDS = {"stage": str, "version": int, "key": str, "files": dict}
_OTHERS = {
    "args": (dict,), "parents": (dict,), "counts": (dict,), "notes": (dict,), "tokens": (int,),
    "seconds": (int, float), "created": (str,),
}  # fmt: skip
# what file managers, NFS and the hub leave in a folder, and no library of ours reads
_JUNK = (".DS_Store", "._", ".nfs", "Thumbs.db", "desktop.ini", ".gitattributes")
CARD = "README.md"  # belongs to whoever has the folder, and is not among the files of the manifest
SERVED = "name:"  # how the key of a model begins that only its server knows
_DOWNLOADS = ".cache/huggingface/"  # where the hub's client notes what it fetched


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
    """Open a finished artifact and check that its files are those of its manifest, no more and no less: names and
    sizes, and hashes too when `thorough`.

    Raises:
        ArtifactError: there is no such artifact, another stage made it, or a file is missing, changed or not listed.
    """
    path = Path(path)
    if not path.is_dir():
        raise ArtifactError(f"{path}: there is no such artifact folder{wanted_stage(stages)}")
    if not (path / "manifest.json").is_file():
        raise ArtifactError(f"{path}: not an artifact, it has no manifest.json{wanted_stage(stages)}")
    try:
        manifest = read_json(path / "manifest.json")
    except StoreError as error:
        raise ArtifactError(str(error)) from error
    _check_manifest(path / "manifest.json", manifest)
    if stages and manifest["stage"] not in stages:
        raise ArtifactError(f"{path}: made by stage {manifest['stage']}{wanted_stage(stages)}")
    for name, wanted in manifest["files"].items():
        _check_file(path, name, wanted, thorough)
    if unlisted := sorted(names_in(path) - manifest["files"].keys() - {"manifest.json", CARD}):
        raise ArtifactError(
            f"{path / unlisted[0]}: the manifest does not list it, and it could change what is read here; move it away"
        )
    return Artifact(path, manifest)


def is_artifact(path: Path) -> bool:
    """Whether a folder has the manifest of an artifact, which may be damaged."""
    try:
        manifest = read_json(path / "manifest.json")
    except StoreError:
        return False
    return isinstance(manifest, dict) and _KINDS.keys() <= manifest.keys()


def named_parents(manifest: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(argument, parent) for each parent that a manifest names, as `stages.parents.lineage` wrote it."""
    for name, parents in manifest.get("parents", {}).items():
        for one in parents if isinstance(parents, list) else [parents]:
            if one is not None:
                yield name, one


def _check_manifest(file: Path, value: Any) -> None:
    if not isinstance(value, dict) or not all(isinstance(value.get(name), kind) for name, kind in _KINDS.items()):
        raise ArtifactError(f"{file}: not the manifest of an artifact")
    if not value["files"]:
        raise ArtifactError(f"{file}: lists no file, so that nothing can be checked")
    for name, facts in value["files"].items():
        if not _is_inner(name):
            raise ArtifactError(f"{file}: {name!r} is no name of a file within the folder")
        if not isinstance(facts, dict) or not {"size", "sha256"} <= facts.keys():
            raise ArtifactError(f"{file}: not the manifest of an artifact: {name!r} has no size and sha256")
    for name, kinds in _OTHERS.items():
        if name in value and type(value[name]) not in kinds:
            raise ArtifactError(f"{file}: {name} cannot be {value[name]!r}")
    for name, one in named_parents(value):
        if not isinstance(one, dict) or not all(isinstance(one.get(what), str) for what in ("key", "path")):
            raise ArtifactError(f"{file}: parent {name} cannot be {one!r}")


def _is_inner(name: str) -> bool:
    """Whether a file's name stays within its artifact: `model/weights`, not `../x`, `/x`, `a//b`, `a\\b`."""
    return "\\" not in name and "\0" not in name and all(part not in ("", ".", "..") for part in name.split("/"))


def names_in(folder: Path) -> set[str]:
    """The names of all files below a folder but `_JUNK` and `_DOWNLOADS`; a link to a folder counts as a file."""
    names = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if (path.is_symlink() or not path.is_dir()) and not path.name.startswith(_JUNK)
    }
    return {name for name in names if not name.startswith(_DOWNLOADS)}


def _check_file(folder: Path, name: str, wanted: dict[str, Any], thorough: bool) -> None:
    file, advice = folder / name, "delete the folder to make the artifact anew"
    if not file.is_file():
        raise ArtifactError(f"{file}: missing, though the manifest lists it; {advice}")
    if (size := file.stat().st_size) != wanted["size"]:
        raise ArtifactError(f"{file}: {size} bytes, but the manifest says {wanted['size']!r}; {advice}")
    if thorough and (digest := sha256(file)) != wanted["sha256"]:
        raise ArtifactError(f"{file}: changed: SHA-256 {digest}, but the manifest says {wanted['sha256']}; {advice}")


def wanted_stage(stages: tuple[str, ...]) -> str:
    return f"; wanted is an artifact of stage {' or '.join(stages)}" if stages else ""
