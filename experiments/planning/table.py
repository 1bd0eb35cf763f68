"""A plan as Markdown tables, and what it assumes."""

from __future__ import annotations

import dataclasses
from typing import Any

from experiments.commands.describe import field_texts
from experiments.planning.args import Behaviour, PlanArgs
from experiments.planning.costs import Cost
from experiments.planning.memory import GIB
from stages.markdown import table

_TOKENS = ((1e9, "B"), (1e6, "M"), (1e3, "k"))
_OPERATIONS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"))


def short(number: float, units: tuple[tuple[float, str], ...] = _TOKENS) -> str:
    """A number with three digits: 1,234,567 is 1.23M; nothing is –."""
    if not number:
        return "–"
    unit, name = next(((size, name) for size, name in units if number >= size), (1, ""))
    return f"{number / unit:.3g}{name}" if number >= 1 else f"{number:.2g}"


def accelerators(costs: list[Cost]) -> int:
    """How many the whole pipeline holds."""
    return max((cost.accelerators for cost in costs), default=0)


def money(cost: Cost, plan: PlanArgs, count: int) -> float:
    """Money for one stage: all accelerators are paid for while one is at work, and the tokens of served models."""
    return cost.served + (plan.price or 0) * cost.hours * count


def work_table(costs: list[Cost], plan: PlanArgs, made: dict[str, dict[str, Any]]) -> str:
    """Samples, tokens, operations, hours and money of each stage; and the tokens of what is made already."""
    count = accelerators(costs)
    header = ["stage", "samples", "read", "sampled", "trained", "scored", "FLOP", "hours", "GPU-hours", "money"]
    rows = []
    for cost in costs:
        work = cost.work
        numbers = [work.samples, work.read, work.sampled, work.trained, work.scored]
        hours = [f"{cost.hours:.2f}", f"{cost.hours * count:.1f}"] if cost.accelerators else ["–", "–"]
        rows.append(
            [
                work.name,
                *map(short, numbers),
                short(cost.operations, _OPERATIONS),
                *hours,
                _money(money(cost, plan, count)),
            ]
        )
        if made:
            rows[-1].append(short(made[work.name]["tokens"] if work.name in made else 0))
    hours = sum(cost.hours for cost in costs)
    sums = [sum(getattr(cost.work, name) for cost in costs) for name in ("samples", "read", "sampled", "trained")]
    sums.append(sum(cost.work.scored for cost in costs))
    operations = short(sum(cost.operations for cost in costs), _OPERATIONS)
    whole = sum(money(cost, plan, count) for cost in costs)
    rows.append(["all", *map(short, sums), operations, f"{hours:.2f}", f"{hours * count:.1f}", _money(whole)])
    if made:
        rows[-1].append(short(sum(one["tokens"] for one in made.values())))
        header.append("tokens, as made")
    return table(header, rows)


def _money(value: float) -> str:
    return f"{value:,.2f}" if value else "–"


def memory_table(costs: list[Cost]) -> str:
    """Memory of one accelerator and disk, of each stage that needs any."""
    header = ["GiB a GPU", "weights", "gradients", "optimizer", "activations", "cache", "peak", "when", "disk, GB"]
    rows = []
    for cost in costs:
        memory, disk = cost.memory, f"{cost.disk / 1e9:.2f}"
        if cost.passing:
            disk += f" (+{cost.passing / 1e9:.1f})"
        parts = (memory.weights, memory.gradients, memory.optimizer, memory.activations, memory.cache)
        peak = f"{memory.peak / GIB:.2f}{'' if cost.fits else ' !'}" if memory.peak else "–"
        rows.append([cost.work.name, *(f"{one / GIB:.2f}" if one else "–" for one in parts), peak, memory.when, disk])
    return table(header, rows)


def total_lines(costs: list[Cost], plan: PlanArgs) -> list[str]:
    """What the whole needs."""
    count, hours = accelerators(costs), sum(cost.hours for cost in costs)
    disk, passing = sum(cost.disk for cost in costs), max(cost.passing for cost in costs)
    host, price = max(cost.memory.host for cost in costs), plan.price or 0
    served = sum(cost.served for cost in costs)
    paid = f"{hours * count * price + served:,.2f} in money" if price or served else "money: set plan.price"
    return [
        f"{count} x {plan.accelerator}: {hours:.1f} hours, {hours * count:.1f} GPU-hours, {paid}",
        f"disk {disk / 1e9:.1f} GB, and {passing / 1e9:.1f} GB for checkpoints while a model trains (in brackets); "
        f"memory of the machine {host / GIB:.0f} GiB",
        "Stages come one after the other. ! does not fit. load: while a model is opened, end: while it is made whole.",
    ]


def assumption_lines(plan: PlanArgs, own: Behaviour) -> list[str]:
    """All that is taken for granted."""
    hardware = plan.hardware()
    texts, values = field_texts(PlanArgs), dataclasses.asdict(plan)
    values = {name: "null" if value is None else value for name, value in values.items()}
    lines = [f"  plan.{name}={values[name]}: {text}" for name, text in texts.items()]
    shown = ", ".join(f"{name} {value:g}" for name, value in dataclasses.asdict(own).items())
    return [
        "Assumed:",
        *lines,
        f"  {plan.accelerator}: {hardware.tflops:g} TFLOP/s in bfloat16, {hardware.tflops_float32:g} in float32, "
        f"{hardware.memory:g} GiB, {hardware.bandwidth:g} TB/s",
        f"  how solutions differ (experiments/planning/args.py): {shown}",
    ]
