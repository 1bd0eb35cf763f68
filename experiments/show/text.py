"""What `experiments.show` prints, readable at 80 columns. Texts of files are shown as they are, never as markup,
and what a terminal would obey is escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.show.reading import Entry, Head, JournalFacts, part, read_head, shown_args, stage_named
from experiments.show.tree import PLAIN, SERVED, Look, Node, parents_of, walk
from stages.artifacts import Artifact
from stages.hub import is_hub
from stages.workspace import Quarantined

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

LONGEST = 240  # characters of a text in a row that is shown
MOST_LINES = 8
MOST_REASONS = 10
# fractions, and the count that each is a fraction of
FRACTIONS = {"accuracy": "graded", "solved_problems": "graded_problems", "mixed_problems": "graded_problems"}


def console() -> Console:
    """Where everything goes: stdout, at 80 columns where it is no terminal."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def print_artifact(artifact: Artifact, rows: int, every: bool, check: bool) -> None:
    """All there is to say of one artifact, with its first `rows` rows, and `every` argument."""
    manifest, out = artifact.manifest, console()
    stage = stage_named(artifact.stage)
    out.print(clean(f"{artifact.stage} {artifact.key}"), style="bold")
    _print_pairs(out, None, _facts(artifact, stage))
    _print_pairs(out, "Counts", [(name, _count(name, manifest)) for name in part(manifest, "counts", dict, {})])
    args = shown_args(manifest, stage, every)
    title = "Arguments" if every or stage is None else "Arguments (those not at their defaults; --all: every one)"
    _print_pairs(out, title, [(name, _value(value)) for name, value in args.items()])
    parents = parents_of(artifact, Look())
    _print_pairs(out, "Parents", [(node.name, _parent(node)) for node in parents])
    notes = part(manifest, "notes", dict, {})
    _print_pairs(out, "Notes", _merged((str(text), name) for name, text in notes.items()))
    if "quarantine.parquet" in manifest["files"]:
        _print_quarantine(out, artifact, every)
    files = [(name, f"{file['size']:,} bytes") for name, file in manifest["files"].items()]
    _print_pairs(out, "Files" + (", all as the manifest says (SHA-256)" if check else ""), files)
    versions = ", ".join(f"{name} {number}" for name, number in part(manifest, "versions", dict, {}).items())
    _print_pairs(out, "Versions", [("", versions)] if versions else [])
    # other files of rows can be looked at by their paths
    if rows and "rows.parquet" in manifest["files"]:
        _print_rows(out, read_head(artifact.path / "rows.parquet", rows))


def _facts(artifact: Artifact, stage: Any) -> list[tuple[str, str]]:
    manifest = artifact.manifest
    version = f"{manifest['version']}"
    if stage is not None and stage.version != manifest["version"]:
        version += f" (this program makes version {stage.version}, and would not find this one)"
    return [
        ("path", str(artifact.path)),
        (
            "made",
            f"{_time(part(manifest, 'created', str, ''))} in {_seconds(part(manifest, 'seconds', (int, float), 0))}",
        ),
        ("tokens", f"{part(manifest, 'tokens', int, 0):,}"),
        ("version", version),
    ]


def _count(name: str, manifest: dict[str, Any]) -> str:
    counts = part(manifest, "counts", dict, {})
    value, total = counts[name], counts.get(FRACTIONS.get(name))
    if isinstance(value, float) and isinstance(total, int) and total > 0:
        return f"{_share(value, total)}, Wilson, {_trials(name, counts, total)}"
    return _number(value)


def _trials(name: str, counts: dict[str, Any], total: int) -> str:
    if name != "accuracy":
        return f"{total:,} problems"
    return f"{total:,} rollouts{'' if counts.get('graded_problems') == total else ' as if each stood alone'}"


def _share(value: float, total: int) -> str:
    """A share in percent with its 95% interval, where it is a share of `total`."""
    from rewards.intervals import wilson

    right = round(value * total)
    if not 0 <= value <= 1 or abs(right - value * total) > 1e-6 * total:
        return _number(value)
    found = wilson(right, total)
    return f"{100 * value:.1f}% (95%: {100 * found['low']:.1f}–{100 * found['high']:.1f})"


