"""The plots of the page as numbers: where each mark, line and text of an SVG stands, 340 units wide.
`templates/plots.svg` draws them; colours and fonts are the style sheet's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from experiments.report.sections import named_differences
from experiments.report.words import CURVE_NAMES, SCORER_TITLES, percent, selector_names

WIDTH, LINE, EDGE = 340, 14, 14
LEFT, RIGHT, TOP, BOTTOM = 42, 10, 12, 46  # margins of a plot with two axes
CURVE_STYLES = {f"weighted_{name}": f"{name} vote" for name in SCORER_TITLES} | {"majority": "plain"}
FAMILIES = {"reranked": "main", "oracle": "oracle", "random": "plain", "control": "control", "shuffled": "control"}


@dataclass(frozen=True)
class Mark:
    """A point with its 95% interval, whose ends are on the axis that it measures; `diamond` is the paper's figure."""

    x: float
    y: float
    low: float
    high: float
    style: str
    words: str  # on one line: name, value, interval
    diamond: float | None = None
    number: str = ""
    label: tuple[float, float] = (0, 0)  # the middle of the number


@dataclass(frozen=True)
class Rows:
    """One mark in each row, under its name on one line or two; `ticks` are (x, label), the lines end at `bottom`."""

    title: str
    height: float
    names: list[tuple[list[str], str]]  # lines of its name, and value, of each row
    marks: list[Mark]
    ticks: list[tuple[float, str]]
    bottom: float


@dataclass(frozen=True)
class Curve:
    """A line through points, drawn in the style of a series."""

    name: str
    style: str
    points: list[tuple[float, float, float]]  # x, y, radius
    spreads: list[tuple[float, float, float]] = field(default_factory=list)  # x, y of the low end, y of the high end


@dataclass(frozen=True)
class Axes:
    """A plot with two axes, its ticks, and curves or marks in it."""

    title: str
    height: float
    x_name: str
    y_name: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    curves: list[Curve] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    diagonal: bool = False


def page_plots(report: dict[str, Any]) -> dict[str, list[Rows | Axes]]:
    """The plots under each name of a figure (`sections.py`); none where nothing was measured."""
    return {
        "accuracy": accuracy_plot(report),
        "curves": curve_plot(report),
        "differences": difference_plot(report),
        "tokens": token_plot(report),
        "step_accuracy": position_plot(report),
        "reliability": reliability_plots(report),
    }


def accuracy_plot(report: dict[str, Any]) -> list[Rows]:
    """Accuracy by selector, the paper's figures as diamonds."""
    papers, rows = report["paper"]["accuracy"], []
    for name, words in selector_names(report).items():
        if found := report["accuracy"][name]:
            rows.append((words, found, style(name), papers.get(name)))
    return share_rows("Accuracy by selector, % of the problems", rows)


def difference_plot(report: dict[str, Any]) -> list[Rows]:
    """Differences between selectors, in points."""
    rows = [(f"{a}\n− {b}", found, "other", None) for a, b, found in named_differences(report)]
    return difference_rows("Differences between selectors, points", rows)


Row = tuple[str, dict[str, Any], str, Any]  # name on one line or two, estimate, style, the paper's figure


def share_rows(title: str, rows: list[Row]) -> list[Rows]:
    """Shares from 0 to 100%, one a row."""
    return _rows(title, rows, 0, 1) if rows else []


def difference_rows(title: str, rows: list[Row]) -> list[Rows]:
    """Differences in points, one a row, with zero in the middle."""
    if not rows:
        return []
    ends = [abs(found[end]) for _, found, *_ in rows for end in ("low", "high")]
    reach = max(0.05, math.ceil(20 * max(ends)) / 20)
    return _rows(title, rows, -reach, reach)


