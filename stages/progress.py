"""Progress of a long stage on stderr: a bar with rate and time left in a terminal, plain lines elsewhere.

With STEPWISE_PROGRESS=lines, each report is one line `@progress {…}`, which a parent process reads to show several
children in one display.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

PREFIX = "@progress "
LINES_EVERY = 0.25  # seconds between two lines for a parent process
TEXT_EVERY = 30.0  # seconds between two lines in a log file
SHORT = 5.0  # seconds: what takes less leaves no line in a log file and no bar, as a stage may have a hundred of them


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
    if os.environ.get("STEPWISE_PROGRESS") == "lines":
        lines = Lines(total, unit, label, LINES_EVERY, _as_json)
    elif sys.stderr.isatty():
        with _bar(total, unit, label) as bar:
            yield bar
        return
    else:
        lines = Lines(total, unit, label, TEXT_EVERY, _as_text)
    try:
        yield lines
    finally:
        if lines.render is _as_json or time.monotonic() - lines.start >= SHORT:
            lines.report()


class Lines:
    """Progress as lines of text, at most one every `every` seconds."""

    def __init__(
        self, total: float | None, unit: str, label: str, every: float, render: Callable[[Lines, float], str]
    ) -> None:
        self.total, self.unit, self.label = total, unit, label
        self.every, self.render = every, render
        self.done: float = 0
        self.start = self.shown = time.monotonic()

    def advance(self, n: float = 1) -> None:
        self.done += n
        if time.monotonic() - self.shown >= self.every:
            self.report()

    def report(self) -> None:
        self.shown = time.monotonic()
        print(self.render(self, self.shown - self.start), file=sys.stderr, flush=True)


def parse_line(line: str) -> dict[str, object] | None:
    """Read a line that a child process printed; None if it is not a report of progress."""
    if not line.startswith(PREFIX):
        return None
    try:
        report = json.loads(line[len(PREFIX) :])
    except json.JSONDecodeError:  # torn by another writer of the same pipe
        return None
    return report if isinstance(report, dict) else None


def _as_json(lines: Lines, _seconds: float) -> str:
    report = {"label": lines.label, "done": lines.done, "total": lines.total, "unit": lines.unit}
    return PREFIX + json.dumps(report)


def _as_text(lines: Lines, seconds: float) -> str:
    rate = lines.done / seconds if seconds > 0 else 0.0
    of = "" if lines.total is None else f"/{lines.total:g}"
    text = f"{lines.label}: {lines.done:g}{of} {lines.unit}, {rate:.1f} a second"
    if lines.total is not None and rate > 0 and lines.done < lines.total:
        text += f", {_clock((lines.total - lines.done) / rate)} left"
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
