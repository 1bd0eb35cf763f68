"""What sampling may cost: never more than the budget, whatever a policy writes, and nothing paid for is lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from rollouts.sampling.budget import AROUND, BudgetArgs, BudgetSpent, PriceArgs, forecast, most_prompt_tokens
from rollouts.sampling.collect import collect
from rollouts.sampling.protocol import Request, Sample
from rollouts.steps import Chat
from stages.processes import Processes
from stages.tracking import Untracked
from stages.workspace import Workspace

PRICE = PriceArgs(1.0, 4.0)


def test_a_prompt_has_no_more_tokens_than_bytes() -> None:
    assert most_prompt_tokens(Request("r", "añb", "cd\n")) == 4 + 3 + AROUND
    assert most_prompt_tokens(Request("r", Chat("user", "system"))) == 10 + AROUND
    assert most_prompt_tokens(Request("r", (5, 6, 7))) == 3 + AROUND


def test_the_forecast_is_that_of_all_samples() -> None:
    asked = [Request("a", "x" * 400, n=3), Request("b", "x" * 4000, wanted=(1,), n=2)]
    line = "4 replies: about 1,300 tokens to read, at most 400 to write"
    assert forecast(asked, 100, PriceArgs()) == line
    assert forecast(asked, 100, PriceArgs(1000.0, 2000.0)) == f"{line}; at most about 2.10 by these prices"


def test_what_may_not_fit_is_not_asked_for() -> None:
    budget = BudgetArgs(tokens=1000).open(PRICE, max_tokens=100)
    asked = [Request("a", "x" * 36, n=4), Request("b", "x" * 36, n=4)]  # 200 tokens each at most
    parts = budget.parts(asked)
    first = next(parts)
    assert [(one.id, one.indices) for one in first] == [("a", (0, 1, 2, 3)), ("b", (0,))]
    for _ in range(5):
        budget.pay(30, 30)  # 700 are left, though all of it could have been spent
    assert [(one.id, one.indices) for one in next(parts)] == [("b", (1, 2, 3))]
    with pytest.raises(StopIteration):
        next(parts)
    assert list(BudgetArgs(tokens=199).open(PRICE, 100).parts(asked)) == []


def test_money_is_spent_by_the_prices() -> None:
    budget = BudgetArgs(money=0.001).open(PRICE, max_tokens=100)
    asked = [Request("a", "x" * 36, n=9)]  # 100 + 4 * 100 millionths each at most
    parts = budget.parts(asked)
    assert [one.indices for one in next(parts)] == [(0, 1)]
    budget.pay(100, 100)
    budget.pay(0, 0)
    assert [one.indices for one in next(parts)] == [(2,)]
    budget.pay(100, 1)
    assert list(parts) == []


def test_a_request_of_its_own_length_counts_with_it() -> None:
    budget = BudgetArgs(tokens=1000).open(PRICE, max_tokens=100)
    (part,) = [next(budget.parts([Request("a", "x" * 36, n=9, max_tokens=400)]))]
    assert [one.indices for one in part] == [(0, 1)]


class OneToken:
    """Writes one token for each sample, and reads three."""

    promise = "nothing"

    def sample(self, requests: Sequence[Request]):
        for request in requests:
            for index in request.indices:
                yield Sample(request.id, index, "x", "stop", 3, 1, 0)

    def close(self) -> None: ...


class Alone(Processes):
    """One of several processes, which waits for nobody."""

    def wait(self) -> None: ...


def test_the_processes_of_a_launch_share_a_budget(tmp_path: Path) -> None:
    """Each stops when its half is spent, none waits for the other, and both say so."""
    asked = [Request(f"r{n}", "x", n=2) for n in range(30)]
    limits = BudgetArgs(tokens=400)  # a sample may take 1 + 64 + 8 tokens, and takes 4
    kept = []
    for rank in (0, 1):
        work = Workspace(tmp_path / f"{rank}", {}, Untracked(), tmp_path / f"kept{rank}", Alone(rank, 2))
        with pytest.raises(BudgetSpent, match="of 60 samples are kept"):
            collect(OneToken(), asked, work, "test", budget=limits.open(PRICE, 8))
        kept.append((tmp_path / f"kept{rank}" / "test" / f"{rank}.jsonl").read_text().count("\n"))
    assert min(kept) > 10 and sum(kept) * 4 <= 400