def _rows(title: str, rows: list[Row], least: float, most: float) -> list[Rows]:
    def place(value: float) -> float:
        return _round(EDGE + (value - least) / (most - least) * (WIDTH - 2 * EDGE))

    names, marks, height = [], [], 22 + LINE * (1 + rows[0][0].count("\n"))
    for at, (words, found, family, paper) in enumerate(rows):
        value = percent(found) if least == 0 else f"{100 * found['value']:+.1f}"
        x, low, high = (place(found[end]) for end in ("value", "low", "high"))
        names.append((words.split("\n"), value))
        diamond = place(paper[0]) if paper else None
        told = _told(words.replace("\n", " "), found, least < 0)
        marks.append(Mark(x, (at + 1) * height - 11, low, high, family, told, diamond=diamond))
    steps = (0, 0.25, 0.5, 0.75, 1)
    shown = [least + step * (most - least) for step in steps]
    ticks = [(place(value), f"{100 * value:g}" if least == 0 else f"{round(100 * value, 1):+g}") for value in shown]
    bottom = len(rows) * height
    return [Rows(title, bottom + 20, names, marks, ticks, bottom)]


def _told(words: str, found: dict[str, Any], signed: bool = False) -> str:
    form = "+.1f" if signed else ".1f"
    low, value, high = (format(100 * found[name], form) for name in ("low", "value", "high"))
    return f"{words}: {value}, 95% interval {low} to {high}"


def token_plot(report: dict[str, Any]) -> list[Axes]:
    """Accuracy of each selector against all tokens of a problem, sampled and read."""
    return token_axes(
        [
            (words, report["accuracy"][name], report["tokens"][name] + (report["tokens_read"][name] or 0), style(name))
            for name, words in selector_names(report).items()
            if report["accuracy"][name] and report["tokens"][name] is not None
        ]
    )


def style(selector: str) -> str:
    """How a selector is drawn."""
    return FAMILIES.get(selector, "other")


def token_axes(points: list[tuple[str, dict[str, Any], float, str]]) -> list[Axes]:
    """Accuracy against tokens, of (name, estimate, tokens, style); the marks are numbered, so that a list can name
    them."""
    most = max((tokens for _, _, tokens, _ in points), default=0)
    if not most:
        return []
    x_most, x_step = _nice(most)
    lows, highs = ([found[end] for _, found, *_ in points] for end in ("low", "high"))
    y_least, y_most = math.floor(10 * min(lows)) / 10, math.ceil(10 * max(highs)) / 10
    height, marks = 300, []
    for words, found, tokens, family in points:
        x = _across(tokens / x_most)
        y, low, high = (_up((found[end] - y_least) / (y_most - y_least), height) for end in ("value", "low", "high"))
        told = f"{_told(words, found)}; {tokens:,.0f} tokens"
        marks.append(Mark(x, y, low, high, family, told, number=str(len(marks) + 1)))
    taken = [(mark.x, mark.y) for mark in marks]
    for at, mark in enumerate(marks):
        marks[at] = replace(mark, label=_label_place(mark, taken, height))
        taken.append(marks[at].label)
    x_ticks = [(_across(at * x_step / x_most), f"{at * x_step:,}") for at in range(round(x_most / x_step) + 1)]
    y_ticks = [(_up((at / 10 - y_least) / (y_most - y_least), height), str(10 * at)) for at in _tenths(y_least, y_most)]
    names_of_axes = ("tokens a problem, sampled and read", "right, %")
    return [Axes("Accuracy against tokens", height, *names_of_axes, x_ticks, y_ticks, marks=marks)]


def _label_place(mark: Mark, taken: list[tuple[float, float]], height: float) -> tuple[float, float]:
    """The middle of a mark's number: beside the mark, where no other mark or number is."""

    def crowded(place: tuple[float, float]) -> float:
        inside = LEFT < place[0] < WIDTH - RIGHT and TOP < place[1] < height - BOTTOM
        return sum(max(0, 12 - math.dist(place, one)) for one in taken) + (0 if inside else 100)

    turns = [math.pi * turn / 4 for turn in range(8)]
    places = [(mark.x + r * math.cos(turn), mark.y + r * math.sin(turn)) for r in (11, 16, 22) for turn in turns]
    return tuple(map(_round, min(places, key=crowded)))


