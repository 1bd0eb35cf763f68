"""The ranks of one launch: which of them this process is, a barrier and a broadcast.

A launcher (`accelerate launch`, torchrun) sets RANK and WORLD_SIZE; without one there is a single process.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch.distributed import Store

T = TypeVar("T")
_TIMEOUT = timedelta(minutes=10)  # until all have started
_POLL_EVERY = 0.02  # seconds
_calls = itertools.count()  # all ranks make the same calls in the same order, so a call's number is its name


class ProcessError(ValueError):
    """The ranks of this launch are not those that were asked for, or one of them has ended."""


@dataclass(frozen=True, slots=True)
class Processes:
    """This process is `rank` of `count` (the world size)."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes what all of them read."""
        return self.rank == 0

    def wait(self) -> None:
        """A barrier: return when every rank has called this.

        It polls in Python, so that a waiting process still reacts to SIGTERM: when a rank has died, the launcher sends
        one to the others.

        Raises:
            ProcessError: the process that holds the store has ended.
        """
        if self.count > 1:
            self._count_up(f"wait/{next(_calls)}")

    def broadcast(self, value: T) -> T:
        """The value that rank 0 passes, as JSON gives it back; every rank must call this.

        Raises:
            ProcessError: the process that holds the store has ended.
        """
        if self.count == 1:
            return value
        name = f"broadcast/{next(_calls)}"
        if self.first:
            _store().set(name, json.dumps(value))
        self.wait()
        return json.loads(_store().get(name))

    def leave(self) -> None:
        """Call this last. Rank 0 waits here for the others, since it may hold the store."""
        if self.count > 1 and _store.cache_info().currsize:
            self._count_up("leave", wait=self.first)

    def _count_up(self, name: str, wait: bool = True) -> None:
        try:
            there = _store().add(name, 1)
            while wait and there < self.count:
                time.sleep(_POLL_EVERY)
                there = _store().add(name, 0)
        except RuntimeError as error:
            reason = next(iter(str(error).splitlines()), "")
            raise ProcessError(f"another of the {self.count} processes has ended: {reason}") from error


def current() -> Processes:
    """The rank of this process and the world size.

    Raises:
        ProcessError: the environment contradicts itself.
    """
    rank, count = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and count.isdecimal() and int(rank) < int(count)):
        raise ProcessError(f"RANK={rank!r} and WORLD_SIZE={count!r} name no process of a launch")
    return Processes(int(rank), int(count))


@cache
def _store() -> Store:
    """The key-value store of this launch; the launcher holds it, or rank 0."""
    import torch.distributed as dist

    store, _, _ = next(iter(dist.rendezvous("env://", timeout=_TIMEOUT)))
    return dist.PrefixStore("stepwise", store)
