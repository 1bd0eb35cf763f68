"""Samplers of fault servers, whose waits take no time, and what the servers' script says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rollouts.backends.servers.pool import Clock
from rollouts.backends.servers.sampler import OpenAISampler
from rollouts.sampling.args import OpenAIArgs
from rollouts.sampling.protocol import Request, load_sampler, sample_seed
from tests.faults.server import FaultServer, Schedule, end, text_of
from tests.rollouts.backends.contract import MAX_TOKENS, sampler_args


class FastClock:
    """Time passes only when somebody waits, and then at once."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds
        await asyncio.sleep(0)


@contextmanager
def opened(
    *servers: FaultServer, policy: str = "student", clock: FastClock | None = None, **settings
) -> Iterator[OpenAISampler]:
    """A sampler of running servers. Its waits take no time."""
    urls = [server.url for server in servers]
    args = sampler_args(backend="openai", openai=OpenAIArgs(**({"base_urls": urls, "timeout": 20.0} | settings)))
    sampler = load_sampler(policy, args)
    clock = clock or FastClock()
    sampler.clock = Clock(clock.now, clock.sleep)
    threads = set(threading.enumerate())
    try:
        yield sampler
    finally:
        sampler.close()
    assert set(threading.enumerate()) == threads, "a thread is left behind"


def always(fault: str) -> Schedule:
    return lambda body, times: fault


def at_first(fault: str, times: int) -> Schedule:
    """Each request fails so many times and is then answered."""
    return lambda body, number: fault if number < times else None


def many(count: int, n: int = 2, **settings) -> list[Request]:
    return [Request(f"q{i}", f"question {i}\n", n=n, **settings) for i in range(count)]


def expected(requests: Sequence[Request], limit: int = MAX_TOKENS) -> dict[tuple[str, int], tuple[str, str, int]]:
    """What the script says, worked out without a server."""
    found = {}
    for request in requests:
        first = sample_seed(request.seed, request.id, 0)
        for index in request.indices:
            text, reason, tokens = end(text_of(request.prompt + request.prefix, first + index), limit, [])
            found[request.id, index] = (text, reason, len(tokens))
    return found
