"""What a stage works with while it runs: a folder to write in, its parents, and where its figures go.

Left out: how the folder becomes an artifact (`stages/artifacts.py`).
"""

from __future__ import annotations

import math
import numbers
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
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
COUNTED_EVERY = 10.0  # seconds between two lines of counts in metrics.jsonl


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
        self._done: dict[str, _Counter] = {}
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

    def progress(
        self, total: float | None, unit: str, label: str, kept: int | None = None
    ) -> AbstractContextManager[Progress]:
        """Show the progress of one long piece of work (`stages.progress.progress`); only rank 0 does.

        With `kept`, how many units were there before, all pieces together are counted in metrics.jsonl too, each kind
        of unit in lines of its own: `samples`, and `samples_per_second` since the line before.
        """
        if not self.processes.first:
            return nullcontext(Progress())
        bar = progress(total, unit, label)
        return bar if kept is None else self._counted(bar, unit, kept)

    @contextmanager
    def _counted(self, shown: AbstractContextManager[Progress], unit: str, kept: int) -> Iterator[Progress]:
        counter = self._done.setdefault(unit, _Counter(self.track, unit))
        counter.done += kept
        with shown as bar:
            counter.bar = bar
            yield counter

    def keep_open(self, resource: T) -> T:
        """Call the resource's `close` when the stage has ended."""
        self._open.callback(resource.close)
        return resource

    def finish(self) -> None:
        """Write what was left out, and the last counts."""
        for counter in self._done.values():
            counter.log()
        if self._quarantined:
            self.write_rows("quarantine", sorted(self._quarantined, key=lambda one: (one.id, one.reason)))

    def close(self) -> None:
        """Close what was to be kept open."""
        self._open.close()


class _Counter(Progress):
    """Counts units for metrics.jsonl, and passes them on to a bar."""

    def __init__(self, track: Tracker | Untracked, unit: str) -> None:
        self.track, self.unit, self.bar = track, unit, Progress()
        self.done, self.new, self.logged, self.since = 0, 0, None, time.monotonic()

    def advance(self, n: float = 1) -> None:
        self.done, self.new = self.done + int(n), self.new + int(n)
        self.bar.advance(n)
        if time.monotonic() - self.since >= COUNTED_EVERY:
            self.log()

    def log(self) -> None:
        """Write a line, unless the last one said the same."""
        if self.done == self.logged:
            return
        now = time.monotonic()
        rate = self.new / max(now - self.since, 1e-3)
        self.track.log(self.done, **{self.unit: self.done, f"{self.unit}_per_second": rate})
        self.new, self.logged, self.since = 0, self.done, now
