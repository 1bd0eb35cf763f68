"""`correct` with a chat server, killed and gone on: no answer that was kept is paid for again.

The long part (`make faults`) kills 50 times, each time after a number of requests that is drawn.
"""

from __future__ import annotations

import json
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rollouts.records import Mistake
from tests.faults.killing import Job, kill, wait_until
from tests.faults.server import FaultServer
from tests.refine.lema.made import PROBLEMS, REPLY, WRONG, make_mistakes, write_script

CONCURRENCY = 4
MISTAKES = [
    Mistake(f"m{n}", PROBLEMS[n % 4].id, "a", "k", "r", (WRONG[0], f"12 + 2 = {n}", f"#### {n}"), f"{n}")
    for n in range(20, 40)
]


class CorrectJob(Job):
    """One `python -m experiments.correct`."""

    program = "experiments.correct"

    @property
    def artifact(self) -> Path | None:
        found = [path.parent for path in self.folder.glob("artifacts/correct/*/manifest.json")]
        return found[0] if found else None

    def journals(self) -> list[Path]:
        return sorted(self.folder.glob("artifacts/correct/.*.unfinished/*/*.jsonl"))


def page(body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    """A correction of its own for each seed, every third of them cut short."""
    text = REPLY.replace("12 + 2 is", f"It is {body['seed'] % 1000}, as 12 + 2 is")
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    if body["seed"] % 3 == 0:
        choice["finish_reason"] = "length"
    usage = {"prompt_tokens": len(body["messages"][0]["content"]) // 4, "completion_tokens": body["seed"] % 50}
    reply = {"choices": [choice], "usage": usage}
    return 200, {}, json.dumps(reply).encode()


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_it_pays_for_no_answer_twice_but_those_in_flight(tmp_path: Path, kills: int) -> None:
    rng, samples = random.Random(0), 20 * kills
    source = make_mistakes(tmp_path, write_script(tmp_path / "student", {"*": ["a"]}), MISTAKES, PROBLEMS)
    with FaultServer(page=page, speaks_vllm=False) as server:
        overrides = [
            *(f"mistakes={source.path}", "corrector=policy", "policy=a-model", "ask.chat=true", f"n={kills}"),
            *("sampler.backend=openai", "sampler.openai.api=chat", f"sampler.openai.base_urls=[{server.url}]"),
            *(f"sampler.openai.concurrency={CONCURRENCY}", "sampler.openai.omit=[n]"),
        ]
        job = CorrectJob(tmp_path / "killed", overrides)
        done = 0
        for number in range(kills):
            before, more = len(server.seen), rng.randrange(1, samples // kills)
            process = job.start()
            wait_until(lambda b=before, m=more: len(server.seen) >= b + m, f"no request after kill {number}")
            kill(process, process.pid, signal.SIGKILL)
            assert process.returncode == -9 and job.artifact is None and job.kept() >= done
            done = job.kept()
        job.run()
        asked = Counter((json.dumps(one.body["messages"]), one.body["seed"]) for one in server.seen)
        undisturbed = CorrectJob(tmp_path / "undisturbed", overrides)
        undisturbed.run()
    assert len(asked) == samples and asked.total() <= samples + CONCURRENCY * kills
    assert job.result() | {"notes": {}} == undisturbed.result() | {"notes": {}} and job.journals() == []


def test_a_budget_that_is_spent_ends_the_command_with_a_line(tmp_path: Path) -> None:
    source = make_mistakes(tmp_path, write_script(tmp_path / "student", {"*": ["a"]}), MISTAKES, PROBLEMS)
    with FaultServer(page=page, speaks_vllm=False) as server:
        overrides = [
            *(f"mistakes={source.path}", "corrector=policy", "policy=a-model", "ask.chat=true", "n=1"),
            *("sampler.backend=openai", "sampler.openai.api=chat", f"sampler.openai.base_urls=[{server.url}]"),
            *("sampler.max_tokens=100", "price.input=1", "price.output=2"),
        ]
        job = CorrectJob(tmp_path / "job", [*overrides, "budget.money=0.01"])
        assert job.start().wait(240) == 2
        log = job.log()
        paid = len(server.seen)
        assert "error: correct: the budget is spent (budget.money=0.01): " in log and "Traceback" not in log
        assert "20 replies: about " in log and f"{paid} of 20 samples are kept" in log and 0 < paid < 20
        assert job.kept() == paid and job.artifact is None
        job.overrides = [*overrides, "budget.money=1", "run.overwrite=true"]
        job.run()
        assert len(server.seen) == 20 and "the replies cost 0.02 by these prices" in job.log()
