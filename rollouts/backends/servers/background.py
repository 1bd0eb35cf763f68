"""An asyncio loop in a thread of its own: work is started from outside, results are taken as they finish.

Closing it cancels what is under way and leaves no thread behind.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """Runs coroutines. `last` is awaited when it closes, after what was under way has been cancelled."""

    def __init__(self, last: Callable[[], Awaitable[None]]) -> None:
        self._last = last
        self._finished: SimpleQueue[Future[T]] = SimpleQueue()
        self._started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self.under_way = 0  # started and not yet taken
        # a daemon, so that a second Ctrl-C, which comes while this one is closed, still ends the program
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="requests", daemon=True)
        self._thread.start()
        self._loop, self._over = self._started.result()

    async def _main(self) -> None:
        over = asyncio.Event()
        self._started.set_result((asyncio.get_running_loop(), over))
        await over.wait()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._last()

    def start(self, work: Coroutine[Any, Any, T]) -> None:
        """Run a coroutine; `take` gives what it returns.

        Raises:
            concurrent.futures.CancelledError: this was closed.
        """
        if not self._thread.is_alive():
            work.close()
            raise CancelledError
        self.under_way += 1
        asyncio.run_coroutine_threadsafe(work, self._loop).add_done_callback(self._finished.put)

    def call(self, function: Callable[[], None]) -> None:
        """Have a function called in the loop's thread, unless this was closed."""
        with suppress(RuntimeError):  # the loop ended meanwhile
            self._loop.call_soon_threadsafe(function)

    def take(self) -> T:
        """Wait for the next work that finishes, and return what it returned.

        Raises:
            concurrent.futures.CancelledError: it was cancelled, since this was closed.
            Exception: what the work raised.
        """
        future = self._finished.get()
        self.under_way -= 1
        return future.result()

    def take_good(self) -> Iterator[T]:
        """What has finished by now and did not fail."""
        while not self._finished.empty():
            future = self._finished.get()
            self.under_way -= 1
            if not future.cancelled() and future.exception() is None:
                yield future.result()

    def close(self) -> None:
        """Cancel what is under way and wait for the thread to end. A second call does nothing."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join()
