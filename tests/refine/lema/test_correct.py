"""Mistakes into corrections end to end: who is asked what, what is kept, what it costs, and where it stops."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.commands.config import RunArgs
from experiments.commands.dry_run import stage_plan
from refine.lema.correct import CORRECT, CorrectArgs
from refine.lema.oracle import OracleArgs
from refine.lema.prompts import CorrectorPromptArgs, ask_correction
from rewards.train import TRAIN_REWARD, TrainRewardArgs
from rollouts.backends.scripted import ScriptedSampler
from rollouts.records import Correction, Mistake, Problem
from rollouts.sampling.args import OpenAIArgs, SamplerArgs
from rollouts.sampling.budget import BudgetArgs, BudgetSpent, PriceArgs
from rollouts.sampling.protocol import Request
from rollouts.world.oracle import true_first_error
from stages.artifacts import Artifact
from stages.make import make
from stages.workspace import Quarantined, Workspace
from tests.faults.server import FaultServer
from tests.refine.lema.made import HARD, PROBLEMS, REPLY, WRONG, make_mistakes, world_mistakes, write_script
from tests.tiny import save_reward

MISTAKES = [Mistake(f"m{n}", problem.id, "a", "k", "r", WRONG, "15") for n, problem in enumerate(PROBLEMS)]


@pytest.fixture
def mistakes(tmp_path: Path) -> Artifact:
    return make_mistakes(tmp_path, write_script(tmp_path / "student", {"*": ["a"]}), MISTAKES, PROBLEMS)


@pytest.fixture
def world(tmp_path: Path) -> Artifact:
    problems, own = world_mistakes(10, HARD)
    return make_mistakes(tmp_path, write_script(tmp_path / "student", {"*": ["a"]}), own, problems)


def correct(source: Artifact, **settings: Any) -> Artifact:
    return make(CORRECT, arguments(source, **settings), source.path.parents[1])[0]


def arguments(source: Artifact, **settings: Any) -> CorrectArgs:
    args = CorrectArgs(mistakes=str(source.path), **settings)
    args.validate()
    return args


def scripted(folder: Path, script: dict[str, list[str]], **settings: Any) -> dict[str, Any]:
    sampler = SamplerArgs(backend="scripted", max_tokens=200)
    return {"corrector": "policy", "policy": write_script(folder, script), "sampler": sampler} | settings


def test_the_oracle_corrects_the_embedded_world(world: Artifact) -> None:
    found = correct(world)
    rows, problems = found.rows(Correction), {one.id: one for one in found.rows(Problem, "problems")}
    assert [row.mistake_id for row in rows] == [one.id for one in world.rows(Mistake)] and len(rows) > 30
    for row, mistake in zip(rows, world.rows(Mistake), strict=True):
        assert (row.mistake, row.source, row.corrector, row.hint) == (mistake.steps, mistake.source, "oracle", None)
        assert row.reason is None and true_first_error(problems[row.problem_id], row.steps) is None
    counts = found.manifest["counts"]
    assert counts["kept"] == counts["mistakes"] == len(rows) and counts["true_steps"] == 1.0
    assert found.manifest["tokens"] == counts["completion_tokens"] == sum(len(row.text.split()) for row in rows)


def test_errors_of_the_oracle_are_counted_and_the_same_seed_gives_the_same_bytes(world: Artifact) -> None:
    settings = {"oracle": OracleArgs(wrong_step=0.3, wrong_correction=0.3), "n": 3}
    found = correct(world, **settings)
    counts = found.manifest["counts"]
    dropped = {name: value for name, value in counts.items() if name.startswith("dropped_")}
    assert {"dropped_wrong_answer", "dropped_duplicate"} <= dropped.keys() and counts["true_steps"] < 0.9
    assert counts["kept"] + sum(dropped.values()) == counts["rows"] == 3 * counts["mistakes"]
    assert Counter(row.reason for row in found.rows(Correction))["wrong_answer"] == counts["dropped_wrong_answer"]
    bytes_before = (found.path / "rows.parquet").read_bytes()
    for file in found.path.iterdir():
        file.unlink()
    found.path.rmdir()
    assert (correct(world, **settings).path / "rows.parquet").read_bytes() == bytes_before
    assert (correct(world, **settings, seed=1).path / "rows.parquet").read_bytes() != bytes_before


def test_the_oracle_is_refused_elsewhere(mistakes: Artifact) -> None:
    with pytest.raises(ValueError, match="corrector=oracle knows the embedded world only, not jsonl"):
        correct(mistakes)


def test_a_policy_reads_the_prompt_and_its_replies_are_filtered(mistakes: Artifact, tmp_path: Path) -> None:
    ask = CorrectorPromptArgs(instruction="Mend it.")
    prompt = ask_correction(PROBLEMS[0].question, WRONG, ask, None)
    own = mistakes.rows(Mistake)
    replies = [REPLY, "I see none.", REPLY + " ", REPLY.replace("14", "13"), "word " * 300]
    script = {prompt: replies, own[3].id: ["None", *replies[1:]]}
    found = correct(mistakes, **scripted(tmp_path / "c", script, ask=ask, n=5))
    rows = found.rows(Correction)
    assert [row.reason for row in rows[:5]] == [None, "no_fields", "duplicate", "wrong_answer", "truncated"]
    assert [row.id for row in rows[:2]] == [f"{own[0].id}/0", f"{own[0].id}/1"] and rows[0].corrector.startswith("c@")
    first = rows[0]
    assert (first.wrong_step, first.explanation, first.answer) == (2, "12 + 2 is 14.", "14")
    assert first.steps == ("4 * 3 = 12", "12 + 2 = 14", "#### 14") and first.mistake == WRONG and first.text == REPLY
    counts = found.manifest["counts"]
    assert (counts["kept"], counts["corrected_mistakes"], counts["rows"]) == (4, 4, 20)
    assert counts["dropped_truncated"] == 4 and "true_steps" not in counts
    assert counts["prompt_tokens"] == sum(row.prompt_tokens for row in rows) == 20 * len(prompt.split(" "))


def test_a_corrector_that_refuses_has_rows_and_a_reason(mistakes: Artifact, tmp_path: Path, monkeypatch) -> None:
    answer = ScriptedSampler.sample

    def sample(self, requests: Sequence[Request]):
        for one in answer(self, requests):
            refused = {"text": "", "finish_reason": "refused", "reason": "content filter"}
            yield dataclasses.replace(one, **refused) if one.index == 1 else one

    monkeypatch.setattr(ScriptedSampler, "sample", sample)
    found = correct(mistakes, **scripted(tmp_path / "c", {"*": [REPLY]}, n=2))
    assert [row.reason for row in found.rows(Correction)] == [None, "refused"] * 4
    assert {row.reason for row in found.rows(Quarantined, "quarantine")} == {"content filter"}


@pytest.mark.parametrize("where", ["sorm", "oracle"])
def test_a_weaker_corrector_is_told_where_to_look(world: Artifact, tmp_path: Path, where: str) -> None:
    settings = {}
    if where == "sorm":

        def write(_args: Any, work: Workspace) -> None:
            save_reward(work.folder, "sorm", -5.0, threshold=0.5)  # every step is wrong to it

        policy = write_script(tmp_path / "p", {"*": [""]})
        args = TrainRewardArgs(kind="sorm", policy=policy, labels=None)
        settings["sorm"] = str(make(dataclasses.replace(TRAIN_REWARD, run=write), args, tmp_path)[0].path)
    found = correct(world, **scripted(tmp_path / "c", {"*": ["no idea"]}, where=where, device="cpu", **settings))
    problems = {one.id: one for one in found.rows(Problem, "problems")}
    # a solution that the model cannot read as a whole has no hint
    unread = {row.id for row in found.rows(Quarantined, "quarantine")} if where == "sorm" else set()
    for row in found.rows(Correction):
        true = true_first_error(problems[row.problem_id], row.mistake) + 1
        assert row.hint == (true if where == "oracle" else None if row.mistake_id in unread else 1)
    counts = found.manifest["counts"]
    assert counts["hints"] == counts["rows"] - len(unread) > 10


def test_settings_that_do_not_fit_are_refused() -> None:
    for settings, message in (
        ({"corrector": "human"}, "corrector='human' is none of oracle, policy"),
        ({"corrector": "policy"}, "corrector=policy with policy=None"),
        ({"policy": "p"}, "corrector=oracle with policy=p"),
        ({"where": "sorm"}, "where=sorm: the oracle knows where"),
        ({"corrector": "policy", "policy": "p", "where": "sorm"}, "where=sorm needs sorm"),
        ({"corrector": "policy", "policy": "p", "n": 2, "sampler": SamplerArgs(temperature=0.0)}, "n=2 greedy replies"),
        ({"budget": BudgetArgs(money=1.0)}, "budget.money=1.0 needs price.input and price.output"),
        ({"n": 0}, "n must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            CorrectArgs(mistakes="m", **settings).validate()
    for args, message in (
        (PriceArgs(input=1.0), "give both or neither"),
        (PriceArgs(-1.0, 1.0), "price.input must be"),
    ):
        with pytest.raises(ValueError, match=message):
            args.validate()


def test_the_cost_is_told_before_and_after(mistakes: Artifact, tmp_path: Path) -> None:
    settings = scripted(tmp_path / "c", {"*": [REPLY]}, n=2, price=PriceArgs(2.0, 10.0))
    args = arguments(mistakes, **settings)
    prompt = ask_correction(PROBLEMS[0].question, WRONG, args.ask, None)
    read = 8 * len(prompt) // 4
    cost = (read * 2 + 1600 * 10) / 1e6
    assert args.forecast() == [
        f"8 replies: about {read:,} tokens to read, at most 1,600 to write; at most about {cost:,.2f} by these prices"
    ]
    counts = correct(mistakes, **settings).manifest["counts"]
    assert counts["cost"] == (counts["prompt_tokens"] * 2 + counts["completion_tokens"] * 10) / 1e6 > 0
    # prices and budgets are no part of the key
    assert make(CORRECT, arguments(mistakes, **settings | {"price": PriceArgs()}), tmp_path)[1]
    assert CorrectArgs(mistakes=str(mistakes.path)).forecast() == []


def test_a_dry_run_tells_the_cost(mistakes: Artifact, tmp_path: Path) -> None:
    args = arguments(mistakes, **scripted(tmp_path / "c", {"*": [REPLY]}, n=2, price=PriceArgs(2.0, 10.0)))
    job = SimpleNamespace(args=args, run=RunArgs(artifacts=str(tmp_path)))
    lines, found = stage_plan(CORRECT, job)
    assert not found and f"  {args.forecast()[0]}" in lines
    make(CORRECT, args, tmp_path)
    lines, found = stage_plan(CORRECT, job)
    assert found and not any("to read" in line for line in lines)  # it is paid for


class Asked:
    """Notes which samples a scripted policy was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.samples: list[tuple[str, int]] = []
        answer = ScriptedSampler.sample

        def sample(sampler: ScriptedSampler, requests: Sequence[Request]):
            for one in answer(sampler, requests):
                self.samples.append((one.request_id, one.index))
                yield one

        monkeypatch.setattr(ScriptedSampler, "sample", sample)


