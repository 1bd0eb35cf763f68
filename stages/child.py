"""A command as a process of its own: how it starts, returns its result and progress, and ends with all its children.

Result and progress come back through files. What a child prints is never read: libraries and its own children print
too, and so do model texts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import psutil

from stages.files import read_json
from stages.launch import LAUNCHED, LaunchArgs, launch_command
from stages.progress import PROGRESS_FILE, Report, read_report

PARENT = "STEPWISE_PARENT"  # the id of the process that this one must not outlive
FAMILY = "STEPWISE_FAMILY"  # /TOKEN/TOKEN…: a token for each `child` above this process, and its own
GRACE = 10.0  # grace period in seconds, from SIGTERM to SIGKILL; that of Slurm is 30 by default
POLL_EVERY = 0.25  # seconds


class JobFailed(RuntimeError):
    """A job that ran as a process of its own and failed with exit code `code`; it has said why on stderr."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class JobStopped(RuntimeError):
    """A job that was ended, or never started, because its `stop` was set."""


def run_resolved(
    program: list[str],
    file: Path,
    launch: LaunchArgs | None = None,
    log: Path | None = None,
    show: Callable[[Report], None] | None = None,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Run `program --resolved file --result RESULT` to its end; returns what it wrote to the JSON file RESULT.

    With `launch` there are several processes, and the first one on this machine writes the result. Their output goes
    to `log`, or to that of this process. `show` is called with every new report of progress. When `stop` is set, or an
    exception ends this function, all processes that it started are ended.

    Raises:
        JobFailed: the process failed, and the message says how, or it ended without a result.
        JobStopped: `stop` was set.
    """
    command = program if launch is None else launch_command(launch, program)
    environment = {} if launch is None else {LAUNCHED: str(launch.num_processes)}
    name = f"{' '.join(program)} --resolved {file}"
    with (
        tempfile.TemporaryDirectory(prefix="stepwise-") as folder,
        nullcontext() if log is None else log.open("wb") as out,
    ):
        result, progress = Path(folder) / "result.json", Path(folder) / "progress.json"
        if show is not None:
            environment[PROGRESS_FILE] = str(progress)
        if stop is not None and stop.is_set():
            raise JobStopped(name)
        command = [*command, "--resolved", str(file), "--result", str(result)]
        errors = None if out is None else subprocess.STDOUT
        with child(command, environment, stdin=subprocess.DEVNULL, stdout=out, stderr=errors) as process:
            shown = None
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_EVERY)
                if stop is not None and stop.is_set():
                    raise JobStopped(name)
                if show is not None and (report := read_report(progress)) not in (None, shown):
                    show(shown := report)
        code = process.returncode
        if code < 0:
            raise JobFailed(f"{name}: ended by signal {-code}", 128 - code)
        if code > 0 or not result.exists():
            raise JobFailed(f"{name}: exit code {code}" + ("" if code else ", and no result"), code or 1)
        return read_json(result)


@contextmanager
def child(command: list[str], environment: dict[str, str] | None = None, **options: Any) -> Iterator[subprocess.Popen]:
    """A process of `command`, in a session of its own; when the block ends, it and all its descendants are ended.

    They get SIGTERM, and SIGKILL after the grace period, also those that are stopped (SIGSTOP) or have a session of
    their own, as the ranks of a launch do. Ctrl-C in a terminal reaches only this process, which then ends them; a
    second Ctrl-C kills them at once.
    """
    token = uuid.uuid4().hex
    marks = {PARENT: str(os.getpid()), FAMILY: f"{os.environ.get(FAMILY, '')}/{token}"}
    process = None
    try:
        with _signals_delayed():
            process = subprocess.Popen(
                command, env=os.environ | marks | (environment or {}), start_new_session=True, **options
            )
        yield process
    finally:
        if process is not None:
            with _signals_delayed() as came:
                _end(process, token, came)


@contextmanager
def _signals_delayed() -> Iterator[list[int]]:
    """Delay SIGINT and SIGTERM to the end of the block; yields the list of those that have come.

    Python handles signals in the main thread, so that in others there is nothing to delay.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # None: a handler that is not Python's
    before = {number: handler for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came[:1]:
            signal.raise_signal(number)


def _end(process: subprocess.Popen, token: str, hurry: list[int]) -> None:
    """End the process and all of its `token`: SIGTERM, then SIGKILL after `GRACE` or once `hurry` is not empty."""
    deadline = time.monotonic() + GRACE

    def wait(family: set[psutil.Process]) -> None:
        while (process.poll() is None or any(map(_runs, family))) and not hurry and time.monotonic() < deadline:
            time.sleep(0.02)

    family = _family(token)  # now, while the parents are there by which children are found
    if process.poll() is None:
        process.terminate()  # it ends its own children in order
        wait(set())
    family |= _family(token)
    for one in family:
        with suppress(psutil.NoSuchProcess):
            one.terminate()
    wait(family)
    for one in family | _family(token):
        with suppress(psutil.NoSuchProcess):
            one.kill()
    with suppress(ProcessLookupError, PermissionError):  # PermissionError: macOS, of a group of zombies
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):  # a process that hangs in the kernel cannot be killed
        process.wait(GRACE)


def _family(token: str) -> set[psutil.Process]:
    """All processes with this token in their environment, and their children: some overwrite their environment."""
    found: set[psutil.Process] = set()
    for one in psutil.process_iter(["environ"]):
        if token in (one.info["environ"] or {}).get(FAMILY, ""):
            with suppress(psutil.NoSuchProcess):
                found |= {one, *one.children(recursive=True)}
    return found


def _runs(one: psutil.Process) -> bool:
    try:
        return one.is_running() and one.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_with_parent() -> None:
    """In a process that `child` started, or a descendant: end when the process that called `child` has ended.

    A rank of a launch also ends at the latest `GRACE` seconds after a SIGTERM: in a collective operation with a rank
    that has died, it may never return to Python, where the signal is handled.
    """
    parent = os.environ.get(PARENT)
    if parent is not None:
        threading.Thread(target=_watch, args=(int(parent),), name="end-with-parent", daemon=True).start()
    if LAUNCHED in os.environ:
        _end_when_told()


def _watch(parent: int) -> None:
    starter = os.getppid()  # not always the parent: a launcher may stand between
    with suppress(psutil.NoSuchProcess):
        above = psutil.Process(parent)
        while os.getppid() == starter and _runs(above):
            time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(143)


def _end_when_told() -> None:
    """Exit `GRACE` seconds after a SIGTERM, whatever the main thread does."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def watch() -> None:
        while signal.SIGTERM not in os.read(reader, 1):
            continue
        time.sleep(GRACE)
        os._exit(143)

    threading.Thread(target=watch, name="end-when-told", daemon=True).start()
