"""Checks of settings that the arguments of many stages share; each raises ValueError naming the first bad setting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def check_choices(args: Any, group: str = "", /, **choices: Sequence[str]) -> None:
    """See that each setting is one of its choices: `check_choices(args, balance=("none", "total"))`. `group` stands
    before the names in messages, such as `lora.`."""
    for name, known in choices.items():
        if getattr(args, name) not in known:
            raise ValueError(f"{group}{name}={getattr(args, name)!r} is none of {', '.join(known)}")


def check_filled(args: Any, group: str = "", /, *names: str) -> None:
    """See that no path that is written to is empty, which would be the working folder."""
    for name in names:
        if not getattr(args, name).strip():
            raise ValueError(f"{group}{name}={getattr(args, name)!r} must not be empty")


def check_least(args: Any, group: str = "", /, **least: float) -> None:
    """See that each setting is None or at least so large: `check_least(args, limit=1)`."""
    for name, number in least.items():
        value = getattr(args, name)
        if value is not None and value < number:
            raise ValueError(f"{group}{name} must be at least {number}, not {value}")


def check_range(args: Any, group: str = "", /, **ranges: str) -> None:
    """See that each setting is None or in its range: `check_range(args, top_p="(0, 1]")`. NaN is in none."""
    for name, wanted in ranges.items():
        value, (low, high) = getattr(args, name), map(float, wanted[1:-1].split(","))
        inside = value is None or low < value < high
        if not inside and not (value == low and wanted[0] == "[") and not (value == high and wanted[-1] == "]"):
            raise ValueError(f"{group}{name} must be in {wanted}, not {value}")
