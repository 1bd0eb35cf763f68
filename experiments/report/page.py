"""The report as a page, report.html: everything of report.md, plots, and a browser of all problems. One file that asks
for nothing else; the same numbers give the same bytes. How it looks and what it does is in `templates/`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.report.browser import GROUPS, browser_json
from experiments.report.parts import Bullets, Figure, Link, Section, Table
from experiments.report.plots import Axes, Rows, page_plots
from experiments.report.sections import report_sections
from experiments.report.words import first_sentence, interval, opening, percent, selector_names
from stages.text import VALUE, one_line

_OPEN, _CLOSE = '<script type="application/json" id="data">', "</script>"


def render_page(report: dict[str, Any], examples: Sequence[dict[str, Any]]) -> str:
    """The page of what `build_report` and `describe_examples` found."""
    return _render(report, browser_json(examples))


def render_again(page: str, report: dict[str, Any]) -> str:
    """A page of other numbers with the examples of this one."""
    start = page.index(_OPEN) + len(_OPEN)
    return _render(report, page[start : page.index(_CLOSE, start)])


def _render(report: dict[str, Any], data: str) -> str:
    found = json.loads(data)
    counts = Counter(name for example in found["examples"] for name in example["groups"])
    return fill_page(
        title=report["title"],
        told=first_sentence(report),
        opening=opening(report),
        tiles=_tiles(report),
        sections=report_sections(report),
        plots=page_plots(report),
        browser={
            "groups": [(name, words, counts[name]) for name, words in GROUPS.items()],
            "cut": found["cut"],
            "data": data,
        },
    )


def fill_page(
    title: str,
    told: str,
    opening: Sequence[str],
    tiles: Sequence[tuple[str, str, str]],
    sections: Sequence[Section],
    plots: Mapping[str, Sequence[Rows | Axes]],
    browser: Mapping[str, Any] | None = None,
) -> str:
    """A page of these parts. `told` has its verdict between two pairs of asterisks; `plots` has the pictures by the
    names of figures; `browser` is what the section `example` shows, without which nothing of the page is a script."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    loader = PackageLoader("experiments.report")
    templates = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    templates.tests |= {"text": lambda part: isinstance(part, str), "rows": lambda plot: isinstance(plot, Rows)}
    templates.tests |= {
        kind.__name__.lower(): lambda part, kind=kind: isinstance(part, kind) for kind in (Table, Figure, Bullets, Link)
    }
    style, script = (loader.get_source(templates, name)[0] for name in ("page.css", "page.js"))
    _, verdict, rest = told.split("**")
    shown = {"groups": [], "cut": None} if browser is None else browser | {"data": Markup(browser["data"])}
    return (
        templates.get_template("page.html").render(
            title=one_line(title, VALUE),
            verdict=verdict,
            rest=rest,
            opening=opening,
            tiles=tiles,
            sections=sections,
            plots=plots,
            browser=browser is not None,
            style=Markup(style),
            script=Markup(script),
            style_hash=_hash(style),
            script_hash=_hash(script),
            **shown,
        )
        + "\n"
    )


def _tiles(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, accuracy and interval of draft, strongest control, reranking and the oracle."""
    names, shown = selector_names(report), dict.fromkeys(["draft", report["strongest_control"], "reranked", "oracle"])
    found = {name: report["accuracy"][name] for name in shown if name is not None}
    return [(names[name], percent(one), interval(one)) for name, one in found.items() if one is not None]


def _hash(text: str) -> str:
    """What the page's own policy lets a browser run, and nothing else."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
