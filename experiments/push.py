"""`python -m experiments.push PATH hub:org/name`: an artifact, or a model's folder, as a repository of the hub.

A folder that holds a secret or a path of this machine is refused; in the manifest, the paths of parents are replaced by
their names. An artifact of before there were cards gets one. Who uploads is known from HF_TOKEN or `hf auth login`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.commands.catalogue import stage_named
from experiments.commands.plain_parser import PlainParser, end_with
from stages.artifacts import CARD, is_artifact, named_parents, names_in, open_artifact
from stages.cards import render_card
from stages.hub import is_hub, target, upload
from stages.leaks import make_finder
from stages.text import one_line

Files = dict[str, Path | bytes]  # by their names in the repository: a file here, or what is to stand there
_MANIFEST, _SHOWN = "manifest.json", 20


def main() -> None:
    end_with(run, connected=True)


def run(argv: Sequence[str]) -> int:
    """What the command does; returns its exit code: 0, or 2 after the user's error, in lines on stderr."""
    parser = PlainParser("python -m experiments.push", __doc__)
    parser.add_argument("path", type=Path, help="an artifact, a model's folder, or a folder of rows (*.parquet)")
    parser.add_argument("name", help="hub:org/name")
    parser.add_argument("--dry-run", action="store_true", help="only list what would go")
    parser.add_argument("--public", action="store_true", help="a repository that is made now is for all to see")
    parser.add_argument(
        "--delete", action="store_true", help="remove from the repository what the folder does not have"
    )
    options = parser.parse_args(argv)
    try:
        _push(options)
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        for line in str(error).split("\n"):
            print(f"error: {one_line(line)}", file=sys.stderr)
        return 2
    return 0


def _push(options: argparse.Namespace) -> None:
    repository, files = target(options.name), collect_files(options.path)
    kind = "model" if {"config.json", "adapter_config.json"} & files.keys() else "dataset"
    refuse_leaks(options.path, files)
    sizes = {name: len(file) if isinstance(file, bytes) else file.stat().st_size for name, file in files.items()}
    print(f"{options.path} -> {options.name} ({kind}): {len(files)} files, {sum(sizes.values()):,} bytes")
    for name, size in sizes.items():
        print(f"  {one_line(name)}  {size:,} bytes")
    if options.dry_run:
        print("nothing was uploaded: --dry-run")
        return
    made = upload(
        options.name, kind, files, f"Upload of {options.path.absolute().name}", options.public, options.delete
    )
    print(f"uploaded: {made} ({repository})")


def collect_files(folder: Path) -> Files:
    """The files of an artifact or another folder, hidden ones left out, as they are to be uploaded.

    Raises:
        ValueError: the artifact is damaged, or the folder holds neither a model nor rows.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder")
    if not is_artifact(folder):
        names = sorted(name for name in names_in(folder) if not any(part.startswith(".") for part in Path(name).parts))
        if not any(name in ("config.json", "adapter_config.json") or name.endswith(".parquet") for name in names):
            raise ValueError(f"{folder}: no artifact, no model (config.json) and no rows (*.parquet)")
        return {name: folder / name for name in names}
    manifest = open_artifact(folder).manifest
    files: Files = {name: folder / name for name in sorted(manifest["files"])}
    files[_MANIFEST] = (json.dumps(without_paths(manifest), indent=2, ensure_ascii=False) + "\n").encode()
    if (folder / CARD).is_file():
        return files | {CARD: folder / CARD}
    stage = stage_named(manifest["stage"])
    return files | {CARD: render_card(folder, manifest, stage.card if stage else None).encode()}


def without_paths(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest in which each parent that stood at an absolute path has its name instead: `sample/KEY`, a hub id, or
    the last part of the path."""
    names: dict[str, str] = {}
    for _, one in named_parents(manifest):
        if os.path.isabs(one["path"]):
            outside = one["key"] if is_hub(one["key"]) else Path(one["path"]).name
            names[one["path"]] = outside if one.get("stage") is None else f"{one['stage']}/{one['key']}"

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: renamed(one) for name, one in value.items()}
        if isinstance(value, list):
            return [renamed(one) for one in value]
        return names.get(value, value) if isinstance(value, str) else value

    return manifest | {name: renamed(manifest[name]) for name in ("args", "parents") if name in manifest}


def refuse_leaks(folder: Path, files: Files) -> None:
    """Raise ValueError with a line for each secret and each path of this machine in these files."""
    from huggingface_hub import get_token

    finder = make_finder(folder, dict(os.environ), {"the token of Hugging Face that is used here": get_token() or ""})
    found = [line for name, file in files.items() for line in finder.search(name, file)]
    if found:
        more = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        raise ValueError("\n".join(f"{folder}: {line}" for line in [*found[:_SHOWN], *more]))


if __name__ == "__main__":
    main()
