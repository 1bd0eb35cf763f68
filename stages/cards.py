"""The README.md of an artifact, its card: what the Hugging Face hub, `load_dataset` and a person read first.

It is made from the manifest when a stage has finished. What a stage knows of its artifact beyond that is its
`Stage.card`; without one, the card is that of a data set. Whoever has the folder may edit the card: the licence is
theirs to choose. Texts from outside are data in it, never markup.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.artifacts import SERVED, named_parents
from stages.files import StoreError, read_json
from stages.hub import is_hub
from stages.markdown import code_block, code_span, plain, table
from stages.provenance import describe
from stages.text import one_line

ROWS = "rows"  # the file that most stages make, which is loaded where no other is named


@dataclass(frozen=True)
class Card:
    """What a stage says of its artifact itself: a title, a sentence or two, fields of the card's head, and sections of
    Markdown by their titles."""

    title: str
    opening: str
    head: dict[str, Any] = field(default_factory=dict)
    sections: dict[str, str] = field(default_factory=dict)


CardOf = Callable[[Path, dict[str, Any]], Card]  # what a stage says, given the folder and its manifest


@dataclass(frozen=True)
class Ancestor:
    """What an artifact was made from: the name as which it was taken, how far up it is (0: a parent), and its own
    manifest where that can be found."""

    name: str
    depth: int
    stage: str | None
    key: str
    path: str
    manifest: dict[str, Any] | None


def render_card(folder: Path, manifest: dict[str, Any], card: CardOf | None = None) -> str:
    """The card of an artifact, given the `Stage.card` of its stage; without one, that of the rows in its folder."""
    import yaml

    own = (card or dataset_card)(folder, manifest)
    head = {"license": "unknown", "tags": ["stepwise", manifest["stage"]], **own.head}
    found = {**own.sections, "Counts": _counts(manifest), "Notes": _notes(manifest)}
    found |= {"Made from": _lineage(folder, manifest), "Licence": _LICENCE}
    when, program = (
        plain(one_line(text)) for text in (manifest.get("created", "")[:10], describe(manifest.get("code")))
    )
    made = f"Made on {when} by the stage {code_span(manifest['stage'])}"
    parts = [f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---", f"# {own.title}", own.opening]
    parts += [f"{made} of Stepwise, {program}; `manifest.json` has every setting."]
    parts += [f"## {title}\n\n{text}" for title, text in found.items() if text]
    return "\n\n".join(parts) + "\n"


_LICENCE = (
    "Not chosen yet: put it here, and in the first lines of this file in place of `unknown`. Those of the models and "
    "data that it was made from apply too."
)


def dataset_card(folder: Path, manifest: dict[str, Any]) -> Card:
    """The card of rows: each Parquet file is a configuration of its own for `load_dataset`, since their columns
    differ. Files without a row, which the library cannot load, are only listed."""
    import pyarrow.parquet as pq

    files = sorted(folder.glob("*.parquet"), key=lambda file: (file.stem != ROWS, file.name))
    names = [file.stem for file in files if pq.read_metadata(file).num_rows]
    title = f"{code_span(manifest['stage'])} {code_span(manifest['key'])}"
    sections = {"Files": "\n\n".join(map(_columns, files))}
    if not names:
        return Card(title, "No rows to load.", {"viewer": False}, sections)
    configs: list[dict[str, Any]] = [{"config_name": name, "data_files": f"{name}.parquet"} for name in names]
    if ROWS in names:
        configs[0]["default"] = True
    lines = ["from datasets import load_dataset", "", 'folder = "."  # where this file is, or org/name on the hub']
    lines += [f'{name} = load_dataset(folder, "{name}", split="train")' for name in names]
    told = "`train` is the library's name for all rows of a file."
    told += " Without a name, it is `rows` that are loaded." if ROWS in names else ""
    sections = {"To load": f"{code_block(chr(10).join(lines), 'python')}\n\n{told}", **sections}
    return Card(title, "Rows, made as said below.", {"configs": configs}, sections)


def _columns(file: Path) -> str:
    import pyarrow.parquet as pq

    schema, rows = pq.read_schema(file), pq.read_metadata(file).num_rows
    record = (schema.metadata or {}).get(b"record", b"").decode(errors="replace")
    lines = [[code_span(column.name), code_span(str(column.type))] for column in schema]
    return f"{code_span(file.name)}: {rows:,} rows ({code_span(record)})\n\n{table(['column', 'type'], lines)}"


def _counts(manifest: dict[str, Any]) -> str:
    counts = {name: value for name, value in manifest.get("counts", {}).items() if not name.startswith("validation_")}
    counts |= {"tokens": manifest.get("tokens", 0), "seconds": manifest.get("seconds", 0.0)}
    return table(["", ""], [[code_span(name), number(value)] for name, value in counts.items()])


def number(value: Any) -> str:
    """A number of a manifest as people read it."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else code_span(value)


def _notes(manifest: dict[str, Any]) -> str:
    return "\n".join(
        f"- {code_span(name)}: {plain(one_line(text))}" for name, text in manifest.get("notes", {}).items()
    )


def _lineage(folder: Path, manifest: dict[str, Any]) -> str:
    return "\n".join(f"{'  ' * one.depth}- {code_span(one.name)}: {origin(one)}" for one in ancestry(folder, manifest))


def origin(one: Ancestor) -> str:
    """What an ancestor is, as Markdown, without the path of a machine."""
    if one.stage is not None:
        return f"{code_span(one.stage)} {code_span(one.key)}"
    if is_hub(one.key) or one.key.startswith(SERVED):
        return code_span(one.key)
    return f"{code_span(Path(one.path).name)} ({code_span(one.key[:23])}…)"


def ancestry(
    folder: Path, manifest: dict[str, Any], depth: int = 0, seen: set[str] | None = None
) -> Iterator[Ancestor]:
    """Everything that an artifact was made from, parents before theirs; of what is there twice, once only what it was
    made from. Manifests are looked for where they were, then beside `folder`."""
    seen = set() if seen is None else seen
    for name, one in named_parents(manifest):
        stage, key, path = one.get("stage"), one["key"], one["path"]
        places = [Path(path), folder.absolute().parent.parent / str(stage) / key] if stage else []
        own, place = next(((own, place) for place in places if (own := _manifest(place, key))), (None, folder))
        yield Ancestor(name, depth, stage, key, path, own)
        if own is not None and key not in seen:
            seen.add(key)
            yield from ancestry(place, own, depth + 1, seen)


def _manifest(folder: Path, key: str) -> dict[str, Any] | None:
    """The manifest of a folder, where it is that of the artifact with this key."""
    try:
        found = read_json(folder / "manifest.json")
    except (StoreError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("key") == key else None
