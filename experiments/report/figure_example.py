"""One solved problem as a picture: the draft step by step in the colours of its SORM scores, the located error, both
refinements beside it, and what the reranker made of the three. Lengths are in inches.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.report.example import LONGEST, example_summary
from stages.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, MARGIN, GAP = 8.0, 0.15, 0.12
COLUMN = (WIDTH - 2 * MARGIN - 2 * GAP) / 3
SIZE = 8.5  # points, in DejaVu Sans Mono: a character is 0.602 of that wide, up to 0.63 when put on whole pixels
LINE = SIZE * 1.32 / 72
COLUMN_CHARS = int((COLUMN - 0.16) / (SIZE * 0.63 / 72))
WIDE_CHARS = int((WIDTH - 2 * MARGIN - 0.2) / (SIZE * 0.63 / 72))
MOST_STEPS, MOST_LINES = 14, 8
TITLES = {"draft": "draft", "global": "global refinement", "local": "local refinement"}
LOW, MIDDLE, HIGH = (0.90, 0.56, 0.34), (0.97, 0.97, 0.97), (0.45, 0.70, 0.90)
BAD, INK, PALE = "#B03A00", "#1a1a1a", "#6b6b6b"


@dataclass(frozen=True)
class Box:
    """One step as drawn: its lines, its fill, and an optional note above it (`[BAD]`) in the colour of an error."""

    lines: list[str]
    fill: tuple[float, float, float] | str
    ink: str = INK
    note: str = ""

    @property
    def height(self) -> float:
        return len(self.lines) * LINE + 0.14 + (LINE + 0.03 if self.note else 0)


def draw_example(report: dict[str, Any]) -> Figure | None:
    """The picture of `report["example"]`, as high as its texts need; None without an example."""
    from matplotlib.figure import Figure

    example = report["example"]
    if example is None:
        return None
    question = [*_wrap(example["question"], WIDE_CHARS), *_wrap(f"answer: {example['answer']}", WIDE_CHARS)]
    summary = _wrap(example_summary(example).replace("`", ""), WIDE_CHARS)
    columns = {kind: _boxes(example, kind) for kind in TITLES}
    tallest = max(sum(box.height + 0.06 for box in boxes) for boxes in columns.values())
    head = (len(question) + len(summary)) * LINE + 0.55
    height = head + 0.62 + tallest + 0.35
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(height, 0)  # downwards, as text flows
    _fill(axes, MARGIN, 0.12, WIDTH - 2 * MARGIN, len(question) * LINE + 0.14, "#f2f2f2")
    _write(axes, MARGIN + 0.1, 0.19, question, INK)
    _write(axes, MARGIN + 0.1, 0.42 + len(question) * LINE, summary, INK)
    for place, (kind, boxes) in enumerate(columns.items()):
        _column(axes, MARGIN + place * (COLUMN + GAP), head, tallest, example, kind, boxes)
    _legend(axes, height - 0.24, example)
    return figure


def _boxes(example: dict[str, Any], kind: str) -> list[Box]:
    solution = example["solutions"][kind]
    if solution is None:
        return [Box(["none"], "#ffffff", PALE)]
    draft, boxes = example["solutions"]["draft"]["steps"], []
    scores = solution["sorm"] or [None] * len(solution["steps"])
    kept = _common(draft, solution["steps"]) if kind == "local" else 0
    for index, (step, score) in enumerate(zip(solution["steps"], scores, strict=True)):
        if index == MOST_STEPS:
            boxes.append(Box([f"… {len(solution['steps']) - index} more steps"], "#ffffff", PALE))
            break
        shown = "" if score is None else f"{score:.2f}"
        lines = _wrap(step, COLUMN_CHARS - 5)
        lines = [f"{shown if at == 0 else '':<5}{line}" for at, line in enumerate(lines)]
        fill = "#ffffff" if score is None or index < kept else score_colour(score)
        note = _note(example, index) if kind == "draft" else ""
        boxes.append(Box(lines, fill, PALE if index < kept else INK, note))
    return boxes or [Box(["(no steps)"], "#ffffff", PALE)]


def _note(example: dict[str, Any], index: int) -> str:
    located, true = index == example["located_error"], index == example["true_error"]
    if located and true:
        return "[BAD]  located; oracle agrees"
    if located:
        return "[BAD]  located here"
    return "oracle: first wrong step" if true else ""


def score_colour(score: float) -> tuple[float, float, float]:
    """From orange (0) over near-white (0.5) to blue (1), all light enough for black text."""
    near, share = (LOW, 1 - 2 * score) if score < 0.5 else (HIGH, 2 * score - 1)
    return tuple(middle + share * (end - middle) for middle, end in zip(MIDDLE, near, strict=True))


def _column(
    axes: Axes, left: float, top: float, tall: float, example: dict[str, Any], kind: str, boxes: list[Box]
) -> None:
    """One solution: its title, verdict and final score, its steps, and a frame if it was picked."""
    solution, chosen = example["solutions"][kind], example["chosen"] == kind
    verdict = "" if solution is None else ("right" if solution["correct"] else "wrong")
    axes.text(left + 0.05, top + 0.1, TITLES[kind], fontsize=10.5, fontweight="bold", va="center", color=INK)
    parts = [verdict] if verdict else []
    if solution is not None and solution["score"] is not None:
        parts.append(f"{example['scorer'].upper()} {solution['score']:.2f}")
    if chosen:
        parts.append("PICKED")
    axes.text(left + 0.05, top + 0.32, "   ".join(parts), fontsize=9.5, va="center", color=INK)
    if chosen:
        _fill(axes, left - 0.03, top - 0.06, COLUMN + 0.06, tall + 0.6, "none", edge="#0072B2", line=2.2)
    y = top + 0.47
    for box in boxes:
        if box.note:
            axes.text(left + 0.07, y + LINE / 2, box.note, fontsize=SIZE, fontweight="bold", va="center", color=BAD)
        offset = LINE + 0.03 if box.note else 0
        edge = BAD if "[BAD]" in box.note else "#cccccc"
        _fill(axes, left, y + offset, COLUMN, box.height - offset, box.fill, edge, 1.8 if "[BAD]" in box.note else 0.7)
        _write(axes, left + 0.08, y + offset + 0.07, box.lines, box.ink)
        y += box.height + 0.06


def _legend(axes: Axes, y: float, example: dict[str, Any]) -> None:
    words = "number before a step: SORM score"
    axes.text(MARGIN, y, words, fontsize=8.5, va="center", color=PALE)
    left = MARGIN + 2.35
    for share in range(11):
        _fill(axes, left + share * 0.12, y - 0.07, 0.12, 0.14, score_colour(share / 10), "none")
    axes.text(left - 0.05, y, "0", fontsize=8.5, va="center", ha="right", color=PALE)
    axes.text(left + 1.38, y, "1     grey text: kept from the draft", fontsize=8.5, va="center", color=PALE)


def _fill(
    axes: Axes, x: float, y: float, width: float, height: float, fill: Any, edge: str = "none", line: float = 0.7
) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x, y), width, height, facecolor=fill, edgecolor=edge, linewidth=line))


def _write(axes: Axes, x: float, y: float, lines: list[str], ink: str) -> None:
    look = {"fontsize": SIZE, "family": "DejaVu Sans Mono", "va": "center_baseline", "color": ink}
    for at, line in enumerate(lines):
        axes.text(x, y + (at + 0.5) * LINE, line, **look)


def _wrap(text: str, characters: int) -> list[str]:
    lines = [part for line in visible(text, LONGEST).split("\n") for part in textwrap.wrap(line, characters) or [""]]
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], "…"]
    return lines or [""]


def _common(a: list[str], b: list[str]) -> int:
    """How many steps the two begin with in common."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
