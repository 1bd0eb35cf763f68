"""A comparison of several arms in words: Markdown, a page, and the tables in the terminal, all from the dict of numbers
that `compare` of `experiments/compare.py` made.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from experiments.report.markdown import section_lines
from experiments.report.page import fill_page
from experiments.report.parts import Bullets, Figure, Link, Part, Section, Table
from experiments.report.plots import Axes, Rows, difference_rows, share_rows, style, token_axes
from experiments.report.words import FEWEST, SCORER_TITLES, interval, percent, versus, with_interval
from refine.selection import SELECTORS, is_control
from stages.markdown import plain
from stages.text import VALUE, one_line

if TYPE_CHECKING:
    from rich.console import Console

Found = dict[str, Any]

JUDGES = {  # the measures of a reward model, as a table heads them
    "step_accuracy": "steps",
    "step_auroc": "steps, AUROC",
    "first_error_accuracy": "first error",
    "first_error_f1": "first error, F1",
    "final_accuracy": "final answers",
    "auroc": "final answers, AUROC",
}
SHOWN = 300  # problems in the table of disagreements
TILES = 8  # arms at the head of the page
FEW_ARMS = 2  # up to so many arms, the plot of tokens shows all of their selectors
CHANCE = 0.05
HOW = (
    "All arms are measured on the same problems, and every resample draws the same problems for all of them.",
    "An arm of several seeds has the mean over its runs, and its interval is over problems and trainings: both are "
    "resampled, the same problems for all runs, and the interval is wider where the runs are few "
    "(`rewards.intervals.over_trainings`). The interval of a single run holds the luck of the problems alone.",
    "Differences are taken run by run, between runs of one seed. Their p is McNemar's exact one for a single pair of "
    "runs; for several it is Student's, with the variance and the degrees of freedom of the interval.",
    "Holm p is corrected for all differences of the table. The intervals are not: each is made for its own difference.",
    "Tokens are means over problems and runs: all that were sampled before the choice, and all that policies and "
    "reward models read for it. Training is not in them.",
)


def verdict(found: Found) -> str:
    """The first sentence: its finding stands between two pairs of asterisks."""
    chosen = _words(found)
    if found["problems"] < FEWEST:
        return f"**Nothing is found**: {found['problems']} problems are too few to compare on."
    if len(found["arms"]) == 1:
        own = found["arms"][0]["selectors"][found["selector"]]["estimate"]
        told = f"**{chosen} is right on {percent(own)}** of the problems (95% interval {interval(own)})"
        first = next(((_named(found, one), one["estimate"]) for one in found["differences"]), None)
        return f"{told}, {versus(first[1], first[0])}." if first else f"{told}."
    reference, others = found["reference"], len(found["differences"])
    clear = [one for one in found["differences"] if one["holm_p"] < CHANCE]
    if not clear:
        which = "The other arm does not differ" if others == 1 else f"None of the {others} other arms differs"
        return f"**{which} clearly from {reference}**; all choose by: {chosen}."
    verb = "differs" if len(clear) == 1 else "differ"
    points = "; ".join(f"{_named(found, one)} {_points(one)} points ({_span(one)})" for one in clear)
    return f"**{len(clear)} of {others} other arms {verb} from {reference}**; all choose by: {chosen}. {points}."


def _words(found: Found) -> str:
    own = {one["selectors"][found["selector"]]["words"] for one in found["arms"]}
    return own.pop() if len(own) == 1 else found["selector"].replace("_", " ")


def _named(found: Found, difference: Mapping[str, Any]) -> str:
    """What a difference is of: the arm, or the other selector of a single arm."""
    if len(found["arms"]) == 1:
        return found["arms"][0]["selectors"][difference["second"][1]]["words"]
    return difference["first"][0]


def _points(difference: Mapping[str, Any]) -> str:
    return f"{100 * difference['estimate']['value']:+.1f}"


def _span(difference: Mapping[str, Any]) -> str:
    return interval(difference["estimate"], " to ", "+.1f")


def _chance(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _spent(tokens: float | None) -> str:
    return "–" if tokens is None else f"{tokens:,.0f}"


def notes(found: Found) -> list[str]:
    """How many problems, runs and seeds, and what all runs share."""
    seeds = sorted({seed for arm in found["arms"] for seed in arm["runs"].values()})
    runs = sum(len(arm["runs"]) for arm in found["arms"])
    lines = [
        f"{found['problems']:,} test problems; {_count(runs, 'run')} in {_count(len(found['arms']), 'arm')}, "
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}."
    ]
    if found["shared"] and runs > 1:
        lines.append(f"All runs share {', '.join(found['shared'])}: the luck of those is in no interval.")
    if found["missing"]:
        lines.append(f"Left out, since without a result: {_count(len(found['missing']), 'arm')} of the sweep.")
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"


def compared_sections(found: Found) -> list[Section]:
    """Everything under the opening but the problems on which arms differ, in order."""
    sections = [
        Section("missing", "Arms without a result", _missing(found)),
        Section("arms", "Accuracy by arm", [_arm_table(found), Figure("arms", _CAPTIONS["arms"])]),
        Section("differences", "Differences on the same problems", _differences(found)),
        Section("tokens", "Accuracy against tokens", _tokens(found)),
        Section("selectors", "Every selector of every arm", [_selector_table(found)]),
        Section("judges", "The reward models", _judges(found)),
        Section("how", "How this is compared", [Bullets(list(HOW))]),
    ]
    return [section for section in sections if section.parts]


_CAPTIONS = {
    "arms": "Accuracy by arm, with 95% intervals.",
    "differences": "Differences in points on the same problems, with 95% intervals.",
    "tokens": "Accuracy against all tokens of a problem, sampled and read, with 95% intervals.",
}


def _missing(found: Found) -> list[Part]:
    rows = [[one_line(one["name"], VALUE), one_line(one["why"])] for one in found["missing"]]
    return [Table("Arms without a result", ["arm", "why"], rows, texts=2)] if rows else []


def _arm_table(found: Found) -> Table:
    rows = []
    for arm in found["arms"]:
        own = arm["selectors"][found["selector"]]
        each = " ".join(f"{100 * value:.1f}" for value in own["each"])
        seeds = " ".join(map(str, arm["runs"].values()))
        cells = [percent(own["estimate"]), interval(own["estimate"]), _spent(own["tokens"])]
        rows.append([arm["name"], seeds, *cells, each])
    header = ["arm", "seeds", "right", "95% interval", "tokens", "each run"]
    return Table(f"Right by: {_words(found)}", header, rows)


def difference_table(found: Found) -> Table:
    """The differences, with p and its correction."""
    rows = []
    for one in found["differences"]:
        chances = [_chance(one["p"]), _chance(one["holm_p"])]
        rows.append([_named(found, one), _points(one), _span(one), *chances, str(len(one["seeds"]))])
    single = len(found["arms"]) == 1
    caption = f"{_words(found)}, minus each other" if single else f"Each arm minus {found['reference']}, points"
    header = ["other selector" if single else "arm", "difference", "95% interval", "p", "Holm p", "pairs"]
    return Table(caption, header, rows)


def _differences(found: Found) -> list[Part]:
    if not found["differences"]:
        return []
    return [difference_table(found), Figure("differences", _CAPTIONS["differences"])]


def _selector_table(found: Found) -> Table:
    rows = [
        [arm["name"], own["words"], percent(own["estimate"]), interval(own["estimate"]), _spent(own["tokens"])]
        for arm in found["arms"]
        for own in arm["selectors"].values()
    ]
    return Table("Every selector", ["arm", "selector", "right", "95% interval", "tokens"], rows, texts=2)


def judge_table(found: Found) -> Table | None:
    """How the reward models of every arm judge; None where none did."""
    rows = [
        [arm["name"], SCORER_TITLES[scorer], *(_judged(own[key]) for key in JUDGES)]
        for arm in found["arms"]
        for scorer, own in arm["judges"].items()
    ]
    return Table("How the reward models judge", ["arm", "model", *JUDGES.values()], rows, texts=2) if rows else None


def _judged(one: Found | None) -> str:
    return percent(one) if one is None or one["low"] is None else with_interval(one)


def _judges(found: Found) -> list[Part]:
    table = judge_table(found)
    text = (
        "Steps, first errors and final answers: judged rightly, at the model's own thresholds. AUROC needs none. AUROC "
        "and F1 of several runs are the mean of theirs, without an interval; those of each run are in its own page."
    )
    return [table, text] if table else []


def _tokens(found: Found) -> list[Part]:
    points = sorted(token_points(found), key=lambda point: point[2])
    rows = [[words, _spent(tokens), percent(own), interval(own)] for words, own, tokens, _ in points]
    table = Table("By tokens a problem", ["selector", "tokens", "right", "95% interval"], rows)
    return [table, Figure("tokens", _CAPTIONS["tokens"])] if any(tokens for _, _, tokens, _ in points) else []


def compared_plots(found: Found) -> dict[str, Sequence[Rows | Axes]]:
    """The plots under each name of a figure."""
    arms = [
        (arm["name"], arm["selectors"][found["selector"]]["estimate"], _arm_style(found, arm["name"]), None)
        for arm in found["arms"]
    ]
    rows = [(_named(found, one), one["estimate"], "other", None) for one in found["differences"]]
    return {
        "arms": share_rows("Accuracy by arm, % of the problems", arms),
        "differences": difference_rows("Differences, points", rows),
        "tokens": token_axes(token_points(found)),
    }


def _arm_style(found: Found, name: str) -> str:
    return "control" if name == found["reference"] and len(found["arms"]) > 1 else "main"


def token_points(found: Found) -> list[tuple[str, Found, float, str]]:
    """(name, estimate, tokens, style) of each mark: what all arms have alike, as the draft often is, is one mark. Of
    more than two arms the selectors without refinements are shown, and the one by which they are compared."""
    points: dict[tuple[str, tuple[float, ...], float], list[tuple[str, str, Found]]] = {}
    for arm in found["arms"]:
        for name, own in arm["selectors"].items():
            plain_one = name not in SELECTORS or is_control(name)
            if own["tokens"] is None or not (plain_one or name == found["selector"] or len(found["arms"]) <= FEW_ARMS):
                continue
            points.setdefault((name, tuple(own["each"]), own["tokens"]), []).append((arm["name"], name, own))
    marks = []
    for (_, _, tokens), same in points.items():
        arm, name, own = same[0]
        alike = len(same) == len(found["arms"])
        words = own["words"] if alike else f"{own['words']} ({', '.join(other for other, *_ in same)})"
        family = _arm_style(found, arm) if name == found["selector"] and not alike else style(name)
        marks.append((words, own["estimate"], tokens, family))
    return marks


def render_compared(found: Found) -> str:
    """The comparison as Markdown."""
    told = plain(one_line(verdict(found))).replace("\\*\\*", "**")
    blocks = [f"# {plain(one_line(found['title'], VALUE))}", " ".join([told, *map(plain, notes(found))])]
    for section in compared_sections(found):
        blocks += section_lines(section, [])
    return "\n\n".join(blocks) + "\n"


def render_compared_page(found: Found, folder: Path) -> str:
    """The comparison as a page that will lie in `folder`: from there it leads to the pages of the runs."""
    sections = compared_sections(found)
    if found["disagreements"] and len(found["arms"]) > 1:
        parts = _problems(found, folder)
        sections.insert(-1, Section("problems", "Problems on which arms differ", parts))
    own = ((arm["name"], arm["selectors"][found["selector"]]["estimate"]) for arm in found["arms"])
    return fill_page(
        title=found["title"],
        told=one_line(verdict(found)),
        opening=notes(found),
        tiles=[(name, percent(one), interval(one)) for name, one in own][:TILES],
        sections=sections,
        plots=compared_plots(found),
    )


def _problems(found: Found, folder: Path) -> list[Part]:
    """The problems on which arms differ; each cell leads to the problem in the page of the arm's first run."""
    pages = [_page_of(next(iter(arm["runs"])), folder) for arm in found["arms"]]
    rows = []
    for name, shares in list(found["disagreements"].items())[:SHOWN]:
        problem = name.rpartition(" ")[0]  # without the hash of its question
        cells = []
        for arm, share, page in zip(found["arms"], shares, pages, strict=True):
            runs = len(arm["runs"])
            words = ("right" if share else "wrong") if runs == 1 else f"{round(share * runs)} of {runs}"
            cells.append(Link(words, f"{page}#{urlencode({'problem': problem})}") if page else words)
        rows.append([one_line(problem, VALUE), *cells])
    header = ["problem", *(arm["name"] for arm in found["arms"])]
    total = len(found["disagreements"])
    first = f" The first {SHOWN} are shown." if total > SHOWN else ""
    text = (
        f"On {total:,} of {found['problems']:,} problems the arms are not equally often right.{first} A cell says how "
        "many of an arm's runs are right, and leads to the problem in the page of its first run."
    )
    return [text, Table("Problems on which arms differ", header, rows)]


