"""What `experiments.show` shows of a folder of artifacts, of unfinished work and of rows, as plain data.

Nothing here changes a file but `repair_journal`. Ancestors of an artifact are in `inspect_tree.py`.
"""

from __future__ import annotations

import importlib
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from experiments.commands.catalogue import COMMANDS
from stages import journal
from stages.artifacts import ArtifactError, open_artifact
from stages.files import StoreError
from stages.journal import Rows
from stages.stage import Stage, plain_args

JOURNAL_NAME = r"\.sqlite(\.damaged.*)?$"


class InspectError(ValueError):
    """Something that cannot be looked at, or is not as it should be. The message names it."""


@dataclass(frozen=True)
class Entry:
    """One artifact of a folder, finished or not. `rows` of one that is not are those kept so far."""

    stage: str
    key: str
    path: Path
    state: str  # finished, unfinished, or what is wrong
    rows: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    created: str | None = None

    @property
    def damaged(self) -> bool:
        return self.state not in ("finished", "unfinished")

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {"path": str(self.path)}


@dataclass(frozen=True)
class Head:
    """The first rows of a Parquet file. `record` names their class, where the file says so."""

    path: Path
    record: str | None
    total: int
    columns: dict[str, str]
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class JournalFacts:
    """What is in a journal. `fault` says what is wrong with it; `written` is when it last changed."""

    path: Path
    rows: int
    tokens: int | None
    refused: dict[str, str]
    first: list[tuple[str, int, dict[str, Any]]]
    written: str
    fault: str | None

    def as_json(self) -> dict[str, Any]:
        known = {name: getattr(self, name) for name in ("rows", "tokens", "refused", "written", "fault")}
        return {"path": str(self.path)} | known | {"first": [row for _, _, row in self.first]}


def part(manifest: dict[str, Any], name: str, kind: type | tuple[type, ...], default: Any) -> Any:
    """One entry of a manifest.

    Raises:
        ArtifactError: it is of another type.
    """
    value = manifest.get(name, default)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ArtifactError(f"manifest.json of {manifest['stage']} {manifest['key']}: {name} cannot be {value!r}")
    return value


def stage_named(name: str) -> Stage | None:
    """The stage that the command of this name runs; None for a stage that this version does not have."""
    if name not in COMMANDS:
        return None
    known = vars(importlib.import_module(COMMANDS[name])).values()
    return next((value for value in known if isinstance(value, Stage) and value.name == name), None)


def shown_args(manifest: dict[str, Any], stage: Stage | None, every: bool) -> dict[str, Any]:
    """The arguments by dotted name, without the parents: those that are not the stage's defaults, or `every` one."""
    args = dict(_flat(part(manifest, "args", dict, {})))
    parents = part(manifest, "parents", dict, {})
    defaults = {} if every or stage is None else dict(_flat(plain_args(stage.args())))
    return {
        name: value
        for name, value in args.items()
        if name not in parents and (name not in defaults or defaults[name] != value)
    }


def _flat(value: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, dict) and item:
            yield from _flat(item, f"{before}{name}.")
        else:
            yield f"{before}{name}", item


def entries(folder: Path, check: bool = False) -> list[Entry]:
    """The artifacts of a stage's folder, or of a folder of stages, by stage and date; those that are not finished last.

    Raises:
        InspectError: there are none.
    """
    kinds = [("*/manifest.json", False), (".*.unfinished", True), (".*.partial", True)]
    found = [(file, pending) for pattern, pending in kinds for up in ("", "*/") for file in folder.glob(up + pattern)]
    listed = {}
    for file, pending in found:
        path = file if pending else file.parent
        if path.name.startswith(".") and not pending:  # about to be moved to its place
            continue
        key = re.sub(r"^\.|\.(unfinished|partial)$", "", path.name) if pending else path.name
        if (path.parent, key) not in listed:  # what is finished, or was kept, says more than what follows
            listed[path.parent, key] = _unfinished(path, key) if pending else _finished(path, check)
    if not listed:
        raise InspectError(f"{folder}: neither an artifact (it has no manifest.json) nor a folder of artifacts")
    return sorted(listed.values(), key=lambda one: (one.stage, one.created is None, one.created or "", one.key))


def _finished(path: Path, check: bool) -> Entry:
    try:
        manifest = open_artifact(path, thorough=check).manifest
        counted = part(manifest, "counts", dict, {}).get("rows")
        rows = counted if isinstance(counted, int) else None
        spent = part(manifest, "tokens", int, 0), part(manifest, "seconds", (int, float), 0)
        created = part(manifest, "created", str, "")
    except ArtifactError as error:
        return Entry(path.parent.absolute().name, path.name, path, str(error))
    return Entry(
        manifest["stage"], manifest["key"], path, "finished", rows if type(rows) is int else None, *spent, created
    )


