"""What a stage is, which of its arguments are parents, and the key of its result.

The key is a hash of the stage's name and version, its arguments and what its parents contain (DESIGN sec. 3):
computed from the argument dataclass, never from a hand-kept list of fields.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MISSING = "???"  # OmegaConf's mark of a value that has to be given


@dataclass(frozen=True)
class Stage:
    """One kind of work: `run(args, workspace)` fills the folder of a `stages.workspace.Workspace`.

    `args` is a dataclass. `version` goes up when the same arguments would give other results than before.
    """

    name: str
    version: int
    args: type
    run: Callable[[Any, Any], None]


def parent(*stages: str, plain: bool = False, unless: str | None = None, default: Any = MISSING) -> Any:
    """A dataclass field that holds the path of an artifact made by one of these stages, or a list of paths.

    With `plain`, any other file or folder will do, such as a Hugging Face checkpoint, which counts by its contents;
    and without `stages`, an artifact of any stage.
    Where the field named `unless` beside it is true, the value is not a path but a name, and counts as it stands.
    None, if that is the default, means that there is no such parent.
    """
    metadata = {"parent": stages, "plain": plain, "unless": unless}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def runtime(default: Any) -> Any:
    """A dataclass field that changes speed but not results (threads, device); it is not part of the key."""
    return field(default=default, metadata={"runtime": True})


def artifact_key(stage: Stage, args: Any, parent_keys: dict[str, Any]) -> str:
    """16 hex characters of SHA-256 over the stage's name, version and arguments.

    `parent_keys` maps each parent field to a key, a list of keys or None, which stand in for the paths.

    Raises:
        TypeError: an argument is of a type that has no canonical form.
    """
    plain = {"stage": stage.name, "version": stage.version, "args": plain_args(args, parent_keys)}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plain_args(value: Any, parent_keys: dict[str, Any] | None = None, name: str = "") -> Any:
    """Arguments as JSON values. Given `parent_keys`, those stand for the parents, and runtime fields are left out."""
    if dataclasses.is_dataclass(value):
        plain = {}
        for one in dataclasses.fields(value):
            dotted = f"{name}.{one.name}" if name else one.name
            if parent_keys is not None and "parent" in one.metadata:
                plain[one.name] = parent_keys[dotted]
            elif parent_keys is None or not one.metadata.get("runtime"):
                plain[one.name] = plain_args(getattr(value, one.name), parent_keys, dotted)
        return plain
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [plain_args(item, parent_keys, f"{name}[{n}]") for n, item in enumerate(value)]
    if isinstance(value, dict):
        return {str(key): plain_args(item, parent_keys, f"{name}.{key}") for key, item in value.items()}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"argument {name} has no canonical form: {value!r}")