def curve_plot(report: dict[str, Any]) -> list[Axes]:
    """Accuracy by how many samples are chosen from; each doubling is as wide as the one before."""
    if not report["curves"]:
        return []
    height, curves = 260, []
    values = [point["value"] for curve in report["curves"].values() for point in curve]
    least, most = math.floor(10 * min(values)) / 10, max(math.ceil(10 * max(values)) / 10, 0.1)
    sizes = [point["samples"] for point in next(iter(report["curves"].values()))]

    def across(n: int) -> float:
        return _across(math.log(n) / math.log(sizes[-1]))

    for name, curve in report["curves"].items():
        points = [(across(p["samples"]), _up((p["value"] - least) / (most - least), height), 2.5) for p in curve]
        curves.append(Curve(CURVE_NAMES[name], CURVE_STYLES.get(name, name), points))
    doubled = [n for n in sizes if n & (n - 1) == 0]
    close = sizes[-1] < 1.5 * doubled[-1]  # no place for both numbers
    x_ticks = [(across(n), str(n)) for n in sorted({*(doubled[:-1] if close else doubled), sizes[-1]})]
    y_ticks = [(_up((at / 10 - least) / (most - least), height), str(10 * at)) for at in _tenths(least, most)]
    return [Axes("Accuracy by the number of samples", height, "samples", "right, %", x_ticks, y_ticks, curves)]


def _tenths(least: float, most: float) -> range:
    return range(round(10 * least), round(10 * most) + 1)


def position_plot(report: dict[str, Any]) -> list[Axes]:
    """Accuracy on intermediate steps by position, with intervals and how many steps there are."""
    found = {name: rows for name, rows in report["step_accuracy_by_position"].items() if rows}
    if not found:
        return []
    sizes = {row["position"]: row["n"] for rows in found.values() for row in rows}
    last, height = max(sizes), 220
    curves = []
    for at, (name, rows) in enumerate(found.items()):
        shift = 4 * at - 2 * (len(found) - 1)  # side by side
        points, spreads = [], []
        for row in rows:
            x = _round(_across((row["position"] - 0.5) / last) + shift)
            points.append((x, _up(row["value"], height), 3.5))
            spreads.append((x, _up(row["low"], height), _up(row["high"], height)))
        curves.append(Curve(SCORER_TITLES[name], name, points, spreads))
    every = 1 + len(sizes) // 9
    x_ticks = [(_across((place - 0.5) / last), f"{place}") for place in sorted(sizes)[::every]]
    return [
        Axes(
            "Step accuracy by position",
            height,
            "position of the step",
            "judged rightly, %",
            x_ticks,
            _shares(height),
            curves,
        )
    ]


def reliability_plots(report: dict[str, Any]) -> list[Axes]:
    """How many are right of those with a probability: whole solutions, and intermediate steps where an oracle is."""
    panels = {
        "Calibration, whole solutions": report["reliability"],
        "Calibration, intermediate steps": report["reliability_steps"],
    }
    plots, height = [], 300
    for title, found in panels.items():
        curves = []
        for name, bins in found.items():
            if bins:
                total = sum(row["n"] for row in bins)
                points = [
                    (
                        _across(row["predicted"]),
                        _up(row["observed"], height),
                        _round(2 + 9 * math.sqrt(row["n"] / total)),
                    )
                    for row in bins
                ]
                curves.append(Curve(SCORER_TITLES[name], name, points))
        if curves:
            x_ticks = [(_across(at / 4), f"{25 * at}") for at in range(5)]
            axes = ("probability given, % (area: how many)", "right, %")
            plots.append(Axes(title, height, *axes, x_ticks, _shares(height), curves, diagonal=True))
    return plots


def _shares(height: float) -> list[tuple[float, str]]:
    return [(_up(at / 4, height), str(25 * at)) for at in range(5)]


def _nice(most: float) -> tuple[int, int]:
    """A round number that is no less, and the step to it in at most five."""
    for step in (s * 10**power for power in range(12) for s in (1, 2, 5)):
        if most <= 5 * step:
            return math.ceil(most / step) * step, step
    raise ValueError(f"{most} is too many")


def _across(share: float) -> float:
    return _round(LEFT + share * (WIDTH - LEFT - RIGHT))


def _up(share: float, height: float) -> float:
    return _round(height - BOTTOM - share * (height - TOP - BOTTOM))


def _round(value: float) -> float:
    return round(value, 1)
