"""The table that graders are measured by, made here: a text, a reference, and whether the text's answer is right.

`grading_cases.json` has texts that state 18, by kind; texts that do not, though 18 stands in them; what does not join
two digits (`apart`); and pairs of an answer and a reference of the same and of another value.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple


class Case(NamedTuple):
    """A text whose final answer is right or wrong for a reference."""

    kind: str
    text: str
    reference: str
    right: bool


def load_cases() -> list[Case]:
    """All rows. A text that states 18 is right for 18, and wrong for the numbers that stand beside it."""
    table = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    cases = []
    for kind, texts in table["stated"].items():
        for text in texts:
            starts = kind == "restated" or text.startswith(("analysis", "assistantanalysis", "<|im_start|>"))
            whole = text if starts else f"Ann has 12 eggs, then 4.\n{text}"
            cases += [Case(kind, whole, "18", True), *(Case(kind, whole, other, False) for other in ("12", "4"))]
    cases += [Case(kind, text, "18", False) for kind, texts in table["not_stated"].items() for text in texts]
    for space in table["apart"]:
        for left, right in (("3", "4"), ("1", "05")):
            pair = left + space + right
            cases += [Case("apart", form.format(pair), left + right, False) for form in ("#### {}", "\\boxed{{{}}}")]
    for kind in ("equal", "other"):
        for answer, reference in table[kind]:
            cases += [
                Case(kind, form.format(answer), reference, kind == "equal") for form in ("#### {}", "\\boxed{{{}}}")
            ]
    return cases
