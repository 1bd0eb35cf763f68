"""Corrections that are kept as a file of rows of another project (`formats.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from refine.lema.formats import FORMATS
from rewards.formats.files import write_file
from rollouts.records import Correction, Problem
from stages.artifacts import open_artifact
from stages.checks import check_choices, check_filled
from stages.stage import MISSING, parent


@dataclass
class ExportCorrectionsArgs:
    """Which corrections are written, and how. `answers` adds the reference answer to rows of a format that has no field
    for it, so that who reads them can check them."""

    corrections: str = parent("correct", "import_corrections")  #: an artifact of correct
    output: str = MISSING  #: the file to write; .jsonl, .json or .parquet
    format: str = MISSING  #: steps, critique or lemma
    answers: bool = False  #: a field more: the reference answer

    def validate(self) -> None:
        """Raise ValueError naming the first setting that makes no sense."""
        check_filled(self, "", "output")
        check_choices(self, format=tuple(FORMATS))
        if self.answers and "answer" in FORMATS[self.format].columns:
            raise ValueError(f"answers=true has no effect: rows of format={self.format} have the answer")


def export_corrections(args: ExportCorrectionsArgs) -> dict[str, Any]:
    """Write the file; returns how many of the corrections are in it.

    Raises:
        FormatError: the file cannot be written.
    """
    source = open_artifact(args.corrections, "correct", "import_corrections")
    problems = {problem.id: problem for problem in source.rows(Problem, "problems")}
    corrections, one = source.rows(Correction), FORMATS[args.format]

    def rows() -> Iterator[dict[str, Any]]:
        for correction in corrections:
            if correction.reason is None:
                problem = problems[correction.problem_id]
                row = one.write(problem, correction)
                yield row | {"answer": problem.answer} if args.answers else row

    columns = one.columns | {"answer": "string"} if args.answers else one.columns
    return {"output": args.output, "written": write_file(args.output, rows(), columns), "rows": len(corrections)}
