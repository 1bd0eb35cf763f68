"""`--help` of every command, the list of commands, and their console scripts."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from experiments.commands.catalogue import COMMANDS
from experiments.commands.describe import field_texts, options_of, overview

ROOT = Path(__file__).parents[2]


@dataclass
class Base:
    eggs: int = 1  #: how many
    salt: float = 0.5  # a reason, not a text
    names: list[str] = field(
        default_factory=lambda: ["a"],
    )  #: of the guests


@dataclass
class Meal(Base):
    eggs: int = 2  #: at least two
    wine: str = "#: red"


def test_texts_stand_beside_their_fields() -> None:
    assert field_texts(Base) == {"eggs": "how many", "names": "of the guests"}
    assert field_texts(Meal) == {"eggs": "at least two", "names": "of the guests"}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_screen(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) <= 40
    if name in ("glore", "lema"):
        own, others = (options_of("experiment", one) for one in ("glore", "lema")[:: 1 if name == "glore" else -1])
        # of the rows of a paper's tables only the folder and how many
        folder, rows = f"experiment/{name}", [option for option in own if option.startswith(f"{name}/")]
        count = len([option for option in rows if option.count("/") == 1])
        assert f" {name}/… ({count})" in done.stdout and count == len(list((ROOT / "conf" / folder).glob("*.yaml"))) > 5
        assert all(f" {option}" in done.stdout for option in set(own) - set(rows)) and len(own) > 2
        # a word may be an option of another group as well, such as plans
        listed = done.stdout.partition("  experiment=")[2].partition("  debug=")[0]
        assert not any(f" {option}\n" in listed or f" {option} " in listed for option in others)
    if name not in ("show", "claims", "compare", "plan", "push", "track", "dashboard"):
        assert lines[1].startswith(f"  python -m experiments.{name}")
        settings = lines[lines.index("Settings:") :]
        assert max(map(len, settings)) <= 100
        assert any(line.startswith(f"  run.name={name} ") for line in settings)
        assert "--cfg job" in done.stdout and f"conf/{name}.yaml" in done.stdout
        own = [
            line for line in settings[1:] if not line.startswith(("  run.", "  launch.", "  objective", "  dry_run"))
        ]
        assert len([line for line in own if "  " in line.strip()]) >= 4


def test_the_overview_has_a_line_for_each() -> None:
    assert all(len(line) <= 80 and "…" not in line for line in overview().splitlines())
    lines = [line for line in overview().splitlines() if re.match(r"  \w", line)]
    assert [line.split()[0] for line in lines] == list(COMMANDS)
    assert all(len(line.split()) > 5 for line in lines)


def test_options_in_folders_are_listed() -> None:
    for name, first in (("glore", ["claims", "claims_other", "demo", "plans", "slips"]), ("lema", ["demo_lema"])):
        folder = ROOT / "conf" / "experiment"
        rows = {path.relative_to(folder).with_suffix("").as_posix() for path in (folder / name).rglob("*.yaml")}
        found = options_of("experiment", name)
        assert len(rows) >= 3 and found[: len(first)] == first and set(found[len(first) :]) == rows
    assert len(options_of("experiment")) == sum(len(options_of("experiment", name)) for name in ("glore", "lema"))


def test_make_help_has_a_line_for_each_target() -> None:
    text = (ROOT / "Makefile").read_text()
    done = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True)
    (targets,) = [line.split()[1:] for line in text.splitlines() if line.startswith(".PHONY:")]
    lines = done.stdout.splitlines()
    assert sorted(line.split()[0] for line in lines) == sorted(targets) and all(len(x.split()) > 3 for x in lines)


def test_console_scripts_are_the_commands() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    lines = parser["options.entry_points"]["console_scripts"].split("\n")
    found = dict(line.split(" = ") for line in lines if line)
    assert found == {f"stepwise-{name.replace('_', '-')}": f"{module}:main" for name, module in COMMANDS.items()}
