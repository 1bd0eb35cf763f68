"""YAML files of arguments: read within bounds, so that no file hangs or fills the machine, and written whole.

`a: &x [1, 1]` and `b: [*x, *x]` is 4 values once it is read; a few more lines of that kind are 10^9. JSON is YAML,
but for characters beyond U+FFFF, of which it makes two escapes: a file that is JSON is read as such.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stages.files import replacing

MOST_BYTES = 1_000_000
MOST_VALUES = 50_000
DEEPEST = 50


class ConfigError(ValueError):
    """Arguments that cannot be used. The message names the argument and its value."""


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML file of one mapping, as OmegaConf does (1e-3 is a number).

    Raises:
        ConfigError: the file is missing, malformed or out of bounds; the message names it and the line.
    """
    text = check_yaml(file)
    try:
        config = OmegaConf.to_container(OmegaConf.create(_from_json(text) or text))
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: malformed YAML: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{file}: expected a mapping of arguments, not {config!r}")
    return config


def check_yaml(file: Path) -> str:
    """The text of a YAML file that is safe to load: so long, so deep, and of so many values once aliases are followed.

    Raises:
        ConfigError: it is not, or it cannot be read.
    """
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):  # opening a pipe waits for whoever writes to it
            raise ConfigError(f"{file}: is not a file")
        with file.open("rb") as opened:
            data = opened.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror or error}") from error
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{file}: has more than {MOST_BYTES:,} bytes")
    try:
        text = data.decode()
        if _from_json(text) is None:
            _check_values(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{file}: malformed YAML: {error}") from error
    return text


def _check_values(text: str) -> None:
    sizes: dict[str, int] = {}  # anchor -> values below it
    open_nodes: list[list[Any]] = [[None, 0]]  # (anchor, values so far)
    for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        size = 0
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append([event.anchor, 1])
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
            sizes[anchor] = size
        elif isinstance(event, yaml.ScalarEvent):
            size = sizes[event.anchor] = 1
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_nodes):
                raise ValueError(f"*{event.anchor} holds itself")
            size = sizes.get(event.anchor, 1)
        open_nodes[-1][1] += size
        if open_nodes[-1][1] > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES:,} values")
        if len(open_nodes) > DEEPEST:
            raise ValueError(f"nested more than {DEEPEST} deep")


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)  # no aliases: of no more values than characters
    except RecursionError:
        raise ValueError(f"nested more than {DEEPEST} deep") from None
    except ValueError:
        return None


def write_yaml(file: Path, config: dict[str, Any]) -> None:
    """Write a YAML file whole or not at all."""
    with replacing(file) as aside:
        aside.write_text(OmegaConf.to_yaml(OmegaConf.create(config)), encoding="utf-8")


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of everything in nested dicts that is no dict itself."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
