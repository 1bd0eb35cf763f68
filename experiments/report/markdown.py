"""The report in words: report.md, report.json and the main table in the terminal, all from the dict of numbers that
`refine.report.build.build_report` made. The same numbers give the same bytes. Pictures are in
`experiments/report/figures.py`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.report.example import example_lines
from experiments.report.words import (
    ERROR_NAMES,
    FIXED_NAMES,
    JUDGE_MEASURES,
    SCORER_NAMES,
    WHEN_NAMES,
    WHERE_NAMES,
    first_sentence,
    interval,
    limits,
    opening,
    paper_percent,
    percent,
    plain,
    selector_names,
    table,
    versus,
)
from rewards.metrics import show_threshold
from stages.files import read_json, write_json
from stages.text import one_line

if TYPE_CHECKING:
    from rich.console import Console

OUTCOMES = "outcomes.parquet"  # beside report.json, from which claims over several runs are made
CAPTIONS = {
    "accuracy": "Accuracy by selector with 95% intervals; diamonds are the paper's figures.",
    "step_accuracy": "Accuracy on intermediate steps by their position, ORM and SORM, with 95% intervals.",
    "reliability": "How often solutions and steps are right, by the probability that each model gave them.",
    "example": "One problem: its draft with SORM scores, the located error, both refinements and the choice.",
}


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write report.md, report.json and figures/*.png into `folder`."""
    from experiments.report.figures import draw_figures

    _write(folder, report, draw_figures(folder / "figures", report))


def copy_report(source: Path, folder: Path, reused: dict[str, bool]) -> None:
    """Put the report of an artifact and its outcomes into the folder of a run, and which stages it found."""
    report = read_json(source / "report.json")
    for name, stage in report["stages"].items():
        stage["reused"] = reused.get(name, True)  # what this run did not make was given
    shutil.rmtree(folder / "figures", ignore_errors=True)  # of a run that was overwritten
    shutil.copytree(source / "figures", folder / "figures")
    shutil.copy(source / OUTCOMES, folder)
    _write(folder, report, [path.stem for path in (source / "figures").glob("*.png")])


def _write(folder: Path, report: dict[str, Any], drawn: list[str]) -> None:
    write_json(folder / "report.json", report)
    (folder / "report.md").write_text(render_markdown(report, drawn), encoding="utf-8", newline="\n")


def render_markdown(report: dict[str, Any], figures: list[str]) -> str:
    """The whole report as Markdown; `figures` names the pictures that lie in figures/."""
    blocks = [f"# {plain(report['title'])}", opening(report)]
    header = ["selector", "accuracy", "95% interval", "sampled", "read", "paper, Llama-2 13B"]
    blocks += ["## Accuracy by selector", table(header, _accuracy_rows(report, read=True)), _accuracy_notes(report)]
    blocks += [*_figure("accuracy", figures), "## Differences on the same problems", _difference_table(report)]
    blocks += [_error_table(report)]
    blocks += ["## What the refiners mend and break", _repair_table(report), _where_table(report)]
    blocks += [_when_table(report)]
    blocks += ["## The reward models", _judge_table(report), _judge_notes(report)]
    blocks += [*_figure("step_accuracy", figures), _positions(report), *_figure("reliability", figures)]
    blocks += ["## One example", *example_lines(report["example"]), *_figure("example", figures)]
    blocks += ["## What it cost", _stage_table(report)]
    blocks += ["## What these numbers cannot say", "\n".join(f"- {line}" for line in limits(report))]
    return "\n\n".join(block for block in blocks if block) + "\n"


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
    for row in _accuracy_rows(report):
        rich_table.add_row(*row, style="bold" if row[0] == selector_names(report)["reranked"] else None)
    console.print(rich_table)
    console.print(Padding(first_sentence(report).replace("**", ""), (0, 2)), highlight=False)
    for name in ("reranked_minus_draft", "reranked_minus_best_of_n"):
        other = "the draft" if name.endswith("draft") else f"best of {report['samples']} samples"
        if report["difference"][name] is not None:
            sentence = f"reranked is {versus(report['difference'][name], other)}"
            console.print(Padding(sentence, (0, 2)), highlight=False)


