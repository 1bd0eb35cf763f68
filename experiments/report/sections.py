"""The sections of a report as data: sentences, tables and the names of figures, made from the dict of numbers that
`refine.report.build.build_report` made. `markdown.py` and `page.py` write them down.
"""

from __future__ import annotations

from typing import Any

from experiments.report.parts import Bullets, Figure, Part, Section, Table
from experiments.report.samples import samples_parts
from experiments.report.words import (
    AGGREGATE_NAMES,
    ERROR_NAMES,
    FIXED_NAMES,
    JUDGE_MEASURES,
    SCORER_NAMES,
    SCORER_TITLES,
    WHEN_NAMES,
    WHERE_NAMES,
    interval,
    limits,
    paper_percent,
    percent,
    selector_names,
    with_interval,
)
from rewards.evaluate import IMPLICIT, SCORERS
from rewards.labelled import MEASURES as LABELLED
from rewards.metrics import show_threshold
from stages.text import VALUE, one_line


def _scorers(report: dict[str, Any]) -> list[str]:
    return [*SCORERS, IMPLICIT] if IMPLICIT in report["thresholds"] else [*SCORERS]


def report_sections(report: dict[str, Any]) -> list[Section]:
    """Everything under the opening, in order; parts that the numbers do not allow are left out."""
    sections = [
        Section("accuracy", "Accuracy by selector", _accuracy(report)),
        Section("samples", "More samples, and votes", samples_parts(report)),
        Section("differences", "Differences on the same problems", _differences(report)),
        Section("errors", "What is wrong with the drafts", _errors(report)),
        Section("repairs", "What the refiners mend and break", [*_repairs(report), *_wheres(report), *_gates(report)]),
        Section("judges", "The reward models", _judges(report)),
        Section("example", "One example", [Figure("example", _CAPTIONS["example"])]),
        Section("cost", "What it cost", _stages(report)),
        Section("limits", "What these numbers cannot say", [Bullets([one_line(line) for line in limits(report)])]),
    ]
    return [section for section in sections if section.parts]


_CAPTIONS = {
    "accuracy": "Accuracy by selector with 95% intervals; diamonds are the paper's figures.",
    "tokens": "Accuracy against all tokens of a problem, sampled and read, with 95% intervals.",
    "differences": "Differences in points on the same problems, with 95% intervals.",
    "step_accuracy": "Accuracy on intermediate steps by their position and by reward model, with 95% intervals.",
    "reliability": "How often solutions and steps are right, by the probability that each model gave them.",
    "example": "One problem: its draft with SORM scores, the located error, both refinements and the choice.",
}


def _figure(name: str) -> Figure:
    return Figure(name, _CAPTIONS[name])


def accuracy_rows(report: dict[str, Any], read: bool = False) -> list[list[str]]:
    """Of each selector its name, accuracy, interval, tokens sampled (and `read`), and the paper's figure."""
    rows = []
    for name, words in selector_names(report).items():
        found, tokens = report["accuracy"][name], [report["tokens"][name], report["tokens_read"][name]]
        counts = ["–" if count is None else f"{count:,.0f}" for count in tokens[: 1 + read]]
        cells = [percent(found), interval(found), *counts]
        rows.append([words, *cells, paper_percent(report["paper"]["accuracy"].get(name))])
    return rows


def _accuracy(report: dict[str, Any]) -> list[Part]:
    where, scorer = WHERE_NAMES[report["headline"]["where"]], SCORER_NAMES[report["headline"]["scorer"]]
    header = ["selector", "accuracy", "95% interval", "sampled", "read", "paper, Llama-2 13B"]
    notes = (
        f"{report['problems']:,} problems. Refined are {WHEN_NAMES[report['headline']['when']]}, also by the controls. "
        f"The local refiner here is {where}; {scorer} "
        f"chooses wherever a choice is made, by {AGGREGATE_NAMES[report['headline']['aggregate']]}. Tokens are means "
        "over problems: those that had to be sampled before the choice, and those that policies and reward models read "
        "for it (questions, drafts, solutions; what could be shared is counted each time). At equal tokens: sampled "
        "and read together. The paper's figures (GLoRe, arXiv 2402.10963) are Llama-2 13B on GSM8K, for orientation: "
        "another student, other problems. (2nd): from secondary summaries of the paper, approximate."
    )
    rows = accuracy_rows(report, read=True)
    return [Table("Accuracy by selector", header, rows), _figure("accuracy"), notes, _figure("tokens")]


