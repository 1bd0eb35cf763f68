"""Files written whole or not at all, JSON above all, and hashes of files and folders.

Left out: rows of records (`stages/rows.py`).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from stages.text import shown

LARGE = 1 << 20  # bytes from which on hashing a file takes longer than looking it up
SETTLED = 2.0  # seconds after which a file that changes again has another time
REMEMBERED = 1000  # hashes
NOT_OF_A_MODEL = (
    *("*.md", "LICENSE*", "optimizer*.pt", "optimizer*.bin", "scheduler*.pt", "scheduler*.bin", "scaler.pt", "*.pth"),
    *("trainer_state.json", "training_args.bin", "events.out.tfevents.*"),
)
_FORM = [int, int, int, str]  # size, time of change in nanoseconds, inode, hash


class StoreError(ValueError):
    """A file that cannot be read or rows that cannot be written. The message names the file, the row, the value."""


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON beside `path`, then move it there, so that a reader never sees half a file.

    Raises:
        StoreError: a value that strict JSON cannot hold, such as NaN.
    """
    path = Path(path)
    try:
        data = (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise StoreError(f"{path}: cannot be written as JSON: {error}") from error
    with replacing(path) as aside, aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync(path: str | Path) -> None:
    """Return when what a file holds, or which files a folder holds, is on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        StoreError: the file is missing or malformed; the message names the line.
    """
    path = Path(path)
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise StoreError(f"{path}, line {error.lineno}: malformed JSON: {error.msg}") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise StoreError(f"{path}: malformed JSON: {error}") from error


def strict_json(text: str, **options: Any) -> Any:
    """A JSON value from outside; `options` are those of `json.loads`.

    Raises:
        ValueError: the text is malformed, holds NaN or Infinity, or gives a field twice.
    """
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_to_object, **options)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"a field is given twice: {shown(sorted(n for n in fields if names.count(n) > 1))}")
    return fields


def next_name(folder: Path, pattern: str) -> Path:
    """The first path of a pattern such as `soup.log.{}`, counted from 1, that is not there yet."""
    paths = (folder / pattern.format(number) for number in itertools.count(1))
    return next(path for path in paths if not path.exists())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write: it replaces `path` where the block ends well, and is removed otherwise."""
    # the process id keeps two writers of one file apart; the last one wins
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def hash_contents(path: str | Path) -> str:
    """SHA-256 of a file, or of all files below a folder and their relative names.

    Names that begin with a dot are left out: download caches keep time stamps there. So are, where the folder is that
    of a model or an adapter, the files that training leaves in it and that nobody loads (`NOT_OF_A_MODEL`).

    Raises:
        StoreError: there is a named pipe among them; reading one waits for whoever writes to it.
    """
    path = Path(path)
    if path.is_file():
        return hash_file(path)
    total, model = hashlib.sha256(), any((path / name).is_file() for name in ("config.json", "adapter_config.json"))
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path)
        if any(part.startswith(".") for part in name.parts) or (model and any(map(name.match, NOT_OF_A_MODEL))):
            continue
        if file.is_fifo():
            raise StoreError(f"{file}: is a pipe, not a file")
        if file.is_file():
            total.update(f"{name.as_posix()}\0{hash_file(file)}\n".encode(errors="surrogateescape"))
    return total.hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file; that of a large one is remembered by its path, size and time of change.

    What changed in the last seconds is not remembered: it may change again without its time telling.
    """
    facts = path.stat()
    if facts.st_size < LARGE:
        return sha256(path)
    name = str(path.resolve())
    stamp = [facts.st_size, facts.st_mtime_ns, facts.st_ino]
    known = _read_hashes().get(name)
    if known is not None and known[:-1] == stamp:
        return known[-1]
    digest = sha256(path)
    if time.time() - facts.st_mtime > SETTLED and path.stat().st_mtime_ns == facts.st_mtime_ns:
        newest = list((_read_hashes() | {name: [*stamp, digest]}).items())[-REMEMBERED:]
        with suppress(OSError):  # a home that cannot be written to
            _hashes_file().parent.mkdir(parents=True, exist_ok=True)
            write_json(_hashes_file(), dict(newest))
    return digest


def _hashes_file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stepwise" / "hashes.json"


def _read_hashes() -> dict[str, list[Any]]:
    """What is remembered by path; whatever is not of `_FORM` is forgotten."""
    try:
        known = dict(read_json(_hashes_file()))
    except (StoreError, TypeError, ValueError):
        return {}
    return {name: one for name, one in known.items() if isinstance(one, list) and list(map(type, one)) == _FORM}


def files_in(folder: Path) -> list[Path]:
    """All files below a folder, in the order of their names."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
