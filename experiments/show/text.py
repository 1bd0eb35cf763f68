"""What `experiments.show` prints, readable at 80 columns. Texts of files are never markup, and what a terminal would
obey is escaped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.tree import Tree

from experiments.show.reading import Found, read_head, shown_args, stage_named
from experiments.show.tree import PLAIN, SERVED, parents_of, part
from rewards.intervals import wilson
from stages.artifacts import Artifact
from stages.hub import is_hub
from stages.text import visible

LONGEST, MOST_LINES = 240, 8  # characters and lines of one value
# shares, and the count of what they are shares of
SHARES = {"accuracy": "graded", "solved_problems": "graded_problems", "mixed_problems": "graded_problems"}


def print_found(found: Found, rows: int, check: bool, every: bool) -> None:
    """Print what is at a path: with `rows` rows of an artifact, and with `every` argument."""
    out = Console(highlight=False, markup=False, emoji=False)
    if found.kind == "artifact":
        _artifact(out, Artifact(found.path, found.data), rows, every)
    elif found.kind == "tree":
        out.print(_tree(found.data))
    elif found.kind == "rows":
        _pairs(out, found.data["path"], {name: found.data[name] for name in ("record", "rows")})
        _pairs(out, "Columns", found.data["columns"])
        _first(out, found.data)
    elif found.kind == "journals":
        _table(out, ["path", "rows", "tokens", "refused", "damaged"], found.data)
        for name, row in (found.data[0]["first"] if found.data else {}).items():
            _pairs(out, name, row)
    else:
        _table(out, ["stage", "key", "rows", "tokens", "seconds", "made"], found.data)
    if check and not found.faults:
        out.print("all is whole: every file that has a hash or checksum is as it says")


def _artifact(out: Console, artifact: Artifact, rows: int, every: bool) -> None:
    manifest, stage = artifact.manifest, stage_named(artifact.stage)
    facts = {"path": str(artifact.path)} | {
        name: value for name, value in manifest.items() if not isinstance(value, dict) and name not in ("stage", "key")
    }
    if stage is not None and stage.version != manifest["version"]:
        facts["version"] = f"{manifest['version']} (this program makes version {stage.version}, and does not find it)"
    _pairs(out, f"{artifact.stage} {artifact.key}", facts)
    title = "Arguments" if every or stage is None else "Arguments (those not at their defaults; --all: every one)"
    _pairs(out, title, shown_args(manifest, stage, every))
    _pairs(out, "Parents", {node["name"]: _parent(node) for node in parents_of(artifact)})
    for name, value in manifest.items():
        if name not in ("args", "parents", "files") and isinstance(value, dict):
            _pairs(out, name.capitalize(), {key: _count(key, value) for key in value})
    _pairs(out, "Files", {name: f"{file['size']:,} bytes" for name, file in manifest["files"].items()})
    for name in ("quarantine.parquet", "rows.parquet"):  # others can be looked at by their paths
        if rows and name in manifest["files"]:
            _first(out, read_head(artifact.path / name, rows))


def _count(name: str, counts: dict[str, Any]) -> Any:
    """A value of a manifest; a share in per cent with its 95% interval, as if each trial stood alone."""
    value, total = counts[name], counts.get(SHARES.get(name))
    if not isinstance(value, float) or not isinstance(total, int) or total < 1 or not 0 <= value <= 1:
        return value
    found = wilson(round(value * total), total)
    return f"{100 * value:.1f}% (Wilson, 95%: {100 * found['low']:.1f}–{100 * found['high']:.1f})"


def _parent(node: dict[str, Any]) -> str:
    if node["key"].startswith(SERVED):
        return f"{node['path']}, the name of a model on a server"
    if is_hub(node["key"]):
        return f"{node['key']}\n{node['path']}"
    if node["stage"] is None:
        return f"{node['path']}, made by no stage ({node['key'][: len(PLAIN) + 12]}…): {node['state']}"
    return f"{node['stage']} {node['key']}: {node['state']}\n{node['path']}"


def _first(out: Console, head: dict[str, Any]) -> None:
    for n, row in enumerate(head["first"]):
        _pairs(out, f"{Path(head['path']).name}, row {n} of {head['rows']:,} ({head['record']})", row)


def _tree(node: dict[str, Any]) -> Tree:
    """An artifact and, below it, everything that it was made from."""
    label = ": ".join(filter(None, (node["name"], f"{node['stage']} {node['key']}" if node["stage"] else node["path"])))
    if node["manifest"] is not None:
        counts, tokens = part(node["manifest"], "counts", dict, {}), part(node["manifest"], "tokens", int, 0)
        figures = [f"{counts[name]:,} {name}" for name in ("rows",) if isinstance(counts.get(name), int)]
        figures += [f"{_count('accuracy', counts)} right"] if isinstance(counts.get("accuracy"), float) else []
        label = ", ".join([label, *figures, f"{tokens:,} tokens"])
    elif node["again"]:
        label += ", see above"
    label += " (on a server)" if node["key"].startswith(SERVED) else ""
    label += "" if node["state"] == "there" else f": {node['state']}"
    tree = Tree(visible(label), guide_style="dim", style="" if node["state"] == "there" else "red")
    tree.children = [_tree(one) for one in node["parents"]]
    return tree


def _pairs(out: Console, title: str, pairs: dict[str, Any]) -> None:
    if not pairs:
        return
    out.print(visible(title), style="bold")
    grid = Table.grid(padding=(0, 2))
    # a name is no wider than it must be, so that long texts keep the room
    grid.add_column(overflow="fold", max_width=34, style="cyan")
    grid.add_column(overflow="fold")
    for name, value in pairs.items():
        grid.add_row(visible(name), _value(value))
    out.print(Padding(grid, (0, 0, 1, 2)))


def _table(out: Console, columns: list[str], rows: list[dict[str, Any]]) -> None:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in columns:
        left = name in ("path", "stage", "key", "made")
        table.add_column(
            name, justify="left" if left else "right", overflow="fold", no_wrap=name not in ("path", "stage")
        )
    for row in rows:
        cells = [len(row[name]) if isinstance(row[name], dict) else row[name] for name in columns]
        cells = ["/".join(Path(c).parts[-2:]) if name == "path" else c for name, c in zip(columns, cells, strict=True)]
        table.add_row(*map(_value, cells))
    out.print(table)


def _value(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    if value is None or value == "":
        return "–" if value is None else "(empty)"
    text = value.rstrip("\n") if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    lines = text.split("\n")
    more = f"\n… ({len(lines):,} lines)" if len(lines) > MOST_LINES else ""
    return visible("\n".join(lines[:MOST_LINES]), LONGEST) + more
