"""What README promises: its tree is that of the checkout, its Python imports, its commands compose."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from experiments.commands.catalogue import COMMANDS
from experiments.commands.overrides import prepare

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TREE = README.partition("## The house\n```\n")[2].partition("```")[0]
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
LINES = [
    line.partition("   #")[0].strip()
    for language, text in BLOCKS
    if not language
    for line in text.splitlines()
    if line.startswith("python -m experiments.")
]


def sections() -> dict[str, str]:
    """The packages of the tree, and the text of each."""
    parts = re.split(r"^(\w+)/ ", TREE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("package", ["stages", "rollouts", "training", "rewards", "refine"])
def test_the_tree_names_every_file_and_folder_of_a_room(package: str) -> None:
    there = {path.name for path in (ROOT / package).iterdir() if path.suffix == ".py" and path.stem != "__init__"}
    named = set(re.findall(r"\w+\.py", sections()[package]))
    # some stand as `NAME.py`, some as a word of what is said of a folder
    assert there <= named and all(next((ROOT / package).rglob(name), None) for name in named), named ^ there
    folders = {path.name for path in (ROOT / package).iterdir() if (path / "__init__.py").is_file()}
    assert folders == set(re.findall(r"^  (\w+)/ ", sections()[package], re.MULTILINE)) | (folders & {"students"})


def test_the_tree_names_every_folder_of_the_checkout() -> None:
    there = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert there <= set(sections())


def test_names_of_python_are_there() -> None:
    for text in [text for language, text in BLOCKS if language == "python"]:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    # where it is made, not where it happens to be imported
                    assert getattr(module, alias.name).__module__ == node.module
    for name in re.findall(r"`((?:stages|rollouts|training|rewards|refine)\.[\w.]+)\(", README):
        module, _, function = name.rpartition(".")
        assert callable(getattr(importlib.import_module(module), function)), name


@pytest.mark.parametrize("line", LINES)
def test_commands_compose(line: str) -> None:
    _, _, module, *words = shlex.split(line)
    name = module.removeprefix("experiments.")
    args = importlib.import_module(COMMANDS[name]).main.args
    overrides = prepare([word for word in words if word != "-m"], args, sweep="-m" in words)
    with initialize_config_module("conf", version_base="1.3"):
        compose(name, [one.split(",")[0] for one in overrides])


def test_there_are_commands() -> None:
    assert len(LINES) >= 4
