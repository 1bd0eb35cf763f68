"""From YAML to checked dataclasses: the schema of a command, and the folder of a run.

Left out: what is then run, and in which process (`experiments/commands/command.py`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from experiments.commands.yaml_files import ConfigError, leaves, read_yaml, write_yaml
from refine.students.shipped import FOLDERS, find_start
from rollouts.sampling.protocol import SEEDS
from stages.checks import check_filled, check_least
from stages.launch import LaunchArgs
from stages.parents import parent_fields
from stages.tracking import TrackingArgs


@dataclass
class RunArgs:
    """How one run is carried out; nothing here changes its results.

    `name` defaults to the command's; artifacts go to `artifacts`; `threads` is for torch (None: torch decides).
    `overwrite` lets the run take over a folder of other arguments, and a sweep run its finished arms again.
    """

    name: str = "run"  #: the run's folder is runs/NAME
    artifacts: str = "artifacts"  #: the folder of artifacts
    threads: int | None = None  #: threads of torch
    overwrite: bool = False  #: take a folder over, run again what is finished

    def validate(self) -> None:
        """Raise ValueError naming the first setting that makes no sense."""
        if not re.fullmatch(r"\w[\w.+=-]{0,99}", self.name):
            raise ValueError(f"run.name={self.name!r} must be 1 to 100 letters, digits and any of . + = - _")
        check_filled(self, "run.", "artifacts")
        check_least(self, "run.", threads=1)


@dataclass
class CommonArgs:
    """The settings that every command has beside its own."""

    run: RunArgs = field(default_factory=RunArgs)
    tracking: TrackingArgs = field(default_factory=TrackingArgs)
    launch: LaunchArgs = field(default_factory=LaunchArgs)
    objective: str | None = None  #: the number that a sweeper gets, e.g. report.accuracy.reranked.value
    dry_run: bool = False  #: say what would be run and what is there already; run nothing


# what may differ between two runs that share a folder: where results go, not what they are
COMMON = tuple(one.name for one in dataclasses.fields(CommonArgs))


@dataclass(kw_only=True)
class Job(CommonArgs):
    """One run's settings, checked: the command's own arguments, its folder, and all of it as plain values."""

    args: Any
    folder: Path
    config: dict[str, Any]


def register_schema(name: str, args: type) -> DictConfig:
    """Make the schema of a command and register it with Hydra as `<name>_schema`.

    The schema is `args` with the settings of `CommonArgs` beside its fields. Its type is `args`, no class of run time:
    a launcher (joblib, submitit) sends it to another process, which finds `args` by name.

    Raises:
        TypeError: `args` has a field of one of these names.
    """
    taken = {one.name for one in dataclasses.fields(args)} & {*COMMON, "defaults"}
    if taken:
        raise TypeError(f"{args.__name__} must not have fields called {sorted(taken)}")
    schema, common = OmegaConf.structured(args), OmegaConf.structured(CommonArgs(run=RunArgs(name=name)))
    with open_dict(schema):
        for one in COMMON:
            schema[one] = common._get_node(one)
    node = schema.copy()
    with open_dict(node):
        node.defaults = ["base", "_self_"]
    ConfigStore.instance().store(name=f"{name}_schema", node=node, provider=args.__module__)
    return schema


def build_job(schema: DictConfig, args: type, values: Any, folder: Path) -> Job:
    """Check composed values against the schema and convert them.

    Raises:
        ConfigError: a value is missing, unknown, of the wrong type, or refused by its dataclass's `validate`.
    """
    try:
        # through plain values, since Hydra's own result forgets the types of groups that were swapped
        values = OmegaConf.create(values)
        config = OmegaConf.merge(schema, OmegaConf.to_container(values, resolve=True))
        # a merge keeps the default under a value that is missing, so both are asked
        if missing := sorted(OmegaConf.missing_keys(config) | OmegaConf.missing_keys(values)):
            raise ConfigError(f"no value is given for {', '.join(missing)}")
        root = OmegaConf.to_object(config)
    except (OmegaConfBaseException, RecursionError) as error:
        raise ConfigError(str(error)) from error
    own = args(**{one.name: getattr(root, one.name) for one in dataclasses.fields(args)})
    try:
        for value in (root.run, root.tracking, root.launch, own):
            validate(value)
        _find_shipped(own)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    plain = OmegaConf.to_container(config, enum_to_str=True)
    _refuse_pipes(plain)
    _check_seeds(plain, schema)
    return Job(args=own, folder=folder, config=plain, **{one: getattr(root, one) for one in COMMON})


def _find_shipped(args: Any) -> None:
    """Wherever a policy is asked for, `shipped` is the folder of a student that comes with the package, and
    `shipped/planner` of another."""
    for one in parent_fields(args):
        if "train_policy" in one.field.metadata["parent"] and isinstance(one.value, str) and one.value in FOLDERS:
            setattr(one.owner, one.field.name, find_start(one.value))


def _check_seeds(plain: dict[str, Any], schema: DictConfig) -> None:
    """Raise ConfigError for a seed that is none; a pipeline's schema has one of its own, which stands for its seed."""
    for name, value in leaves(plain):
        is_none = name.endswith("seed") and isinstance(value, int) and not 0 <= value < SEEDS
        if is_none and value != OmegaConf.select(schema, name):
            raise ConfigError(f"{name} must be at least 0 and below 2**63, not {value}")