@pytest.mark.parametrize("kind", ["tokens", "money"])
def test_a_budget_stops_before_it_is_over_and_a_larger_one_goes_on(
    mistakes: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    asked, price = Asked(monkeypatch), PriceArgs(1.0, 1.0)
    settings = scripted(tmp_path / "c", {"*": [REPLY]}, n=5, price=price)
    whole = correct(mistakes, **settings | {"seed": 1})
    each = whole.manifest["counts"]["prompt_tokens"] // 20 + whole.manifest["counts"]["completion_tokens"] // 20
    asked.samples.clear()

    def limited(tokens: int) -> BudgetArgs:
        return BudgetArgs(tokens=tokens) if kind == "tokens" else BudgetArgs(money=tokens / 1e6)

    limit = 1500
    with pytest.raises(BudgetSpent, match=rf"the budget is spent \(budget.{kind}=.*\): (\d+) of 20 samples are kept"):
        correct(mistakes, **settings, budget=limited(limit))
    first = list(asked.samples)
    assert 0 < len(first) < 20 and len(first) * each <= limit
    with pytest.raises(BudgetSpent, match=f"{len(first)} of 20 samples are kept"):  # nothing more is bought for it
        correct(mistakes, **settings, budget=limited(limit))
    assert asked.samples == first
    found = correct(mistakes, **settings, budget=limited(100_000))
    assert len(asked.samples) == len(set(asked.samples)) == 20
    assert len(found.rows(Correction)) == 20 and found.manifest["counts"]["kept"] == 4


def chat_page(refuse: Any, status: int = 200) -> Any:
    """A chat server's page: a correction, or an error with this status where `refuse` says so of a body."""

    def page(body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        if refuse(body):
            return status, {}, b'{"error": {"message": "Provider returned error", "code": 524}}'
        choices = [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": REPLY}}]
        told = {"choices": choices, "usage": {"prompt_tokens": 11, "completion_tokens": 7}}
        return 200, {}, json.dumps(told).encode()

    return page


def test_a_chat_server_corrects_and_its_failures_are_no_results(tmp_path: Path, monkeypatch) -> None:
    """Every tenth call fails with status 200, as providers do; each is asked again, and nothing is empty or lost."""
    monkeypatch.setattr("rollouts.backends.servers.pool.FIRST", 0.001)
    problems = [
        dataclasses.replace(PROBLEMS[0], id=f"p{n}", question=f"{n}: {PROBLEMS[0].question}") for n in range(25)
    ]
    own = [Mistake(f"m{n}", problem.id, "a", "k", "r", WRONG, "15") for n, problem in enumerate(problems)]
    source = make_mistakes(tmp_path, write_script(tmp_path / "student", {"*": ["a"]}), own, problems)
    count = iter(range(10_000))
    with FaultServer(page=chat_page(lambda body: next(count) % 10 == 9), speaks_vllm=False) as server:
        openai = OpenAIArgs(base_urls=[server.url], api="chat", concurrency=4, omit=["n"])
        found = correct(
            source,
            corrector="policy",
            policy="a-model",
            sampler=SamplerArgs(backend="openai", openai=openai, max_tokens=300),
            ask=CorrectorPromptArgs(instruction="Mend it.", chat=True, system="You are a teacher."),
            n=2,
            price=PriceArgs(1.0, 2.0),
        )
        bodies = [one.body for one in server.seen]
    rows = found.rows(Correction)
    assert len(rows) == 50 and Counter(row.reason for row in rows) == {None: 25, "duplicate": 25}
    assert {row.corrector for row in rows} == {"a-model@127.0.0.1"}
    assert found.manifest["counts"]["cost"] == 50 * (11 + 2 * 7) / 1e6
    assert len(bodies) == 50 + (len(bodies) // 10) and {body["max_completion_tokens"] for body in bodies} == {300}
    roles = {tuple(turn["role"] for turn in body["messages"]) for body in bodies}
    assert roles == {("system", "user")} and not any("stop" in body for body in bodies)


def test_a_server_that_fails_for_good_keeps_what_was_paid_for(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("rollouts.backends.servers.pool.FIRST", 0.001)
    monkeypatch.setattr("rollouts.backends.servers.pool.LONGEST", 0.001)
    source = make_mistakes(tmp_path, write_script(tmp_path / "student", {"*": ["a"]}), MISTAKES, PROBLEMS)
    answered: Counter[str] = Counter()
    down = [True]

    def refuse(body: dict[str, Any]) -> bool:
        if down[0] and len(answered) == 5:
            return True
        answered[json.dumps(body["seed"])] += 1
        return False

    with FaultServer(page=chat_page(refuse, 503), speaks_vllm=False) as server:
        openai = OpenAIArgs(base_urls=[server.url], api="chat", concurrency=1, attempts=2, omit=["n"])
        sampler = SamplerArgs(backend="openai", openai=openai)
        settings = {"corrector": "policy", "policy": "m", "sampler": sampler, "n": 3}
        with pytest.raises(ValueError, match="every server has failed 2 times"):
            correct(source, **settings)
        down[0] = False
        rows = correct(source, **settings).rows(Correction)
    assert len(rows) == 12 == sum(answered.values()) and set(answered.values()) == {1}
    assert not any(row.reason in ("refused", "empty") for row in rows)
