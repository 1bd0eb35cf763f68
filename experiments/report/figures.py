"""The report's pictures: accuracy by selector and by samples, step accuracy by position, reliability. The solved
example is drawn in `experiments/report/figure_example.py`. PNG, 1,200 pixels wide, colours that colour-blind readers
can tell apart.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.report.figure_example import draw_example
from experiments.report.words import CURVE_NAMES, selector_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette
GREY, BLUE, ORANGE, GREEN, PURPLE, BLACK = "#8c8c8c", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#222222"
SCORER_STYLE = {
    "orm": {"color": ORANGE, "marker": "s", "linestyle": "--", "label": "ORM"},
    "sorm": {"color": BLUE, "marker": "o", "linestyle": "-", "label": "SORM"},
    "implicit": {"color": PURPLE, "marker": "^", "linestyle": "-.", "label": "implicit"},
}
SELECTOR_COLOURS = {"reranked": BLUE, "oracle": GREEN, "random": GREY, "control": ORANGE, "shuffled": ORANGE}
DPI = 150
STYLE = {"text.parse_math": False, "font.size": 10.5, "axes.spines.top": False, "axes.spines.right": False}


def draw_figures(folder: Path, report: dict[str, Any]) -> list[str]:
    """Write NAME.png for each picture that the numbers allow; return the names written."""
    import matplotlib
    import matplotlib.style

    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, draw in DRAWINGS.items():
        # the reader's own matplotlibrc must not change the report, and a $ in a question is no formula
        with matplotlib.style.context("default"), matplotlib.rc_context(STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a model may write any script
            figure = draw(report)
            if figure is not None:
                figure.savefig(folder / f"{name}.png", dpi=DPI, metadata={"Software": None})
                drawn.append(name)
    return drawn


def draw_accuracy(report: dict[str, Any]) -> Figure | None:
    """Accuracy by selector with intervals, the paper's figures as diamonds."""
    names = {name: words for name, words in selector_names(report).items() if report["accuracy"][name] is not None}
    if not names:
        return None
    figure = _figure(0.42 * len(names) + 1.3)
    axes = figure.subplots()
    diamond = {"color": "white", "markeredgecolor": BLACK, "zorder": 5}
    for place, name in enumerate(names):
        found = report["accuracy"][name]
        value, low, high = (100 * found[key] for key in ("value", "low", "high"))
        axes.barh(place, value, height=0.62, color=SELECTOR_COLOURS.get(name, "#56B4E9"), alpha=0.75, zorder=2)
        axes.plot([low, high], [place, place], color=BLACK, linewidth=1.6, zorder=3)
        axes.plot([low, high], [place, place], "|", color=BLACK, markersize=8, zorder=3)
        axes.text(101.5, place, f"{value:.1f}%", va="center", ha="left", zorder=4)
        if name in report["paper"]["accuracy"]:
            # below the middle, so that it hides no interval
            axes.plot(100 * report["paper"]["accuracy"][name][0], place + 0.19, "D", markersize=6, **diamond)
    axes.plot([], [], "D", label="the paper's Llama-2 13B on GSM8K", **diamond)
    axes.plot([], [], color=BLACK, marker="|", markersize=8, label="95% interval")
    axes.set_yticks(range(len(names)), list(names.values()))
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.grid(axis="x", color="#dddddd", zorder=0)
    axes.set_xlabel(f"right answers, % of {report['problems']:,} problems")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def draw_curves(report: dict[str, Any]) -> Figure | None:
    """Accuracy by how many samples are chosen from, by who chooses; bands are 95% intervals."""
    if not report["curves"]:
        return None
    figure = _figure(4.6)
    axes = figure.subplots()
    colours = {name: look["color"] for name, look in SCORER_STYLE.items()} | {"oracle": GREEN, "majority": GREY}
    for name, curve in report["curves"].items():
        colour, sizes = colours[name.removeprefix("weighted_")], [point["samples"] for point in curve]
        low, value, high = ([100 * point[end] for point in curve] for end in ("low", "value", "high"))
        line = ":" if name.startswith("weighted_") else "-"
        axes.plot(sizes, value, line, color=colour, marker="o", markersize=3.5, label=CURVE_NAMES[name])
        axes.fill_between(sizes, low, high, color=colour, alpha=0.1, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks([n for n in sizes if n & (n - 1) == 0], [str(n) for n in sizes if n & (n - 1) == 0])
    axes.set_xlabel("samples")
    axes.set_ylabel(f"right answers, % of {report['problems']:,} problems")
    axes.grid(color="#dddddd")
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def draw_step_accuracy(report: dict[str, Any]) -> Figure | None:
    """Accuracy on intermediate steps by position and by reward model, with intervals and how many steps there are."""
    found = {name: rows for name, rows in report["step_accuracy_by_position"].items() if rows}
    if not found:
        return None
    figure = _figure(4.6)
    axes = figure.subplots()
    for shift, (name, rows) in zip((-0.06, 0.06, 0.0), found.items(), strict=False):
        places = [row["position"] + shift for row in rows]
        values = [100 * row["value"] for row in rows]
        spread = [[100 * abs(row[end] - row["value"]) for row in rows] for end in ("low", "high")]
        axes.errorbar(places, values, yerr=spread, capsize=4, linewidth=1.8, markersize=6, **SCORER_STYLE[name])
    sizes = {row["position"]: row["n"] for rows in found.values() for row in rows}
    places = sorted(sizes)
    # the count of a place stands under its number; beyond a dozen places only every second fits
    every = 1 + len(places) // 13
    axes.set_xticks(places[::every], [f"{place}\n{sizes[place]:,}" for place in places[::every]])
    axes.set_xlim(places[0] - 0.5, places[-1] + 0.5)
    axes.set_xlabel("position of the step (below: how many steps)")
    axes.set_ylabel("steps judged rightly, %")
    axes.grid(axis="y", color="#dddddd")
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def draw_reliability(report: dict[str, Any]) -> Figure | None:
    """Share right against the probability given: whole solutions, and intermediate steps where an oracle exists."""
    panels = {
        "whole solutions, score after the last step": report["reliability"],
        "intermediate steps": report["reliability_steps"],
    }
    panels = {title: found for title, found in panels.items() if any(found.values())}
    if not panels:
        return None
    figure = _figure(4.35)
    for axes, (title, found) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
        for name, bins in found.items():
            if bins:
                _reliability_line(axes, bins, SCORER_STYLE[name])
        axes.set_title(title, fontsize=10.5)
        axes.set_xlabel("probability given (area of a mark: how many)")
        axes.set_ylabel("share that is right")
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)
        axes.set_aspect("equal")
        axes.grid(color="#e5e5e5")
        axes.set_axisbelow(True)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    return figure


def _reliability_line(axes: Any, bins: list[dict[str, Any]], style: dict[str, str]) -> None:
    """One curve; a point's area grows with the share of items in its bin."""
    total = sum(row["n"] for row in bins)
    x, y = [row["predicted"] for row in bins], [row["observed"] for row in bins]
    axes.plot(x, y, color=style["color"], linestyle=style["linestyle"], linewidth=1.5, label=style["label"])
    areas = [15 + 260 * row["n"] / total for row in bins]
    axes.scatter(x, y, s=areas, color=style["color"], marker=style["marker"], alpha=0.7, linewidths=0)


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(8, height), layout="constrained")


DRAWINGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "accuracy": draw_accuracy,
    "curves": draw_curves,
    "step_accuracy": draw_step_accuracy,
    "reliability": draw_reliability,
    "example": draw_example,
}
