"""Rows of a file that cannot be used: the first is an error, or they are left out, counted and named."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from stages.workspace import Workspace

logger = logging.getLogger(__name__)

BAD_ROWS = ("error", "skip")
SHOWN = 20  # bad rows that are named
T = TypeVar("T")


class BadRows:
    """What to do with a row that cannot be used: `how` is error or skip. `count` of them were left out, and `named`
    has the reasons of the first ones, each with its file and line."""

    def __init__(self, how: str = "error") -> None:
        self.how, self.count, self.named = how, 0, list[str]()

    def refuse(self, error: ValueError) -> None:
        """Count and name a bad row.

        Raises:
            ValueError: `error` itself, where bad rows are not to be skipped.
        """
        if self.how == "error":
            raise error
        self.count += 1
        if len(self.named) < SHOWN:
            self.named.append(str(error))
            logger.warning("left out: %s", error)

    def keep(self, rows: Iterable[Any], make: Callable[[Any], T]) -> list[T]:
        """What `make` gives of every row for which it raises no ValueError.

        Raises:
            ValueError: see `refuse`.
        """
        found = []
        for row in rows:
            try:
                found.append(make(row))
            except ValueError as error:
                self.refuse(error)
        return found

    def record(self, work: Workspace) -> None:
        """Put the number and the names into a manifest, where rows may be skipped."""
        if self.how == "error":
            return
        work.count(bad_rows=self.count)
        for number, text in enumerate(self.named, start=1):
            work.note(f"bad row {number}", text)
