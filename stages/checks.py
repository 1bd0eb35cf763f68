"""Checks of settings that the arguments of many stages share; each raises ValueError naming the first bad setting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def check_choices(args: Any, **choices: Sequence[str]) -> None:
    """See that each setting is one of its choices: `check_choices(args, balance=("none", "total"))`."""
    for name, known in choices.items():
        if getattr(args, name) not in known:
            raise ValueError(f"{name}={getattr(args, name)!r} is none of {', '.join(known)}")


def check_least(args: Any, **least: float) -> None:
    """See that each setting is None or at least so large: `check_least(args, limit=1)`."""
    for name, number in least.items():
        value = getattr(args, name)
        if value is not None and value < number:
            raise ValueError(f"{name} must be at least {number}, not {value}")
