"""The processes of one launch: which of them this one is, and how they wait for one another.

A launcher (`accelerate launch`, torchrun) says it in the environment; without one there is a single process.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch.distributed import Store

T = TypeVar("T")
_PATIENCE = timedelta(minutes=10)  # for the others to start
_LOOK_EVERY = 0.02  # seconds
_turns = itertools.count()  # all processes wait equally often, so that equal numbers meet


class ProcessError(ValueError):
    """The processes of this launch are not those that were asked for, or one of them has gone."""


@dataclass(frozen=True, slots=True)
class Processes:
    """Process `rank` of `count`. The first one writes what all of them share."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes what all share."""
        return self.rank == 0

    def wait(self) -> None:
        """Return when every process of the launch has come here.

        Nothing is under way meanwhile but Python, so that a waiting process can be told to end. That another has died
        is for the launcher to notice, which then ends this one.

        Raises:
            ProcessError: the process that keeps the count has ended.
        """
        if self.count > 1:
            self._count_up(f"wait/{next(_turns)}")

    def share(self, value: T) -> T:
        """What the first process gave, a JSON value; every process must call this.

        Raises:
            ProcessError: the process that keeps it has ended.
        """
        if self.count == 1:
            return value
        name = f"share/{next(_turns)}"
        if self.first:
            _store().set(name, json.dumps(value))
        self.wait()
        return json.loads(_store().get(name))

    def leave(self) -> None:
        """Take leave of the others, at the end of what all of them have done; no process waits after that."""
        if self.count > 1 and _store.cache_info().currsize:
            # the first may be the one that keeps the count: it goes last
            self._count_up("leave", look=self.first)

    def _count_up(self, name: str, look: bool = True) -> None:
        try:
            there = _store().add(name, 1)
            while look and there < self.count:
                time.sleep(_LOOK_EVERY)
                there = _store().add(name, 0)
        except RuntimeError as error:
            reason = next(iter(str(error).splitlines()), "")
            raise ProcessError(f"another of the {self.count} processes has ended: {reason}") from error


def current() -> Processes:
    """This process's place in its launch.

    Raises:
        ProcessError: the environment contradicts itself.
    """
    rank, count = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and count.isdecimal() and int(rank) < int(count)):
        raise ProcessError(f"RANK={rank!r} and WORLD_SIZE={count!r} name no process of a launch")
    return Processes(int(rank), int(count))


@cache
def _store() -> Store:
    """Where the processes of a launch count themselves: kept by the launcher, or by the first of them."""
    import torch.distributed as dist

    store, _, _ = next(iter(dist.rendezvous("env://", timeout=_PATIENCE)))
    return dist.PrefixStore("stepwise", store)


def end_with(parent: int, end: Callable[[], None], every: float = 1.0) -> None:
    """Call `end` when the process `parent` has gone: one that is killed cannot tell its children."""
    starter = os.getppid()

    def watch() -> None:
        # the starter is not always the parent: a launcher stands between
        while os.getppid() == starter and _alive(parent):
            time.sleep(every)
        end()

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # no such folder on this system, or gone since
        return not Path("/proc/self").exists()
    return state != "Z"  # killed, and nobody has asked for its exit code yet