def _refuse_pipes(plain: dict[str, Any]) -> None:
    """Raise ConfigError for a value that is the path of a named pipe: reading one waits for whoever writes to it."""
    for name, value in leaves(plain):
        for one in value if isinstance(value, list) else [value]:
            with suppress(OSError):  # too long to be a path
                if isinstance(one, str) and Path(one).is_fifo():
                    raise ConfigError(f"{name}={one}: is a pipe, not a file or folder")


def validate(value: Any, name: str = "") -> None:
    """Call `validate` of every dataclass within these arguments that has one, the innermost first.

    Raises:
        ValueError: one of them refuses a value; the field that its message begins with gets its dotted name.
    """
    if dataclasses.is_dataclass(value):
        fields = [one.name for one in dataclasses.fields(value)]
        for one in fields:
            validate(getattr(value, one), f"{name}{one}.")
        if hasattr(value, "validate"):
            try:
                value.validate()
            except ValueError as error:
                if not name or re.match(r"\w*", str(error))[0] not in fields:
                    raise
                raise ValueError(f"{name}{error}") from error
    elif isinstance(value, list):
        for item in value:
            validate(item)
    elif isinstance(value, dict):
        for item in value.values():
            validate(item)


def run_folder(overrides: Iterable[str]) -> str:
    """The name of a run's folder below that of `run.name`: its overrides, but for those named in `COMMON`, and for
    `sweep`, which says what other runs there are beside it.

    Without overrides it is `.`, that folder itself. What is long, or no good as a file's name, is cut short and gets
    8 hex characters of its hash.
    """
    kept = [one for one in overrides if re.split(r"[.=@]", one.lstrip("+~"), maxsplit=1)[0] not in (*COMMON, "sweep")]
    # quotes are for Hydra's eyes: title='007' is title=007
    kept = sorted(re.sub(r"=(['\"])([^'\"\\]*)\1$", r"=\2", one) for one in kept)
    text = ",".join(kept)
    if not text:
        return "."
    # file systems take 255 bytes; 100 can still be read
    if len(text) <= 100 and re.fullmatch(r"\w[\w.,=+-]*", text, re.ASCII):
        return text
    digest = hashlib.sha256("\0".join(kept).encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9_.,=+-]+', '-', text)[:60].lstrip('.+-')}-{digest}"


# here and not in a command: a process of a launcher has this module, and perhaps no other of ours
OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)


def claim_folder(job: Job) -> None:
    """Write the job's `config.yaml` into its folder.

    Raises:
        ConfigError: the folder holds a run with other arguments, and `run.overwrite` is false.
    """
    file = job.folder / "config.yaml"
    if file.exists() and not job.run.overwrite:
        old, new = (dict(leaves(config)) for config in (read_yaml(file), job.config))
        changed = [
            f"{name} was {old.get(name)!r}, now {new.get(name)!r}"
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name) and name.split(".")[0] not in COMMON
        ]
        if changed:
            raise ConfigError(
                f"{job.folder}: holds a run with other arguments ({'; '.join(changed)}): "
                f"choose another run.name, or run.overwrite=true to take the folder over"
            )
    job.folder.mkdir(parents=True, exist_ok=True)
    if job.run.overwrite:
        (job.folder / "result.json").unlink(missing_ok=True)
    write_yaml(file, job.config)
