"""One solved problem as a picture: the draft step by step in the colours of its SORM scores, the located error, both
refinements beside it, and what the reranker made of the three. Lengths are in characters and lines of text.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from experiments.report.example import LONGEST, example_summary
from experiments.report.words import SCORER_TITLES
from stages.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN, GAP = 34, 2
WIDE = 3 * COLUMN + 2 * GAP  # and a margin of one character on either side
INCHES = 8  # of all that
SIZE = 8.5  # points, in DejaVu Sans Mono: a character is 0.602 of that wide, up to 0.627 when put on whole pixels
MOST_STEPS, MOST_LINES = 14, 8
TITLES = {"draft": "draft", "global": "global refinement", "local": "local refinement"}
LOW, MIDDLE, HIGH = (0.90, 0.56, 0.34), (0.97, 0.97, 0.97), (0.45, 0.70, 0.90)
BAD, PICKED, INK, PALE = "#B03A00", "#0072B2", "#1a1a1a", "#6b6b6b"


def draw_example(report: dict[str, Any]) -> Figure | None:
    """The picture of `report["example"]`, as high as its texts need; None without an example."""
    from matplotlib.figure import Figure

    example = report["example"]
    if example is None:
        return None
    figure = Figure()
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    question = [*_wrap(example["question"], WIDE - 2), *_wrap(f"answer: {example['answer']}", WIDE - 2)]
    top = _box(axes, 0, 0, WIDE, question, "#f2f2f2")
    top = _box(axes, 0, top, WIDE, _wrap(example_summary(example).replace("`", ""), WIDE - 2), "none")
    ends = [_column(axes, place * (COLUMN + GAP), top, example, kind) for place, kind in enumerate(TITLES)]
    if example["chosen"] in TITLES:
        left = list(TITLES).index(example["chosen"]) * (COLUMN + GAP)
        _fill(axes, left - 0.5, top, COLUMN + 1, max(ends) - top, "none", PICKED, 2.2)
    height = _legend(axes, max(ends) + 1)
    axes.set_xlim(-1, WIDE + 1)
    axes.set_ylim(height, -1)  # downwards, as text flows
    figure.set_size_inches(INCHES, (height + 1) * SIZE * 1.32 / 72)
    return figure


def _column(axes: Axes, left: float, y: float, example: dict[str, Any], kind: str) -> float:
    """One solution: its title, verdict and final score, and its steps; returns where it ends."""
    solution = example["solutions"][kind]
    parts = [] if solution is None else ["right" if solution["correct"] else "wrong"]
    if solution is not None and solution["score"] is not None:
        parts.append(f"{SCORER_TITLES[example['scorer']]} {solution['score']:.2f}")
    parts += ["PICKED"] if example["chosen"] == kind else []
    axes.text(left + 1, y + 1, TITLES[kind], fontsize=10.5, fontweight="bold", va="center", color=INK)
    axes.text(left + 1, y + 2.4, "   ".join(parts), fontsize=9.5, va="center", color=INK)
    y += 3.3
    for lines, fill, ink, note in _steps(example, kind):
        if note:
            axes.text(left + 1, y + 0.5, note, fontsize=SIZE, fontweight="bold", va="center", color=BAD)
            y += 1.1
        edge = (BAD, 1.8) if "[BAD]" in note else ("#cccccc", 0.7)
        y = _box(axes, left, y, COLUMN, lines, fill, *edge, ink)
    return y


def _steps(example: dict[str, Any], kind: str) -> Iterator[tuple[list[str], Any, str, str]]:
    """Of each step its lines, its fill, the colour of its text, and the note above it."""
    solution = example["solutions"][kind]
    if solution is None or not solution["steps"]:
        yield ["none" if solution is None else "(no steps)"], "#ffffff", PALE, ""
        return
    steps, scores = solution["steps"], solution["sorm"] or [None] * len(solution["steps"])
    kept = _common(example["solutions"]["draft"]["steps"], steps) if kind == "local" else 0
    for index, (step, score) in enumerate(zip(steps[:MOST_STEPS], scores, strict=False)):
        lines = _wrap(step, COLUMN - 7)
        shown = "" if score is None else f"{score:.2f}"
        lines = [f"{shown if at == 0 else '':<5}{line}" for at, line in enumerate(lines)]
        fill = "#ffffff" if score is None or index < kept else score_colour(score)
        yield lines, fill, PALE if index < kept else INK, _note(example, index) if kind == "draft" else ""
    if len(steps) > MOST_STEPS:
        yield [f"… {len(steps) - MOST_STEPS} more steps"], "#ffffff", PALE, ""


def _note(example: dict[str, Any], index: int) -> str:
    located, true = index == example["located_error"], index == example["true_error"]
    if located:
        return "[BAD]  located; oracle agrees" if true else "[BAD]  located here"
    return "oracle: first wrong step" if true else ""


def score_colour(score: float) -> tuple[float, float, float]:
    """From orange (0) over near-white (0.5) to blue (1), all light enough for black text."""
    near, share = (LOW, 1 - 2 * score) if score < 0.5 else (HIGH, 2 * score - 1)
    return tuple(middle + share * (end - middle) for middle, end in zip(MIDDLE, near, strict=True))


def _legend(axes: Axes, y: float) -> float:
    look = {"fontsize": SIZE, "va": "center", "color": PALE}
    axes.text(0, y, "number before a step: SORM score", **look)
    axes.text(32, y, "0", **look)
    for share in range(11):
        _fill(axes, 33.5 + 1.6 * share, y - 0.4, 1.6, 0.8, score_colour(share / 10), "none")
    axes.text(52, y, "1     grey text: kept from the draft", **look)
    return y + 1.5


def _box(
    axes: Axes, x: float, y: float, width: float, lines: list[str], fill: Any,
    edge: str = "none", border: float = 0.7, ink: str = INK,
) -> float:  # fmt: skip
    """Lines on a filled box; returns where the next one may begin."""
    _fill(axes, x, y, width, len(lines) + 0.8, fill, edge, border)
    for at, line in enumerate(lines):
        look = {"fontsize": SIZE, "family": "DejaVu Sans Mono", "va": "center_baseline", "color": ink}
        axes.text(x + 1, y + at + 0.9, line, **look)
    return y + len(lines) + 1.2


def _fill(
    axes: Axes, x: float, y: float, width: float, height: float, fill: Any, edge: str, border: float = 0.7
) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x, y), width, height, facecolor=fill, edgecolor=edge, linewidth=border))


def _wrap(text: str, characters: int) -> list[str]:
    lines = [part for line in visible(text, LONGEST).split("\n") for part in textwrap.wrap(line, characters) or [""]]
    return lines if len(lines) <= MOST_LINES else [*lines[: MOST_LINES - 1], "…"]


def _common(a: list[str], b: list[str]) -> int:
    """How many steps the two begin with in common."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
