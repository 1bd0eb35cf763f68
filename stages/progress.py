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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

PROGRESS_FILE = "STEPWISE_PROGRESS"
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


class Progress(Protocol):
    """What a stage sees of its progress."""

    def advance(self, n: float = 1) -> None:
        """Report that `n` more units are done."""


class Silent:
    """Progress that nobody sees: that of all processes but the first, which shows everybody's."""

    def advance(self, n: float = 1) -> None: ...


@contextmanager
def progress(total: float | None, unit: str, label: str) -> Iterator[Progress]:
    """Show how much of `total` units is done (None: not known) while the block runs.

    `unit` is a plural, such as "problems"; `label` says what is being done.
    """
    if path := os.environ.get(PROGRESS_FILE):
        with Reports(total, unit, label, FILE_EVERY, lambda reports: _write(reports.report(), Path(path))) as reports:
            yield reports
    elif sys.stderr.isatty():
        with _bar(total, unit, label) as bar:
            yield bar
    else:
        with Reports(total, unit, label, TEXT_EVERY, _print, SHORT) as reports:
            yield reports


class Reports:
    """Progress as reports, at most one every `every` seconds, and one at the end unless all took less than `short`."""

    def __init__(
        self,
        total: float | None,
        unit: str,
        label: str,
        every: float,
        send: Callable[[Reports], None],
        short: float = 0.0,
    ) -> None:
        self.total, self.unit, self.label = total, unit, label
        self.every, self.send, self.short = every, send, short
        self.done: float = 0
        self.start = self.sent = time.monotonic()

    def advance(self, n: float = 1) -> None:
        self.done += n
        if time.monotonic() - self.sent >= self.every:
            self.sent = time.monotonic()
            self.send(self)

    def report(self) -> Report:
        return Report(self.label, self.done, self.total, self.unit)

    def __enter__(self) -> Reports:
        return self

    def __exit__(self, *exception: object) -> None:
        if time.monotonic() - self.start >= self.short:
            self.send(self)


def read_report(path: Path) -> Report | None:
    """The newest report that a child process wrote to this file; None if there is none that can be read."""
    try:
        return Report(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _write(report: Report, path: Path) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    # progress that cannot be shown (a full disk, a parent that has gone) must not end the work
    with suppress(OSError):
        aside.write_text(json.dumps(asdict(report)))
        os.replace(aside, path)  # so that a reader sees no half


def _print(reports: Reports) -> None:
    print(_as_text(reports.report(), time.monotonic() - reports.start), file=sys.stderr, flush=True)


def _as_text(report: Report, seconds: float) -> str:
    rate = report.done / seconds if seconds > 0 else 0.0
    of = "" if report.total is None else f"/{report.total:g}"
    text = f"{report.label}: {report.done:g}{of} {report.unit}, {rate:.1f} a second"
    if report.total is not None and rate > 0 and report.done < report.total:
        text += f", {_clock((report.total - report.done) / rate)} left"
    return f"{text}, {_clock(seconds)} so far"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def _bar(total: float | None, unit: str, label: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}", markup=False),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as display:
        task, start = display.add_task(label, total=total, unit=unit, rate=""), time.monotonic()

        class Bar:
            def advance(self, n: float = 1) -> None:
                display.advance(task, n)
                speed = display.tasks[0].speed
                display.update(task, rate=f"{speed:.1f}/s" if speed else "")

        try:
            yield Bar()
        finally:
            display.live.transient = time.monotonic() - start < SHORT
