"""The demo's world, which the shipped student knows, as the benchmarks change it. Its settings stand in
`conf/problems/arithmetic.yaml` only."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import yaml

from rollouts.world.args import WorldArgs


def demo_world(**changes: Any) -> WorldArgs:
    """The demo's world with some settings changed."""
    known = yaml.safe_load((files("conf") / "problems" / "arithmetic.yaml").read_text(encoding="utf-8"))["world"]
    return WorldArgs(**known | changes)
