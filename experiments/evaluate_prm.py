"""`python -m experiments.evaluate_prm`: one process reward model on ProcessBench-style data, by its protocol.

Left out: the evaluation itself (`rewards/evaluate_prm.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments.commands.command import Command
from experiments.commands.config import Job
from experiments.commands.unused import refuse_set
from rewards.evaluate_prm import EvaluateArgs, evaluate
from rewards.metrics import show_threshold

if TYPE_CHECKING:
    from rich.table import Table

    from rewards.intervals import Estimate


def make_table(result: dict[str, Any]) -> Table:
    """The subsets and their average as a table of at most 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    title = f"{result['model']}: threshold {show_threshold(result['threshold'])}, {result['threshold_from']}"
    if result["right_from"] is not None:
        title += f"; right solutions: {result['right_from']}"
    table = Table(title=Text(title), box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("subset", overflow="fold")
    for heading in ("wrong", "right", "acc. wrong", "acc. right", "F1", "95%"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in result["subsets"].items():
        label = name if row["reported"] else f"{name} (chosen on)"
        sizes = [f"{row[kind]['n']:,}" for kind in ("error", "correct")]
        shares = [f"{100 * row[kind]['value']:.1f}" for kind in ("error", "correct", "f1")]
        table.add_row(Text(label), *sizes, *shares, _limits(row["f1"]))
    average = result["average"]
    value = f"{100 * average['f1']['value']:.1f}"
    table.add_row(f"average of {len(average['over'])}", "", "", "", "", value, _limits(average["f1"]), style="bold")
    return table


def _limits(one: Estimate) -> str:
    return "–" if one["low"] is None else f"{100 * one['low']:.1f}–{100 * one['high']:.1f}"


def work(job: Job) -> dict[str, Any]:
    """Evaluate, and print the table."""
    from rich.console import Console

    refuse_set(job, "launch", "tracking", reason="this is one process, and result.json is all that it records")
    result = evaluate(job.args)
    Console(highlight=False, markup=False, emoji=False).print(make_table(result))
    return result


main = Command("evaluate_prm", EvaluateArgs, work, relaunch=False)

if __name__ == "__main__":
    main()