def _accuracy_rows(report: dict[str, Any], read: bool = False) -> list[list[str]]:
    rows = []
    for name, words in selector_names(report).items():
        found, tokens = report["accuracy"][name], [report["tokens"][name], report["tokens_read"][name]]
        counts = ["–" if count is None else f"{count:,.0f}" for count in tokens[: 1 + read]]
        cells = [percent(found), interval(found), *counts]
        rows.append([words, *cells, paper_percent(report["paper"]["accuracy"].get(name))])
    return rows


def _accuracy_notes(report: dict[str, Any]) -> str:
    where, scorer = WHERE_NAMES[report["headline"]["where"]], SCORER_NAMES[report["headline"]["scorer"]]
    return (
        f"{report['problems']:,} problems. Refined are {WHEN_NAMES[report['headline']['when']]}, also by the controls. "
        f"The local refiner here is {where}; {scorer} "
        "chooses wherever a choice is made. Tokens are means over problems: those that had to be sampled before the "
        "choice, and those that policies and reward models read for it (questions, drafts, solutions; what could be "
        "shared is counted each time). At equal tokens: sampled and read together. The paper's figures (GLoRe, arXiv "
        "2402.10963) are Llama-2 13B on GSM8K, for orientation: another student, other problems. (2nd): from "
        "secondary summaries of the paper, approximate."
    )


def _difference_table(report: dict[str, Any]) -> str:
    names = selector_names(report)
    rows = []
    for key, found in report["difference"].items():
        a, _, b = key.partition("_minus_")
        if found is None or not {a, b} <= names.keys():
            continue
        chance = "< 0.001" if found["mcnemar_p"] < 0.001 else f"{found['mcnemar_p']:.3f}"
        rows.append([names[a], names[b], f"{100 * found['value']:+.1f}", interval(found, " to ", "+.1f"), chance])
    return table(["first", "second", "first − second, points", "95% interval", "McNemar p"], rows)


def _error_table(report: dict[str, Any]) -> str:
    found = {words: report["errors"][name] for name, words in ERROR_NAMES.items()}
    if None in found.values():
        return ""
    n = next(iter(found.values()))["n"]
    rows = [[words, percent(one), interval(one)] for words, one in found.items()]
    title = f"## What is wrong with the drafts\n\nThe oracle names what goes wrong first in each of {n:,} wrong drafts."
    return f"{title}\n\n{table(['first error', 'wrong drafts', '95% interval'], rows)}"


def _repair_table(report: dict[str, Any]) -> str:
    rows = []
    for name, words in FIXED_NAMES.items():
        fixed, broken = report["fixed"][name], report["broken"].get(name)
        paper = paper_percent(report["paper"]["fixed"].get(name))
        rows.append([words, percent(fixed), interval(fixed), percent(broken), interval(broken), paper])
    header = ["refinement", "wrong drafts fixed", "95% interval", "right drafts broken", "95% interval", "paper, fixed"]
    wrong, right = (next((one["n"] for one in report[name].values() if one), 0) for name in ("fixed", "broken"))
    below = f"{wrong:,} drafts were wrong and {right:,} right. A dash: not applicable or not measured."
    return f"{table(header, rows)}\n\n{below}"


def _where_table(report: dict[str, Any]) -> str:
    rows = []
    for where, found in report["by_where"].items():
        scored = [report["ablation"].get(where, {}).get(s, {}).get("reranked") for s in ("orm", "sorm")]
        cells = [percent(found[name]) for name in ("located", "fixed", "fixed_either", "broken")]
        rows.append([WHERE_NAMES[where], *cells, *(_with_interval(score) for score in scored)])
    header = ["local refiner", "refined", "wrong fixed", "with global", "right broken"]
    return table([*header, "reranked by the ORM", "reranked by the SORM"], rows) if rows else ""


