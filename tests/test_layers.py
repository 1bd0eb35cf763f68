"""The import direction, where Hydra, W&B and the command line may be used, and that imports stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# package -> the packages of ours that it may import
FLOORS = ("stages", "rollouts", "training", "rewards", "refine", "experiments")
BELOW = {package: set(FLOORS[: floor + 1]) for floor, package in enumerate(FLOORS)} | {"conf": set()}
HEAVY = {
    *(
        "torch",
        "transformers",
        "tokenizers",
        "accelerate",
        "peft",
        "bitsandbytes",
        "datasets",
        "safetensors",
        "math_verify",
        "sympy",
    ),
    *("pebble", "matplotlib", "scipy", "wandb", "pandas", "vllm", "ray", "openai", "tenacity", "wandb_workspaces"),
}
COMMAND_LINE = {"hydra", "omegaconf", "argparse", "click", "typer"}
# loaded by name when asked for, so they may import what they stand on
BY_NAME = ("rollouts/backends/", "rollouts/grading/warmed.py")
MODULES = sorted(path for package in BELOW for path in (ROOT / package).rglob("*.py"))


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


LIGHT = [path for path in MODULES if not named(path).startswith(BY_NAME) or path.name == "__init__.py"]


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield node.module or "", node.lineno


def on_import(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements that run when a module is imported: not those in functions or under TYPE_CHECKING."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        statement = waiting.pop()
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            waiting += statement.orelse
            continue
        yield statement
        waiting += [child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.stmt)]


def test_every_package_is_here() -> None:
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert found == set(BELOW) and len(MODULES) > 20


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_imports_go_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    for name, line in imports(ast.parse(path.read_text())):
        top = name.split(".")[0]
        assert top != "tests", f"line {line} imports the tests"
        if top in BELOW:
            assert top in BELOW[package], f"line {line}: {package} must know nothing of {top}"


def module_name(path: Path) -> str:
    return named(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_no_two_files_import_each_other_in_a_circle() -> None:
    """Whatever stands in a function or under TYPE_CHECKING counts too: a reader has to open both files at once."""
    known = {module_name(path): path for path in MODULES}
    needs: dict[str, set[str]] = {}
    for name, path in known.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        needs[name] = (found & known.keys()) - {name}
    while free := [name for name, wanted in needs.items() if not wanted & needs.keys()]:
        for name in free:
            del needs[name]
    assert not needs, f"in a circle, or above one: {sorted(needs)}"


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_no_file_hides_a_module_of_the_standard_library(path: Path) -> None:
    """A script run by its path has its own folder first on the path, so `types.py` there is `types`."""
    assert path.stem not in sys.stdlib_module_names - {"__init__", "__main__"}


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_no_file_hides_a_package_for_a_script(path: Path) -> None:
    # experiments/experiments.py is there to be found in place of the package
    if path.parent.name in ("experiments", "bench") and named(path) != "experiments/experiments.py":
        assert path.stem not in {*HEAVY, *BELOW}


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_command_line_and_wandb_are_kept_apart(path: Path) -> None:
    tree, experiment = ast.parse(path.read_text()), named(path).startswith("experiments/")
    for name, line in imports(tree):
        top = name.split(".")[0]
        assert top not in COMMAND_LINE or experiment, f"line {line} imports {name}"
        assert top != "wandb" or named(path) == "stages/mirror.py", f"line {line} imports {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "argv":
            assert experiment, f"line {node.lineno} reads sys.argv"


@pytest.mark.parametrize("path", LIGHT, ids=named)
def test_heavy_libraries_are_imported_where_they_are_used(path: Path) -> None:
    for statement in on_import(ast.parse(path.read_text())):
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for name, line in imports(statement):
                assert name.split(".")[0] not in HEAVY, f"line {line} imports {name} whenever the module is imported"


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_text_is_never_run_as_code(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec"), f"line {node.lineno} calls {node.func.id}"
        # else the library asks on a terminal, and a "y" runs the Python of the folder
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained":
            said = {one.arg: ast.unparse(one.value) for one in node.keywords}
            assert said.get("trust_remote_code") == "False", f"line {node.lineno} leaves trust_remote_code open"


def test_importing_everything_loads_nothing_heavy() -> None:
    """What the parse trees cannot show: a heavy library that comes in by way of a light one."""
    names = [module_name(path) for path in LIGHT if path.stem != "__main__"]
    program = (
        f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\n"
        f"print(sorted({HEAVY} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stdout + done.stderr
