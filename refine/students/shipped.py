"""What comes with the package: small policies of the embedded world, and the judge that the demo's reward models start
from, made by committed recipes.

`students/README.md` is their card: the recipes, what they cost and their figures.
"""

from __future__ import annotations

from pathlib import Path

from rollouts.world.args import SOURCE as WORLD
from stages.files import read_json, sha256
from stages.hub import pin

SHIPPED = "shipped"
FOLDERS = {SHIPPED: "student", "shipped/planner": "planner", "shipped/judge": "judge"}
FOLDER = Path(__file__).parent


def find_start(start: str) -> str:
    """The folder to start from: that of a student that comes with the package for one of FOLDERS, else `start` itself,
    a hub id with the commit that it stands for now.

    Raises:
        ValueError: a file of the shipped student, or the list of them, is missing or is not what was shipped.
    """
    if start not in FOLDERS:
        return pin(start)
    folder = FOLDER / FOLDERS[start]
    for name, expected in read_json(FOLDER / "hashes.json").get(folder.name, {"config.json": ""}).items():
        path = folder / name
        if not path.is_file() or sha256(path) != expected:
            raise ValueError(f"the shipped student is damaged: {path} is missing or has changed; install anew")
    return str(folder)


def check_words(setting: str, name: str, source: str) -> None:
    """Raise ValueError where what ships, `name` as a user sets it with `setting`, is to read problems of another source
    than the embedded world."""
    if source != WORLD:
        raise ValueError(f"{setting}={name} knows the words of the embedded world only, not {source}'s")
