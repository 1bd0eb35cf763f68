"""An artifact that is being made: its lock, what is kept of failed attempts, and what killed ones leave behind.

Beside `<key>/` there are, all in the stage's folder: `<key>.lock`; `.<key>.partial`, the folder that will become the
artifact (`.partial.N` for the other processes of a launch, dropped in the end); and `.<key>.unfinished`, which stays
when an attempt ends early, with the stage's own files, `attempts.json` and `metrics.N.jsonl` of each attempt.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from stages.artifacts import ArtifactError
from stages.files import StoreError, files_in, next_name, read_json, write_json

logger = logging.getLogger(__name__)

ATTEMPTS = "attempts.json"


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock of an artifact, which is a file. The system frees it when the process ends, even by a kill.

    Raises:
        Timeout: another process holds it, and `wait` is false.
        ArtifactError: the file system gives no lock.
    """
    # the library's own substitute, a file that exists, would outlive a process that is killed
    lock = FileLock(path, fallback_to_soft=False)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not wait:
                raise
            logger.warning("%s: another process is making this artifact; waiting for it", path)
            lock.acquire()
        again = FileLock(path, fallback_to_soft=False)
        with suppress(Timeout):
            again.acquire(timeout=0)
            again.release()
            lock.release()
            raise OSError("it gives one lock twice")
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ArtifactError(
            f"{path.parent}: no file can be locked there ({reason}), so two jobs could make one artifact at once: "
            "set run.artifacts to a folder on a file system that has locks (flock)"
        ) from error
    try:
        yield
    finally:
        lock.release()


class Attempts:
    """The attempts to make one artifact: how long all of them took, and the metrics of those that ended early.

    `attempts.json` holds the seconds of those that have ended and when the last one began. An attempt that was killed
    counts until the last change of one of its files, such as a journal or a checkpoint.
    """

    def __init__(self, unfinished: Path, partial: Path) -> None:
        self.folder, self.partial = unfinished, partial
        self.before = 0.0
        self._clock = time.monotonic()

    @property
    def seconds(self) -> float:
        """Of all attempts until now."""
        return self.before + time.monotonic() - self._clock

    def begin(self) -> None:
        """Begin an attempt, and keep the metrics of one that was killed."""
        self.before = self._until_now()
        self._keep_metrics()
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir()
        self._write(began=time.time())
        self._clock = time.monotonic()

    def fail(self) -> None:
        """End the attempt without an artifact. If it has nothing to resume from, its folder is removed."""
        with suppress(OSError):  # what ended it says more than that the disk is full
            self._keep_metrics()
            if any(path.name != ATTEMPTS for path in self.folder.iterdir()):
                self._write(began=None)
            else:
                shutil.rmtree(self.folder, ignore_errors=True)

    def _until_now(self) -> float:
        """Seconds of the attempts before; 0 where they left nothing to resume from."""
        try:
            known = read_json(self.folder / ATTEMPTS)
            seconds, began = float(known["seconds"]), known["began"]
        except (StoreError, KeyError, TypeError, ValueError):
            return 0.0
        if not any(not path.name.startswith(("attempts.", "metrics.")) for path in self.folder.iterdir()):
            return 0.0
        if began is not None:
            files = [*files_in(self.folder), *(files_in(self.partial) if self.partial.is_dir() else [])]
            seconds += max(0.0, max(file.stat().st_mtime for file in files) - float(began))
        return seconds

    def _keep_metrics(self) -> None:
        metrics = self.partial / "metrics.jsonl"
        if metrics.is_file() and metrics.stat().st_size:
            self.folder.mkdir(exist_ok=True)
            os.replace(metrics, next_name(self.folder, "metrics.{}.jsonl"))

    def _write(self, began: float | None) -> None:
        self.folder.mkdir(exist_ok=True)
        write_json(self.folder / ATTEMPTS, {"seconds": round(self.seconds, 3), "began": began})


def leftovers(folder: Path, key: str, processes: int = 0) -> list[Path]:
    """The folders of unfinished work on an artifact; given `processes`, only those of ranks from that number on."""
    parts = [path for path in folder.glob(f".{key}.partial.*") if path.suffix[1:].isdecimal()]
    if processes:
        return [path for path in parts if int(path.suffix[1:]) >= processes]
    return [path for path in (folder / f".{key}.unfinished", folder / f".{key}.partial", *parts) if path.exists()]


def clean_up(folder: Path, key: str) -> None:
    """Drop what a killed process left beside a finished artifact, unless another process holds the lock."""
    if not leftovers(folder, key):
        return
    try:
        with locked(folder / f"{key}.lock", wait=False):
            if (folder / key).exists():
                for path in leftovers(folder, key):
                    shutil.rmtree(path, ignore_errors=True)
    except (Timeout, ArtifactError):  # another process cleans up; or the folder is read-only
        return
