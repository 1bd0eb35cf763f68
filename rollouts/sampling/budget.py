"""What sampling may cost, in tokens or in money: told before, counted meanwhile, and stopped before it is too much.

A prompt counts once for each of its samples; a server that draws several in one call may charge less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rollouts.sampling.protocol import Request
from rollouts.steps import Chat
from stages.checks import check_least, check_range
from stages.stage import runtime

MILLION = 1_000_000
AROUND = 64  # tokens that a chat template may add to a prompt
CHARACTERS = 4  # of a token, roughly, in English


class BudgetSpent(ValueError):
    """Sampling stopped because it could have cost more than it may. The message says what is kept."""


@dataclass
class PriceArgs:
    """The price of a million tokens that are read and that are written, in whatever money; None: not known."""

    input: float | None = runtime(None)  #: money for a million tokens read
    output: float | None = runtime(None)  #: money for a million tokens written

    def validate(self) -> None:
        """Raise ValueError where a price is below 0, or one is missing."""
        check_range(self, "price.", input="[0, inf)", output="[0, inf)")
        if (self.input is None) != (self.output is None):
            raise ValueError(f"price.input={self.input} and price.output={self.output}: give both or neither")

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """What so many tokens cost; None where the price is not known."""
        if self.input is None:
            return None
        return (prompt_tokens * self.input + completion_tokens * self.output) / MILLION


@dataclass
class BudgetArgs:
    """The most that a stage may spend in all its attempts together: tokens read and written, or money (`price`)."""

    tokens: int | None = runtime(None)  #: read and written together
    money: float | None = runtime(None)  #: by price.input and price.output

    def validate(self) -> None:
        """Raise ValueError naming the first limit out of range."""
        check_least(self, "budget.", tokens=1)
        check_range(self, "budget.", money="(0, inf)")

    def open(self, price: PriceArgs, max_tokens: int) -> Budget | None:
        """A budget that nothing has been spent of; None where there is no limit. Completions have at most `max_tokens`.

        Raises:
            ValueError: the limit is money, and the price is not known.
        """
        if self.money is not None and price.input is None:
            raise ValueError(f"budget.money={self.money} needs price.input and price.output")
        return None if self.tokens is None and self.money is None else Budget(self, price, max_tokens)


class Budget:
    """What has been spent, and what may still be asked for."""

    def __init__(self, limits: BudgetArgs, price: PriceArgs, max_tokens: int) -> None:
        self._limits, self._price, self._max_tokens = limits, price, max_tokens
        self._prompt = self._completion = 0
        self._processes, self._before = 1, (0, 0)

    @property
    def limits(self) -> str:
        """The limits as they are set."""
        given = [f"budget.{name}={value}" for name, value in vars(self._limits).items() if value is not None]
        return ", ".join(given)

    def pay(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Count what a sample has cost."""
        self._prompt += prompt_tokens
        self._completion += completion_tokens

    def divide(self, processes: int) -> None:
        """From now on this process has its part of what is left."""
        self._processes, self._before = processes, (self._prompt, self._completion)

    def _left(self) -> tuple[float, float]:
        """Tokens and money that this process may still spend."""
        before, now = self._before, (self._prompt, self._completion)
        own = now[0] - before[0], now[1] - before[1]
        tokens, money = self._limits.tokens, self._limits.money
        left_tokens = float("inf") if tokens is None else (tokens - sum(before)) / self._processes - sum(own)
        if money is None:
            return left_tokens, float("inf")
        return left_tokens, (money - self._price.cost(*before)) / self._processes - self._price.cost(*own)

    def parts(self, requests: Sequence[Request]) -> Iterator[list[Request]]:
        """The requests, so many at a time as fit into what is left in any case: a token has a byte at least, and a
        completion `max_tokens` at most. It ends where not one sample fits, so nothing that was paid for is thrown away.
        """
        waiting = [(request, index) for request in requests for index in request.indices]
        while waiting:
            tokens, money = self._left()
            part: dict[str, Request] = {}
            count = 0
            for request, index in waiting:
                read, written = most_prompt_tokens(request), request.max_tokens or self._max_tokens
                tokens -= read + written
                money -= self._price.cost(read, written) or 0.0
                if tokens < 0 or money < 0:
                    break
                own = part.get(request.id, replace(request, wanted=()))
                part[request.id] = replace(own, wanted=(*own.wanted, index))
                count += 1
            if not part:
                return
            del waiting[:count]
            yield list(part.values())


def prompt_text(request: Request) -> str:
    """The text of a prompt, with what the assistant has begun to write."""
    prompt = request.prompt
    if isinstance(prompt, Chat):
        prompt = "".join(turn["content"] for turn in prompt.messages)
    return (prompt if isinstance(prompt, str) else " " * len(prompt)) + request.prefix


def most_prompt_tokens(request: Request) -> int:
    """No tokenizer makes more tokens of a prompt than it has bytes."""
    return len(prompt_text(request).encode(errors="replace")) + AROUND


def forecast(requests: Sequence[Request], max_tokens: int, price: PriceArgs) -> str:
    """What drawing all samples of some requests will cost, in a line."""
    samples = sum(len(request.indices) for request in requests)
    read = sum(len(prompt_text(request)) * len(request.indices) for request in requests) // CHARACTERS
    written = samples * max_tokens
    line = f"{samples:,} replies: about {read:,} tokens to read, at most {written:,} to write"
    cost = price.cost(read, written)
    return line if cost is None else f"{line}; at most about {cost:,.2f} by these prices"
