"""What a process reward model is worth: solutions of several subsets judged and measured by ProcessBench's protocol.

Left out: how a model is read (`rewards/prm.py`), the protocol itself (`rewards/processbench.py`), and where right
solutions come from for marks of wrong ones (`rewards/right_solutions.py`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rewards.formats import FORMATS, Choices, FormatError, StepRecord
from rewards.formats.files import write_file
from rewards.formats.reading import Reading
from rewards.formats.record import harden, locate_error
from rewards.formats.step_labels import NAME
from rewards.intervals import RESAMPLES, estimate
from rewards.metrics import Threshold
from rewards.prm import PRMArgs, load_judge
from rewards.processbench import Judged, ProtocolError, choose_threshold, find_hits, measure_f1
from rewards.right_solutions import GOLD, gold_solutions, right_rollouts
from stages.checks import check_choices, check_least, check_range
from stages.progress import progress

logger = logging.getLogger(__name__)

AT_ONCE = 256  # solutions between two reports of progress


@dataclass
class EvaluateArgs:
    """What is evaluated, and how.

    `data` has a file (.jsonl, .json, .parquet) in `format` for each subset, which is called like it. A step whose
    probability is below the threshold is wrong: that is `threshold`, or the best one on the subset `choose_on`, which
    is then left out of the average; or else the one saved with a model of ours. `limit` takes so many rows of each
    subset. Where people marked wrong solutions only, `right` adds right ones to every subset: `gold` those in its rows,
    or an artifact of sample, of which the different right rollouts are taken. `predictions` is a file for the scores of
    every solution.
    """

    data: list[str] = field(default_factory=list)  #: a file for each subset
    format: str = "processbench"  #: whose rows these are
    prm: PRMArgs = field(default_factory=PRMArgs)
    # a benchmark is judged by its labels, whatever it says of the final answer
    choices: Choices = field(default_factory=lambda: Choices(contradictory="keep"))
    threshold: float | None = None  #: below it a step is wrong
    choose_on: str | None = None  #: the subset on which the threshold is chosen
    limit: int | None = None  #: at most so many rows of a subset
    right: str | None = None  #: right solutions beside marked wrong ones: gold, or an artifact of sample
    resamples: int = RESAMPLES
    seed: int = 0
    predictions: str | None = None  #: a file for all scores

    def validate(self) -> None:
        """Raise ValueError naming the first setting that makes no sense."""
        check_choices(self, format=(*FORMATS, NAME))
        check_least(self, limit=1, resamples=1)
        check_range(self, threshold="[0, 1]")
        if not self.data:
            raise ValueError("data=[FILE,…] must name at least one subset")
        names = [Path(path).stem for path in self.data]
        if len(set(names)) < len(names):
            raise ValueError(f"data={self.data}: two subsets would have one name")
        if self.threshold is not None and self.choose_on is not None:
            raise ValueError(f"threshold={self.threshold} is given, so none is chosen on {self.choose_on!r}")
        if self.choose_on is not None and self.choose_on not in names:
            raise ValueError(f"choose_on={self.choose_on!r} is no subset of data: {', '.join(names)}")
        if self.choose_on is not None and len(names) < 2:
            raise ValueError(f"choose_on={self.choose_on!r} leaves no subset to report: data has no other")


def read_subset(path: str, args: EvaluateArgs) -> list[tuple[StepRecord, int | None]]:
    """The solutions of a file, each with an id, and their first wrong steps (None: all steps are right); after them the
    right solutions of `args.right`.

    Raises:
        FormatError: a row cannot be read, or the first wrong step of its solution is not known; there is no row, or
            no right solution.
    """
    found, rows = [], []
    for where, record in Reading(path, args.format, args.choices, "error"):
        try:
            truth = locate_error(harden(record.labels, args.choices.threshold))
        except FormatError as error:
            raise FormatError(f"{where}: {error}") from error
        rows.append(replace(record, id=record.id or where))
        found.append((replace(rows[-1], extra={}), truth))
        if len(found) == args.limit:
            break
    if not found:
        raise FormatError(f"{path}: there is no solution in it")
    if args.right is not None:
        right = gold_solutions(rows, args.format) if args.right == GOLD else right_rollouts(args.right)
        if not right:
            where = f"{path} has no gold solutions" if args.right == GOLD else f"{args.right} has no right rollout"
            raise FormatError(f"right={args.right}: {where}")
        found += [(record, None) for record in right]
    return found


def judge_subsets(args: EvaluateArgs) -> tuple[dict[str, list[Judged]], Threshold | None, int]:
    """Every subset's solutions with the model's scores, the threshold that the model has of its own, if any, and how
    many solutions are left out, since they are too long for it.

    Raises:
        ValueError: a file or the model cannot be used, or a score is not a number; the message names the solution.
    """
    subsets = {Path(path).stem: read_subset(path, args) for path in args.data}
    judge = load_judge(args.prm)
    judged: dict[str, list[Judged]] = {name: [] for name in subsets}
    too_long: list[str] = []
    with progress(sum(map(len, subsets.values())), "solutions", "score") as bar:
        for name, solutions in subsets.items():
            for part in (solutions[start : start + AT_ONCE] for start in range(0, len(solutions), AT_ONCE)):
                for (record, truth), scores in zip(part, judge.judge([record for record, _ in part]), strict=True):
                    if scores is None:
                        too_long.append(record.id)
                    else:
                        judged[name].append(Judged(record.id, record.question, truth, tuple(scores)))
                bar.advance(len(part))
    if too_long:
        logger.warning("%d solutions are too long for the model and left out, such as %s", len(too_long), too_long[0])
    return judged, judge.threshold, len(too_long)


def evaluate(args: EvaluateArgs) -> dict[str, Any]:
    """Judge every subset and measure, with 95% intervals; the result is plain JSON.

    Raises:
        ValueError: see `judge_subsets`; or a subset lacks solutions with or without an error.
    """
    if args.threshold is None and args.choose_on is None and args.prm.head != "stepwise":
        raise ProtocolError("a model of others has no threshold of its own: give threshold, or choose_on=SUBSET")
    judged, own, too_long = judge_subsets(args)
    threshold, source = args.threshold, "given"
    if args.choose_on is not None:
        threshold, source = choose_threshold(judged[args.choose_on]), f"chosen on {args.choose_on}"
    elif threshold is None:
        threshold, source = own, "the model's own"
    if args.predictions is not None:
        write_predictions(args.predictions, judged, threshold)
    subsets, spreads = {}, []
    for number, (name, ones) in enumerate(judged.items()):
        measures, spread = measure_f1(ones, threshold, args.resamples, args.seed + number)
        subsets[name] = measures | {"reported": name != args.choose_on}
        spreads += [spread] if name != args.choose_on else []
    reported = [name for name in judged if name != args.choose_on]
    mean = float(np.mean([subsets[name]["f1"]["value"] for name in reported]))
    solutions = sum(len(judged[name]) for name in reported)
    return {
        "model": args.prm.model,
        "threshold": threshold,
        "threshold_from": source,
        "right_from": args.right,
        "too_long": too_long,
        "subsets": subsets,
        "average": {"f1": estimate(mean, np.mean(spreads, axis=0), solutions), "over": reported},
    }


def write_predictions(path: str, judged: dict[str, list[Judged]], threshold: Threshold) -> None:
    """Write a row a solution: subset, id, the true first wrong step, whether it was found, and all scores."""
    rows = (
        {"subset": name, "id": one.id, "first_error": one.truth, "hit": hit, "scores": list(one.scores)}
        for name, ones in judged.items()
        for one, hit in zip(ones, find_hits(ones, threshold), strict=True)
    )
    write_file(path, rows)
