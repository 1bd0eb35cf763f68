"""The records of a file or an artifact, one at a time, with what is wrong with its rows counted and named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rewards.formats import Choices, FormatError, StepRecord, read_record
from rewards.formats.files import read_file
from rewards.formats.record import LeftOut
from rewards.formats.step_labels import NAME, read_step_labels
from stages.bad_rows import BadRows

LEFT_OUT = "left_out_"  # and a reason: what a choice drops is counted so


class Reading:
    """The records of a file of rows (of an artifact, where `source_format` is step_labels), each with its place.

    `counts` has rows, bad_rows, and, by their reasons, the rows that a choice drops (left_out_…). A row that cannot be
    used is an error, or with `bad_rows` skip left out, counted and, of the first ones, named by `bad`. A file that is
    malformed is always an error.
    """

    def __init__(self, path: str, source_format: str, choices: Choices, bad_rows: str) -> None:
        self.path, self.source_format, self.choices, self.bad = path, source_format, choices, BadRows(bad_rows)
        self.counts: Counter[str] = Counter()

    def __iter__(self) -> Iterator[tuple[str, StepRecord]]:
        rows = read_step_labels(self.path) if self.source_format == NAME else read_file(self.path)
        for where, row in rows:
            self.counts["rows"] += 1
            if isinstance(row, StepRecord):
                yield where, row
                continue
            try:
                record = read_record(self.source_format, row, self.choices)
            except LeftOut as reason:
                self.counts[f"{LEFT_OUT}{reason}"] += 1
            except FormatError as error:
                self.refuse(where, error)
            else:
                yield where, record

    def refuse(self, where: str, error: FormatError) -> None:
        """Count a row that cannot be used and name it.

        Raises:
            FormatError: bad rows are not to be skipped.
        """
        self.bad.refuse(FormatError(f"{where}: {error}"))
        self.counts["bad_rows"] += 1
