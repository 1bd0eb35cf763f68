"""The process that compares expressions: a pool of killable workers, asked and answering a line of JSON at a time.

`python -m rollouts.grading.prover` is started by `rollouts/grading/symbolic.py`, which also decides what may be asked.
It ends with its standard input. math-verify parses; values are compared here, exactly, and not to six places as it
does.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from typing import TYPE_CHECKING, Any

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
    context.set_forkserver_preload(["math_verify"])  # a killed worker is then replaced in milliseconds
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

    import math_verify  # noqa: F401  before the first deadline starts

    # pebble's own handler waits for the interpreter, which does not come back from a huge integer power
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [MEMORY, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    logging.disable(logging.CRITICAL)  # math-verify warns of each time-out that it does not have
    compare(**WARM_UP)  # its parser and sympy are slow the first time


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


def compare(items: list[str], expected: list[str], ordered: bool) -> str:
    """Compare two lists of LaTeX expressions: right, wrong, unread or undecided. Unordered, they match as multisets."""
    left, right = [_parse(item) for item in items], [_parse(item) for item in expected]
    if any(item is None for item in right):
        return "undecided"
    if any(item is None for item in left):
        return "unread"
    if ordered:
        found = [_equal(*pair) for pair in zip(left, right, strict=True)]
        return "wrong" if False in found else "undecided" if None in found else "right"
    for item in left:
        found = [_equal(item, other) for other in right]
        if True not in found:
            return "undecided" if None in found else "wrong"
        del right[found.index(True)]
    return "right"


def _parse(latex: str) -> Any:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    as_written = NormalizationConfig(basic_latex=False, boxed="none")  # its repairs change values
    config = LatexExtractionConfig(boxed_match_priority=-1, normalization_config=as_written)
    found = parse(f"${latex}$", [config], "no_fallback", "first_match", parsing_timeout=None)
    return found[0] if found else None


def _equal(left: Any, right: Any) -> bool | None:
    """Compare two sympy objects exactly; None where sympy can neither prove nor refute it."""
    from math_verify import verify
    from sympy import Expr, MatrixBase
    from sympy.core.relational import Relational

    if isinstance(left, Relational) and isinstance(right, Relational):
        return _same_relation(left, right)
    if isinstance(left, MatrixBase) and isinstance(right, MatrixBase):
        found = [left.shape == right.shape, *map(_same_value, left.flat(), right.flat())]
        return False if False in found else None if None in found else True
    if isinstance(left, Expr) and isinstance(right, Expr):
        return _same_value(left, right)
    return verify(right, left, timeout_seconds=None)  # sets, intervals, chains of inequalities


def _same_value(left: Any, right: Any) -> bool | None:
    from sympy import nan, simplify, zoo

    left, right = _exact(left), _exact(right)
    if left.has(nan, zoo) or right.has(nan, zoo):
        return None if right.has(nan, zoo) else False
    difference = left - right
    if left == right or difference == 0:
        return True
    equal = difference.equals(0)
    if equal is None:
        equal = True if simplify(difference) == 0 else _refuted(difference)
    return equal


def _refuted(difference: Any) -> bool | None:
    """False if the difference is not zero at some point, for what sympy leaves open (|x| - x)."""
    from sympy import Rational

    symbols = sorted(difference.free_symbols, key=str)
    for first in (Rational(7, 5), Rational(-7, 5)):
        point = {symbol: first + Rational(index, 3) for index, symbol in enumerate(symbols)}
        value = difference.subs(point).evalf(30)
        if value.is_number and value.is_finite and abs(value) > 1e-9:
            return False
    return None


def _exact(expression: Any) -> Any:
    from sympy import Float, Rational

    evaluated = expression.doit()
    return evaluated.xreplace({number: Rational(str(number)) for number in evaluated.atoms(Float)})


def _same_relation(left: Any, right: Any) -> bool | None:
    """Two equations are the same if their differences are in a fixed ratio; inequalities, in a positive one."""
    from sympy import Eq, simplify

    is_equation = isinstance(left, Eq)
    if is_equation != isinstance(right, Eq) or left.rel_op.strip("<>") != right.rel_op.strip("<>"):
        return False
    sides = [(item.lhs, item.rhs) if is_equation else (item.gts, item.lts) for item in (left, right)]
    first, second = (_exact(greater) - _exact(less) for greater, less in sides)
    if second == 0:
        return first == 0
    ratio = simplify(first / second)
    return bool(ratio.is_number and ratio.is_finite and (ratio.is_positive or (is_equation and ratio.is_nonzero)))


if __name__ == "__main__":
    serve()
