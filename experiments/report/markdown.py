"""The report in words: report.md, report.json and the main table in the terminal, all from the dict of numbers that
`refine.report.build.build_report` made. The same numbers give the same bytes. Pictures are in
`experiments/report/figures.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.report.example import example_lines
from experiments.report.page import render_again, render_page
from experiments.report.parts import Bullets, Figure, Part, Section, Table
from experiments.report.sections import accuracy_rows, report_sections
from experiments.report.words import first_sentence, opening, selector_names, versus
from stages.files import read_json, write_json
from stages.markdown import plain, table
from stages.text import VALUE, one_line

if TYPE_CHECKING:
    from rich.console import Console

OUTCOMES = "outcomes.parquet"  # beside report.json, from which claims over several runs are made


def write_report(folder: Path, report: dict[str, Any], examples: Sequence[dict[str, Any]]) -> None:
    """Write report.md, report.json, figures/*.png and report.html, in which all `examples` can be looked through."""
    from experiments.report.figures import draw_figures

    _write(folder, report, draw_figures(folder / "figures", report), render_page(report, examples))


def copy_report(source: Path, folder: Path, reused: dict[str, bool]) -> None:
    """Put the report of an artifact and its outcomes into the folder of a run, and which stages it found."""
    report = read_json(source / "report.json")
    for name, stage in report["stages"].items():
        stage["reused"] = reused.get(name, True)  # what this run did not make was given
    shutil.rmtree(folder / "figures", ignore_errors=True)  # of a run that was overwritten
    shutil.copytree(source / "figures", folder / "figures")
    shutil.copy(source / OUTCOMES, folder)
    page = render_again((source / "report.html").read_text(encoding="utf-8"), report)
    _write(folder, report, [path.stem for path in (source / "figures").glob("*.png")], page)


def _write(folder: Path, report: dict[str, Any], drawn: list[str], page: str) -> None:
    write_json(folder / "report.json", report)
    for name, text in (("report.md", render_markdown(report, drawn)), ("report.html", page)):
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def render_markdown(report: dict[str, Any], figures: list[str]) -> str:
    """The whole report as Markdown; `figures` names the pictures that lie in figures/."""
    blocks = [f"# {plain(one_line(report['title'], VALUE))}"]
    blocks.append(" ".join([first_sentence(report), *map(plain, opening(report))]))
    for section in report_sections(report):
        above = example_lines(report["example"]) if section.name == "example" else []
        blocks += section_lines(section, figures, above)
    return "\n\n".join(blocks) + "\n"


def section_lines(section: Section, figures: list[str], above: Sequence[str] = ()) -> list[str]:
    """The blocks of a section as Markdown; `above` stands under its title."""
    return [f"## {section.title}", *above, *(block for part in section.parts for block in _part(part, figures))]


def _part(part: Part, figures: list[str]) -> list[str]:
    match part:
        case str():
            return [plain(part)]
        case Table():
            return [table([plain(cell) for cell in part.header], [[plain(cell) for cell in row] for row in part.rows])]
        case Bullets():
            return ["\n".join(f"- {plain(line)}" for line in part.lines)]
        case Figure() if part.name in figures:
            return [f"![{part.caption}](figures/{part.name}.png)", f"*{part.caption}*"]
    return []


def print_main_table(report: dict[str, Any], console: Console | None = None) -> None:
    """Print accuracy by selector, readable at 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    caption = f"{report['problems']:,} problems; tokens sampled, mean a problem; paper: 13B on GSM8K"
    rich_table = Table(title=Text(one_line(report["title"])), box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    rich_table.title_justify, rich_table.caption = "left", caption
    for header in ("selector", "right", "95%", "tokens", "paper"):
        rich_table.add_column(header, justify="left" if header == "selector" else "right", no_wrap=header != "selector")
    for row in accuracy_rows(report):
        rich_table.add_row(*row, style="bold" if row[0] == selector_names(report)["reranked"] else None)
    console.print(rich_table)
    console.print(Padding(first_sentence(report).replace("**", ""), (0, 2)), highlight=False)
    for name in ("reranked_minus_draft", "reranked_minus_best_of_n"):
        other = "the draft" if name.endswith("draft") else f"best of {report['samples']} samples"
        if report["difference"][name] is not None:
            sentence = f"reranked is {versus(report['difference'][name], other)}"
            console.print(Padding(sentence, (0, 2)), highlight=False)
