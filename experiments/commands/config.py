"""From YAML to checked dataclasses: the schema of a command, and the folder of a run.

Left out: what is then run, and in which process (`experiments/commands/command.py`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stages.launch import LaunchArgs
from stages.tracking import TrackingArgs

# what may differ between two runs that share a folder: where results go, not what they are
OUTER = ("run", "tracking", "launch")


class ConfigError(ValueError):
    """Arguments that cannot be used. The message names the argument and its value."""


@dataclass
class RunArgs:
    """How one run is carried out; nothing here changes its results.

    `name` defaults to the command's; artifacts go to `artifacts`; `threads` is for torch (None: torch decides).
    `overwrite` lets the run take over a folder of other arguments.
    """

    name: str = "run"
    artifacts: str = "artifacts"
    threads: int | None = None
    overwrite: bool = False

    def validate(self) -> None:
        """Raise ValueError naming the first setting that makes no sense."""
        if not re.fullmatch(r"\w[\w.+=-]{0,99}", self.name):
            raise ValueError(f"run.name={self.name!r} must be 1 to 100 letters, digits and any of . + = - _")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"run.threads must be at least 1, not {self.threads}")


@dataclass(frozen=True)
class Job:
    """One run's arguments, checked: the command's own, how it runs, its folder, and all of it as plain values."""

    args: Any
    run: RunArgs
    tracking: TrackingArgs
    launch: LaunchArgs
    folder: Path
    config: dict[str, Any]


def register_schema(name: str, args: type) -> type:
    """Make the schema of a command and register it with Hydra as `<name>_schema`.

    The schema is `args` with `run`, `tracking` and `launch` beside its fields.

    Raises:
        TypeError: `args` has a field of one of these names.
    """
    taken = {one.name for one in dataclasses.fields(args)} & {*OUTER, "defaults"}
    if taken:
        raise TypeError(f"{args.__name__} must not have fields called {sorted(taken)}")
    outer = [
        ("run", RunArgs, field(default_factory=lambda: RunArgs(name=name))),
        ("tracking", TrackingArgs, field(default_factory=TrackingArgs)),
        ("launch", LaunchArgs, field(default_factory=LaunchArgs)),
    ]
    schema = dataclasses.make_dataclass(f"{args.__name__}Schema", outer, bases=(args,))
    defaults = [("defaults", list, field(default_factory=lambda: ["base", "_self_"]))]
    ConfigStore.instance().store(
        name=f"{name}_schema",
        node=dataclasses.make_dataclass(schema.__name__, defaults, bases=(schema,)),
        provider=args.__module__,
    )
    OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
    return schema


def build_job(schema: type, args: type, values: Any, folder: Path) -> Job:
    """Check composed values against the schema and convert them.

    Raises:
        ConfigError: a value is missing, unknown, of the wrong type, or refused by its dataclass's `validate`.
    """
    try:
        # through plain values, since Hydra's own result forgets the types of groups that were swapped
        values = OmegaConf.create(values)
        config = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.to_container(values, resolve=True))
        # a merge keeps the default under a value that is missing, so both are asked
        if missing := sorted(OmegaConf.missing_keys(config) | OmegaConf.missing_keys(values)):
            raise ConfigError(f"no value is given for {', '.join(missing)}")
        root = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error)) from error
    own = args(**{one.name: getattr(root, one.name) for one in dataclasses.fields(args)})
    try:
        for value in (root.run, root.tracking, root.launch, own):
            validate(value)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return Job(own, root.run, root.tracking, root.launch, folder, OmegaConf.to_container(config, enum_to_str=True))


def validate(value: Any) -> None:
    """Call `validate` of every dataclass within these arguments that has one, the innermost first."""
    if dataclasses.is_dataclass(value):
        for one in dataclasses.fields(value):
            validate(getattr(value, one.name))
        if hasattr(value, "validate"):
            value.validate()
    elif isinstance(value, list):
        for item in value:
            validate(item)
    elif isinstance(value, dict):
        for item in value.values():
            validate(item)


def run_folder(overrides: Iterable[str]) -> str:
    """The name of a run's folder below that of `run.name`: its overrides, but for those named in `OUTER`.

    Without overrides it is `.`, that folder itself. What is long, or no good as a file's name, is cut short and gets
    8 hex characters of its hash.
    """
    kept = sorted(one for one in overrides if re.split(r"[.=@]", one.lstrip("+~"), maxsplit=1)[0] not in OUTER)
    text = ",".join(kept)
    if not text:
        return "."
    # file systems take 255 bytes; 100 can still be read
    if len(text) <= 100 and re.fullmatch(r"\w[\w.,=+-]*", text, re.ASCII):
        return text
    digest = hashlib.sha256("\0".join(kept).encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9_.,=+-]+', '-', text)[:60].lstrip('.+-')}-{digest}"


def claim_folder(job: Job) -> None:
    """Write the job's `config.yaml` into its folder.

    Raises:
        ConfigError: the folder holds a run with other arguments, and `run.overwrite` is false.
    """
    file = job.folder / "config.yaml"
    if file.exists() and not job.run.overwrite:
        found = _inner(read_yaml(file))
        if found != _inner(job.config):
            changed = sorted(_differences(found, _inner(job.config)))
            raise ConfigError(
                f"{job.folder}: holds a run with other arguments ({'; '.join(changed)}): "
                f"choose another run.name, or run.overwrite=true to take the folder over"
            )
    job.folder.mkdir(parents=True, exist_ok=True)
    write_yaml(file, job.config)


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML file of one mapping, as OmegaConf does (1e-3 is a number).

    Raises:
        ConfigError: the file is missing or malformed; the message names it and the line.
    """
    try:
        config = OmegaConf.to_container(OmegaConf.load(file))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: malformed YAML: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{file}: expected a mapping of arguments, not {config!r}")
    return config


def write_yaml(file: Path, config: dict[str, Any]) -> None:
    """Write a YAML file whole or not at all."""
    aside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    aside.write_text(OmegaConf.to_yaml(OmegaConf.create(config)), encoding="utf-8")
    os.replace(aside, file)


def _inner(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in OUTER}


def _differences(old: Any, new: Any, name: str = "") -> Iterable[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
    elif old != new:
        yield f"{name} was {old!r}, now {new!r}"
