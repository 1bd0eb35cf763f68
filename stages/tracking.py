"""Metrics of a run: `metrics.jsonl` always, which is the record, and a mirror of it where one is given.

Left out: the mirror in W&B (`stages/mirror.py`).
"""

from __future__ import annotations

import json
import logging
import math
import numbers
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from stages.files import strict_json

if TYPE_CHECKING:
    from stages.artifacts import Artifact

logger = logging.getLogger(__name__)

PROJECT = "stepwise"
# W&B takes longer ones offline, and refuses them when they are synced
MOST = {"project": 128, "entity": 128, "group": 128, "name": 128, "tag": 64}
VARIABLES = {  # of W&B, by setting
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "group": "WANDB_RUN_GROUP",
    "name": "WANDB_NAME",
    "notes": "WANDB_NOTES",
}
MODES = ("online", "offline", "disabled")


class Mode(StrEnum):
    """Where metrics go besides `metrics.jsonl`."""

    none = "none"
    wandb = "wandb"


@dataclass
class TrackingArgs:
    """How a run appears in W&B. The key comes from WANDB_API_KEY or netrc, never from here.

    What is not set comes from W&B's own variables (WANDB_PROJECT, WANDB_ENTITY, WANDB_RUN_GROUP, WANDB_NAME,
    WANDB_TAGS, WANDB_NOTES); then `project` is stepwise, `group` the name of the run, and `name` that of its folder.
    The stages of a pipeline are called `name/STAGE`. Without a key the mirror is kept offline, in the run's folder,
    where `wandb sync` finds it.
    """

    mode: Mode = Mode.none
    project: str | None = None
    entity: str | None = None
    group: str | None = None
    name: str | None = None
    tags: list[str] = field(default_factory=list)
    notes: str | None = None

    def validate(self) -> None:
        """Raise ValueError naming the first setting or variable that W&B would refuse, now or when a run is synced."""
        _check({f"tracking.{name}": (name, getattr(self, name)) for name in VARIABLES}, "tracking.tags", self.tags)
        if self.mode != Mode.none:
            given = {variable: (name, os.environ.get(variable) or None) for name, variable in VARIABLES.items()}
            _check(given, "WANDB_TAGS", _tags())
            if (mode := os.environ.get("WANDB_MODE", MODES[0])) not in MODES:
                raise ValueError(f"WANDB_MODE={mode!r} is none of {', '.join(MODES)}")

    def resolved(self, group: str, name: str) -> TrackingArgs:
        """These arguments with W&B's variables, and then these defaults, wherever nothing was set.

        Raises:
            ValueError: W&B would refuse one of them. Where nothing is mirrored, nobody is asked.
        """
        if self.mode == Mode.none:
            return self
        defaults = {"project": PROJECT, "group": group, "name": name}
        own = {
            one: getattr(self, one) or os.environ.get(variable) or defaults.get(one)
            for one, variable in VARIABLES.items()
        }
        found = replace(self, **own, tags=self.tags or _tags())
        found.validate()
        return found

    def of_stage(self, name: str) -> TrackingArgs:
        """The resolved arguments of a pipeline's stage.

        Raises:
            ValueError: its name is too long for W&B.
        """
        if self.mode == Mode.none:
            return self
        found = replace(self, name=f"{self.name}/{name}")
        found.validate()
        return found


def _tags() -> list[str]:
    return [tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag]


def _check(values: dict[str, tuple[str, str | None]], of_tags: str, tags: list[str]) -> None:
    for setting, (kind, value) in values.items():
        if value is None or kind == "notes":
            continue
        if not 1 <= len(value) <= MOST[kind] or value != value.strip() or not value.isprintable():
            raise ValueError(
                f"{setting}={value!r} must have 1 to {MOST[kind]} printable characters, and no space at its ends"
            )
        if kind in ("project", "entity") and set(value) & set("/\\#?%:"):
            raise ValueError(f"{setting}={value!r} must not hold any of / \\ # ? % :")
    for tag in tags:
        if not 1 <= len(tag) <= MOST["tag"]:
            raise ValueError(f"{of_tags}: {tag!r} must have 1 to {MOST['tag']} characters")


class Mirror(Protocol):
    """What shows a run elsewhere. Neither method raises, whatever goes wrong."""

    def log(self, row: dict[str, Any]) -> None:
        """Show one line of `metrics.jsonl`."""

    def end(self, made: Artifact | None) -> None:
        """Show what the run has made, or that it failed (None)."""


class Untracked:
    """A tracker that drops all metrics."""

    def log(self, step: int, **metrics: float) -> None: ...

    def close(self) -> None: ...

    def end(self, made: Artifact | None) -> None: ...


class Tracker:
    """Writes one JSON object a line to `<folder>/metrics.jsonl`, and shows it to the mirror."""

    def __init__(self, folder: Path, mirror: Mirror | None = None) -> None:
        self._file = (folder / "metrics.jsonl").open("a", encoding="utf-8", buffering=1)
        self._warned: set[str] = set()
        self._mirror = mirror

    def log(self, step: int, **metrics: float) -> None:
        """Write one line: the step, the time in seconds since 1970, and the metrics.

        A number that is not finite is written as null, with a warning the first time.

        Raises:
            TypeError: the step is not an integer, or a metric is not a number.
        """
        if isinstance(step, bool) or not isinstance(step, numbers.Integral):
            raise TypeError(f"step must be an integer, not {step!r}")
        row: dict[str, Any] = {"step": int(step), "time": round(time.time(), 3)}
        for name, value in metrics.items():
            if name in row:
                raise TypeError(f"no metric can be called {name!r}")
            row[name] = self._plain(name, value, step)
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        if self._mirror is not None:
            self._mirror.log(row)

    def close(self) -> None:
        """Close the file. Closing again does nothing."""
        self._file.close()

    def end(self, made: Artifact | None) -> None:
        """Close the file, and end the mirror with what was made (None: the run failed). Again, it does nothing."""
        self.close()
        mirror, self._mirror = self._mirror, None
        if mirror is not None:
            mirror.end(made)

    def _plain(self, name: str, value: Any, step: int) -> int | float | None:
        if not isinstance(value, numbers.Real):
            raise TypeError(f"metric {name} must be a number, not {value!r}")
        if math.isfinite(value):
            return int(value) if isinstance(value, numbers.Integral) else float(value)
        if name not in self._warned:
            self._warned.add(name)
            logger.warning("metric %s is %s at step %d; metrics.jsonl says null", name, value, step)
        return None


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of an artifact's metrics.jsonl that can be read; none where it has no such file."""
    rows = []
    with suppress(OSError):
        for line in (folder / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                row = strict_json(line)
                if isinstance(row, dict) and isinstance(row.get("step"), int):
                    rows.append(row)
    return rows
