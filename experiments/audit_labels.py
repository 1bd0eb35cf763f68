"""`python -m experiments.audit_labels`: the stage `audit_labels` of `rewards.labels.audit` as a command, and its
table."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from experiments.commands.command import stage_command
from rewards.labels.audit import AUDIT_LABELS
from stages.artifacts import Artifact

if TYPE_CHECKING:
    from rich.table import Table

ROWS = {
    "label_error": "labels that disagree",
    "called_negative": "  positive, called negative",
    "called_positive": "  negative, called positive",
    "first_error": "first errors that disagree",
    "first_early": "  named too soon",
    "first_late": "  named too late",
}


def make_table(counts: dict[str, float]) -> Table:
    """What was measured, as a table of at most 80 columns: per cent of labels, or of solutions."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    solutions = f"{counts['solutions']:,} of {counts['wrong_solutions']:,} wrong solutions"
    title = f"{solutions}, labelled again with {counts['continuations']:,} continuations"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("", no_wrap=True)
    for heading in ("n", "%", "95%", "reference wrong, %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, words in ROWS.items():
        if name in counts:
            shares = [100 * counts[name + end] for end in ("", "_low", "_high")]
            doubt = counts.get(f"reference_{name}")
            table.add_row(
                words,
                f"{counts[name + '_n']:,}",
                f"{shares[0]:.1f}",
                f"{shares[1]:.1f}–{shares[2]:.1f}",
                "" if doubt is None else f"{100 * doubt:.1f}",
            )
    return table


def show(artifact: Artifact) -> None:
    """Print the table, and what makes it doubtful."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    console.print(make_table(artifact.manifest["counts"]))
    if "differs" in artifact.manifest["notes"]:
        console.print(textwrap.fill(f"note: {artifact.manifest['notes']['differs']}", 80, break_long_words=False))


main = stage_command(AUDIT_LABELS, show=show)

if __name__ == "__main__":
    main()
