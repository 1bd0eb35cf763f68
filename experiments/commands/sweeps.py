"""The arms of a sweep: one that fails does not end the others, and one that is finished is not run again.

The folder of a sweep has Hydra's `multirun.yaml`, from which its arms follow, and a folder for each arm: with
`result.json` when it is finished, with `failed.json` when it has failed, with neither when it was killed or still runs.
Left out: which arms there are (Hydra's sweepers), and where they run (its launchers).
"""

from __future__ import annotations

import difflib
import math
import os
import platform
import re
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from experiments.commands.yaml_files import ConfigError, leaves, read_yaml
from stages.files import read_json, write_json
from stages.text import one_line

FAILED = "failed.json"  # in the folder of an arm that has failed: its overrides, and why
REASON = "STEPWISE_REASON"  # the file in which a process says why it failed, for the sweep's table


@dataclass(frozen=True)
class Sweep:
    """One sweep. Its arms may run on other machines, so each writes to a file in `folder` how it ended."""

    folder: Path

    @classmethod
    def new(cls) -> Sweep:
        """A sweep of this process; what one that was killed has left is dropped. Nothing is written yet."""
        name = f".sweep-{platform.node()}"
        for folder in Path("runs").glob(".sweep-*"):
            # of this host only: another's process ids say nothing here
            left = re.fullmatch(rf"{re.escape(name)}-([0-9]+)", folder.name)
            if left and not psutil.pid_exists(int(left[1])):
                shutil.rmtree(folder, ignore_errors=True)
        return cls(Path(f"runs/{name}-{os.getpid()}").resolve())

    def arm(self, overrides: list[str], folder: Path, run: Callable[[], float | None]) -> float | None:
        """What `run` returns; None where it fails, which sweepers take for a failed trial. `folder` is the arm's, where
        it is written why.

        Only Ctrl-C and SIGTERM, which end the whole sweep, are raised.
        """
        why = None
        (folder / FAILED).unlink(missing_ok=True)
        try:
            with tempfile.TemporaryDirectory(prefix="stepwise-") as aside:
                file = Path(aside) / "reason"
                os.environ[REASON] = str(file)
                try:
                    return run()
                except (Exception, SystemExit) as error:
                    if isinstance(error, SystemExit) and error.__cause__ is None:  # told to end, by SIGTERM
                        raise
                    why = file.read_text(encoding="utf-8") if file.exists() else _reason(error)
                    return None
                finally:
                    del os.environ[REASON]
        finally:
            self.folder.mkdir(parents=True, exist_ok=True)
            ended = {"overrides": overrides, "why": why}
            write_json(self.folder / f"{uuid.uuid4().hex}.json", ended)
            if why is not None:
                folder.mkdir(parents=True, exist_ok=True)
                write_json(folder / FAILED, ended)

    def end(self) -> bool:
        """Whether an arm failed; says on stderr which ones and why, in 80 columns."""
        arms = [read_json(file) for file in self.folder.glob("*.json")]
        shutil.rmtree(self.folder, ignore_errors=True)
        failed = sorted((arm for arm in arms if arm["why"] is not None), key=lambda arm: arm["overrides"])
        if failed:
            _print_failed(failed, arms)
        return bool(failed)


