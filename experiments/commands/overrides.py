"""Command lines and Hydra's complaints about them, made plain.

Hydra reads `run.name=1e3` as a number and fails on `policy=a=b`. Here a value of a setting that is a text (or a list of
texts) is quoted for Hydra where it would become anything else, so that it arrives as it was typed.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import re
import shlex
import types
import typing
from collections.abc import Iterator
from typing import Any

from experiments.commands.config import Outer
from experiments.commands.yaml_files import ConfigError

# what means something to Hydra in a text, too: quotes, interpolations, functions, null, a missing value
_HYDRA = re.compile(
    r"""(['"]).*\1|.*\$\{.*|(choice|range|interval|glob|sort|shuffle|tag|str|json_str)\(.*\)|null|\?\?\?|""", re.DOTALL
)


def prepare(overrides: list[str], args: type, sweep: bool) -> list[str]:
    """The overrides as Hydra reads them as they were meant; in a `sweep` commas part the values of its arms.

    Raises:
        ConfigError: one cannot be read, or a setting is given twice.
    """
    given: dict[str, str] = {}
    prepared = []
    for override in overrides:
        match = re.fullmatch(r"\+{0,2}([^=~]+)=(.*)", override, re.DOTALL)
        if match is None:  # ~key, or a mistake that Hydra names
            prepared.append(override)
            continue
        key, value = match.groups()
        if key in given:
            raise ConfigError(f"{key} is given twice: {given[key]} and {override}")
        given[key] = override
        hint = hint_of(args, key)
        if hint == list[str] and not _HYDRA.fullmatch(value):
            value = _quoted_list(value)
        elif hint is str and not _HYDRA.fullmatch(value):
            if not sweep:
                value = _quoted(value)
            elif not re.search(r"['\"\[{]", value):
                value = ",".join(map(_quoted, value.split(",")))
            elif _read(value) is None:  # of values in quotes or brackets only Hydra knows which commas part them
                value = _quote(value)
        if _read(value) is None:
            if len(value) > 500:
                raise ConfigError(f"{override[:80]!r}… cannot be read")
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
    for kind in (args, Outer):
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
        near = difflib.get_close_matches(key, [*names_of(args), *names_of(Outer)], 1, 0.5)
        # a schema takes no new keys, so that Hydra's advice to write +key= would not help
        lines = [f"{given}: {cause}"] if cause else [f"{given}: {' '.join(lines[1:])}"]
        lines += [f"did you mean {near[0]}?"] if near else []
        return f"{lines[0]} ({' '.join([*lines[1:], '--help says what can be set'])})"
    lines = list(itertools.takewhile(lambda line: line != "Config search path:", lines))
    if options := [n for n, line in enumerate(lines) if line.startswith("Available options")]:
        lines = [*lines[: options[0]], f"{lines[options[0]]} {', '.join(lines[options[0] + 1 :])}"]
    text = "; ".join([*lines, *([cause] if cause and cause not in lines else [])])
    return text if len(text) < 600 else f"{text[:600]}…"
