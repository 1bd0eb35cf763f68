"""The process that compares expressions: a pool of killable workers, asked and answering a line of JSON at a time.

`python -m rollouts.grading.prover` is started by `rollouts/grading/symbolic.py`, which also decides what may be asked.
It ends with its standard input. What a worker does is in `rollouts/grading/proof.py`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from typing import TYPE_CHECKING, Any

from rollouts.grading.proof import compare

if TYPE_CHECKING:
    from pebble import ProcessPool

DEADLINE = 0.5  # seconds of a worker's own processor time for one comparison; then the kernel ends the worker
WALL = 5.0  # seconds on the clock for it: a worker that got no processor for so long is ended, and another tries again
TRIES = 2
WORKERS = 2  # one is ready while the other is replaced
CALLS = 5_000  # of one worker, then it is replaced, because sympy's caches grow
MEMORY = 4 << 30  # bytes of address space of a worker: 9^{9^9} ends in a MemoryError there, not in a killed job
WARM_UP = {"items": ["\\frac{x}{2}"], "expected": ["0.5x"], "ordered": True}


def serve() -> None:
    """Print "ready", then for each line {"items": …, "expected": …, "ordered": …} one word: see `compare`,
    or "timeout", or "crash" if the worker died. It gives up when its pool breaks (somebody killed an idle worker);
    the asker then starts it anew.
    """
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no reply
    pool = _new_pool()
    try:
        _reply(pool, WARM_UP, 60.0)
        print("ready", file=replies, flush=True)
        for line in sys.stdin:
            print(_reply(pool, json.loads(line), WALL), file=replies, flush=True)
    except BrokenPipeError:
        pass  # the asker was killed
    except RuntimeError as error:
        sys.exit(f"the grader's workers broke: {error}")
    finally:
        pool.stop()
        pool.join()


def _new_pool() -> ProcessPool:
    from pebble import ProcessPool

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rollouts.grading.warmed"])  # a killed worker is then replaced in milliseconds
    return ProcessPool(WORKERS, max_tasks=CALLS, initializer=_begin, context=context)


def _reply(pool: ProcessPool, question: dict[str, Any], wall: float) -> str:
    import signal

    from pebble import ProcessExpired

    for _ in range(TRIES):
        future = pool.schedule(_guarded, kwargs=question, timeout=wall)
        error = future.exception()
        if not isinstance(error, TimeoutError):
            break
    if isinstance(error, ProcessExpired):
        return "timeout" if error.exitcode == -signal.SIGPROF else "crash"
    return "timeout" if isinstance(error, TimeoutError) else future.result()


def _begin() -> None:
    """Set up a worker."""
    import logging
    import resource
    import signal

    # pebble's own handler waits for the interpreter, which does not come back from a huge integer power
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [MEMORY, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    logging.disable(logging.CRITICAL)  # math-verify warns of each time-out that it does not have
    compare(**WARM_UP)  # where nothing was preloaded, its parser and sympy are slow the first time


def _guarded(items: list[str], expected: list[str], ordered: bool) -> str:
    """Run in a worker. The kernel ends it at its deadline, and if it is stuck while the pool is gone."""
    import signal

    signal.setitimer(signal.ITIMER_PROF, DEADLINE)
    signal.setitimer(signal.ITIMER_REAL, 2 * WALL)
    try:
        return compare(items, expected, ordered)
    except Exception:  # sympy raises anything, some of it cannot be pickled, and that would break the pool
        return "undecided"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    serve()