def _print_failed(failed: list[dict[str, Any]], arms: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # overrides that all arms have are not shown
    common = set.intersection(*(set(arm["overrides"]) for arm in arms)) if len(arms) > 1 else set()
    table = Table()
    table.add_column("arm", overflow="fold", max_width=34)
    table.add_column("why", overflow="fold")
    # a sweeper that chooses the arms may try one several times
    rows = [(" ".join(one for one in arm["overrides"] if one not in common), arm["why"]) for arm in failed]
    for arguments, why in dict.fromkeys(rows):
        table.add_row(Text(one_line(arguments)), Text(one_line(why)))
    console = Console(file=sys.stderr, width=80)
    console.print(f"{len(failed)} of {len(arms)} arms failed", highlight=False)
    console.print(table)
    console.print("The same command again runs only what is missing.", highlight=False)


@contextmanager
def reason_told() -> Iterator[None]:
    """Where this process belongs to an arm, write why it fails to the file that the sweep named.

    Only the first of an arm's processes writes: the others fail because that one did.
    """
    try:
        yield
    except BaseException as error:
        if file := os.environ.get(REASON):
            with suppress(OSError), open(file, "x", encoding="utf-8") as opened:
                opened.write(_reason(error))
        raise


def said() -> bool:
    """Whether this process runs an arm, and the arm's own has said why it failed."""
    return os.path.exists(os.environ.get(REASON, ""))


def _reason(error: BaseException) -> str:
    # a command's own exit names the error that it was for
    cause = error.__cause__ if isinstance(error, SystemExit) and error.__cause__ else error
    text = one_line(cause, 500)
    return text if isinstance(cause, ValueError | OSError) else f"{type(cause).__name__}: {text}"


def finished(folder: Path) -> dict[str, Any] | None:
    """The result of the run that finished in this folder, if all that it made is still there."""
    with suppress(ValueError):
        result = read_json(folder / "result.json")
        if all(Path(result[name]).exists() for name in ("path", "report", "output") if result.get(name)):
            return result
    return None


@dataclass(frozen=True)
class Unfinished:
    """An arm of a sweep without a result: the name of its folder, and why."""

    name: str
    why: str


def read_sweep(folder: Path) -> tuple[list[Path], list[Unfinished]]:
    """The folders of the arms of a sweep that are finished, and the arms that are not, in the order of their names.

    The arms are those whose folders are there, and those of its last launch that have none yet.

    Raises:
        ValueError: it is not the folder of a sweep.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder of a sweep")
    found = {path.parent.name for name in ("config.yaml", FAILED) for path in folder.glob(f"*/{name}")}
    found |= _planned(folder)
    if not found:
        raise ValueError(f"{folder}: holds no arms of a sweep; it is the folder below which they are, runs/NAME")
    done, missing = [], []
    for name in sorted(found):
        arm = folder / name
        if (arm / FAILED).is_file():
            missing.append(Unfinished(name, f"failed: {one_line(read_json(arm / FAILED)['why'])}"))
        elif (arm / "result.json").is_file():
            done.append(arm)
        else:
            begun = (arm / "config.yaml").is_file()
            missing.append(Unfinished(name, "killed, or still running" if begun else "not started"))
    return done, missing


def _planned(folder: Path) -> set[str]:
    """The folders of the arms of the last launch, as they follow from what Hydra has written of it; none where another
    sweeper chose them, or another name was asked for."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from experiments.commands.config import run_folder

    if not (folder / "multirun.yaml").is_file():
        return set()
    settings = read_yaml(folder / "multirun.yaml")["hydra"]
    sweeper, where = settings["sweeper"], settings["sweep"]["subdir"]
    if not sweeper["_target_"].endswith("BasicSweeper") or not where.startswith("${run_folder:"):
        return set()
    given = [f"{key}={value}" for key, value in (sweeper["params"] or {}).items()]
    parsed = OverridesParser.create().parse_overrides([*given, *settings["overrides"]["task"]])
    (arms,) = BasicSweeper.split_arguments(parsed, None)
    return {run_folder(arm) for arm in arms}


def objective_of(result: dict[str, Any], key: str) -> float:
    """The number that `key`, dotted, names in a result, in the manifest of its artifact, or in its report.

    Raises:
        ConfigError: there is no such number; the message names the nearest ones.
    """
    known = dict(result)
    if isinstance(path := result.get("path"), str):
        known = read_json(Path(path) / "manifest.json") | known
    for folder in (path, os.path.dirname(result.get("report") or "")):
        if folder and (file := Path(folder) / "report.json").is_file():
            known["report"] = read_json(file)
    numbers = {
        name: float(value)
        for name, value in leaves(known)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
    if key not in numbers:
        near = difflib.get_close_matches(key, numbers, 3, 0.4) or sorted(numbers)[:8]
        raise ConfigError(f"objective={key}: the result has no such number; near are {', '.join(near)}")
    return numbers[key]
