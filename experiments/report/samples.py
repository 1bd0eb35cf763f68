"""The section on more samples: best of n and votes by n, from when on that is as good as reranking, and the four scores
that can be made of those of the steps."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from experiments.report.parts import Figure, Part, Table
from experiments.report.words import AGGREGATE_NAMES, CURVE_NAMES, SCORER_NAMES, SCORER_TITLES, percent, with_interval


def samples_parts(report: dict[str, Any]) -> list[Part]:
    """Best of n and votes of n, by n; and the scores that can be made of those of the steps."""
    curves = report["curves"]
    if not curves:
        return []
    rows = []
    for at, first in enumerate(next(iter(curves.values()))):
        own = {name: curve[at] for name, curve in curves.items()}
        tokens = [first["tokens"], *(own[name]["tokens_read"] for name in SCORER_NAMES if name in own)]
        rows.append([str(first["samples"]), *map(with_interval, own.values()), *(f"{n:,.0f}" for n in tokens)])
    read = [f"read, {SCORER_TITLES[name]}" for name in SCORER_NAMES if name in curves]
    header = ["n", *(CURVE_NAMES[name] for name in curves), "sampled", *read]
    most = int(rows[-1][0])
    notes = (
        f"Each value is a mean over subsets of n of the {most} samples of a problem, not of the first n: over all "
        "of them for best of n and the oracle, over random orders (all orders of up to 6 samples) for votes. The "
        "intervals are over problems. Tokens are means over problems, as above."
    )
    return [
        Table("Accuracy by the number of samples", header, rows),
        Figure("curves", "Accuracy by the number of samples, by who chooses among them."),
        " ".join(filter(None, [notes, _reached(report, most)])),
        *_aggregates(report, most),
    ]


def _reached(report: dict[str, Any], most: int) -> str:
    """From which n on best of n is at least as often right as reranking: with that n and with all larger ones."""
    scorer, reranked = report["headline"]["scorer"], report["accuracy"]["reranked"]
    curve = report["curves"].get(scorer)
    if reranked is None or curve is None:
        return ""
    enough = list(takewhile(lambda point: point["value"] >= reranked["value"], reversed(curve)))
    told = (
        f"at least as often right as reranking ({percent(reranked)}) from n = {enough[-1]['samples']} on"
        if enough
        else f"less often right than reranking ({percent(reranked)}) with all {most} samples"
    )
    return f"Best of n by {SCORER_NAMES[scorer]} is {told}."


def _aggregates(report: dict[str, Any], most: int) -> list[Part]:
    found = report["aggregation"]
    if not found:
        return []
    header, rows = ["score of a solution"], []
    for scorer in found:
        header += [f"{SCORER_TITLES[scorer]}, {rule} of {most}" for rule in ("best", "vote")]
    for how, words in AGGREGATE_NAMES.items():
        cells = [with_interval(one[how][rule]) for one in found.values() for rule in ("best", "weighted")]
        rows.append([words, *cells])
    return [Table("By how the scores of steps are made one", header, rows)]
