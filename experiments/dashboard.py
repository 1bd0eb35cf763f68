"""`python -m experiments.dashboard`: the W&B workspace for runs and sweeps of this project, as code.

Saves it to the project and prints its address; without a key, or offline, prints it as JSON. What is logged under
which name is in docs/tracking.md.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from experiments.commands.plain_parser import PlainParser, end_with
from stages.mirror import can_reach
from stages.text import one_line
from stages.tracking import Mode, TrackingArgs

NAME = "Stepwise"
SELECTORS = (
    *("draft", "global", "local", "draft_global", "reranked", "best_of_n", "majority_of_n", "control"),
    *("draft_control", "random", "oracle"),
)
SCORERS = ("orm", "sorm", "implicit")  # the last only in a run with `implicit=true`


@dataclass(frozen=True)
class Panel:
    """A panel: `kind` is line, bar, scatter, importance or table. A scatter plot has two metrics, x and y; an
    importance plot one, which the arguments are to explain; the metrics of a table are tables."""

    kind: str
    title: str
    metrics: tuple[str, ...]


def _values(group: str, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{group}/{name}/value" for name in names)


# panels by the title of their section: the first sections are about whole pipelines, the others about stages
SECTIONS: dict[str, tuple[Panel, ...]] = {
    "Right answers": (
        Panel("bar", "Right, by selector", _values("accuracy", SELECTORS)),
        Panel(
            "bar",
            "Reranked minus its controls",
            _values(
                "difference",
                [f"reranked_minus_{name}" for name in ("draft", "best_of_n", "draft_control", "strongest_control")],
            ),
        ),
        Panel("scatter", "Right against tokens", ("tokens/reranked", "accuracy/reranked/value")),
        Panel("importance", "Which settings matter", ("accuracy/reranked/value",)),
    ),
    "Refiners": (
        Panel("bar", "Wrong drafts mended", _values("fixed", ("global", "local", "either", "control"))),
        Panel("bar", "Right drafts spoilt", _values("broken", ("global", "local", "control"))),
    ),
    "Reward models": (
        Panel("bar", "Steps judged rightly", _values("step_accuracy", SCORERS)),
        Panel("bar", "First error named exactly", _values("first_error_accuracy", SCORERS)),
        Panel("bar", "Solutions judged rightly", _values("final_accuracy", SCORERS)),
        Panel("bar", "Calibration error", tuple(f"calibration/{name}/ece" for name in SCORERS)),
    ),
    "Examples": (
        Panel("table", "Results", ("results",)),
        Panel("table", "Differences", ("differences",)),
        Panel("table", "Examples", ("examples",)),
        Panel("table", "Problems that ended wrong", ("wrong",)),
        Panel("table", "Calibration", ("calibration",)),
    ),
    "Training": (
        Panel("line", "Loss", ("loss",)),
        Panel("line", "Gradient norm", ("gradient_norm",)),
        Panel("line", "Learning rate", ("learning_rate",)),
        Panel("line", "Tokens a second", ("tokens_per_second",)),
        Panel("line", "Memory (GiB)", ("memory_gib",)),
    ),
    "Sampling and cost": (
        Panel("line", "Samples", ("samples",)),
        Panel("line", "Samples a second", ("samples_per_second",)),
        Panel("line", "Stages done", ("stages_done",)),
        Panel("bar", "Seconds", ("seconds",)),
        Panel("bar", "Tokens", ("tokens",)),
    ),
}


def build_workspace(project: str, entity: str) -> Any:
    """The workspace as an object of wandb-workspaces.

    Raises:
        ValueError: that package is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise ValueError(f"{error}: the dashboard needs wandb-workspaces (pip install wandb-workspaces)") from error

    def drawn(panel: Panel) -> Any:
        match panel.kind:
            case "line":
                return wr.LinePlot(title=panel.title, x=wr.Metric("step"), y=[*map(wr.Metric, panel.metrics)])
            case "bar":
                return wr.BarPlot(title=panel.title, metrics=[*map(wr.SummaryMetric, panel.metrics)])
            case "scatter":
                x, y = map(wr.SummaryMetric, panel.metrics)
                return wr.ScatterPlot(title=panel.title, x=x, y=y)
            case "importance":
                return wr.ParameterImportancePlot(with_respect_to=panel.metrics[0])
            case "table":
                return wr.WeavePanelSummaryTable(table_name=panel.metrics[0])
        raise AssertionError(panel.kind)

    sections = [
        ws.Section(name=title, panels=[drawn(panel) for panel in panels], is_open=True)
        for title, panels in SECTIONS.items()
    ]
    return ws.Workspace(name=NAME, entity=entity, project=project, sections=sections)


def main() -> None:
    """The command."""
    end_with(run, connected=True)


def run(argv: Sequence[str]) -> int:
    """What the command does; returns its exit code: 0, or 2 after the user's error, in one line on stderr."""
    parser = PlainParser("python -m experiments.dashboard", __doc__)
    parser.add_argument("--project", help="W&B's project (WANDB_PROJECT, or stepwise)")
    parser.add_argument("--entity", help="the team or user that the project belongs to (WANDB_ENTITY)")
    parser.add_argument("--json", action="store_true", help="print it as JSON, and save nothing")
    options = parser.parse_args(argv)
    try:
        args = TrackingArgs(Mode.wandb, options.project, options.entity).resolved("dashboard", NAME)
        workspace = build_workspace(args.project, args.entity or "")
        if options.json or not can_reach():
            told = workspace._to_model().model_dump_json(by_alias=True, exclude_none=True, indent=1)
        elif not args.entity:
            raise ValueError("W&B wants to know whose project it is: --entity, or WANDB_ENTITY")
        else:
            os.environ.setdefault("WANDB_SILENT", "true")
            told = workspace.save().url
    except Exception as error:  # W&B raises dozens of kinds
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    print(told)
    return 0


if __name__ == "__main__":
    main()
