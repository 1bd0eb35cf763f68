"""The checkpoints that come with the package: small policies of the embedded world, made by a committed recipe.

`students/README.md` is their card: the recipe, what it cost and their figures.
"""

from __future__ import annotations

import json
from pathlib import Path

from rollouts.stages import sha256

SHIPPED = "shipped"
FOLDER = Path(__file__).parent / "students"
CHECKPOINTS = {SHIPPED: "student"}


def find_start(start: str) -> str:
    """The folder to start from: one that comes with the package, by its name, else `start` itself.

    Raises:
        ValueError: a file of the shipped checkpoint is missing or is not the one that was shipped.
    """
    if start not in CHECKPOINTS:
        return start
    folder = FOLDER / CHECKPOINTS[start]
    for name, expected in json.loads((FOLDER / "hashes.json").read_text(encoding="utf-8"))[folder.name].items():
        path = folder / name
        if not path.is_file() or sha256(path) != expected:
            raise ValueError(f"the shipped checkpoint is damaged: {path} is missing or has changed; install anew")
    return str(folder)
