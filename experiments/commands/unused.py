"""Settings that have no effect are refused, with one line that names the setting and the reason."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from experiments.commands.config import ConfigError, Job


def changes(value: Any, default: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The innermost settings in which two arguments differ: dotted name, and what `value` has there."""
    if dataclasses.is_dataclass(value) and type(value) is type(default):
        for field in dataclasses.fields(value):
            yield from changes(getattr(value, field.name), getattr(default, field.name), f"{name}.{field.name}")
    elif value != default:
        yield name, value


def refuse_set(job: Job, *names: str, reason: str) -> None:
    """See that these parts of a job (`launch`, `tracking`) are as they are by default.

    Raises:
        ConfigError: one is not.
    """
    for name in names:
        part = getattr(job, name)
        for key, value in changes(part, type(part)(), name):
            raise ConfigError(f"{key}={value} has no effect: {reason}")


def refuse_typed(unused: dict[str, str]) -> None:
    """See that no override of the command line sets what has no effect; `unused` has, by dotted key, the reason.

    Only what was typed is looked at: a file may hold settings of a part that is turned off on the command line.

    Raises:
        ConfigError: one does.
    """
    from hydra.core.hydra_config import HydraConfig

    typed = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    for override in typed:
        key = re.split("[=@]", override.lstrip("+~"), maxsplit=1)[0]
        for name, reason in unused.items():
            if key == name or key.startswith(f"{name}."):
                raise ConfigError(f"{override} has no effect: {reason}")
