"""The code that each stage runs, as hashes: `python -m tests.stages.bless` records what is there now.

`test_code_hashes.py` fails where that code changed and the stage's version did not. Raise the version where the same
arguments would give other results, so that old artifacts are not found any more; then, or where results stay the same,
bless the change with this command.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from experiments.commands.catalogue import COMMANDS, stage_named
from stages.stage import Stage

ROOT = Path(__file__).resolve().parents[2]
FILE = Path(__file__).with_name("code_hashes.json")
PACKAGES = ("stages", "rollouts", "training", "rewards", "refine", "experiments")
# They say when, where and in how many processes work is done, how it is kept until it is whole, how it is shown and
# found again: not what comes out of it. `stages/rows.py` does, as it writes the rows. The commands only pass arguments.
LEFT_OUT = ("stages/", "experiments/commands/")
KEPT = ("stages/rows.py",)
_NAME = re.compile(rf"({'|'.join(PACKAGES)})(\.\w+)+")


def path_of(module: str) -> str | None:
    """The file of a module of ours, relative to the checkout; None if there is none."""
    name = module.replace(".", "/")
    return next((path for path in (f"{name}.py", f"{name}/__init__.py") if (ROOT / path).is_file()), None)


@cache
def parse(path: str) -> ast.Module:
    """A file without its docstrings and imports for type checkers."""
    tree = ast.parse((ROOT / path).read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [one for one in body if not _is_text(one) and not _is_for_types(one)]
    return tree


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def needed(path: str) -> Iterator[str]:
    """The files of ours that a file imports anywhere, or names in a text, as the table of backends does."""
    for node in ast.walk(parse(path)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _NAME.fullmatch(node.value):
            names = [node.value]
        for name in names:
            if name.split(".")[0] in PACKAGES and (found := path_of(name)) is not None:
                yield found


def closure(module: str) -> list[str]:
    """The files whose code a stage runs that is defined in `module`."""
    waiting, found = [path_of(module)], set()
    while waiting:
        path = waiting.pop()
        if path not in found and (not path.startswith(LEFT_OUT) or path in KEPT):
            found.add(path)
            waiting += needed(path)
    return sorted(found)


def dump(node: Any) -> Any:
    """A syntax tree as JSON values, without what is empty: versions of Python differ in that."""
    if isinstance(node, ast.AST):
        fields = {name: dump(value) for name, value in ast.iter_fields(node) if value not in (None, [])}
        return [type(node).__name__, fields]
    return [dump(one) for one in node] if isinstance(node, list) else repr(node)


def code_hash(path: str) -> str:
    """16 hex characters for what a file does: comments, docstrings and formatting do not count."""
    return hashlib.sha256(json.dumps(dump(parse(path)), sort_keys=True).encode()).hexdigest()[:16]


def all_stages() -> list[Stage]:
    """Every stage that a command runs, by name."""
    return sorted(filter(None, map(stage_named, COMMANDS)), key=lambda stage: stage.name)


def current() -> dict[str, Any]:
    """What is recorded: the version and files of every stage, and the hash of every file."""
    files = {stage.name: closure(stage.run.__module__) for stage in all_stages()}
    known = sorted({path for own in files.values() for path in own})
    return {
        "stages": {
            stage.name: {"version": stage.version, "code": _joint(map(code_hash, files[stage.name]))}
            for stage in all_stages()
        },
        "files": {path: code_hash(path) for path in known},
    }


def _joint(hashes: Iterator[str]) -> str:
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:16]


def changes(recorded: dict[str, Any], now: dict[str, Any], stage: Stage) -> list[str]:
    """The files of a stage whose code is another than was recorded."""
    return [path for path in closure(stage.run.__module__) if recorded["files"].get(path) != now["files"][path]]


if __name__ == "__main__":
    before, now = json.loads(FILE.read_text()) if FILE.exists() else {"stages": {}, "files": {}}, current()
    FILE.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
    for name, facts in now["stages"].items():
        if before["stages"].get(name) != facts:
            print(f"{name}: blessed at version {facts['version']}")
