"""`python -m experiments.show [PATH]`: what an artifact is, where it comes from, and whether it is whole.

PATH is an artifact's folder or its manifest.json, a Parquet file of rows, a folder of artifacts (the default:
`artifacts`), or work that is not finished: its folder or a journal of it. Reading is in `inspect_read.py` and
`inspect_tree.py`, printing in `inspect_text.py`.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from experiments.show.reading import (
    JOURNALS,
    InspectError,
    entries,
    journal_facts,
    read_head,
    unfinished_facts,
)
from experiments.show.tree import faults, grow, nested
from stages.artifacts import open_artifact


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (--help lists what can be asked)\n")


def main() -> None:
    """The command; it ends quietly where its reader does, as `| head` wants."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    # a text may hold what the terminal's encoding does not
    sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


def run(argv: Sequence[str]) -> int:
    """What the command does; returns its exit code: 0, or 2 after the user's error, in one line on stderr."""
    options = _parser().parse_args(argv)
    try:
        _inspect(_unfinished_of(options.path), options)
    except (ValueError, OSError) as error:
        print(f"error: {'; '.join(line.strip() for line in str(error).splitlines())}", file=sys.stderr)
        return 2
    return 0


def _parser() -> _Parser:
    parser = _Parser("python -m experiments.show", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("path", nargs="?", type=Path, default=Path("artifacts"), help="what to look at (artifacts)")
    parser.add_argument("--tree", action="store_true", help="everything that an artifact was made from, as a tree")
    parser.add_argument("--all", action="store_true", help="all arguments, also those that are the stage's defaults")
    parser.add_argument("--rows", type=_number, default=3, metavar="N", help="rows to show (3)")
    parser.add_argument("--json", action="store_true", help="the manifest (with --tree, all of them) for a program")
    parser.add_argument("--check", action="store_true", help="read every file anew and compare its hash (or checksums)")
    return parser


def _number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rows")
    return int(text)


def _unfinished_of(path: Path) -> Path:
    """The path itself, or what there is of an artifact that is not finished."""
    aside = path.with_name(f".{path.name}.unfinished") if path.name else path
    return aside if not path.exists() and aside.is_dir() else path


def _inspect(path: Path, options: argparse.Namespace) -> None:
    if not path.exists():
        raise InspectError(f"{path}: there is no such file or folder")
    if path.name == "manifest.json" or (path / "manifest.json").is_file():
        _artifact(path if path.is_dir() else path.parent, options)
    elif options.tree:
        raise InspectError(f"{path}: only an artifact has a tree (its folder holds a manifest.json)")
    elif path.is_file() and path.suffix == ".parquet":
        _rows(path, options)
    elif path.is_file() and path.match(JOURNALS):
        _journal(path, options)
    elif path.is_file():
        raise InspectError(f"{path}: neither manifest.json nor rows (*.parquet) nor a journal (0.jsonl, 1.jsonl …)")
    elif path.name.endswith(".unfinished") or any(path.glob(JOURNALS)):
        _unfinished(path, options)
    else:
        _folder(path, options)


def _artifact(path: Path, options: argparse.Namespace) -> None:
    from experiments.show import text as inspect_text

    artifact = open_artifact(path, thorough=options.check)
    if not options.tree:
        if options.json:
            _print_json(artifact.manifest)
        else:
            inspect_text.print_artifact(artifact, options.rows, options.all, options.check)
        return
    root = grow(artifact, options.check)
    if options.json:
        _print_json(nested(root))
    else:
        inspect_text.print_tree(root, options.check)
    if options.check and (found := faults(root)):
        raise InspectError(f"{path}: {len(found)} of what it was made from is not as it was: {'; '.join(found)}")


def _rows(path: Path, options: argparse.Namespace) -> None:
    from experiments.show import text as inspect_text

    head = read_head(path, options.rows, options.check)
    if options.json:
        _print_json({"path": str(path), "record": head.record, "rows": head.total, "columns": head.columns,
                     "first": head.rows})  # fmt: skip
    else:
        inspect_text.print_head(head, options.check)


def _journal(path: Path, options: argparse.Namespace) -> None:
    from experiments.show import text as inspect_text

    facts = journal_facts(path, options.rows)
    if options.json:
        _print_json(facts.as_json())
    else:
        inspect_text.print_journals([facts], options.check)
    if facts.fault is not None:
        raise InspectError(f"{path}: {facts.fault}")


def _unfinished(path: Path, options: argparse.Namespace) -> None:
    from experiments.show import text as inspect_text

    found = unfinished_facts(path, options.rows)
    if options.json:
        _print_json([facts.as_json() for facts in found])
    else:
        inspect_text.print_unfinished(path, found, options.check)
    if damaged := [f"{facts.path}: {facts.fault}" for facts in found if facts.fault is not None]:
        raise InspectError("; ".join(damaged))


def _folder(path: Path, options: argparse.Namespace) -> None:
    from experiments.show import text as inspect_text

    found = entries(path, options.check)
    if options.json:
        _print_json([entry.as_json() for entry in found])
    else:
        inspect_text.print_entries(path, found, options.check)
    if options.check and (damaged := [entry.state for entry in found if entry.damaged]):
        raise InspectError(f"{len(damaged)} of {len(found)} artifacts are damaged: {'; '.join(damaged)}")


def _print_json(value: Any) -> None:
    print(json.dumps(_strict(value), indent=2, ensure_ascii=False, allow_nan=False, default=str))


def _strict(value: Any) -> Any:
    """The value without numbers that JSON does not have, which a foreign file of rows may hold."""
    if isinstance(value, dict):
        return {str(name): _strict(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
