"""`python -m experiments.show [PATH]`: what an artifact is, where it comes from, and whether it is whole.

PATH is an artifact's folder or its manifest.json, a Parquet file of rows, or a folder of artifacts (the default:
`artifacts`). Nothing is changed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.commands.plain_parser import PlainParser, end_with, one_line_errors
from experiments.show.text import print_artifact, print_folder, print_groups, print_rows, print_tree
from stages.artifacts import open_artifact


def main() -> None:
    """The command."""
    # a text may hold what the terminal's encoding does not
    sys.stdout.reconfigure(errors="backslashreplace")
    end_with(run)


@one_line_errors
def run(argv: Sequence[str]) -> int:
    """What the command does; returns its exit code: 0, or 2 after the user's error, in one line on stderr."""
    parser = PlainParser("python -m experiments.show", __doc__)
    parser.add_argument("path", nargs="?", type=Path, default=Path("artifacts"), help="what to look at (artifacts)")
    parser.add_argument("--tree", action="store_true", help="everything that an artifact was made from, as a tree")
    parser.add_argument("--rows", type=_number, default=3, metavar="N", help="rows to show (3)")
    parser.add_argument("--check", action="store_true", help="read every file anew and compare its hash")
    parser.add_argument("--by", metavar="COLUMN", help="so many rows of each value of a column, such as reason")
    options = parser.parse_args(argv)
    if faults := _show(options.path, options.rows, options.tree, options.check, options.by):
        raise ValueError(f"{options.path}: {'; '.join(faults)}")
    if options.check:
        print("all is whole: every file that has a hash or checksum is as it says")
    return 0


def _show(path: Path, rows: int, tree: bool, check: bool, by: str | None) -> list[str]:
    """Print what is at a path; returns what is wrong with parts of it."""
    if not path.exists():
        raise ValueError(f"{path}: there is no such file or folder")
    if path.name == "manifest.json" or (path / "manifest.json").is_file():
        artifact = open_artifact(path if path.is_dir() else path.parent, thorough=check)
        if tree:
            return print_tree(artifact, check)
        if by is not None:
            print_groups(artifact.path / "rows.parquet", by, rows)
            return []
        print_artifact(artifact, rows)
        return []
    if tree:
        raise ValueError(f"{path}: only an artifact has a tree (its folder holds a manifest.json)")
    if path.suffix == ".parquet":
        if by is None:
            print_rows(path, rows, check)
        else:
            print_groups(path, by, rows)
        return []
    if by is not None:
        raise ValueError(f"{path}: --by {by} is for an artifact or a file of rows")
    return print_folder(path, check)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rows")
    return int(text)
