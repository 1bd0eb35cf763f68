"""Entries of unfinished work: one JSON line each, appended as they come to one file for each process.

`{"request":"q/7","key":"9f…","sample":0,"tokens":12,"refused":null,"row":{…},"crc32":"1a2b3c4d"}`
Each line is written at once, so that no kill loses it, and synced to the disk once a second and at the end.
Left out: which requests are asked for (`rollouts/sampling/collect.py`), and finished rows (`stages/rows.py`).
"""

from __future__ import annotations

import json
import logging
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from stages.files import StoreError, sync
from stages.rows import from_row, to_row

logger = logging.getLogger(__name__)

_SYNC_SECONDS = 1.0
_SEAL = len(',"crc32":"00000000"}\n')


@dataclass(frozen=True, slots=True)
class Entry:
    """Sample number `sample` of a request, and the `row` that was made of it. `key` is a hash of what was requested;
    `tokens` were spent on it; `refused` is the reason if it could not be drawn."""

    request: str
    key: str
    sample: int
    tokens: int
    refused: str | None
    row: dict


class Journal:
    """The file to which this process appends its entries. A last line that a crash cut off is dropped.

    Raises:
        StoreError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._synced = path, time.monotonic()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # unbuffered: a line that is written survives a kill
            self._file = path.open("ab", buffering=0)
            self._size = sum(len(line) for _, line in read(path))
            if torn := self._file.tell() - self._size:
                logger.warning("%s: the last line was cut off in a crash; its %d bytes are dropped", path, torn)
                self._file.truncate(self._size)
            sync(path.parent)  # that there is such a file
        except OSError as error:
            raise StoreError(f"{path}: cannot be written: {error.strerror}") from error

    def add(self, entry: Entry) -> None:
        """Keep one entry: from then on no kill of this process can lose it.

        Raises:
            StoreError: the disk is full, or the entry holds what no file of rows can hold.
        """
        name = f"{self.path}, {entry.request}#{entry.sample}"
        for value in (entry.tokens, *entry.row.values()):
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise StoreError(f"{name}: cannot be stored: {value} has more than 64 bits")
        try:
            body = json.dumps(to_row(entry), ensure_ascii=False, separators=(",", ":")).encode()[:-1]
        except UnicodeEncodeError as error:
            raise StoreError(f"{name}: cannot be stored: {error}") from error
        line, written = body + _seal(body), 0
        try:
            while written < len(line):
                written += self._file.write(line[written:])
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._size)
            raise self._failed(error) from error
        self._size += len(line)
        if time.monotonic() - self._synced >= _SYNC_SECONDS:
            self._sync()

    def close(self) -> None:
        """Sync to the disk and close. Closing again does nothing.

        Raises:
            StoreError: the disk did not take it.
        """
        if not self._file.closed:
            try:
                self._sync()
            finally:
                self._file.close()

    def _sync(self) -> None:
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failed(error) from error
        self._synced = time.monotonic()

    def _failed(self, error: OSError) -> StoreError:
        return StoreError(f"{self.path}: {error.strerror}; run it again when that is mended: what was kept is used")


class JournalIndex:
    """Where the samples of some requests are in the journals of a folder. Rows stay on disk until they are asked for.

    `wanted` has the number of samples by the key of their request. `tokens` are those spent on all samples; `left_out`
    has, by reason, how many lines are not used and where the first one is. A sample that was drawn replaces one with
    the same number that was refused.
    """

    def __init__(self, folder: Path, wanted: Mapping[str, int]) -> None:
        self.tokens = 0
        self.left_out: dict[str, tuple[int, str]] = {}
        self.folder, self._wanted = folder, wanted
        self._read: dict[Path, tuple[int, int]] = {}  # the bytes and lines that have been read
        # by key and sample: file, offset, and why it was refused (None: it was drawn)
        self._places: dict[str, dict[int, tuple[Path, int, str | None]]] = {}
        self._open: dict[Path, BinaryIO] = {}

    def update(self) -> int:
        """Read what any process has added since the last time; returns how many samples are new.

        Raises:
            StoreError: a file cannot be read.
        """
        new = 0
        for path in sorted(self.folder.glob("*.jsonl")):
            end, number = self._read.get(path, (0, 0))
            for offset, line in read(path, end):
                end, number, entry = offset + len(line), number + 1, parse(line)
                if fault := self._fault(entry):
                    count, first = self.left_out.get(fault, (0, f"{path}, line {number}"))
                    self.left_out[fault] = count + 1, first
                    continue
                self._places.setdefault(entry.key, {})[entry.sample] = path, offset, entry.refused
                self.tokens += entry.tokens
                new += 1
            self._read[path] = end, number
        return new

    def _fault(self, entry: Entry | None) -> str | None:
        if entry is None:
            return "damaged"
        if not 0 <= entry.sample < self._wanted.get(entry.key, 0):
            return "of requests that are not asked for now"
        _, _, refused = self._places.get(entry.key, {}).get(entry.sample, (None, 0, "not there yet"))
        return "there twice" if refused is None else None

    def samples(self, key: str) -> dict[int, str | None]:
        """The samples of a request by number: None where it was drawn, or the reason why it was refused."""
        return {sample: refused for sample, (_, _, refused) in sorted(self._places.get(key, {}).items())}

    def rows(self, key: str) -> Iterator[dict[str, Any]]:
        """The rows of a request, in the order of its samples.

        Raises:
            StoreError: a file has changed since it was indexed.
        """
        for sample, (path, offset, _) in sorted(self._places.get(key, {}).items()):
            file = self._open.get(path) or self._open.setdefault(path, path.open("rb"))
            file.seek(offset)
            entry = parse(file.readline())
            if entry is None or (entry.key, entry.sample) != (key, sample):
                raise StoreError(f"{path}: the line at byte {offset} has changed on disk; run it again")
            yield entry.row

    def close(self) -> None:
        """Close the files and forget what is in them. Closing again does nothing."""
        self._wanted, self._places = {}, {}
        while self._open:
            self._open.popitem()[1].close()


def read(path: Path, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of each whole line of a journal from byte `start` on. A last line without its end is left out: it
    is being written, or was cut off in a crash.

    Raises:
        StoreError: the file cannot be read.
    """
    try:
        # opened anew each time: on a network file system that is when what others have written becomes visible
        with path.open("rb") as file:
            file.seek(start)
            for line in file:
                if line.endswith(b"\n"):
                    yield start, line
                    start += len(line)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error


def parse(line: bytes) -> Entry | None:
    """The entry of a line; None if the line is damaged."""
    body = line[:-_SEAL]
    if line[-_SEAL:] != _seal(body):
        return None
    try:
        return from_row(Entry, json.loads(body + b"}"))
    except (ValueError, RecursionError):  # whole, but no entry of ours
        return None


def _seal(body: bytes) -> bytes:
    """The end of a line: the checksum of all before it."""
    return b',"crc32":"%08x"}\n' % zlib.crc32(body)
