"""What README and documents promise: the tree is the checkout's, commands compose, settings and files exist."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
import shlex
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from experiments.commands.catalogue import COMMANDS
from experiments.commands.config import CommonArgs, build_job
from experiments.commands.overrides import prepare
from experiments.plan import read_words

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TREE = README.partition("## The house\n```\n")[2].partition("```")[0]
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
}
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", "\n".join(DOCUMENTS.values()), re.DOTALL)
LINES = [
    line.partition("   #")[0].strip()
    for language, text in BLOCKS
    if not language
    for line in text.replace("\\\n", " ").splitlines()
    if line.startswith("python -m experiments.")
]
PLACEHOLDER = {"rollouts": "artifacts/sample/KEY", "policy": "PATH"}  # what ... stands for


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
def test_commands_compose(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, module, *words = shlex.split(line.replace("$'", "'"))  # bash alone reads $'\\n'
    name = module.removeprefix("experiments.")
    if name == "plan":  # the settings of a pipeline, and its own
        read_words(words)
        return
    module = importlib.import_module(COMMANDS[name])
    if not hasattr(module.main, "schema"):  # a word that its parser does not know is a SystemExit
        monkeypatch.chdir(tmp_path)
        assert module.run(words) == 2  # there is no such run, artifact or project here
        return
    command, sweep = module.main, "-m" in words
    words = [word for word in words if word not in ("-m", "...")]
    words += [f"{key}={value}" for key, value in PLACEHOLDER.items() if "..." in line]
    overrides = prepare(words, command.args, sweep)
    with initialize_config_module("conf", version_base="1.3"):
        config = compose(name, [one.split(",")[0] if sweep else one for one in overrides])
        build_job(command.schema, command.args, config, Path("unused"))


def test_there_are_commands() -> None:
    assert len(LINES) >= 20


def settings(kind: type, before: str = "") -> Iterator[str]:
    """Every setting of a dataclass, by each end of its dotted name: `n`, `samples.n`."""
    for name, hint in typing.get_type_hints(kind).items():
        path = f"{before}{name}"
        yield from (path[place:] for place in [0, *(dot.end() for dot in re.finditer(r"\.", path))])
        for one in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(one):
                yield from settings(one, f"{path}.")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_settings_and_links_are_there(name: str) -> None:
    text = re.sub(r"```.*?```", "", DOCUMENTS[name], flags=re.DOTALL)
    modules = [importlib.import_module(module) for module in COMMANDS.values()]
    known = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}.union(
        settings(CommonArgs), *(settings(one.main.args) for one in modules if hasattr(one.main, "args"))
    )
    # of Hydra, TRL and vLLM, and equations of answers
    others = {"install", "runner", "train_sampling_strategy", "x"}
    spans = re.findall(r"`([^`\n]+)`", text)
    named = {key for span in spans for key in re.findall(r"(?<![\w./])([a-z_][\w.]*)(?==)", span)}
    assert named - known - others == set()
    folder = (ROOT / name).parent
    path = r"(?:docs|tests|conf|experiments|stages|rollouts|training|rewards|refine)/[\w./-]+"
    files = [span for span in spans if re.fullmatch(path, span) and not re.search("NAME|STAGE", span)]
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    missing = [one for one in files if not (ROOT / one).exists()]
    assert missing + [one for one in links if not (folder / one).exists()] == []
