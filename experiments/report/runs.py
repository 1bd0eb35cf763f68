"""Finished runs as they lie on the disk: reports, outcomes, settings, and which of them are one arm: all that differ in
their seed alone. Left out: what is computed from them (`refine/report/`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.commands.yaml_files import leaves, read_yaml
from experiments.report.markdown import OUTCOMES
from refine.report.compare import Run
from refine.report.outcomes import Outcome
from stages.files import read_json
from stages.rows import read_rows
from stages.text import VALUE, one_line

OWN = ("seed", "run", "tracking", "launch", "objective", "dry_run")  # settings in which the runs of an arm may differ
COSMETIC = ("title", "parallel")  # in these too, and they name no arm
REPORTED = ("system", "source", "model", "headline", "samples")  # what a report says of its settings
LONG = 60  # characters of an arm's name

Settings = dict[str, Any]


def find_runs(folder: Path) -> list[Path]:
    """A run's folder, or those of the runs of a sweep.

    Raises:
        ValueError: it holds no run that has finished.
    """
    found = [folder] if (folder / OUTCOMES).is_file() else sorted(path.parent for path in folder.glob(f"*/{OUTCOMES}"))
    if not found:
        raise ValueError(f"{folder}: neither a finished run of glore or lema ({OUTCOMES}) nor a folder of such runs")
    return found


def out_folder(asked: str | None, folders: Sequence[Path]) -> Path:
    """Where what is found about these runs is written: the folder that is asked for, or the one that holds them all.

    Raises:
        ValueError: an empty name is asked for.
    """
    if asked == "":
        raise ValueError("--out must not be empty")
    return Path(asked or os.path.commonpath([folder.absolute().parent for folder in folders]))


def read_run(folder: Path) -> Run:
    """What a run found."""
    report = read_json(folder / "report.json")
    return Run(str(folder), report["seed"], report, read_rows(folder / OUTCOMES, Outcome))


def read_settings(run: Run, besides: Sequence[str] = OWN) -> Settings:
    """The settings of a run but for those named in `besides`: of its config, or as its report has them where it has no
    config."""
    settings = {key: run.report.get(key) for key in REPORTED}
    if (file := Path(run.name) / "config.yaml").is_file():
        settings |= {key: value for key, value in leaves(read_yaml(file)) if key.split(".")[0] not in besides}
    return settings


def shared_stages(folders: Sequence[Path]) -> list[str]:
    """The stages whose artifact all runs share, so that its luck is in no interval."""
    results = [read_json(path) for folder in folders if (path := folder / "result.json").is_file()]
    items = [set(result.get("artifacts", {}).items()) for result in results]
    return sorted(name for name, _ in set.intersection(*items)) if items else []


def group_arms(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs by arm, in the order of the first run of each. The name of an arm says in which settings it differs from
    the others: `headline_where=sorm`.

    Raises:
        ValueError: a run is given twice, or some are of GLoRe and some of LeMa.
    """
    names = [Path(run.name).resolve() for run in runs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{twice} is given twice")
    systems = {run.report.get("system", "glore"): run.name for run in runs}
    if len(systems) > 1:
        raise ValueError(f"{' and '.join(systems.values())} are of {' and '.join(systems)}: these have other arms")
    settings = [read_settings(run, (*OWN, *COSMETIC)) for run in runs]
    # a setting that one of them did not know yet tells nothing
    common = [key for key in settings[0] if all(key in own for own in settings)]
    differing = [key for key in common if any(own[key] != settings[0][key] for own in settings)]
    arms: dict[str, tuple[Settings, list[Run]]] = {}
    for run, own in zip(runs, settings, strict=True):
        chosen = {key: own[key] for key in differing}
        arms.setdefault(repr(chosen), (chosen, []))[1].append(run)
    return _named(list(arms.values()))


def _named(arms: Sequence[tuple[Settings, list[Run]]]) -> dict[str, list[Run]]:
    names = [", ".join(f"{key}={_shown(value)}" for key, value in _told(own).items()) for own, _ in arms]
    if max(map(len, names)) > LONG or len(set(names)) < len(names):
        names = [_folder_name(runs[0].name) for _, runs in arms]
    if len(set(names)) < len(names):
        names = [one_line(runs[0].name, VALUE) for _, runs in arms]
    return {name or _folder_name(runs[0].name): runs for name, (_, runs) in zip(names, arms, strict=True)}


def _told(settings: Settings) -> Mapping[str, Any]:
    # what follows from another setting says nothing more: a report's headline, where the config has one
    typed = {key: value for key, value in settings.items() if key not in REPORTED}
    return typed or settings


def _shown(value: Any) -> str:
    """A value as it is typed: `[none,orm]`, `null`, `true`."""
    if isinstance(value, list):
        return f"[{','.join(map(_shown, value))}]"
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return one_line(text, VALUE)


def _folder_name(folder: str) -> str:
    """The name of a run without its seed: `claims/student=scratch` of runs/claims/seed=0,student=scratch."""
    path = Path(folder)
    own = re.sub(r"(^|,)seed=\d+(?=,|$)", "", path.name).strip(",")
    return one_line(f"{path.parent.name}/{own}".strip("/"), VALUE)
