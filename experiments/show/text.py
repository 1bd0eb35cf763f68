"""Artifacts, their ancestry, folders and rows, readable at 80 columns. Texts of files are never markup, and what a
terminal would obey is escaped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.tree import Tree

from experiments.commands.catalogue import stage_named
from experiments.show.tree import Look, Parent, parents_of
from rewards.intervals import wilson
from stages.artifacts import SERVED, Artifact, ArtifactError, open_artifact
from stages.files import StoreError
from stages.hub import is_hub
from stages.stage import plain_args
from stages.text import one_line, visible

LONGEST, MOST_LINES = 240, 8  # characters and lines of one value
# shares, and the count of what they are shares of
SHARES = {"accuracy": "graded", "solved_problems": "graded_problems", "mixed_problems": "graded_problems"}


def print_artifact(artifact: Artifact, rows: int) -> None:
    """Print what an artifact's manifest says, and its first `rows` rows."""
    manifest, stage = artifact.manifest, stage_named(artifact.stage)
    facts = {"path": str(artifact.path)} | {
        name: value for name, value in manifest.items() if not isinstance(value, dict) and name not in ("stage", "key")
    }
    if stage is not None and stage.version != manifest["version"]:
        facts["version"] = f"{manifest['version']} (this program makes version {stage.version}, and does not find it)"
    _pairs(f"{artifact.stage} {artifact.key}", facts)
    defaults = {} if stage is None else dict(_flat(plain_args(stage.args())))
    parents = manifest.get("parents", {})
    args = {k: v for k, v in _flat(manifest.get("args", {})) if k not in parents and (k, v) not in defaults.items()}
    _pairs("Arguments" if stage is None else "Arguments (those not at their defaults; manifest.json has all)", args)
    _pairs("Parents", {parent.name: _parent(parent) for parent in parents_of(artifact, Look())})
    for name, value in manifest.items():
        if name not in ("args", "parents", "files") and isinstance(value, dict):
            _pairs(name.capitalize(), {key: _count(key, value) for key in value})
    _pairs("Files", {name: f"{file['size']:,} bytes" for name, file in manifest["files"].items()})
    for name in ("quarantine.parquet", "rows.parquet"):  # others can be looked at by their paths
        if rows and name in manifest["files"]:
            print_rows(artifact.path / name, rows, columns=False)


