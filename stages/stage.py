"""What a stage is, which of its arguments are parents, and the key of its result.

The key is a hash of the stage's name and version, its arguments and what its parents contain (DESIGN sec. 3):
computed from the argument dataclass, never from a hand-kept list of fields.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stages.cards import CardOf

MISSING = "???"  # OmegaConf's mark of a value that has to be given


@dataclass(frozen=True)
class Stage:
    """One kind of work: `run(args, workspace)` fills the folder of a `stages.workspace.Workspace`.

    `args` is a dataclass. `version` goes up when the same arguments would give other results than before. `card` says
    what is in the finished folder, given that and its manifest; without it, the folder holds rows.
    """

    name: str
    version: int
    args: type
    run: Callable[[Any, Any], None]
    card: CardOf | None = None


def parent(
    *stages: str, any_path: bool = False, or_name: str | None = None, hub: str = "model", default: Any = MISSING
) -> Any:
    """A dataclass field that holds the path of an artifact made by one of these stages, or a list of paths.

    With `any_path`, any other file or folder will do, such as a Hugging Face checkpoint, which counts by its contents,
    or a hub id (`stages.hub`; `hub` is model or dataset), which counts by its commit; and without `stages`, an artifact
    of any stage. Where the property `or_name` beside the field is not None, the value is no path but a name that a
    server knows, and the property is what counts. None, if that is the default, means that there is no such parent.
    """
    return _field(default, parent=stages, any_path=any_path, or_name=or_name, hub=hub)


def runtime(default: Any) -> Any:
    """A dataclass field that changes speed but not results (threads, batch size); it is not part of the key."""
    return _field(default, runtime=True)


def resolved(default: Any, how: Callable[[Any], Any]) -> Any:
    """A dataclass field that counts as `how(args)`, where `args` is the dataclass with the field: `auto` as what it
    means here."""
    return _field(default, resolved=how)


def only_when(default: Any, name: str, *values: Any) -> Any:
    """A dataclass field that is used, and so counts, only where the field or property `name` beside it has one of
    these values. `default` may be a field."""
    return _field(default, only_when=(name, values))


def _field(default: Any, **metadata: Any) -> Any:
    if isinstance(default, dataclasses.Field):
        both = {**default.metadata, **metadata}
        return field(default=default.default, default_factory=default.default_factory, metadata=both)
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def counted_fields(args: Any) -> Iterator[dataclasses.Field]:
    """The fields of a dataclass that are part of the key, given the values of the others."""
    for one in dataclasses.fields(args):
        name, values = one.metadata.get("only_when", (None, ()))
        if not one.metadata.get("runtime") and (name is None or getattr(args, name) in values):
            yield one


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
    """Arguments as JSON values. Given `parent_keys`, only what counts: those stand for the parents, and `auto` for
    what it means here."""
    if dataclasses.is_dataclass(value):
        plain = {}
        for one in dataclasses.fields(value) if parent_keys is None else counted_fields(value):
            dotted = f"{name}.{one.name}" if name else one.name
            if parent_keys is not None and "parent" in one.metadata:
                plain[one.name] = parent_keys[dotted]
            else:
                how = one.metadata.get("resolved") if parent_keys is not None else None
                plain[one.name] = plain_args(how(value) if how else getattr(value, one.name), parent_keys, dotted)
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
