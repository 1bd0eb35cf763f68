"""A file of step labels of one format into a file of another, row by row.

Left out: what the formats are (`rewards/formats`), and labels to train on (`rewards/labels/imports.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rewards.formats import FORMATS, Choices, FormatError, write_record
from rewards.formats.files import write_file
from rewards.formats.reading import Reading
from rewards.formats.step_labels import NAME
from stages.bad_rows import BAD_ROWS
from stages.checks import check_choices, check_filled
from stages.stage import MISSING

logger = logging.getLogger(__name__)


@dataclass
class ConvertArgs:
    """Which file is converted, and how.

    `input` and `output` are .jsonl, .json or .parquet files; with `source_format` step_labels the input is the folder
    of an artifact of `label_steps`. A row that cannot be converted ends the command, or with `bad_rows` skip is left
    out, counted and named.
    """

    input: str = MISSING  #: the file to read; .jsonl, .json or .parquet
    output: str = MISSING  #: the file to write
    source_format: str = MISSING  #: whose rows these are
    target_format: str = MISSING  #: whose they become
    bad_rows: str = "error"  #: error or skip
    choices: Choices = field(default_factory=Choices)

    def validate(self) -> None:
        """Raise ValueError naming the first setting that makes no sense."""
        check_filled(self, "", "input", "output")
        check_choices(self, source_format=(*FORMATS, NAME), bad_rows=BAD_ROWS)
        if self.target_format == NAME:
            raise ValueError("python -m experiments.import_labels makes an artifact of step labels, convert does not")
        check_choices(self, target_format=tuple(FORMATS))
        if Path(self.input).expanduser().resolve() == Path(self.output).expanduser().resolve():
            raise ValueError(f"input and output are the same file: {self.input}")


def convert(args: ConvertArgs) -> dict[str, Any]:
    """Convert a file; returns what was read, written, dropped, cut and left out.

    Raises:
        FormatError: a row cannot be converted (and is not to be skipped), or a file cannot be read or written.
    """
    reading = Reading(args.input, args.source_format, args.choices, args.bad_rows)
    counts = reading.counts
    counts.update(rows=0, bad_rows=0, dropped=0, steps=0, steps_cut=0, soft_labels=0, unlabelled_steps=0)

    def rows() -> Iterator[dict[str, Any]]:
        for where, record in reading:
            try:
                row = write_record(args.target_format, record, args.choices)
            except FormatError as error:
                reading.refuse(where, error)
                continue
            if row is None:
                counts["dropped"] += 1
                continue
            left = len(FORMATS[args.target_format].parse(row, args.choices).steps)
            counts["steps"] += left
            counts["steps_cut"] += len(record.steps) - left
            counts["soft_labels"] += sum(label not in (None, 0, 1) for label in record.labels)
            counts["unlabelled_steps"] += sum(label is None for label in record.labels[:left])
            yield row

    written = write_file(args.output, rows(), FORMATS[args.target_format].columns)
    if counts["soft_labels"]:
        logger.warning("%d soft labels were cut at %s", counts["soft_labels"], args.choices.threshold)
    return {"output": args.output, "written": written, **counts, "bad": reading.bad.named}
