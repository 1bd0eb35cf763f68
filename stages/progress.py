"""Progress of a long stage on stderr: a bar with rate and time left in a terminal, plain lines elsewhere.

Where STEPWISE_PROGRESS names a file, the newest report is written there instead, for a parent process that shows
several children in one display.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from stages.files import replacing

if TYPE_CHECKING:
    import rich.progress
    from rich.console import Console

PROGRESS_FILE = "STEPWISE_PROGRESS"
BAR_EVERY = 0.1  # seconds between two looks of a bar
FILE_EVERY = 0.25  # seconds between two reports to a parent process
TEXT_EVERY = 30.0  # seconds between two lines in a log file
SHORT = 5.0  # seconds: what takes less leaves no line in a log file and no bar, as a stage may have a hundred of them


@dataclass(frozen=True)
class Report:
    """How far one piece of work has come: `done` of `total` units (None: not known), such as "problems"."""

    label: str
    done: float
    total: float | None
    unit: str


class Progress:
    """What a stage sees of its progress. As it stands, nobody is shown it."""

    def advance(self, n: float = 1) -> None:
        """Report that `n` more units are done."""


@contextmanager
def progress(total: float | None, unit: str, label: str) -> Iterator[Progress]:
    """Show how much of `total` units is done (None: not known) while the block runs.

    `unit` is a plural, such as "problems"; `label` says what is being done.
    """
    start = Report(label, 0, total, unit)
    if path := os.environ.get(PROGRESS_FILE):
        with _Reports(start, FILE_EVERY, lambda report, _: _write(report, Path(path))) as reports:
            yield reports
    elif sys.stderr.isatty():
        from rich.console import Console

        with open_display(Console(stderr=True)) as display:
            bar = Bar(display)
            bar.show(start)
            with _Reports(start, BAR_EVERY, lambda report, _: bar.show(report)) as reports:
                yield reports
            display.live.transient = reports.seconds < SHORT
    else:
        with _Reports(start, TEXT_EVERY, _print, SHORT) as reports:
            yield reports


class _Reports(Progress):
    """Sends a report and the seconds it took, at most every `every` seconds; and one at the end, unless it all took
    less than `short`."""

    def __init__(self, start: Report, every: float, send: Callable[[Report, float], None], short: float = 0.0) -> None:
        self.report, self.every, self.send, self.short = start, every, send, short
        self.start = self.sent = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    def advance(self, n: float = 1) -> None:
        self.report = replace(self.report, done=self.report.done + n)
        if time.monotonic() - self.sent >= self.every:
            self.sent = time.monotonic()
            self.send(self.report, self.seconds)

    def __enter__(self) -> _Reports:
        return self

    def __exit__(self, *error: object) -> None:
        if self.seconds >= self.short:
            self.send(self.report, self.seconds)


def read_report(path: Path) -> Report | None:
    """The newest report that a child process wrote to this file; None if there is none that can be read."""
    try:
        return Report(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _write(report: Report, path: Path) -> None:
    # progress that cannot be shown (a full disk, a parent that has gone) must not end the work
    with suppress(OSError), replacing(path) as aside:
        aside.write_text(json.dumps(asdict(report)))


def _print(report: Report, seconds: float) -> None:
    rate = report.done / seconds if seconds > 0 else 0.0
    of = "" if report.total is None else f"/{report.total:g}"
    text = f"{report.label}: {report.done:g}{of} {report.unit}, {rate:.1f} a second"
    if report.total is not None and rate > 0 and report.done < report.total:
        text += f", {_clock((report.total - report.done) / rate)} left"
    print(f"{text}, {_clock(seconds)} so far", file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def open_display(console: Console) -> rich.progress.Progress:
    """A display of bars, to be entered; it shows nothing where the console is no terminal."""
    from rich import progress as rich

    return rich.Progress(
        rich.TextColumn("{task.description:<28}", markup=False),
        rich.BarColumn(bar_width=16),
        rich.MofNCompleteColumn(),
        rich.TextColumn("{task.fields[rate]}", markup=False),
        rich.TimeElapsedColumn(),
        rich.TextColumn("left"),
        rich.TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


class Bar:
    """One line of a display: that of the piece of work that the stage `name` is at."""

    def __init__(self, display: rich.progress.Progress, name: str = "") -> None:
        self.display, self.name = display, name
        self.task: rich.progress.TaskID | None = None
        self.label: str | None = None

    def show(self, report: Report) -> None:
        """Show this report, in a new line if it is of another piece of work than the one before."""
        if report.label != self.label:
            self.close()
            title = f"{self.name}: {report.label}" if self.name not in ("", report.label) else report.label
            self.task = self.display.add_task(title[:28], total=report.total, rate=report.unit)
            self.label = report.label
        speed = next(task.speed for task in self.display.tasks if task.id == self.task)
        rate = f"{speed:.3g} {report.unit}/s" if speed else report.unit
        self.display.update(self.task, completed=report.done, total=report.total, rate=rate)

    def close(self) -> None:
        """Take the line away."""
        if self.task is not None:
            self.display.remove_task(self.task)
            self.task = None
