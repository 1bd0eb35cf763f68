"""`python -m experiments.show [PATH]`: what an artifact is, where it comes from, and whether it is whole.

PATH is an artifact's folder or its manifest.json, a Parquet file of rows, a folder of artifacts (the default:
`artifacts`), or work that is not finished: its folder or a journal of it.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from experiments.show.reading import look
from stages.text import one_line


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {one_line(message)} (--help lists what can be asked)\n")


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
        found = look(options.path, options.rows, options.check, options.tree)
        if options.json:
            print(json.dumps(found.data, indent=2, default=str))  # all in ASCII, so that no terminal obeys it
        else:
            from experiments.show.text import print_found

            print_found(found, options.rows, options.check, options.all)
        if found.faults:
            raise ValueError(f"{found.path}: {'; '.join(found.faults)}")
    except (ValueError, OSError, RecursionError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _parser() -> _Parser:
    parser = _Parser("python -m experiments.show", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("path", nargs="?", type=Path, default=Path("artifacts"), help="what to look at (artifacts)")
    parser.add_argument("--tree", action="store_true", help="everything that an artifact was made from, as a tree")
    parser.add_argument(
        "--all", action="store_true", help="all that is cut short otherwise: arguments, what is left out"
    )
    parser.add_argument("--rows", type=_number, default=3, metavar="N", help="rows to show (3)")
    parser.add_argument("--json", action="store_true", help="the manifest (with --tree, all of them) for a program")
    parser.add_argument("--check", action="store_true", help="read every file anew and compare its hash")
    return parser


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rows")
    return int(text)
