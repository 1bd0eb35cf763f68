"""What the benches share: problems of the embedded world, medians, and a header that says what machine they ran on."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.resources import files
from typing import Any

from rollouts.problems.args import ProblemArgs
from rollouts.problems.load import load_problems
from rollouts.records import Problem
from rollouts.world.args import SOURCE as WORLD
from rollouts.world.args import WorldArgs


def make_parser(doc: str) -> argparse.ArgumentParser:
    """A parser whose help is the header of a bench as it stands."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def demo_world() -> WorldArgs:
    """The embedded world that the student `shipped` knows, from its own config."""
    import yaml

    return WorldArgs(**yaml.safe_load((files("conf") / "problems" / "arithmetic.yaml").read_text())["world"])


def bench_problems(split: str, number: int, gsm8k: str | None, **world: Any) -> list[Problem]:
    """The first problems of a split: GSM8K's from a folder, else those of the embedded world with these changes."""
    if gsm8k:
        return load_problems(ProblemArgs(source="gsm8k", path=gsm8k, split=split, limit=number))
    changed = replace(demo_world(), **world)
    return load_problems(ProblemArgs(source=WORLD, split=split, limit=number, world=changed))


def print_header(setting: str, packages: Sequence[str] = ("torch", "transformers")) -> None:
    """Print what is measured, the machine, its threads and load, and the versions of Python and these packages."""
    import torch

    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    versions = ", ".join(f"{name} {import_module(name).__version__}" for name in packages)
    print(setting)
    print(
        f"{gpu}CPU {platform.processor() or platform.machine()} with {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}; "
        f"python {platform.python_version()}, {versions}",
        flush=True,
    )


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """The median and the range: [1.5, 1, 3] is '1.50 (1.00 to 3.00)'."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """`theirs / ours` of each round: within a round, other work on the machine slows both."""
    return [other / own for own, other in zip(ours, theirs, strict=True)]


def in_turns(arms: dict[str, Callable[[int], int]], rounds: int) -> dict[str, list[float]]:
    """Tokens a second of each arm in rounds 0, 1, …, after one of number -1 that only warms up; the first becomes last.

    An arm is called with the number of its round, and returns how many tokens it wrote.
    """
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(-1, rounds):
        for name in list(arms)[:: 1 if number % 2 else -1]:
            start = time.perf_counter()
            tokens = arms[name](number)
            rate = tokens / (time.perf_counter() - start)
            if number >= 0:
                rates[name].append(rate)
                print(f"round {number + 1}: {name} {rate:.0f} tokens a second", flush=True)
    return rates


def print_rates(rates: dict[str, list[float]]) -> None:
    """Print the rates of two arms, and the ratio of the first to the second."""
    for name, own in rates.items():
        print(f"{name:15} {spread(own, '.0f')} tokens a second")
    (_, ours), (_, theirs) = rates.items()
    print(f"{'ratio':15} {spread(ratios(theirs, ours), '.3f')}", flush=True)
