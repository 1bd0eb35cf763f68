"""The command line of a command without Hydra: its errors are one line and code 2."""

from __future__ import annotations

import argparse
import functools
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from stages.text import one_line

Run = Callable[[Sequence[str]], int]  # from the words of a command line to the exit code


class PlainParser(argparse.ArgumentParser):
    """A parser whose options cannot be shortened."""

    def __init__(self, name: str, about: str) -> None:
        super().__init__(name, description=about.split("\n\n")[0], allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """End with the message in one line."""
        self.exit(2, f"error: {one_line(message)} (--help lists what can be asked)\n")


def one_line_errors(run: Run) -> Run:
    """`run`, but for errors of the user, which are said on stderr in one line; the code is then 2. A RecursionError is
    one, too: of a file that is nested too deep."""

    @functools.wraps(run)
    def told(argv: Sequence[str]) -> int:
        try:
            return run(argv)
        except BrokenPipeError:  # see `end_with`
            raise
        except (ValueError, OSError, RecursionError) as error:
            print(f"error: {one_line(error)}", file=sys.stderr)
            return 2

    return told


def end_with(run: Run, connected: bool = False) -> NoReturn:
    """Run with this process's words and end with the code; quietly where the reader of what is printed ends first, as
    `| head` does.

    A command that is `connected`, such as to W&B, must not end where a connection breaks: SIGPIPE may end it only
    afterwards, as Python writes out what is left.
    """
    if not connected:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    code = 1
    try:
        code = run(sys.argv[1:])
    except BrokenPipeError:
        pass
    finally:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(code)