def _flat(value: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        yield from _flat(item, f"{before}{name}.") if isinstance(item, dict) and item else [(f"{before}{name}", item)]


def _count(name: str, counts: dict[str, Any]) -> Any:
    """A value of a manifest; a share in per cent, with its 95% interval where there is one trial a problem: several of
    one problem depend on each other, and a manifest does not say which they are."""
    value, total = counts[name], counts.get(SHARES.get(name))
    if not isinstance(value, float) or not isinstance(total, int) or total < 1 or not 0 <= value <= 1:
        return value
    if total != counts.get("graded_problems"):
        return f"{100 * value:.1f}%"
    found = wilson(round(value * total), total)
    return f"{100 * value:.1f}% (Wilson, 95%: {100 * found['low']:.1f}–{100 * found['high']:.1f})"


def _parent(parent: Parent) -> str:
    if parent.key.startswith(SERVED):
        return f"{parent.path}, the name of a model on a server"
    if is_hub(parent.key):
        return f"{parent.key}\n{parent.path}"
    if parent.stage is None:
        return f"{parent.path}, made by no stage ({parent.key[:19]}…): {parent.state}"
    return f"{parent.stage} {parent.key}: {parent.state}\n{parent.path}"


def print_tree(artifact: Artifact, check: bool) -> list[str]:
    """Print an artifact and, below it, everything that it was made from; with `check`, returns what is not as it was.

    What is the parent of several has its own parents listed once.
    """
    faults: dict[str, str] = {}
    seen: set[str] = set()
    look = Look(check)

    def grow(node: Parent) -> Tree:
        again, there = node.key in seen, node.state == "there"
        tree = Tree(visible(_label(node, again)), guide_style="dim", style="" if there else "red")
        if not there:
            faults[node.key] = f"{node.path} is {node.state}" if node.state in ("missing", "changed") else node.state
        elif node.artifact is not None and not again:
            seen.add(node.key)
            tree.children = [grow(one) for one in parents_of(node.artifact, look)]
        return tree

    _print(grow(Parent("", artifact.stage, artifact.key, artifact.path, artifact=artifact)))
    return list(faults.values()) if check else []


def _label(node: Parent, again: bool) -> str:
    label = ": ".join(filter(None, (node.name, f"{node.stage} {node.key}" if node.stage else str(node.path))))
    if node.state != "there":
        return f"{label}: {node.state}"
    if node.key.startswith(SERVED):
        return f"{label} (on a server)"
    if again or node.artifact is None:
        return f"{label}, see above" if again else label
    counts, tokens = (node.artifact.manifest.get(name, empty) for name, empty in (("counts", {}), ("tokens", 0)))
    rows = f", {counts['rows']:,} rows" if isinstance(counts.get("rows"), int) else ""
    right = f", {_count('accuracy', counts)} right" if "accuracy" in counts else ""
    return f"{label}{rows}{right}, {tokens:,} tokens"


def print_folder(folder: Path, check: bool) -> list[str]:
    """Print the artifacts of a stage's folder, or of a folder of stages; returns what is wrong with them.

    Raises:
        ValueError: there are none.
    """
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in ("stage", "key", "rows", "tokens", "seconds", "made"):
        left = name in ("stage", "key", "made")
        table.add_column(name, justify="left" if left else "right", overflow="fold", no_wrap=name != "stage")
    rows, faults = [], []
    for file in (*folder.glob("*/manifest.json"), *folder.glob("*/*/manifest.json")):
        key = (file.parents[1].absolute().name, file.parent.name)
        try:
            manifest = open_artifact(file.parent, thorough=check).manifest
        except ArtifactError as error:
            faults.append(str(error))
            rows.append((*key, None, None, None, "damaged"))
            continue
        made = manifest.get("created", "")[:16].replace("T", " ")
        figures = (manifest.get("counts", {}).get("rows"), manifest.get("tokens"), manifest.get("seconds"))
        rows.append((*key, *figures, made))
    if not rows:
        raise ValueError(f"{folder}: neither an artifact, rows (*.parquet) nor a folder of artifacts")
    for row in sorted(rows, key=lambda row: (row[0], row[-1], row[1])):
        table.add_row(*map(_value, row))
    _print(table)
    return faults


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A Parquet file to read. Raises StoreError where it is cut short, damaged, or none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as opened:
            yield pq.ParquetFile(opened, page_checksum_verification=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: cut short, damaged, or not a Parquet file: {error}") from error


def print_groups(path: Path, by: str, rows: int) -> None:
    """Print how many rows of a file have each value of a column, and the first of them.

    Raises:
        StoreError: the file cannot be read.
        ValueError: it has no such column.
    """
    if not path.is_file():
        raise StoreError(f"{path}: there is no such file of rows")
    with _opened(path) as file:
        table = file.read()
    if by not in table.column_names:
        raise ValueError(f"{path}: has no column {by}, but {', '.join(table.column_names)}")
    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        groups.setdefault(one_line(_value(row[by])), []).append(row)
    largest = sorted(groups.items(), key=lambda one: (-len(one[1]), one[0]))
    _pairs(f"{path.name}: rows by {by}", {name: len(own) for name, own in largest})
    for name, own in largest:
        for n, row in enumerate(own[:rows], start=1):
            _pairs(f"{by} {name}, {n} of {len(own):,}", row)


def print_rows(path: Path, rows: int, check: bool = False, columns: bool = True) -> None:
    """Print the columns and first rows of a Parquet file, whoever wrote it; with `check` all of it is read.

    Raises:
        StoreError: the file is cut short, damaged or no Parquet file.
    """
    first: list[dict[str, Any]] = []
    with _opened(path) as file:
        schema, total = file.schema_arrow, file.metadata.num_rows
        for batch in file.iter_batches(batch_size=8192 if check else max(rows, 1)):
            first += batch.slice(0, rows - len(first)).to_pylist()
            if len(first) >= rows and not check:
                break
    record = (schema.metadata or {}).get(b"record", b"").decode(errors="replace") or None
    if columns:
        _pairs(str(path), {"record": record, "rows": total})
        _pairs("Columns", {column.name: str(column.type) for column in schema})
    for n, row in enumerate(first):
        _pairs(f"{path.name}, row {n} of {total:,} ({record})", row)


def _pairs(title: str, pairs: dict[str, Any]) -> None:
    if not pairs:
        return
    grid = Table.grid(padding=(0, 2))
    # a name is no wider than it must be, so that long texts keep the room
    grid.add_column(overflow="fold", max_width=34, style="cyan")
    grid.add_column(overflow="fold")
    for name, value in pairs.items():
        grid.add_row(visible(name), _value(value))
    _print(visible(title), style="bold")
    _print(Padding(grid, (0, 0, 1, 2)))


def _print(what: Any, **options: Any) -> None:
    Console(highlight=False, markup=False, emoji=False).print(what, **options)


def _value(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    if value is None or value == "":
        return "–" if value is None else "(empty)"
    text = value.rstrip("\n") if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    lines = text.split("\n")
    more = f"\n… ({len(lines):,} lines)" if len(lines) > MOST_LINES else ""
    return visible("\n".join(lines[:MOST_LINES]), LONGEST) + more