def named_differences(report: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """The two selectors, in words, and the estimate of each difference that was measured."""
    names = selector_names(report)
    pairs = [(*key.partition("_minus_")[::2], found) for key, found in report["difference"].items()]
    return [(names[a], names[b], found) for a, b, found in pairs if found is not None and {a, b} <= names.keys()]


def _differences(report: dict[str, Any]) -> list[Part]:
    rows = []
    for a, b, found in named_differences(report):
        chance = "< 0.001" if found["mcnemar_p"] < 0.001 else f"{found['mcnemar_p']:.3f}"
        rows.append([a, b, f"{100 * found['value']:+.1f}", interval(found, " to ", "+.1f"), chance])
    header = ["first", "second", "first − second, points", "95% interval", "McNemar p"]
    return [Table("Differences on the same problems", header, rows, texts=2), _figure("differences")]


def _errors(report: dict[str, Any]) -> list[Part]:
    found = {words: report["errors"][name] for name, words in ERROR_NAMES.items()}
    if None in found.values():
        return []
    n = next(iter(found.values()))["n"]
    rows = [[words, percent(one), interval(one)] for words, one in found.items()]
    text = f"The oracle names what goes wrong first in each of {n:,} wrong drafts."
    return [text, Table("First errors of wrong drafts", ["first error", "wrong drafts", "95% interval"], rows)]


def _repairs(report: dict[str, Any]) -> list[Part]:
    rows = []
    for name, words in FIXED_NAMES.items():
        fixed, broken = report["fixed"][name], report["broken"].get(name)
        paper = paper_percent(report["paper"]["fixed"].get(name))
        rows.append([words, percent(fixed), interval(fixed), percent(broken), interval(broken), paper])
    header = ["refinement", "wrong drafts fixed", "95% interval", "right drafts broken", "95% interval", "paper, fixed"]
    wrong, right = (next((one["n"] for one in report[name].values() if one), 0) for name in ("fixed", "broken"))
    below = f"{wrong:,} drafts were wrong and {right:,} right. A dash: not applicable or not measured."
    return [Table("Drafts fixed and broken", header, rows), below]


def _wheres(report: dict[str, Any]) -> list[Part]:
    rows = []
    for where, found in report["by_where"].items():
        scored = [report["ablation"].get(where, {}).get(s, {}).get("reranked") for s in _scorers(report)]
        cells = [percent(found[name]) for name in ("located", "fixed", "fixed_either", "broken")]
        rows.append([WHERE_NAMES[where], *cells, *(with_interval(score) for score in scored)])
    header = ["local refiner", "refined", "wrong fixed", "with global", "right broken"]
    header += [f"reranked, {SCORER_TITLES[name]}" for name in _scorers(report)]
    return [Table("By who locates the error", header, rows)] if rows else []


def _gates(report: dict[str, Any]) -> list[Part]:
    """What the gates do, where there is another than always."""
    if not report["kept"]:
        return []
    rows, where = [], report["headline"]["where"]
    for when, by_where in report["ablation_when"].items():
        kept, cells = report["kept"].get(when), by_where.get(where, {})
        shares = [percent(kept[name]) if kept else percent(None) for name in ("right", "wrong")]
        scored = [cells.get(scorer, {}).get("reranked") for scorer in _scorers(report)]
        plain_ones = [cells.get("orm", {}).get(name) for name in ("global", "local", "control")]
        rows.append([WHEN_NAMES[when], *shares, *(with_interval(found) for found in [*plain_ones, *scored])])
    header = ["refined are", "right drafts kept", "wrong kept", "global", "local", "control"]
    header += [f"reranked, {SCORER_TITLES[name]}" for name in _scorers(report)]
    below = "A gate keeps the other drafts, and nothing is sampled for them. The control has the same gate."
    return [Table("By who says when to refine", header, rows), below]


def _judges(report: dict[str, Any]) -> list[Part]:
    rows = []
    for name, words in JUDGE_MEASURES.items():
        found = report[name]
        if name in LABELLED and report["test_labels"] is None:
            continue
        paper = report["paper"].get(name)
        papers = "–" if paper is None else " → ".join(paper_percent(paper[scorer]) for scorer in SCORERS)
        rows.append([words, *(with_interval(found[scorer]) for scorer in _scorers(report)), papers])
    for name, words in (("brier", "Brier score (lower is better)"), ("ece", "calibration error (lower is better)")):
        found = [(report["calibration"][scorer] or {}).get(name) for scorer in _scorers(report)]
        rows.append([words, *("–" if value is None else f"{value:.3f}" for value in found), "–"])
    titles = [SCORER_TITLES[name] for name in _scorers(report)]
    table = Table("How well the reward models judge", ["on drafts and samples", *titles, "paper, 7B, ORM → SORM"], rows)
    notes = " ".join(_judge_notes(report))
    pictures = [*_positions(report), _figure("step_accuracy"), _figure("reliability")]
    return [part for part in [table, notes, *pictures] if part]


def _judge_notes(report: dict[str, Any]) -> list[str]:
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
    if report["test_labels"] is not None:
        lines.append(_test_labels(report["test_labels"]))
    if strict := report["label_accuracy_strict"]:
        lines.append(
            "A needless step, true but past the answer or about somebody not needed, counts as wrong above, and so "
            f"does all that follows; for the labels it does not, as one can go back: where it does, {percent(strict)} "
            "of them are right."
        )
    return lines


def _test_labels(facts: dict[str, Any]) -> str:
    """Where the labels of test solutions come from, and how they are used."""
    text = (
        f"Labels of {facts['solutions']:,} test solutions ({facts['wrong_solutions']:,} of them wrong) say of "
        f"{facts['positive']:,} intermediate steps that a right answer can still be reached, of {facts['negative']:,} "
        f"that it cannot (up to {facts['continuations']:,} continuations of a prefix; rule: {facts['rule'] or '–'}). "
        "As many right as wrong steps of each position count. A threshold of one half is what labels balanced so call "
        "for; the model's own is for steps as they come."
    )
    if accuracy := facts["accuracy"]:
        text += f" By the oracle {percent(accuracy)} of the labels of wrong solutions are right ({interval(accuracy)})."
    return text


def _positions(report: dict[str, Any]) -> list[Part]:
    by_place = {
        scorer: {row["position"]: row for row in report["step_accuracy_by_position"][scorer] or []}
        for scorer in _scorers(report)
    }
    sizes = {place: row["n"] for rows in by_place.values() for place, row in rows.items()}
    rows = [
        [str(place), f"{sizes[place]:,}", *(with_interval(found.get(place)) for found in by_place.values())]
        for place in sorted(sizes)
    ]
    header = ["step", "steps", *(SCORER_TITLES[name] for name in by_place)]
    return [Table("Step accuracy by position", header, rows)] if rows else []


def _stages(report: dict[str, Any]) -> list[Part]:
    if not report["stages"]:
        return ["No stages were recorded."]
    how = {True: "reused", False: "made", None: ""}
    rows = [
        [one_line(name, VALUE), f"{stage['seconds']:,.1f}", f"{stage['tokens']:,}", how[stage.get("reused")]]
        for name, stage in report["stages"].items()
    ]
    seconds, tokens = (sum(stage[name] for stage in report["stages"].values()) for name in ("seconds", "tokens"))
    rows.append(["all", f"{seconds:,.1f}", f"{tokens:,}", ""])
    # only the report of a run knows what it found
    shown = slice(4 if any(row[3] for row in rows) else 3)
    table = Table(
        "Seconds and tokens by stage",
        ["stage", "seconds", "tokens", "made or reused"][shown],
        [row[shown] for row in rows],
    )
    return [table, label_cost(report)] if label_cost(report) else [table]


def label_cost(report: dict[str, Any]) -> str:
    """What the step labels cost, and one of them where their number is known; empty where they were given."""
    stage, label = report["stages"].get("labels"), report["label_accuracy"]
    if not stage:
        return ""
    text = f"The step labels cost {stage['tokens']:,} tokens of continuations and {stage['seconds']:,.1f} seconds"
    if label is None:
        return f"{text}."
    return (
        f"{text}: {stage['tokens'] / label['n']:,.1f} tokens for each of the {label['n']:,} labels of wrong solutions."
    )
