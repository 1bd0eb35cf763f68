"""Cards as a reader has them: their head, and the Python in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from stages.artifacts import CARD


def head(folder: Path) -> dict[str, Any]:
    """The first lines of a card, between two lines of dashes, as the hub reads them."""
    found = re.match(r"(\s*---[\r\n]+)([\S\s]*?)([\r\n]+---(\r\n|\n|$))", (folder / CARD).read_text(encoding="utf-8"))
    return yaml.safe_load(found[2])


def code(text: str, number: int = 0) -> str:
    """The Python block of this number."""
    return re.findall(r"^(`{3,})python\n(.*?)^\1$", text, re.MULTILINE | re.DOTALL)[number][1]


def run(text: str, number: int = 0) -> dict[str, Any]:
    """The variables that the block of this number makes; it reads the working directory."""
    made: dict[str, Any] = {}
    exec(compile(code(text, number), "card", "exec"), made)
    return made
