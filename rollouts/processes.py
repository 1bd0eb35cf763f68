"""The processes of one launch: which of them this one is, and how they wait for one another.

A launcher (`accelerate launch`, torchrun) says it in the environment; without one there is a single process.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

T = TypeVar("T")
# a process may wait for as long as another samples; one that has died is noticed by the launcher, not by a time-out
_PATIENCE = timedelta(days=30)
_LOOK_EVERY = 0.02  # seconds


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

        Python's signal handlers run meanwhile, so that a waiting process can be told to end.

        Raises:
            ProcessError: another process has ended.
        """
        if self.count > 1:
            import torch
            import torch.distributed as dist

            try:
                work = dist.all_reduce(torch.zeros(1), group=_group(), async_op=True)
                while not work.is_completed():
                    time.sleep(_LOOK_EVERY)
                work.wait()
            except RuntimeError as error:
                reason = next(iter(str(error).splitlines()), "")
                raise ProcessError(f"another of the {self.count} processes has ended: {reason}") from error

    def share(self, value: T) -> T:
        """What the first process gave; every process must call this."""
        if self.count == 1:
            return value
        import torch.distributed as dist

        self.wait()  # which can be interrupted; the exchange itself cannot
        given: list[Any] = [value]
        dist.broadcast_object_list(given, src=0, group=_group())
        return given[0]


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
def _group() -> ProcessGroup:
    """A group over which processes on any device exchange small things on the CPU."""
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        # gradients on GPUs go by NCCL, whatever else training sets up later
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=_PATIENCE)
    return dist.new_group(backend="gloo", timeout=_PATIENCE)


def leave() -> None:
    """Take leave of the other processes, at the end of what all of them have done."""
    if _group.cache_info().currsize:
        import torch.distributed as dist

        _group.cache_clear()
        dist.destroy_process_group()


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
        return Path("/proc/self").exists() is False
    return state != "Z"  # killed, and nobody has asked for its exit code yet
