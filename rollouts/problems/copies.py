"""Near copies of problems: questions that differ in names, numbers, or some of their words only.

A question is read with `0` for every number and `x` for every word that begins with a capital letter (a name, or the
first word of a sentence), and cut into runs of words. Two are near copies where half of the runs of the shorter one
are in the other.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable

from rollouts.problems.splits import question_key
from rollouts.records import Problem

RUN = 6  # words
NEAR = 0.5  # share of the shorter question's runs
_WORD = re.compile(r"\d[\d.,/]*|\w+|[^\w\s]")
_NUMBERS = frozenset(
    "one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty hundred thousand".split()
)


def _read_word(word: str) -> str:
    if word[0].isdigit() or word.casefold() in _NUMBERS:
        return "0"
    return "x" if word[0].isupper() else word.casefold()


def runs_of(question: str) -> frozenset[tuple[str, ...]]:
    """The runs of words of a question; one shorter than a run is one by itself."""
    found = _WORD.findall(unicodedata.normalize("NFKC", question))
    words = [_read_word(word) for word in found if word[0].isalnum() or word in "+-*/^=<>"]
    return frozenset(tuple(words[at : at + RUN]) for at in range(max(1, len(words) - RUN + 1)))


class Copies:
    """Finds which of some problems a question is a copy, or a near copy, of."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self._exact: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._where: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for problem in problems:
            self._exact[question_key(problem.question)] = problem.id
            runs = runs_of(problem.question)
            self._sizes[problem.id] = len(runs)
            for run in runs:
                self._where[run].append(problem.id)

    def find(self, question: str) -> str | None:
        """The id of a problem that the question copies; None where there is none."""
        if same := self._exact.get(question_key(question)):
            return same
        runs = runs_of(question)
        shared = Counter(name for run in runs for name in self._where.get(run, ()))
        for name, count in shared.most_common():
            if count >= NEAR * min(len(runs), self._sizes[name]):
                return name
        return None
