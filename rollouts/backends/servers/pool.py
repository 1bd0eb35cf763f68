"""Several servers of OpenAI's protocol as one: who is asked next, what is tried again and when.

A server that fails is left alone for a growing while, then tried with one request, and its requests go to the others
at once. Left out: what is asked, and what is made of the answer (`rollouts/backends/servers/sampler.py`).
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from openai import APIConnectionError, APIStatusError, AsyncOpenAI, OpenAIError
from tenacity import AsyncRetrying, RetryError, retry_if_exception_type

from rollouts.backends.servers.faults import REASON, BadReply, Refused, ReplyError, Trouble, judge, retry_after
from rollouts.sampling.protocol import SamplingError
from stages.text import one_line

T = TypeVar("T")
logger = logging.getLogger(__name__)

FIRST, LONGEST = 1.0, 60.0  # seconds that a server is left alone after its first failure, and at most
LOOK_AGAIN = 0.25  # seconds between two looks at a server that somebody else is trying
IN_A_ROW = 20  # requests given up with no answer between them: more are no accident


@dataclass(frozen=True)
class Clock:
    """Where the time comes from, and how it is waited for."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


@dataclass(eq=False)
class Server:
    """One address, and how it does: `failures` is how often in a row it was left alone after one."""

    url: str
    client: AsyncOpenAI = field(repr=False)
    under_way: int = 0
    asked: int = 0
    answered: int = 0
    failures: int = 0
    rests_until: float = -math.inf


class Tries:
    """What one request has been through. `answered` counts the answers to others when each server last failed with it,
    and `before` is that count at the last but one failure of the server that failed last."""

    def __init__(self, answered: int) -> None:
        self.before = answered
        self.answered: defaultdict[Server, int] = defaultdict(lambda: answered)
        self.failed: Counter[Server] = Counter()
        self.until: defaultdict[Server, float] = defaultdict(lambda: -math.inf)  # when it may be asked again
        self.last: dict[Server, Trouble] = {}


