"""What the commands are and what can be set, for `--help` and `python -m experiments`.

The text of a setting stands beside its field, as Sphinx reads it: `n: int = 8  #: samples of each problem`. A setting
without one is left to `--cfg job`.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import inspect
import itertools
import re
import textwrap
import typing
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.commands.catalogue import COMMANDS
from experiments.commands.config import CommonArgs

ROWS = 20  # settings and groups shown, beside those that every command has: all of it fits a screen
WIDTH = 100
OF_ONE_COMMAND = ("experiment", "debug")  # groups whose options begin with the command that they are made for


def field_texts(kind: type) -> dict[str, str]:
    """Field -> what its `#:` comment says, of a dataclass and those it inherits from."""
    texts: dict[str, str] = {}
    for one in reversed([base for base in kind.__mro__ if dataclasses.is_dataclass(base)]):
        source = textwrap.dedent(inspect.getsource(one))
        lines = source.encode().splitlines()  # columns of a syntax tree are bytes
        for node in ast.parse(source).body[0].body:
            if isinstance(node, ast.AnnAssign):
                comment = lines[node.end_lineno - 1][node.end_col_offset :].decode().strip()
                if comment.startswith("#:"):
                    texts[node.target.id] = comment[2:].strip()
    return texts


def overview() -> str:
    """Every command with a line on what it does."""
    width = max(map(len, COMMANDS))
    rows = [_wrapped(f"  {name:<{width}}  ", _summary(name), 80) for name in COMMANDS]
    return "\n".join(
        [
            "Outcome and stepwise reward models, refiners and reranking. Each command is",
            "`python -m experiments.NAME`, or stepwise-NAME where the package is installed",
            "(stepwise-train-reward); --help after one says what can be set.",
            "",
            *rows,
        ]
    )


def _summary(name: str) -> str:
    if header := _header(name):
        return re.split(r"\.(?= [A-Z]|$)|; ", header[0])[0]
    origin = importlib.util.find_spec(COMMANDS[name]).origin
    with open(origin, encoding="utf-8") as file:
        return ast.get_docstring(ast.parse(file.read())).splitlines()[0].partition(": ")[2].rstrip(".").capitalize()


def _header(config_name: str) -> list[str]:
    """The lines of the comment that a primary config begins with."""
    file = files("conf") / f"{config_name}.yaml"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [line[1:].removeprefix(" ") for line in itertools.takewhile(lambda line: line.startswith("#"), lines)]


def print_help(name: str, schema: DictConfig) -> None:
    """What the command does, its examples, the settings that people change, and how to see the rest."""
    from hydra import compose, initialize_config_module

    config, groups = schema, []
    if header := _header(name):
        with initialize_config_module("conf", version_base="1.3"):
            config = compose(name)
        groups = list(_groups(name))
    settings = _settings(OmegaConf.get_type(schema), config, ROWS - len(groups))
    common = [row for row in _settings(CommonArgs, config, 99) if row[0].split(".")[0] != "tracking"]
    print(*header, "", sep="\n")
    _print_rows("Groups", groups)
    chosen = [left for left, _ in groups]
    _print_rows("Settings", [row for row in [*settings, *common] if row[0] not in chosen])
    sweeps = " or -m +sweep=NAME" if options_of("sweep", name) else ""
    print(
        f"\nThe rest: --cfg job (all settings), --info defaults-tree (where they come from), and the file\n"
        f"conf/{name}.yaml. A sweep: -m KEY=A,B{sweeps}; elsewhere with hydra/launcher=joblib."
    )


def _print_rows(title: str, rows: list[tuple[str, str]]) -> None:
    width = min(28, max((len(left) for left, _ in rows), default=0))
    print(f"{title}:" if rows else "", end="\n" if rows else "")
    for left, right in rows:
        print(_wrapped(f"  {left:<{width}}  ", right, WIDTH))


def _wrapped(before: str, text: str, width: int) -> str:
    return textwrap.fill(text, width, initial_indent=before, subsequent_indent=" " * len(before))


def _groups(config_name: str) -> Iterator[tuple[str, str]]:
    text = (files("conf") / f"{config_name}.yaml").read_text(encoding="utf-8")
    for entry in OmegaConf.create(text).get("defaults", []):
        if isinstance(entry, DictConfig):
            ((group, chosen),) = entry.items()
            folder = files("conf") / group.split("@")[0]  # `lema/prompts@ask`: for the setting `ask`
            if folder.is_dir():
                command = config_name if group in OF_ONE_COMMAND else ""
                yield f"{group}={chosen or 'null'}", " ".join(_folded(options_of(group.split("@")[0], command)))


def _folded(options: list[str]) -> list[str]:
    """The options with those of a folder within as one: `lema/… (6)`."""
    folders = [option.rpartition("/")[0] for option in options]
    return [
        f"{folder}/… ({folders.count(folder)})" if folder else option
        for at, (folder, option) in enumerate(zip(folders, options, strict=True))
        if not folder or folders.index(folder) == at
    ]


def options_of(group: str, command: str = "") -> list[str]:
    """What can be chosen in a group of configs, those of folders within too: `demo`, `glore/gsm8k_llama2_7b`; with a
    command, those that say how it is called with them."""

    called = f"python -m experiments.{command} "

    def below(folder: Any, before: str) -> Iterator[str]:
        for one in sorted(folder.iterdir(), key=lambda one: (one.is_dir(), one.name)):
            if one.is_dir():
                yield from below(one, f"{before}{one.name}/")
            elif one.name.endswith(".yaml") and (not command or called in one.read_text(encoding="utf-8")):
                yield before + one.name.removesuffix(".yaml")

    return list(below(files("conf") / group, ""))


def _settings(kind: type, config: Any, room: int) -> list[tuple[str, str]]:
    """(NAME=VALUE, text) of the settings with a text, inherited ones last; those within a setting too, as long as there
    is room."""
    hints, texts, own = typing.get_type_hints(kind), field_texts(kind), inspect.get_annotations(kind)
    rows: list[list[tuple[str, str]]] = []
    inner: list[tuple[int, list[tuple[str, str]]]] = []
    for one in sorted(dataclasses.fields(kind), key=lambda one: one.name not in own):
        value = OmegaConf.select(config, one.name, throw_on_missing=False)
        if dataclasses.is_dataclass(hints[one.name]):
            found = _settings(hints[one.name], value, room)
            inner.append((len(rows), [(f"{one.name}.{left}", right) for left, right in found]))
            rows.append([(f"{one.name}.*", texts[one.name])] if one.name in texts else [])
        elif one.name in texts:
            rows.append([(f"{one.name}={_short(config, one.name)}", texts[one.name])])
    for place, found in inner:
        if sum(map(len, rows)) - len(rows[place]) + len(found) <= room and found:
            rows[place] = found
    return [row for block in rows for row in block]


def _short(config: DictConfig, name: str) -> str:
    if OmegaConf.is_missing(config, name):
        return "???"
    value = config[name]
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    text = text.replace("'", "").replace(", ", ",")
    return text if len(text) <= 30 else f"{text[:29]}…"
