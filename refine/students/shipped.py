"""The student that comes with the package: a small policy of the embedded world, made by a committed recipe.

`students/README.md` is its card: the recipe, what it cost and its figures.
"""

from __future__ import annotations

from pathlib import Path

from stages.files import read_json, sha256
from stages.hub import pin

SHIPPED = "shipped"
FOLDER = Path(__file__).parent


def find_start(start: str) -> str:
    """The folder to start from: the student that comes with the package for `shipped`, else `start` itself,
    a hub id with the commit that it stands for now.

    Raises:
        ValueError: a file of the shipped student, or the list of them, is missing or is not what was shipped.
    """
    if start != SHIPPED:
        return pin(start)
    for name, expected in read_json(FOLDER / "hashes.json").items():
        path = FOLDER / "student" / name
        if not path.is_file() or sha256(path) != expected:
            raise ValueError(f"the shipped student is damaged: {path} is missing or has changed; install anew")
    return str(FOLDER / "student")
