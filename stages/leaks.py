"""What must not leave this machine in a file: keys and passwords, and paths that only this machine has.

Rows and the head of safetensors are read as what they say; other files line by line. Weights are numbers, and are not
read. What is packed (zip, gzip, zstd) cannot be searched, and is named too.
"""

from __future__ import annotations

import base64
import html
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

_NAMES = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)  # of variables that hold secrets
_LEAST = 8  # characters of a value that is taken for a secret
_SHAPES = {
    name: re.compile(shape)
    for name, shape in {
        "a token of Hugging Face": r"\bhf_[A-Za-z0-9]{20,}",
        "a key of an OpenAI-like server": r"\bsk-[A-Za-z0-9_-]{20,}",
        "a key of AWS": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
        "a token of GitHub": r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})",
        "a token of GitLab": r"\bglpat-[A-Za-z0-9_-]{20,}",
        "a key of Google": r"\bAIza[A-Za-z0-9_-]{30,}",
        "a token of Slack": r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
        "a key of Weights & Biases": r"\bwandb_v\d_[A-Za-z0-9_]{20,}",
        "a key": r"(?i:wandb|api_?key)[\w\s\"':=-]{0,20}?\b[0-9a-f]{40}\b",
        "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
        "a web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
        "a bearer token": r"(?i:\bbearer )[A-Za-z0-9._~+/-]{20,}",
        "a password in an address": r"\b[a-z][a-z0-9+.-]*://[^\s/:@\"']+:[^\s/@\"']+@",
    }.items()
}
# a slash that begins a path: not one within a word, an address or another path
_PATH = re.compile(r"(?:(?<![\w.~/)])|(?<=file://))/(?![/\s])[^\s\"'`<>|,;:()\[\]{}\\*?$]+")
# where people have their files, on whatever machine a run was
_PEOPLE = {"home", "Users", "scratch", "gpfs", "lustre"}
# folders that most machines have: a path there is told from another only where it is below a folder of ours
_COMMON = set("bin boot dev etc lib lib32 lib64 opt proc run sbin srv sys usr var".split())
_HEAD = 100_000_000  # most bytes of a head of safetensors; what says more is no such file, but a pointer to one
_PACKED = (b"PK\x03\x04", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\x00")


@dataclass(frozen=True)
class Finder:
    """Secrets by what they are, each as it may be written, and folders whose paths are private."""

    secrets: dict[str, set[str]]
    folders: tuple[Path, ...]

    def search(self, name: str, file: Path | bytes) -> Iterator[str]:
        """What of this file must not leave: one line each, with the file's name and the line, never the secret."""
        for place, text in _texts(name, file):
            if text is None:
                yield f"{name}: is packed, and cannot be searched for secrets"
                continue
            held = [what for what, ways in self.secrets.items() if any(way in text for way in ways)]
            held += [f"what looks like {what}" for what, pattern in _SHAPES.items() if pattern.search(text)]
            paths = (path.rstrip(".") for path in _PATH.findall(text))
            held += [f"an absolute path: {path!r:.200}" for path in paths if self._is_private(path)][:1]
            if held:
                yield f"{name}, {place}: holds {', '.join(held)}"

    def _is_private(self, found: str) -> bool:
        path = Path(os.path.normpath(found))
        if any(folder in path.parents or (folder == path and len(path.parts) > 2) for folder in self.folders):
            return True
        if len(path.parts) < 3 or path.parts[1] in _COMMON:
            return False
        return path.parts[1] in _PEOPLE or _exists(Path(*path.parts[:3]))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def make_finder(folder: Path, environ: dict[str, str], more: dict[str, str] | None = None) -> Finder:
    """What is secret and private to this process: variables of `environ` that are named like secrets, and `more` of
    them by what they are; the home, the working directory, temporary files, Python's packages, and where `folder` is.
    """
    known = {f"the value of {name}": value for name, value in secret_variables(environ).items()} | (more or {})
    # of a value of several lines, the longest one
    values = {what: max(value.split("\n"), key=len).strip() for what, value in known.items() if value.strip()}
    secrets = {what: _ways(value) for what, value in values.items() if len(value) >= _LEAST}
    places = (Path.home(), Path.cwd(), Path(tempfile.gettempdir()), Path(sys.prefix), folder.absolute().parent)
    places += tuple(place.resolve() for place in places)
    # a whole file system, or a folder that most machines have, is no sign of this one
    own = dict.fromkeys(
        place for place in places if len(place.parts) > 1 and place.parts[1:] not in {(c,) for c in _COMMON}
    )
    return Finder(secrets, tuple(own))


def secret_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that are named like secrets, and long enough not to be found in any text."""
    return {name: value for name, value in environ.items() if _NAMES.search(name) and len(value) >= _LEAST}


def _ways(secret: str) -> set[str]:
    """A secret as it is, and quoted for JSON, HTML, an address, or in base64."""
    ways = {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], html.escape(secret)}
    return ways | {secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode().rstrip("=")}


def _texts(name: str, file: Path | bytes) -> Iterator[tuple[str, str | None]]:
    """(place, text) of all that a file says; a text of None where it cannot be read."""
    with io.BytesIO(file) if isinstance(file, bytes) else file.open("rb") as opened:
        start = opened.read(8)
        opened.seek(0)
        if start.startswith(_PACKED):
            yield "", None
        elif name.endswith(".parquet"):
            yield from _rows(opened)
        elif name.endswith(".safetensors") and (length := int.from_bytes(start, "little")) <= _HEAD:
            opened.seek(8)
            yield "its head", opened.read(length).decode(errors="replace")
        else:
            for number, line in enumerate(opened, start=1):
                yield f"line {number}", line.decode(errors="replace")


def _rows(opened: IO[bytes]) -> Iterator[tuple[str, str]]:
    import pyarrow.parquet as pq

    file, number = pq.ParquetFile(opened), 0
    yield "its head", json.dumps({str(k): str(v) for k, v in (file.schema_arrow.metadata or {}).items()})
    for batch in file.iter_batches():
        for row in batch.to_pylist():
            yield f"row {number}", "\n".join(_strings(row))
            number += 1


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _strings(one)
