"""What `experiments.show` finds at a path, as plain values. Nothing here changes a file."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.commands.catalogue import COMMANDS
from experiments.show.tree import grow, part
from stages import journal
from stages.artifacts import ArtifactError, open_artifact
from stages.files import StoreError
from stages.stage import Stage, plain_args

JOURNALS = "[0-9]*.jsonl"  # one a process; not `metrics.jsonl`


@dataclass
class Found:
    """What is at `path`: of which kind, what there is to say of it, and what is wrong with it."""

    path: Path
    kind: str  # artifact, tree, rows, journals or folder
    data: Any
    faults: list[str] = field(default_factory=list)


def look(path: Path, rows: int = 0, check: bool = False, tree: bool = False) -> Found:
    """What is at a path, with its first `rows` rows; with `check`, files are compared with their hashes.

    Raises:
        ValueError: nothing is there that can be shown, or it is damaged.
    """
    aside = path.with_name(f".{path.name}.unfinished") if path.name else path
    path = aside if not path.exists() and aside.is_dir() else path
    if not path.exists():
        raise ValueError(f"{path}: there is no such file or folder")
    if path.name == "manifest.json" or (path / "manifest.json").is_file():
        artifact = open_artifact(path if path.is_dir() else path.parent, thorough=check)
        if tree:
            return Found(artifact.path, "tree", *grow(artifact, check))
        return Found(artifact.path, "artifact", artifact.manifest)
    if tree:
        raise ValueError(f"{path}: only an artifact has a tree (its folder holds a manifest.json)")
    if path.suffix == ".parquet":
        return Found(path, "rows", read_head(path, rows, check))
    if path.match(JOURNALS):
        return Found(path, "journals", *read_journals([path], rows))
    if path.name.endswith(".unfinished") or any(path.glob(JOURNALS)):
        return Found(path, "journals", *read_journals(sorted(path.rglob(JOURNALS)), rows))
    return Found(path, "folder", *list_folder(path, check))


def read_head(path: Path, rows: int, check: bool = False) -> dict[str, Any]:
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
            for batch in file.iter_batches(batch_size=8192 if check else max(rows, 1)):
                first += batch.slice(0, rows - len(first)).to_pylist()
                if len(first) >= rows and not check:
                    break
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: cut short, damaged, or not a Parquet file: {error}") from error
    record = (schema.metadata or {}).get(b"record", b"").decode(errors="replace") or None
    columns = {column.name: str(column.type) for column in schema}
    return {"path": str(path), "record": record, "rows": total, "columns": columns, "first": _strict(first)}


def _strict(value: Any) -> Any:
    """The value without numbers that JSON does not have, which a foreign file of rows may hold."""
    if isinstance(value, dict):
        return {str(name): _strict(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def read_journals(paths: list[Path], rows: int = 0) -> tuple[list[dict[str, Any]], list[str]]:
    """What is in the journals of unfinished work: whole rows, tokens, the reasons for what was refused, the first
    `rows` rows of each by their names; and which of them are damaged."""
    found, faults = [], []
    for path in paths:
        entries = [journal.parse(line) for _, line in journal.read(path)]
        whole = [entry for entry in entries if entry is not None]
        names = {f"{entry.request}#{entry.sample}": entry for entry in whole}
        found.append({
            "path": str(path),
            "rows": len(whole),
            "tokens": sum(entry.tokens for entry in whole),
            "damaged": len(entries) - len(whole),
            "refused": {name: entry.refused for name, entry in names.items() if entry.refused is not None},
            "first": {name: names[name].row for name in list(names)[:rows]},
        })  # fmt: skip
        if None in entries:
            faults.append(
                f"{path}: {len(entries) - len(whole)} damaged lines, the first is line {entries.index(None) + 1}; "
                "their samples are drawn again when its stage runs again"
            )
    return found, faults


def list_folder(folder: Path, check: bool = False) -> tuple[list[dict[str, Any]], list[str]]:
    """The artifacts of a stage's folder, or of a folder of stages, by stage and date, with what is kept of those that
    are not finished; and which are damaged.

    Raises:
        ValueError: there are none.
    """
    listed: dict[tuple[Path, str], dict[str, Any]] = {}
    faults: list[str] = []
    patterns = ("*/manifest.json", ".*.unfinished", ".*.partial")
    for found in (found for pattern in patterns for up in ("", "*/") for found in folder.glob(up + pattern)):
        path = found.parent if found.name == "manifest.json" else found
        key = path.name if path != found else path.name[1:].rpartition(".")[0]
        # what is finished, or was kept, says more than what follows; a hidden one is about to be moved to its place
        if (path.parent, key) in listed or (path != found and key.startswith(".")):
            continue
        entry = {"stage": path.parent.absolute().name, "key": key, "path": str(path), "seconds": None}
        try:
            entry |= _finished(path, check) if path != found else _unfinished(path)
        except ArtifactError as error:
            faults.append(str(error))
            entry |= {"rows": None, "tokens": None, "made": "damaged"}
        listed[path.parent, key] = entry
    if not listed:
        raise ValueError(f"{folder}: neither an artifact, rows (*.parquet) or a journal, nor a folder of artifacts")
    return sorted(listed.values(), key=lambda one: (one["stage"], one["made"], one["key"])), faults


def _finished(path: Path, check: bool) -> dict[str, Any]:
    manifest = open_artifact(path, thorough=check).manifest
    entry = {name: part(manifest, name, (int, float), 0) for name in ("tokens", "seconds")}
    made = part(manifest, "created", str, "")[:16].replace("T", " ")
    return entry | {"rows": part(manifest, "counts", dict, {}).get("rows"), "made": made}


def _unfinished(path: Path) -> dict[str, Any]:
    journals, faults = read_journals(sorted(path.rglob(JOURNALS)))
    if faults:
        raise ArtifactError("; ".join(faults))
    return {name: sum(one[name] for one in journals) for name in ("rows", "tokens")} | {"made": "unfinished"}


def stage_named(name: str) -> Stage | None:
    """The stage that the command of this name runs; None for a stage that this version does not have."""
    if name not in COMMANDS:
        return None
    known = vars(importlib.import_module(COMMANDS[name])).values()
    return next((value for value in known if isinstance(value, Stage) and value.name == name), None)


def shown_args(manifest: dict[str, Any], stage: Stage | None, every: bool) -> dict[str, Any]:
    """The arguments by dotted name, without the parents: those that are not the stage's defaults, or `every` one."""
    defaults = {} if every or stage is None else dict(_flat(plain_args(stage.args())))
    args, parents = dict(_flat(part(manifest, "args", dict, {}))), part(manifest, "parents", dict, {})
    return {k: v for k, v in args.items() if k not in parents and (k not in defaults or defaults[k] != v)}


def _flat(value: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        yield from _flat(item, f"{before}{name}.") if isinstance(item, dict) and item else [(f"{before}{name}", item)]
