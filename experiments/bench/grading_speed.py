"""Graders beside one another on the table of `grading_cases.py`: `make bench-grading`.

Ours; math-verify as it comes; and the rules of lm-eval's two filters for GSM8K, written anew from their documentation:
strict-match (`#### (\\-?[0-9\\.\\,]+)`) and flexible-extract (the last number), compared as text without `,` and `$`.
Prints agreement, false positives (wrong answers called right), and microseconds a text.
"""

from __future__ import annotations

import logging
import re
import time
import timeit
from collections.abc import Callable

from experiments.bench.grading_cases import Case, load_cases
from rollouts.grading.answers import grade, warm_up

STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
PLAIN = "Ann has 6 * 3 = 18 eggs.\nShe eats none of them.\n#### 18"


def ours(text: str, reference: str) -> bool:
    return grade(text, reference).correct


def math_verify(text: str, reference: str) -> bool:
    from math_verify import parse, verify

    return verify(parse(f"${reference}$"), parse(text))


def _same_text(answer: str, reference: str) -> bool:
    left, right = (re.sub(r"[,$]|\.$", "", word) for word in (answer, reference))
    return left.casefold() == right.casefold()


def strict_match(text: str, reference: str) -> bool:
    found = STRICT.search(text)
    return found is not None and _same_text(found[1], reference)


def flexible_extract(text: str, reference: str) -> bool:
    found = FLEXIBLE.findall(text)
    return bool(found) and _same_text(found[-1][0] or found[-1][1], reference)


GRADERS: dict[str, Callable[[str, str], bool]] = {
    "ours": ours,
    "math-verify": math_verify,
    "strict-match": strict_match,
    "flexible-extract": flexible_extract,
}


def measure(grader: Callable[[str, str], bool], cases: list[Case]) -> tuple[float, int, float]:
    """The fraction of the cases that a grader judges as the table does, its false positives, and seconds a text."""
    start = time.perf_counter()
    verdicts = [grader(case.text, case.reference) for case in cases]
    seconds = (time.perf_counter() - start) / len(cases)
    agreed = sum(verdict is case.right for verdict, case in zip(verdicts, cases, strict=True))
    false = sum(verdict and not case.right for verdict, case in zip(verdicts, cases, strict=True))
    return agreed / len(cases), false, seconds


def microseconds(grader: Callable[[str, str], bool], text: str, reference: str) -> float:
    """Of one text; the best of many short runs, as other work of the machine only makes it slower."""
    return min(timeit.repeat(lambda: grader(text, reference), number=10, repeat=200)) / 10 * 1e6


def main() -> None:
    warm_up()
    logging.disable(logging.CRITICAL)
    cases = load_cases()
    print(f"{len(cases)} texts        agreement  false positives  µs a text  µs for a plain number")
    for name, grader in GRADERS.items():
        agreement, false, seconds = measure(grader, cases)
        plain = microseconds(grader, PLAIN, "18")
        print(f"{name:16} {agreement:12.1%} {false:16} {seconds * 1e6:10.0f} {plain:23.1f}")


if __name__ == "__main__":
    main()