class Pool:
    """Asks servers, at most `concurrency` requests at a time, each `attempts` times and for `timeout` seconds."""

    def __init__(
        self, servers: Sequence[Server], concurrency: int, attempts: int, timeout: float, clock: Clock
    ) -> None:
        self.servers, self.attempts, self.timeout, self.clock = servers, attempts, timeout, clock
        self._slots = asyncio.Semaphore(concurrency)
        self._jitter = random.Random()
        self._over: SamplingError | None = None
        self._given_up, self._given_up_at = 0, 0  # requests since the last answer, and the number of answers by then

    async def close(self) -> None:
        """Give back the connections."""
        for server in self.servers:
            await server.client.close()

    async def ask(self, name: str, send: Callable[[AsyncOpenAI], Awaitable[T]]) -> T:
        """What `send` returns for one of the servers; `name` says in an error what was asked.

        An answer counts as one of the `concurrency` requests until `kept` is called for it: what is lost by a kill is
        never more than that many answers.

        Raises:
            Refused: a server says that the request is at fault, or all have failed `attempts` times with this one
                while they answer others.
            SamplingError: every server has failed `attempts` times, or one does not let us in.
        """
        tries = Tries(self._answered)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Trouble),
            stop=lambda _: not self._left(tries),
            wait=lambda _: self._pause(tries),
            sleep=self.clock.sleep,
        )
        try:
            return await retrying(self._try, tries, send)
        except SamplingError as error:
            self._over = error
            raise
        except RetryError:
            reasons = "; ".join(f"{server.url}: {trouble}" for server, trouble in tries.last.items())
        said = f"every server has failed {self.attempts} times, last with: {reasons}"
        if self._may_give_up(tries):
            self._given_up, self._given_up_at = self._given_up + 1, self._answered
            raise Refused(said)
        self._over = SamplingError(f"{name}: {said}")
        raise self._over

    def kept(self) -> None:
        """Say, in the loop's thread, that whoever reads has kept one more answer."""
        self._slots.release()

    @property
    def _answered(self) -> int:
        return sum(server.answered for server in self.servers)

    def _may_give_up(self, tries: Tries) -> bool:
        """Whether it is the request that is at fault, as far as can be told, and the rest can go on without it."""
        kinds = {trouble.kind for trouble in tries.last.values()}
        if self._answered > (tries.before if "server" in kinds else self._given_up_at):
            return True  # others were answered meanwhile
        return kinds == {"request"} and self._given_up < IN_A_ROW

    def _left(self, tries: Tries) -> list[Server]:
        return [server for server in self.servers if tries.failed[server] < self.attempts]

    def _free(self, tries: Tries) -> list[Server]:
        """The servers that may be asked now. One that has failed gets one request, to see whether it is back."""
        now = self.clock.now()
        return [
            server
            for server in self._left(tries)
            if max(server.rests_until, tries.until[server]) <= now and not (server.failures and server.under_way)
        ]

    def _pause(self, tries: Tries) -> float:
        """Seconds until one of the servers may be free."""
        left = self._left(tries)
        if not left or self._free(tries):
            return 0.0
        end = min(max(server.rests_until, tries.until[server]) for server in left)
        return max(end - self.clock.now(), LOOK_AGAIN)

    async def _try(self, tries: Tries, send: Callable[[AsyncOpenAI], Awaitable[T]]) -> T:
        """One attempt; an answer holds its slot until it is `kept`, whatever else happens gives it back."""
        await self._slots.acquire()
        try:
            return await self._ask_one(tries, send)
        except BaseException:  # cancelled ones too
            self._slots.release()
            raise

    async def _ask_one(self, tries: Tries, send: Callable[[AsyncOpenAI], Awaitable[T]]) -> T:
        if self._over is not None:  # until the reader hears of it, nothing more is asked
            raise SamplingError(str(self._over))
        free = self._free(tries)  # asked only now: while one waits for a slot, servers fail and come back
        if not free:
            raise Trouble("every server is left alone for a while")
        server = min(free, key=lambda server: (server.under_way, server.asked))
        server.asked += 1
        server.under_way += 1
        failures = server.failures
        try:
            answer = await self._send(server, send)
        except Trouble as trouble:
            self._leave_alone(server, tries, trouble, failures)
            raise
        finally:
            server.under_way -= 1
        server.failures = self._given_up = 0
        server.answered += 1
        return answer

    async def _send(self, server: Server, send: Callable[[AsyncOpenAI], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(self.timeout):
                return await send(server.client)
        except TimeoutError:
            fault: Exception = Trouble(f"no answer within {self.timeout:g} s")
        except APIStatusError as error:
            response, told = error.response, " ".join(filter(None, (str(error), error.code, error.type)))
            if "location" in response.headers:
                told += f" to {response.headers['location']}"
            after = retry_after(response.headers, time.time())
            fault = judge(error.status_code, told, error.param, server.answered > 0, after)
        except ReplyError as error:
            fault = judge(error.status, str(error), error.param, server.answered > 0, in_reply=True)
        except APIConnectionError as error:
            cause = error.__cause__ or error
            fault = Trouble(one_line(f"{type(cause).__name__}: {cause}".removesuffix(": "), REASON))
        except BadReply as error:
            fault = Trouble(one_line(error, REASON), "request" if error.readable else "either")
        except OpenAIError as error:
            fault = Trouble(one_line(error, REASON), "either")
        if isinstance(fault, SamplingError):
            fault = SamplingError(f"{server.url}: {fault}")
        # outside, so that what the client raised, which holds the request with its key, does not hang on to it
        raise fault

    def _leave_alone(self, server: Server, tries: Tries, trouble: Trouble, failures: int) -> None:
        now = self.clock.now()
        tries.failed[server] += 1
        tries.last[server] = trouble
        tries.before, tries.answered[server] = tries.answered[server], self._answered
        tries.until[server] = now + self._growing(tries.failed[server])
        if trouble.kind == "request":
            return  # others may ask it
        pause = trouble.after
        if server.failures <= failures:  # else others that were asked at the same time have failed before
            server.failures += 1
            pause = max(pause, self._growing(server.failures))
            logger.warning("%s is left alone for %.1f s: %s", server.url, pause, trouble)
        server.rests_until = max(server.rests_until, now + pause)

    def _growing(self, failures: int) -> float:
        return min(FIRST * 2.0 ** min(failures - 1, 30), LONGEST) * self._jitter.uniform(0.75, 1.25)
