"""A finished stage's folder `<root>/<stage>/<key>/`, found by its key: rows or a checkpoint, and `manifest.json`.

A folder appears under its key only when it is complete; two jobs that want the same one do not both make it.
Left out: how the key comes about (`stages/stage.py`), and where arguments come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from stages.files import StoreError, read_json, sha256
from stages.rows import read_rows

T = TypeVar("T")


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
        raise ArtifactError(f"{path}: there is no such artifact folder{wanted_stage(stages)}")
    if not (path / "manifest.json").is_file():
        raise ArtifactError(f"{path}: not an artifact, it has no manifest.json{wanted_stage(stages)}")
    try:
        manifest = read_json(path / "manifest.json")
    except StoreError as error:
        raise ArtifactError(str(error)) from error
    if not _is_manifest(manifest):
        raise ArtifactError(f"{path / 'manifest.json'}: not the manifest of an artifact")
    if stages and manifest["stage"] not in stages:
        raise ArtifactError(f"{path}: made by stage {manifest['stage']}{wanted_stage(stages)}")
    for name, wanted in manifest["files"].items():
        _check_file(path, name, wanted, thorough)
    return Artifact(path, manifest)


def is_artifact(path: Path) -> bool:
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


def wanted_stage(stages: tuple[str, ...]) -> str:
    return f"; wanted is an artifact of stage {' or '.join(stages)}" if stages else ""
