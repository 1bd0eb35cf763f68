"""Cost of labels against first errors found, a panel a file.

`python -m experiments.bench.figure_labelling NAME=FILE.jsonl … OUT.png`, with files of
`experiments/bench/labelling_study.py` and `tests/rewards/labels/labelling_sweep.py`. A file that holds several worlds
gives a panel for each.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.report.figures import BLUE, DPI, GREEN, GREY, ORANGE, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"any": ORANGE, "at_least": GREEN, "posterior": BLUE}
MARKERS = {"exhaustive": "s", "forward": ">", "binary": "D", "adaptive": "o"}
NAMES = {"any": "any of 8", "at_least": "2 of 16", "posterior": "posterior"}


def read_panels(given: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Rows by the name of their panel."""
    panels: dict[str, list[dict[str, Any]]] = {}
    for one in given:
        name, _, file = one.partition("=")
        for line in Path(file).read_text().splitlines():
            row = json.loads(line)
            panels.setdefault(", ".join(part for part in (name, row.get("world")) if part), []).append(row)
    return panels


def draw_panel(axes: Axes, name: str, rows: list[dict[str, Any]]) -> None:
    """One world: a point for every way."""
    for row in rows:
        paper = row["search"] == "exhaustive" and row["rule"] == "any" and " 8, " in row["way"]
        axes.plot(
            row["cost_of_wrong"], row["accuracy"], MARKERS[row["search"]], color=COLOURS[row["rule"]], markersize=7,
            markeredgecolor="black" if paper else "none", markeredgewidth=1.5,
        )  # fmt: skip
        if paper:
            axes.axhline(row["accuracy"], color=GREY, linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    ticks = [0.05, 0.1, 0.2, 0.4, 1, 2, 4]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_title(name, fontsize=10.5)
    axes.set_xlabel("tokens, beside 8 at every prefix")
    axes.set_ylabel("first errors found")


def draw(panels: dict[str, list[dict[str, Any]]], out: Path) -> None:
    """All panels, two a row, and the key."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows = (len(panels) + 1) // 2
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 2.9 * rows + 0.6), layout="constrained")
        grid = figure.subplots(rows, 2, squeeze=False).flatten()
        for axes, (name, own) in zip(grid, panels.items(), strict=False):
            draw_panel(axes, name, own)
        for axes in grid[len(panels) :]:
            axes.axis("off")
        key = [Line2D([], [], color=COLOURS[rule], linewidth=4, label=NAMES[rule]) for rule in COLOURS]
        key += [Line2D([], [], color=GREY, marker=m, linestyle="none", label=name) for name, m in MARKERS.items()]
        figure.legend(handles=key, loc="outside upper center", ncols=7, frameon=False, fontsize=9, handletextpad=0.4)
        figure.savefig(out, dpi=DPI)


def main() -> None:
    """Draw what the command line names."""
    if len(sys.argv) < 3 or not all("=" in one for one in sys.argv[1:-1]):
        raise SystemExit("usage: python -m experiments.bench.figure_labelling NAME=FILE.jsonl ... OUT.png")
    draw(read_panels(sys.argv[1:-1]), Path(sys.argv[-1]))


if __name__ == "__main__":
    main()