def _when_table(report: dict[str, Any]) -> str:
    """What the gates do, where there is another than always."""
    if not report["kept"]:
        return ""
    rows, where = [], report["headline"]["where"]
    for when, by_where in report["ablation_when"].items():
        kept, cells = report["kept"].get(when), by_where.get(where, {})
        shares = [percent(kept[name]) if kept else percent(None) for name in ("right", "wrong")]
        scored = [cells.get(scorer, {}).get("reranked") for scorer in ("orm", "sorm")]
        plain_ones = [cells.get("orm", {}).get(name) for name in ("global", "local", "control")]
        rows.append([WHEN_NAMES[when], *shares, *(_with_interval(found) for found in [*plain_ones, *scored])])
    header = ["refined are", "right drafts kept", "wrong kept", "global", "local", "control"]
    below = "A gate keeps the other drafts, and nothing is sampled for them. The control has the same gate."
    return f"{table([*header, 'reranked by the ORM', 'reranked by the SORM'], rows)}\n\n{below}"


def _with_interval(found: dict[str, Any] | None) -> str:
    return "–" if found is None else f"{percent(found)} ({interval(found)})"


def _judge_table(report: dict[str, Any]) -> str:
    rows = []
    for name, words in JUDGE_MEASURES.items():
        found = report[name]
        paper = report["paper"].get(name)
        papers = "–" if paper is None else " → ".join(paper_percent(paper[scorer]) for scorer in ("orm", "sorm"))
        rows.append([words, *(_with_interval(found[scorer]) for scorer in ("orm", "sorm")), papers])
    for name, words in (("brier", "Brier score (lower is better)"), ("ece", "calibration error (lower is better)")):
        found = [(report["calibration"][scorer] or {}).get(name) for scorer in ("orm", "sorm")]
        rows.append([words, *("–" if value is None else f"{value:.3f}" for value in found), "–"])
    return table(["on drafts and samples", "ORM", "SORM", "paper, 7B, ORM → SORM"], rows)


def _judge_notes(report: dict[str, Any]) -> str:
    lines = []
    if thresholds := report["thresholds"]:
        words = [
            f"{SCORER_NAMES[name]} {show_threshold(own['where'])} for the first error, "
            f"{show_threshold(own['when'])} for a whole solution"
            for name, own in thresholds.items()
        ]
        lines.append(f"Thresholds, chosen on validation problems when the models were trained: {'; '.join(words)}.")
    if report["steps_right"] is not None:
        share = report["steps_right"]
        lines.append(
            f"{percent(share)} of the {share['n']:,} intermediate steps are right: "
            "so much would a judge get who calls every step right."
        )
    label = report["label_accuracy"]
    if label is not None:
        paper = paper_percent(report["paper"]["label_accuracy"])
        lines.append(
            f"Of {label['n']:,} step labels {percent(label)} are right by the oracle "
            f"(95% interval {interval(label)}; the paper's hand check {paper})."
        )
    if strict := report["label_accuracy_strict"]:
        lines.append(
            "A needless step, true but past the answer or about somebody not needed, counts as wrong above, and so "
            f"does all that follows; for the labels it does not, as one can go back: where it does, {percent(strict)} "
            "of them are right."
        )
    return " ".join(lines)


def _positions(report: dict[str, Any]) -> str:
    by_place = {
        scorer: {row["position"]: row for row in report["step_accuracy_by_position"][scorer] or []}
        for scorer in ("orm", "sorm")
    }
    sizes = {place: row["n"] for rows in by_place.values() for place, row in rows.items()}
    rows = [
        [str(place), f"{sizes[place]:,}", *(_with_interval(found.get(place)) for found in by_place.values())]
        for place in sorted(sizes)
    ]
    return table(["step", "steps", "ORM", "SORM"], rows) if rows else ""


def _stage_table(report: dict[str, Any]) -> str:
    if not report["stages"]:
        return "No stages were recorded."
    how = {True: "reused", False: "made", None: ""}
    rows = [
        [plain(name), f"{stage['seconds']:,.1f}", f"{stage['tokens']:,}", how[stage.get("reused")]]
        for name, stage in report["stages"].items()
    ]
    seconds, tokens = (sum(stage[name] for stage in report["stages"].values()) for name in ("seconds", "tokens"))
    return table(["stage", "seconds", "tokens", ""], [*rows, ["all", f"{seconds:,.1f}", f"{tokens:,}", ""]])


def _figure(name: str, drawn: list[str]) -> list[str]:
    return [f"![{CAPTIONS[name]}](figures/{name}.png)", f"*{CAPTIONS[name]}*"] if name in drawn else []
