"""What a stage works with while it runs: a folder to write in, its parents, and where its figures go.

Left out: how the folder becomes an artifact (`rollouts/artifacts.py`).
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rollouts.progress import Progress, progress
from rollouts.store import write_rows

if TYPE_CHECKING:
    from rollouts.artifacts import Artifact


class Track(Protocol):
    """Where a stage's metrics go; `training.tracking.Tracker` is the real one."""

    def log(self, step: int, **metrics: float) -> None: ...

    def close(self) -> None: ...


class Untracked:
    """Metrics that go nowhere."""

    def log(self, step: int, **metrics: float) -> None: ...

    def close(self) -> None: ...


class Workspace:
    """What a stage works with: `folder` to write in, `parents` by field name (`problems.path` where nested)."""

    def __init__(self, folder: Path, parents: dict[str, Artifact | list[Artifact] | None], track: Track) -> None:
        self.folder, self.parents, self.track = folder, parents, track
        self.counts: dict[str, int | float] = {}
        self.tokens = 0

    def count(self, **values: float) -> None:
        """Note finite numbers for the manifest.

        Raises:
            ValueError: a number is not finite, or the name already has another value.
        """
        for name, value in values.items():
            if not isinstance(value, numbers.Real) or not math.isfinite(value):
                raise ValueError(f"count {name} must be a finite number, not {value!r}")
            plain = int(value) if isinstance(value, numbers.Integral) else float(value)
            if self.counts.setdefault(name, plain) != plain:
                raise ValueError(f"count {name} is already {self.counts[name]}, and cannot become {plain}")

    def spend(self, tokens: int) -> None:
        """Add to the tokens that this stage has sampled or trained on."""
        self.tokens += int(tokens)

    def write_rows(self, name: str, records: Iterable[Any], cls: type | None = None) -> None:
        """Write `<name>.parquet` and count its rows under `name`."""
        self.count(**{name: write_rows(self.folder / f"{name}.parquet", records, cls)})

    def progress(self, total: float | None, unit: str, label: str) -> AbstractContextManager[Progress]:
        """Show the progress of one long piece of work; see `rollouts.progress.progress`."""
        return progress(total, unit, label)
