"""The command line of a command without Hydra: its errors are one line and code 2."""

from __future__ import annotations

import argparse
from typing import NoReturn

from stages.text import one_line


class PlainParser(argparse.ArgumentParser):
    """A parser whose options cannot be shortened."""

    def __init__(self, name: str, about: str) -> None:
        super().__init__(name, description=about.split("\n\n")[0], allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """End with the message in one line."""
        self.exit(2, f"error: {one_line(message)} (--help lists what can be asked)\n")