def _page_of(run: str, folder: Path) -> str | None:
    page = Path(run) / "report.html"
    return Path(os.path.relpath(page.resolve(), folder.resolve())).as_posix() if page.is_file() else None


def print_compared(found: Found, console: Console | None = None) -> None:
    """Print arms, differences and what is missing, readable at 80 columns."""
    from rich.console import Console

    console = console or Console(highlight=False, markup=False)
    arms = _arm_table(found)
    _print_table(console, arms.caption, arms.header[:5], [row[:5] for row in arms.rows])
    if found["differences"]:
        table = difference_table(found)
        _print_table(console, table.caption, table.header[:5], [row[:5] for row in table.rows])
    if table := judge_table(found):
        shown = [0, 1, *(at for at, name in enumerate(table.header) if name in ("steps", "final answers"))]
        rows = [[row[at] for at in shown] for row in table.rows]
        _print_table(console, table.caption, [table.header[at] for at in shown], rows, words=1)
    if found["missing"]:
        (table,) = _missing(found)
        _print_table(console, table.caption, table.header, table.rows, words=2)
    console.print(one_line(verdict(found)).replace("**", ""))
    console.print("\n".join(notes(found)))


def _print_table(console: Console, title: str, header: list[str], rows: list[list[str]], words: int = 1) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(title=Text(one_line(title)), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for at, name in enumerate(header):
        grid.add_column(name, justify="left" if at < words else "right", overflow="fold", no_wrap=at >= words)
    for row in rows:
        grid.add_row(*(Text(one_line(cell)) for cell in row))
    console.print(grid)
