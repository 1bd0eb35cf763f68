"""Command lines as users type them, and Hydra's errors in one line.

Hydra reads `run.name=1e3` as a number and fails on `policy=a=b`. Where a setting is a text, or a list of texts, its
value is put in quotes for Hydra if it would become anything else without them.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import os
import re
import shlex
import sys
import types
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from experiments.commands.config import CommonArgs
from experiments.commands.yaml_files import DEEPEST, ConfigError, check_yaml

# left to Hydra also where a setting is a text: quotes, interpolations, functions, null, a missing value
_HYDRA = re.compile(
    r"""(['"]).*\1|.*\$\{.*|(choice|range|interval|glob|sort|shuffle|tag|str|json_str)\(.*\)|null|\?\?\?|""", re.DOTALL
)


@contextmanager
def hydra_told(args: type) -> Iterator[None]:
    """In the block Hydra gets the prepared command line of this process, and its errors are raised in one line.

    Raises:
        ConfigError: the command line or what it composes is wrong.
    """
    from hydra._internal.utils import get_args_parser
    from hydra.errors import HydraException

    def refuse(message: str) -> None:
        raise ConfigError(f"{message} (--help says what can be set, --hydra-help which flags there are)")

    before, environment = sys.argv[1:], os.environ.copy()
    parser = get_args_parser()
    parser.error = refuse
    options = parser.parse_intermixed_args(before)  # -m may stand anywhere
    for folder in filter(None, (options.config_dir, options.config_path)):
        for file in sorted(Path(folder).rglob("*.yaml")):
            check_yaml(file)
    flags = [one for one in before if one not in options.overrides]
    sweep = options.multirun or "hydra.mode=MULTIRUN" in options.overrides
    try:
        sys.argv[1:] = [*flags, *prepare(options.overrides, args, sweep)]
        os.environ["HYDRA_FULL_ERROR"] = "1"  # it raises instead of printing
        yield
    except (HydraException, OmegaConfBaseException, RecursionError) as error:
        raise ConfigError(explain(error, options.overrides, args)) from error
    finally:
        sys.argv[1:] = before
        if "HYDRA_FULL_ERROR" not in environment:
            os.environ.pop("HYDRA_FULL_ERROR", None)


def prepare(overrides: list[str], args: type, sweep: bool) -> list[str]:
    """The overrides with quotes where Hydra needs them; in a `sweep`, commas separate the values of its arms.

    Raises:
        ConfigError: one cannot be read, takes a setting away or sets it twice, or a run would have no folder.
    """
    given: dict[str, str] = {}
    prepared = []
    for override in overrides:
        match = re.fullmatch(r"\+{0,2}([^=~]+)=(.*)", override, re.DOTALL)
        if match is None:
            if (name := override.lstrip("~").partition("=")[0]) != override and hint_of(args, name):
                raise ConfigError(f"{override}: a setting cannot be taken away; {name}=VALUE gives it another value")
            prepared.append(override)  # another ~key, or a mistake that Hydra names
            continue
        key, value = match.groups()
        if key in given:
            raise ConfigError(f"{key} is given twice: {given[key]} and {override}")
        given[key] = override
        if key in ("hydra.run.dir", "hydra.sweep.dir") and not value.strip("'\" "):
            raise ConfigError(f"{override} must not be empty: it is where runs are written")
        hint = hint_of(args, key)
        if hint == list[str] and not _HYDRA.fullmatch(value):
            value = _quoted_list(value)
        elif hint is str and not _HYDRA.fullmatch(value):
            if not sweep:
                value = _quoted(value)
            elif not re.search(r"['\"\[{]", value):
                value = ",".join(map(_quoted, value.split(",")))
            elif _read(value) is None:  # with quotes or brackets, only Hydra knows which commas separate values
                value = _quote(value)
        depth = itertools.accumulate((c in "[{(") - (c in "]})") for c in value)
        if hint is not str and max(depth, default=0) > DEEPEST:
            raise ConfigError(f"{override[:80]!r}… is nested more than {DEEPEST} deep")
        if _read(value) is None:
            quoted = _for_shell(f"{key}={_quote(value)}")
            raise ConfigError(f"{override!r} cannot be read; a text with such characters is written so: {quoted}")
        prepared.append(override[: match.start(2)] + value)
    return prepared


def _read(value: str) -> Any:
    """What Hydra makes of a value, a parsed override; None where it makes nothing of it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(f"x={value}")
    except (HydraException, RecursionError):
        return None


def _quoted(value: str) -> str:
    """A text, in quotes where Hydra would take it for anything else."""
    if _HYDRA.fullmatch(value):
        return value
    read = _read(value)
    same = read is not None and not read.is_sweep_override() and read.value() == value
    return value if same else _quote(value)


def _quoted_list(value: str) -> str:
    inner = re.fullmatch(r"\[([^\[\]{}'\"\\]*)\]", value)
    if inner is None or not inner[1].strip():
        return value
    return f"[{','.join(_quoted(one.strip()) for one in inner[1].split(','))}]"


def _quote(text: str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text, Quote.single).with_quotes()


def _for_shell(text: str) -> str:
    return shlex.quote(text) if re.search(r'["$`\\!]', text) else f'"{text}"'


def hint_of(args: type, key: str) -> Any:
    """The type of the setting `key` (dotted), `str` for `str | None`; None where there is no such setting."""
    for kind in (args, CommonArgs):
        hint: Any = kind
        for name in key.split("."):
            hint = typing.get_type_hints(hint).get(name) if dataclasses.is_dataclass(hint) else None
            if isinstance(hint, types.UnionType):
                hint = next(one for one in typing.get_args(hint) if one is not types.NoneType)
        if hint is not None:
            return hint
    return None


def names_of(kind: type, before: str = "") -> Iterator[str]:
    """The dotted names of all settings of a dataclass."""
    for name, hint in typing.get_type_hints(kind).items():
        yield before + name
        if dataclasses.is_dataclass(hint):
            yield from names_of(hint, f"{before}{name}.")


def explain(error: BaseException, overrides: list[str], args: type) -> str:
    """What Hydra or OmegaConf found wrong, in one line, with the nearest name there is for one that there is not."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "https://" not in line]
    cause = next(iter(str(error.__cause__).splitlines()), "") if error.__cause__ else ""
    if unknown := re.match(r"Could not override '([^']+)'", lines[0] if lines else ""):
        key = unknown[1]
        given = next((one for one in overrides if re.match(rf"\+{{0,2}}{re.escape(key)}[.=@]", one)), key)
        near = difflib.get_close_matches(key, [*names_of(args), *names_of(CommonArgs)], 1, 0.5)
        # a schema takes no new keys, so that Hydra's advice to write +key= would not help
        lines = [f"{given}: {cause}"] if cause else [f"{given}: {' '.join(lines[1:])}"]
        lines += [f"did you mean {near[0]}?"] if near else []
        return f"{lines[0]} ({' '.join([*lines[1:], '--help says what can be set'])})"
    lines = list(itertools.takewhile(lambda line: line != "Config search path:", lines))
    if options := [n for n, line in enumerate(lines) if line.startswith("Available options")]:
        lines = [*lines[: options[0]], f"{lines[options[0]]} {', '.join(lines[options[0] + 1 :])}"]
    if missing := re.search(r"hydra/(?:launcher|sweeper)/(joblib|submitit|optuna)", " ".join(lines)):
        lines.append(f"it comes with pip install 'stepwise[{missing[1]}]'")
    text = "; ".join([*lines, *([cause] if cause and cause not in lines else [])])
    return text if len(text) < 600 else f"{text[:600]}…"
