"""Cost of labels against first errors found, a panel a file: `docs/labelling.png`.

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

RULES = {"any": ("any of 8", ORANGE), "at_least": ("2 of 16", GREEN), "posterior": ("posterior", BLUE)}
MARKERS = {"exhaustive": "s", "forward": ">", "binary": "D", "adaptive": "o"}
TICKS = (0.05, 0.1, 0.2, 0.4, 1, 2, 4)


def read_panels(given: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Rows by the name of their panel."""
    panels: dict[str, list[dict[str, Any]]] = {}
    for one in given:
        name, _, file = one.partition("=")
        for row in map(json.loads, Path(file).read_text().splitlines()):
            panels.setdefault(", ".join(part for part in (name, row.get("world")) if part), []).append(row)
    return panels


def draw_panel(axes: Axes, name: str, rows: list[dict[str, Any]]) -> None:
    """One world: a point for every way, and the paper's with a black edge and a line."""
    for row in rows:
        paper = row["search"] == "exhaustive" and row["rule"] == "any" and " 8, " in row["way"]
        look = {"color": RULES[row["rule"]][1], "markeredgecolor": "black" if paper else "none"}
        axes.plot(row["cost_of_wrong"], row["accuracy"], MARKERS[row["search"]], markersize=7, **look)
        if paper:
            axes.axhline(row["accuracy"], color=GREY, linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.minorticks_off()
    axes.set_title(name, fontsize=10.5)
    axes.set_xlabel("tokens, beside 8 at every prefix")
    axes.set_ylabel("first errors found")


def main() -> None:
    """Draw what the command line names, two panels a row."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    *given, out = sys.argv[1:] or [""]
    if not given or not all("=" in one for one in given):
        raise SystemExit("usage: python -m experiments.bench.figure_labelling NAME=FILE.jsonl ... OUT.png")
    panels = read_panels(given)
    rows = (len(panels) + 1) // 2
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 2.9 * rows + 0.6), layout="constrained")
        grid = figure.subplots(rows, 2, squeeze=False).flatten()
        for axes, (name, own) in zip(grid, panels.items(), strict=False):
            draw_panel(axes, name, own)
        for axes in grid[len(panels) :]:
            axes.axis("off")
        key = [Line2D([], [], color=colour, linewidth=4, label=name) for name, colour in RULES.values()]
        key += [Line2D([], [], color=GREY, marker=m, linestyle="none", label=name) for name, m in MARKERS.items()]
        figure.legend(handles=key, loc="outside upper center", ncols=7, frameon=False, fontsize=9, handletextpad=0.4)
        figure.savefig(out, dpi=DPI)


if __name__ == "__main__":
    main()