def _parent(node: Node) -> str:
    if node.key.startswith(SERVED):
        return f"{node.path}, the name of a model on a server"
    if is_hub(node.key):
        return f"{node.key}\n{node.path}"
    if node.stage is None:
        return f"{node.path}, made by no stage ({node.key[: len(PLAIN) + 12]}…): {node.state}"
    return f"{node.stage} {node.key}: {node.state}\n{node.path}"


def _merged(notes: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Notes as (names, text): those that say the same are one."""
    by_text: dict[str, list[str]] = {}
    for text, name in notes:
        by_text.setdefault(text, []).append(name)
    return [("\n".join(names), text) for text, names in by_text.items()]


def _print_quarantine(out: Console, artifact: Artifact, every: bool) -> None:
    left_out = artifact.rows(Quarantined, "quarantine")
    _print_reasons(out, [(one.id, one.reason) for one in left_out], every)


def _print_reasons(out: Console, left_out: Sequence[tuple[str, str]], every: bool) -> None:
    shown = left_out if every else left_out[:MOST_REASONS]
    more = [("…", f"and {len(left_out) - len(shown):,} more (--all: every one)")] if len(shown) < len(left_out) else []
    _print_pairs(out, f"Left out: {len(left_out):,}", [*shown, *more])


def print_tree(root: Node, check: bool) -> None:
    """Everything that an artifact was made from."""
    from rich.tree import Tree

    out, artifacts = console(), {}
    for node in walk(root):
        if node.artifact is not None:
            artifacts[node.key] = node.artifact.manifest

    def add(branch: Tree, node: Node) -> None:
        seen = [one for one in node.parents if one.again and one.name.endswith("]") and not one.lost]
        for one in node.parents:
            if len(seen) < 2 or one not in seen:
                add(branch.add(_label(one), style="red" if one.lost else ""), one)
        if len(seen) > 1:
            branch.add(clean(f"{seen[0].name.partition('[')[0]}: {len(seen)} that are above"))

    tree = Tree(_label(root), guide_style="dim")
    add(tree, root)
    out.print(tree)
    seconds = sum(part(one, "seconds", (int, float), 0) for one in artifacts.values())
    tokens = sum(part(one, "tokens", int, 0) for one in artifacts.values())
    whole = "; all files are as their manifests say (SHA-256)" if check and not any(n.lost for n in walk(root)) else ""
    out.print(f"{len(artifacts)} artifacts, {tokens:,} tokens, {_seconds(seconds)} in all{whole}")


def _label(node: Node) -> str:
    name = f"{node.name}: " if node.name else ""
    if node.stage is None:
        served = node.key.startswith(SERVED)
        return clean(f"{name}{node.path}{' (on a server)' if served else '' if not node.lost else f': {node.state}'}")
    title = f"{name}{node.stage} {node.key}"
    if node.artifact is None:
        return clean(f"{title}: {node.state}")
    return clean(f"{title}, see above" if node.again else ", ".join([title, *_figures(node.artifact.manifest)]))


def _figures(manifest: dict[str, Any]) -> list[str]:
    counts, tokens = part(manifest, "counts", dict, {}), part(manifest, "tokens", int, 0)
    found = [f"{_number(counts['rows'])} rows"] if "rows" in counts else []
    if isinstance(counts.get("accuracy"), float) and isinstance(counts.get("graded"), int) and counts["graded"] > 0:
        found.append(f"{_share(counts['accuracy'], counts['graded'])} right")
    found += [f"{tokens:,} tokens"] if tokens else []
    return [*found, _seconds(part(manifest, "seconds", (int, float), 0))]


def print_entries(folder: Path, entries: Sequence[Entry], check: bool) -> None:
    """A table of the artifacts of a folder."""
    out = console()
    table = _table("stage", "key", "rows", "tokens", "seconds", "made")
    for entry in entries:
        figures = [_number(value) if value is not None else "–" for value in (entry.rows, entry.tokens)]
        figures.append("–" if entry.seconds is None else f"{entry.seconds:,.1f}")
        made = _time(entry.created)[:16] if entry.created else "damaged" if entry.damaged else entry.state
        table.add_row(clean(entry.stage), clean(entry.key), *figures, made, style="red" if entry.damaged else None)
    out.print(table)
    for entry in entries:
        if entry.damaged:
            out.print(clean(f"damaged: {entry.state}"), style="red")
    pending = sum(entry.state == "unfinished" for entry in entries)
    whole = sum(entry.state == "finished" for entry in entries)
    checked = ", their files as their manifests say (SHA-256)" if check else ""
    text = f"{folder}: {whole} finished{checked}"
    out.print(clean(text + (f"; {pending} not finished, with the rows kept so far" if pending else "")))


def print_unfinished(folder: Path, journals: Sequence[JournalFacts], check: bool) -> None:
    """What is kept of an artifact that is not finished."""
    out, key = console(), folder.name.removeprefix(".").removesuffix(".unfinished")
    out.print(clean(f"{folder.absolute().parent.name} {key}, not finished"), style="bold")
    if not journals:
        out.print(f"{folder}: no rows are kept yet")
    print_journals(journals, check)


def print_journals(journals: Sequence[JournalFacts], check: bool) -> None:
    """What is in some journals."""
    out = console()
    table = _table("journal", "rows", "tokens", "refused", "last written")
    for one in journals:
        figures = [f"{value:,}" for value in (one.rows, one.tokens, len(one.refused))]
        shown = one.path.name if len(journals) == 1 else f"{one.path.parent.name}/{one.path.name}"
        table.add_row(clean(shown), *figures, _time(one.written), style="red" if one.fault else None)
    if journals:
        out.print(table)
        if check and not any(one.fault for one in journals):
            out.print("every row is as its checksum says")
    if refused := [pair for one in journals for pair in one.refused.items()]:
        _print_reasons(out, refused, False)
    for one in journals:
        for title, row in one.first:
            _print_pairs(out, f"{one.path.name}: {title}", [(name, _value(row[name])) for name in row])


def print_head(head: Head, check: bool) -> None:
    """What a file of rows holds."""
    out = console()
    out.print(clean(str(head.path)), style="bold")
    record = head.record or "unknown: the file names no record"
    _print_pairs(out, None, [("record", record), ("rows", f"{head.total:,}{' (all can be read)' if check else ''}")])
    _print_pairs(out, "Columns", list(head.columns.items()))
    _print_rows(out, head)


def _print_rows(out: Console, head: Head) -> None:
    for n, row in enumerate(head.rows):
        title = f"{head.path.name}, row {n} of {head.total:,}{f' ({head.record})' if head.record else ''}"
        _print_pairs(out, title, [(field, _value(value)) for field, value in row.items()])


def _print_pairs(out: Console, title: str | None, pairs: Sequence[tuple[str, str]]) -> None:
    from rich.padding import Padding
    from rich.table import Table

    if not pairs:
        return
    if title:
        out.print()
        out.print(clean(title), style="bold")
    grid = Table.grid(padding=(0, 2))
    # a name is no wider than it must be, so that long texts keep the room
    grid.add_column(overflow="fold", max_width=34, style="cyan")
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(clean(name), clean(value))
    out.print(Padding(grid, (0, 0, 0, 2)))


def _table(*columns: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in columns:
        right = name in ("rows", "tokens", "seconds", "refused")
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=right or name == "key")
    return table


def clean(text: str) -> str:
    """The text with what is no printable character escaped."""
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)


def _value(value: Any) -> str:
    if value is None or value in ([], ""):
        return "–" if value is None else "[]" if value == [] else "(empty)"
    if isinstance(value, str):
        return _shorten(value.rstrip("\n"))
    return _shorten(json.dumps(value, ensure_ascii=False, default=str))


def _shorten(text: str) -> str:
    lines = text.split("\n")
    kept = "\n".join(lines[:MOST_LINES])[:LONGEST]
    return text if kept == text else f"{kept}… ({len(text):,} characters)"


def _number(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _seconds(value: float) -> str:
    return f"{value:,.1f} s" if value < 600 else f"{value / 60:,.0f} min" if value < 36000 else f"{value / 3600:,.1f} h"


def _time(created: str) -> str:
    """An ISO time of a manifest as people write it."""
    return created.replace("T", " ").replace("+00:00", " UTC") or "at an unknown time"
