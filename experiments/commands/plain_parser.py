"""The command line of a command without Hydra: its errors are one line and code 2."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from stages.text import one_line


class PlainParser(argparse.ArgumentParser):
    """A parser whose options cannot be shortened."""

    def __init__(self, name: str, about: str) -> None:
        super().__init__(name, description=about.split("\n\n")[0], allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """End with the message in one line."""
        self.exit(2, f"error: {one_line(message)} (--help lists what can be asked)\n")


def run_connected(run: Callable[[Sequence[str]], int]) -> NoReturn:
    """End the process with the code of `run`, given the arguments; quietly where nobody reads what it prints.

    For commands with connections: one that breaks must not end the process, so that SIGPIPE may do so only afterwards.
    """
    code = 1
    try:
        code = run(sys.argv[1:])
    except BrokenPipeError:
        pass
    finally:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as Python writes out what is left
    sys.exit(code)
