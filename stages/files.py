"""JSON files written whole or not at all, and hashes of files and folders.

Left out: rows of records (`stages/rows.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any


class StoreError(ValueError):
    """A file that cannot be read or rows that cannot be written. The message names the file, the row, the value."""


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON beside `path`, then move it there, so that a reader never sees half a file.

    Raises:
        StoreError: a value that strict JSON cannot hold, such as NaN.
    """
    path = Path(path)
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        data = text.encode()
    except (TypeError, ValueError) as error:
        raise StoreError(f"{path}: cannot be written as JSON: {error}") from error
    aside = aside_name(path)
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


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


def aside_name(path: Path) -> Path:
    # the process id keeps two writers of one file apart; the last one wins
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def hash_contents(path: str | Path) -> str:
    """SHA-256 of a file, or of all files below a folder and their relative names.

    Names that begin with a dot are left out: download caches keep time stamps there.
    """
    path = Path(path)
    if path.is_file():
        return sha256(path)
    total = hashlib.sha256()
    for file in files_in(path):
        name = file.relative_to(path)
        if not any(part.startswith(".") for part in name.parts):
            total.update(f"{name.as_posix()}\0{sha256(file)}\n".encode(errors="surrogateescape"))
    return total.hexdigest()


def files_in(folder: Path) -> list[Path]:
    """All files below a folder, in the order of their names."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
