"""What a stage works with while it runs: a folder to write in, its parents, and where its figures go.

Left out: how the folder becomes an artifact (`stages/artifacts.py`).
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stages.processes import Processes
from stages.progress import Progress, progress
from stages.rows import write_rows
from stages.tracking import Tracker, Untracked

if TYPE_CHECKING:
    from stages.artifacts import Artifact

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Quarantined:
    """Something that was left out while the rest went on: what it is called, and why."""

    id: str
    reason: str


class Workspace:
    """What a stage works with: `folder` to write in, `parents` by field name (`problems.path` where nested).

    `unfinished` is a folder that stays when the stage is stopped, for what the next attempt resumes from. With several
    `processes` each rank has a workspace, and the folder of rank 0 becomes the artifact.
    """

    def __init__(
        self,
        folder: Path,
        parents: dict[str, Artifact | list[Artifact] | None],
        track: Tracker | Untracked,
        unfinished: Path | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.folder, self.parents, self.track = folder, parents, track
        self.unfinished = unfinished or folder.with_name(f".{folder.name}.unfinished")
        self.processes = processes or Processes()
        self.counts: dict[str, int | float] = {}
        self.notes: dict[str, str] = {}
        self.tokens = 0
        self._quarantined: list[Quarantined] = []
        self._open = ExitStack()

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

    def note(self, name: str, text: str) -> None:
        """Note a sentence for the manifest."""
        self.notes[name] = text

    def spend(self, tokens: int) -> None:
        """Add to the tokens that this stage has sampled or trained on."""
        self.tokens += int(tokens)

    def quarantine(self, left_out: Iterable[Quarantined]) -> None:
        """Note what was left out while the rest went on; `finish` writes all of it to `quarantine.parquet`."""
        self._quarantined += left_out

    def write_rows(self, name: str, records: Iterable[Any], cls: type | None = None) -> None:
        """Write `<name>.parquet` and count its rows under `name`; only rank 0 does."""
        if self.processes.first:
            self.count(**{name: write_rows(self.folder / f"{name}.parquet", records, cls)})

    def progress(self, total: float | None, unit: str, label: str) -> AbstractContextManager[Progress]:
        """Show the progress of one long piece of work (`stages.progress.progress`); only rank 0 does."""
        return progress(total, unit, label) if self.processes.first else nullcontext(Progress())

    def keep_open(self, resource: T) -> T:
        """Call the resource's `close` when the stage has ended."""
        self._open.callback(resource.close)
        return resource

    def finish(self) -> None:
        """Write what was left out."""
        if self._quarantined:
            self.write_rows("quarantine", sorted(self._quarantined, key=lambda one: (one.id, one.reason)))

    def close(self) -> None:
        """Close what was to be kept open."""
        self._open.close()
