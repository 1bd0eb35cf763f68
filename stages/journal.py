"""Rows of unfinished work, kept as they come in: SQLite in WAL mode, a file for each process.

What is committed survives a kill at any moment. Every row has a checksum, since SQLite would not notice a byte that
changes within a text. Left out: which rows are wanted (`rollouts/sampling/collect.py`), and finished ones
(`stages/rows.py`).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from stages.files import StoreError

logger = logging.getLogger(__name__)

_TABLES = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE rows (request TEXT NOT NULL, sample INTEGER NOT NULL, tokens INTEGER NOT NULL, refused TEXT,
                   row TEXT NOT NULL, checksum INTEGER NOT NULL, UNIQUE (request, sample));
"""
_COLUMNS = "request, sample, tokens, refused, row"


class Journal:
    """The rows that this process adds to a file; `about` says what they answer (see `check`)."""

    def __init__(self, path: Path, about: str) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with _naming(path):
            self._connection = sqlite3.connect(path, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            # commits survive a kill of the process; a power cut may cost the last of them, but never the file
            self._connection.execute("PRAGMA synchronous=NORMAL")
            if not self._connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'about'").fetchone():
                self._connection.executescript(f"BEGIN;{_TABLES}")
                self._connection.execute("INSERT INTO about VALUES ('requests', ?)", [about])
                self._connection.execute("COMMIT")

    def add(self, request: str, sample: int, tokens: int, refused: str | None, row: dict[str, Any]) -> None:
        """Keep one row: from then on no kill of this process can lose it.

        Raises:
            StoreError: the disk is full, the row cannot be stored, or there is one for this sample already.
        """
        text = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
        try:
            known = (request, sample, tokens, refused, text)
            with _naming(self.path):  # a transaction of its own: without a sync it costs less than grading the row
                self._connection.execute("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?)", (*known, _checksum(*known)))
        except UnicodeEncodeError as error:
            raise StoreError(f"{self.path}, {request}#{sample}: cannot be stored: {error}") from error

    def close(self) -> None:
        """Put all into the one file, so that a process on another machine can read it. Closing again does nothing."""
        try:
            # not while a reader is at it: what is beside the file stays then, and is read too
            with suppress(sqlite3.Error):
                self._connection.execute("PRAGMA journal_mode=DELETE")
        finally:
            self._connection.close()


class Rows:
    """All rows of some journals, read by request."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self._connections = [(path, _open(path)) for path in paths]

    def of(self, request: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """(sample, row) of one request, in the order of the samples.

        Raises:
            StoreError: two files have the same sample, or a row cannot be read or has changed.
        """
        found: dict[int, tuple[Path, str]] = {}
        for path, connection in self._connections:
            with _naming(path):
                # by an index, which may be damaged without the rows being so: what it finds may be another row
                query = connection.execute(f"SELECT {_COLUMNS}, checksum FROM rows WHERE request = ?", [request])
                for *known, sum_ in query:
                    _, sample, _, _, text = known
                    if sum_ != _checksum(*known):
                        raise StoreError(f"{path}, row {request}#{sample}: has changed on disk; run it again")
                    if sample in found:
                        raise StoreError(f"{path}: {request}#{sample} is also in another file beside it")
                    found[sample] = path, text
        for sample, (path, text) in sorted(found.items()):
            yield sample, _parsed(path, request, sample, text)

    def samples(self) -> dict[str, set[int]]:
        """The numbers of the samples of every request that has any."""
        known: dict[str, set[int]] = {}
        for path, connection in self._connections:
            with _naming(path):
                for request, sample in connection.execute("SELECT request, sample FROM rows"):
                    known.setdefault(request, set()).add(sample)
        return known

    def tokens(self) -> int:
        """The tokens of all rows."""
        return sum(
            connection.execute("SELECT COALESCE(SUM(tokens), 0) FROM rows").fetchone()[0]
            for _, connection in self._connections
        )

    def refused(self) -> dict[str, str]:
        """The reason for each request that was refused."""
        query = "SELECT request, refused FROM rows WHERE refused IS NOT NULL"
        return {request: reason for _, connection in self._connections for request, reason in connection.execute(query)}

    def close(self) -> None:
        """Close the files. Closing again does nothing."""
        for _, connection in self._connections:
            connection.close()


def check(path: Path, about: str) -> None:
    """See that a journal can be read and holds rows of this work; others are dropped, with a warning. So are rows whose
    checksum is wrong: they will be made anew.

    Raises:
        StoreError: the file is damaged; the message says how many rows could still be read, and what to do.
    """
    try:
        with closing(_open(path, "rw")) as connection:
            # a process that was killed while it closed the file leaves it half-written: only who may write mends that
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        if _about(path) not in (None, about):
            logger.warning("%s: holds rows of other requests; they are dropped", path)
            remove(path)
            return
        if damage := fault(path):
            raise sqlite3.DatabaseError(damage)
        with closing(_open(path, "rw")) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'rows'").fetchone():
                remove(path)  # killed before its first commit
                return
            query = connection.execute(f"SELECT rowid, {_COLUMNS}, checksum FROM rows NOT INDEXED")
            bad = [(rowid, *known[:2]) for rowid, *known, sum_ in query if sum_ != _checksum(*known)]
            for rowid, request, sample in bad:
                logger.warning("%s: row %s#%s has changed on disk; it is dropped and made anew", path, request, sample)
                connection.execute("DELETE FROM rows WHERE rowid = ?", [rowid])
            connection.commit()
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise StoreError(f"{path}: cannot be read: {error}") from error
        whole = readable(path)
        raise StoreError(
            f"{path}: damaged ({str(error).splitlines()[-1]}); {whole} of its rows can still be read. "
            f"To keep those and make the rest anew: python -m experiments.show --repair {path}"
        ) from error


def fault(path: Path) -> str | None:
    """What is wrong with a journal's file or its index; None if nothing is. Its rows have checksums of their own."""
    with closing(_open(path)) as connection:
        (state,) = connection.execute("PRAGMA integrity_check(1)").fetchone()  # quick_check would not read the index
        return None if state == "ok" else state


def repair(path: Path) -> tuple[Path, int]:
    """Put what can be read of a damaged journal into a new one; the old one is kept beside it under another name.

    Returns:
        Where the damaged file is now, and how many rows were kept.

    Raises:
        StoreError: it cannot even be told what work the rows belong to.
    """
    with _padded(path) as copy:
        rows = [(*known, _parsed(path, *known[:2], text)) for *known, text in _rows_of(copy)]
        try:
            about = _about(copy)
        except sqlite3.Error:
            about = None
    if about is None:
        raise StoreError(f"{path}: what its rows belong to cannot be read; delete it to make them anew")
    aside = path.with_name(f"{path.name}.damaged")
    while aside.exists():  # that of an earlier repair
        aside = aside.with_name(f"{aside.name}.damaged")
    for suffix in ("", "-wal", "-shm"):
        if (file := path.with_name(path.name + suffix)).exists():
            os.replace(file, aside.with_name(aside.name + suffix))
    with closing(Journal(path, about)) as journal:
        for *known, row in rows:
            journal.add(*known, row)
    return aside, len(rows)


def readable(path: Path) -> int:
    """How many rows of a damaged journal can be read."""
    with _padded(path) as copy:
        return sum(1 for _ in _rows_of(copy))


@contextmanager
def _padded(path: Path) -> Iterator[Path]:
    """A copy of a journal, with zeros where its end has been cut off: SQLite reads nothing of a file that is short."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        for suffix in ("", "-wal"):
            if (file := path.with_name(path.name + suffix)).exists():
                shutil.copyfile(file, copy.with_name(copy.name + suffix))
        with copy.open("rb+") as file:
            head = file.read(32)  # page size at byte 16 (1: 65536), number of pages at byte 28
            size = int.from_bytes(head[16:18], "big") * int.from_bytes(head[28:32], "big")
            if head.startswith(b"SQLite format 3") and copy.stat().st_size < size < 2**40:
                file.truncate(size)
        yield copy


def _rows_of(path: Path) -> Iterator[tuple[str, int, int, str | None, str]]:
    """The rows that can be read and whose checksums are right, from both ends of the file."""
    seen: set[int] = set()
    for order in ("ASC", "DESC"):
        try:
            with closing(_open(path)) as connection:
                # by the table's own order: the index may be what is damaged
                query = f"SELECT rowid, {_COLUMNS}, checksum FROM rows NOT INDEXED ORDER BY rowid {order}"
                for rowid, *known, sum_ in connection.execute(query):
                    if rowid not in seen and sum_ == _checksum(*known):
                        seen.add(rowid)
                        yield tuple(known)
        except sqlite3.DatabaseError:
            continue  # as far as it can be read from this end


def count(path: Path) -> int:
    """How many rows a journal has now, also while another process writes it; 0 if there is none yet."""
    try:
        with closing(_open(path)) as connection:
            return connection.execute("SELECT COUNT(*) FROM rows").fetchone()[0]
    except sqlite3.OperationalError:
        return 0


def remove(path: Path) -> None:
    """Delete a journal and what SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _open(path: Path, mode: str = "ro") -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True)
    # a byte that changed may be no UTF-8 any more: the row's checksum says so, and the other rows can be read
    connection.text_factory = lambda data: data.decode(errors="replace")
    return connection


def _about(path: Path) -> str | None:
    with closing(_open(path)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'about'").fetchone():
            return None  # killed before its first commit
        found = connection.execute("SELECT value FROM about WHERE name = 'requests'").fetchone()
        return found and found[0]


def _parsed(path: Path, request: str, sample: int, text: str) -> dict[str, Any]:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise StoreError(f"{path}, row {request}#{sample}: malformed JSON: {error}; {text[:80]!r}") from error


def _checksum(*known: Any) -> int:
    """The checksum of a row, given the values of `_COLUMNS`."""
    return zlib.crc32("\0".join(map(str, known)).encode())


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise StoreError(f"{path}: a sample came twice: {error}") from error
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}; the rows committed before are safe") from error