def _unfinished(path: Path, key: str) -> Entry:
    facts = unfinished_facts(path)
    if damaged := [f"{one.path}: {one.fault}" for one in facts if one.fault is not None]:
        return Entry(path.parent.absolute().name, key, path, damaged[0])
    rows, tokens = sum(one.rows for one in facts), sum(one.tokens or 0 for one in facts)
    return Entry(path.parent.absolute().name, key, path, "unfinished", rows, tokens)


def unfinished_facts(folder: Path, check: bool = False, rows: int = 0) -> list[JournalFacts]:
    """The journals of work that is not finished, in the order of their names; `rows` rows of the first."""
    found = []
    for path in sorted(folder.rglob("*.sqlite")):
        found.append(journal_facts(path, check, 0 if found else rows))
    return found


def journal_facts(path: Path, check: bool = False, rows: int = 0) -> JournalFacts:
    """What is in one journal, with its first `rows` rows; with `check` every row's checksum is compared."""
    beside = path.with_name(f"{path.name}-wal")
    changed = max(file.stat().st_mtime for file in (path, beside) if file.exists())
    written = datetime.fromtimestamp(changed, UTC).isoformat(timespec="seconds")
    try:
        total = journal.count(path)
        if not total:
            return JournalFacts(path, 0, 0, {}, [], written, None)
        with closing(Rows([path])) as kept:
            samples, first = kept.samples(), []
            for request in samples:
                if len(first) >= rows:
                    break
                first += [(request, index, row) for index, row in kept.of(request)]
            facts = JournalFacts(path, total, kept.tokens(), kept.refused(), first[:rows], written, None)
    except sqlite3.OperationalError as error:
        raise InspectError(f"{path}: cannot be read: {error}") from error
    except (StoreError, sqlite3.DatabaseError) as error:
        whole = journal.readable(path)
        fault = f"damaged ({error}); {whole} of its rows can still be read"
        return JournalFacts(path, whole, None, {}, [], written, fault + _advice(path))
    if check and (damage := journal.fault(path)):
        fault = f"damaged ({damage}); {journal.readable(path)} of its rows can still be read{_advice(path)}"
        return replace(facts, fault=fault)
    if check and (whole := journal.readable(path)) != total:
        fault = f"{total - whole} of its {total} rows are damaged; they are made anew when its stage runs again"
        return replace(facts, fault=fault)
    return facts


def _advice(path: Path) -> str:
    if not path.name.endswith(".sqlite"):
        return "; a repair has put it aside"
    return f". To keep those and make the rest anew: python -m experiments.show --repair {path}"


def read_head(path: Path, rows: int, check: bool = False) -> Head:
    """The first rows of a Parquet file, whoever wrote it; with `check` all of it is read.

    Raises:
        StoreError: the file is cut short, damaged or no Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    first: list[dict[str, Any]] = []
    try:
        with path.open("rb") as opened:
            file = pq.ParquetFile(opened, page_checksum_verification=True)
            schema, total = file.schema_arrow, file.metadata.num_rows
            for batch in file.iter_batches(batch_size=max(rows, 1) if not check else 8192):
                first += batch.slice(0, rows - len(first)).to_pylist()
                if len(first) >= rows and not check:
                    break
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: cut short, damaged, or not a Parquet file: {error}") from error
    record = (schema.metadata or {}).get(b"record")
    columns = {field.name: str(field.type) for field in schema}
    return Head(path, None if record is None else record.decode(errors="replace"), total, columns, first)


def repair_journal(path: Path) -> str:
    """Make a damaged journal whole again, and say what was kept.

    Raises:
        InspectError: there is no such file, or a job is writing to it.
        StoreError: nothing in it can be read.
    """
    if not path.is_file():
        raise InspectError(f"{path}: there is no such journal")
    with _nobody_writes(path):
        aside, kept = journal.repair(path)
    return (
        f"{path}: {kept} rows are kept. Run the command that makes the artifact again: it samples what is missing. "
        f"The damaged file is now {aside.name}; it may be deleted."
    )


@contextmanager
def _nobody_writes(path: Path) -> Iterator[None]:
    """Hold the lock of the artifact that a journal (`STAGE/.KEY.unfinished/LABEL/N.sqlite`) belongs to."""
    folder = path.absolute().parents[1]
    lock = folder.with_name(f"{folder.name.removeprefix('.').removesuffix('.unfinished')}.lock")
    if not lock.exists():
        yield
        return
    try:
        with FileLock(lock, timeout=0):
            yield
    except Timeout as error:
        raise InspectError(f"{path}: a job is making this artifact (it holds {lock}); stop it first") from error
