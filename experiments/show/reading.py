"""What `experiments.show` shows of a folder of artifacts, of unfinished work and of rows, as plain data.

Nothing here changes a file. Ancestors of an artifact are in `experiments/show/tree.py`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments.commands.catalogue import COMMANDS
from stages import journal
from stages.artifacts import ArtifactError, open_artifact
from stages.files import StoreError
from stages.stage import Stage, plain_args

JOURNALS = "[0-9]*.jsonl"  # one a process; not `metrics.jsonl`


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


@dataclass
class JournalFacts:
    """What is in a journal: its whole rows, the reasons for those that were refused, and the `first` rows, each with
    its name (`REQUEST#SAMPLE`). `fault` says what is wrong with it; `written` is when it last changed."""

    path: Path
    rows: int
    tokens: int
    refused: dict[str, str]
    first: list[tuple[str, dict[str, Any]]]
    written: str
    fault: str | None

    def as_json(self) -> dict[str, Any]:
        known = {name: getattr(self, name) for name in ("rows", "tokens", "refused", "written", "fault")}
        return {"path": str(self.path)} | known | {"first": [row for _, row in self.first]}


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
    rows, tokens = sum(one.rows for one in facts), sum(one.tokens for one in facts)
    return Entry(path.parent.absolute().name, key, path, "unfinished", rows, tokens)


def unfinished_facts(folder: Path, rows: int = 0) -> list[JournalFacts]:
    """The journals of work that is not finished, in the order of their names; `rows` rows of the first."""
    paths = sorted(folder.rglob(JOURNALS))
    return [journal_facts(path, 0 if number else rows) for number, path in enumerate(paths)]


def journal_facts(path: Path, rows: int = 0) -> JournalFacts:
    """What is in one journal, with its first `rows` rows; every line's checksum is compared."""
    written = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    facts, damaged = JournalFacts(path, 0, 0, {}, [], written, None), []
    for number, (_, line) in enumerate(journal.read(path), start=1):
        entry = journal.parse(line)
        if entry is None:
            damaged.append(number)
            continue
        name = f"{entry.request}#{entry.sample}"
        facts.rows += 1
        facts.tokens += entry.tokens
        if entry.refused is not None:
            facts.refused[name] = entry.refused
        if len(facts.first) < rows:
            facts.first.append((name, entry.row))
    if damaged:
        facts.fault = (
            f"{len(damaged)} damaged lines, the first is line {damaged[0]}; "
            "their samples are drawn again when its stage runs again"
        )
    return facts


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
