"""The stage `import_labels`: step labels of another format as rows that `train_reward` reads, like those of
`label_steps`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from rewards.formats import FORMATS, Choices, FormatError
from rewards.formats.reading import LEFT_OUT, Reading
from rewards.formats.step_labels import LINES, one_line_steps, to_step_labels
from rollouts.problems.args import SPLITS
from rollouts.records import Problem, StepLabels
from stages.bad_rows import BAD_ROWS
from stages.checks import check_choices, check_least
from stages.stage import MISSING, Stage, parent
from stages.workspace import Workspace


@dataclass
class ImportArgs:
    """Arguments of the stage `import_labels`.

    `input` is a .jsonl, .json or .parquet file of rows in `format`. `lines` join turns steps of several lines into one
    line, as our models read them. `bad_rows` skip leaves out what cannot be used; `limit` reads so many rows only.
    """

    input: str = parent(any_path=True)  #: a .jsonl, .json or .parquet file
    format: str = MISSING  #: whose rows these are
    choices: Choices = field(default_factory=Choices)
    lines: str = "error"  #: steps of several lines: error or join
    bad_rows: str = "error"  #: error or skip
    split: str = "train"  #: what the problems are for
    limit: int | None = None  #: at most so many rows

    def validate(self) -> None:
        """Raise ValueError naming the first setting that makes no sense."""
        check_choices(self, format=tuple(FORMATS), lines=LINES, bad_rows=BAD_ROWS, split=SPLITS)
        check_least(self, limit=1)


def import_labels(args: ImportArgs, work: Workspace) -> None:
    """Write `rows` (StepLabels) and `problems` (Problem) from a file of another format.

    Raises:
        FormatError: a row cannot be used and is not to be skipped, two rows have one id, or no row is left.
    """
    reading = Reading(str(work.parents["input"].path), args.format, args.choices, args.bad_rows)
    problems: dict[str, Problem] = {}
    counts: Counter[str] = Counter(
        solutions=0, positive_labels=0, negative_labels=0, unlabelled_steps=0, joined_steps=0
    )

    def rows() -> Iterator[StepLabels]:
        seen: set[str] = set()
        for where, record in reading:
            try:
                lined = one_line_steps(record, args.lines)
                row, problem = to_step_labels(
                    lined, f"{args.format}/{counts['solutions']}", args.choices.threshold, args.split
                )
                if row.rollout_id in seen:
                    raise FormatError(f"id {row.rollout_id!r} is also that of another row")
            except FormatError as error:
                reading.refuse(where, error)
                continue
            seen.add(row.rollout_id)
            problems.setdefault(problem.id, problem)
            counts["solutions"] += 1
            counts["joined_steps"] += sum(a != b for a, b in zip(lined.steps, record.steps, strict=True))
            for label, count in ((True, "positive_labels"), (False, "negative_labels"), (None, "unlabelled_steps")):
                counts[count] += row.labels.count(label)
            yield row
            if counts["solutions"] == args.limit:
                return

    work.write_rows("rows", rows(), StepLabels)
    if not counts["solutions"]:
        raise FormatError(f"{args.input}: no row of {reading.counts['rows']} can be used")
    work.write_rows("problems", problems.values(), Problem)
    work.count(**counts, bad_rows=reading.counts["bad_rows"])
    work.count(**{name: number for name, number in reading.counts.items() if name.startswith(LEFT_OUT)})
    for number, text in enumerate(reading.bad.named):
        work.note(f"bad row {number + 1}", text)


IMPORT_LABELS = Stage("import_labels", 1, ImportArgs, import_labels)
