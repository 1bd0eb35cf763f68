"""The backend openai against a server that answers from a script and fails on purpose."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from rollouts.backends.servers.background import Background
from rollouts.backends.servers.pool import Pool
from rollouts.backends.servers.sampler import Drawn, OpenAISampler
from rollouts.sampling.args import OpenAIArgs
from rollouts.sampling.policies import load_tokenizer
from rollouts.sampling.protocol import Request, Sample, Sampler, SamplingError, load_sampler, prompt_ids, sample_seed
from rollouts.steps import Chat, encode_prompt, encode_text, end_token
from tests.families import family
from tests.faults.server import FAULTS, FaultServer, at_random, end
from tests.rollouts.backends.contract import SamplerContract, by_name, sampler_args, student, texts
from tests.rollouts.backends.serving import always, at_first, expected, many, opened

KEY = "sk-never-to-be-seen-0123456789"
ROOT = Path(__file__).parents[3]
ENDLESS = ("hang", "trickle")  # only a time-out ends them


class TestScriptedServer(SamplerContract):
    draws = False
    knows_tokens = False

    @pytest.fixture(scope="class", params=[False, True], ids=["plain", "vllm"])
    @classmethod
    def opened(cls, request: pytest.FixtureRequest) -> Iterator[Sampler]:
        with FaultServer() as server, opened(server, vllm=request.param) as sampler:
            yield sampler


def test_the_answer_is_the_script_s() -> None:
    requests = many(5, n=3)
    with FaultServer() as server, opened(server) as sampler:
        found = by_name(sampler.sample(requests))
    assert texts(found) == expected(requests)
    assert {sample.prompt_tokens for sample in found.values()} == {len("question 0\n")}
    assert all(sample.token_ids == () == sample.logprobs for sample in found.values())
    assert [(seen.path, seen.body["n"]) for seen in server.seen] == [("/v1/completions", 3)] * 5
    assert found["q1", 2].seed == sample_seed(0, "q1", 0) + 2


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_may_pass_is_tried_again(fault: str, api: str) -> None:
    """Two faults for each request, then its answer: nothing is lost, nothing comes twice."""
    requests = many(4, n=1)
    with FaultServer(at_first(fault, 2)) as server:
        timeout = 0.5 if fault in ENDLESS else 20.0
        with opened(server, api=api, attempts=12, timeout=timeout, concurrency=4) as sampler:
            found = by_name(sampler.sample(requests))
    assert texts(found) == expected(requests)
    tries = Counter(seen.body["seed"] for seen in server.seen)
    assert len(tries) == 4 and (set(tries.values()) == {3} or fault in ENDLESS)


@pytest.mark.parametrize("seed", range(3))
def test_hundreds_of_requests_to_servers_that_fail(seed: int) -> None:
    requests = many(300, n=3)
    passing = tuple(fault for fault in FAULTS if fault not in ENDLESS)
    with ExitStack() as stack:
        servers = [stack.enter_context(FaultServer(at_random(seed + i, 0.4, 3, passing))) for i in range(3)]
        servers.append(stack.enter_context(FaultServer(always("not taken"))))
        with opened(*servers, concurrency=16) as sampler:
            found = by_name(sampler.sample(requests))
    # but for the tokens: those of a choice that is no answer are counted with the others of its reply
    assert {key: text[:2] for key, text in texts(found).items()} == {k: v[:2] for k, v in expected(requests).items()}
    seen = [one for server in servers for one in server.seen]
    # each call was answered once only: what was answered is not asked for again
    answered = Counter(one.body["seed"] for one in seen if one.fault is None)
    assert set(answered.values()) == {1}
    assert sum(one.fault is not None for one in seen) > 50
    assert all(sum(one.fault is None for one in server.seen) > 10 for server in servers[:3])
    assert all(server.most_under_way <= 16 for server in servers)


def test_hangs_among_faults() -> None:
    requests = many(60)
    with (
        FaultServer(at_random(0, 0.3, 2, ("hang", "500", "cut"))) as server,
        opened(server, concurrency=20, timeout=1.0) as sampler,
    ):
        found = by_name(sampler.sample(requests))
    assert texts(found) == expected(requests)
    assert any(seen.fault == "hang" for seen in server.seen)


@pytest.mark.parametrize("status", ["401", "403", "404"])
def test_what_will_never_pass_ends_it_at_once(status: str) -> None:
    with (
        FaultServer(always(status)) as server,
        opened(server, concurrency=1) as sampler,
        pytest.raises(SamplingError, match=f"{server.url}.*{status}"),
    ):
        list(sampler.sample(many(5)))
    assert len(server.seen) == 1


def test_an_address_without_its_path_is_named() -> None:
    with (
        FaultServer() as server,
        opened(base_urls=[server.url.removesuffix("/v1")]) as sampler,
        pytest.raises(SamplingError, match=r"there is no /completions.*/v1"),
    ):
        list(sampler.sample(many(1)))


def test_what_has_finished_is_handed_over_before_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of eight fails. All have finished when the reader, who has read the first, goes on."""

    async def draw(self, pool, call) -> Drawn:
        if call.request.id == "q1":
            raise SamplingError("q1 cannot be had")
        return Drawn([Sample(call.request.id, 0, "", "stop", 1, 1, 0)], [], answered=False)

    async def until_nothing_runs() -> None:
        while len(asyncio.all_tasks()) > 2:  # this one, and the one that waits for the end
            await asyncio.sleep(0)

    monkeypatch.setattr(OpenAISampler, "_draw", draw)
    with opened(base_urls=["http://127.0.0.1:1/v1"], concurrency=4) as sampler:
        stream = sampler.sample(many(8, n=1))
        found = [next(stream).request_id]
        (background,) = sampler._open
        asyncio.run_coroutine_threadsafe(until_nothing_runs(), background._loop).result(timeout=60)
        with pytest.raises(SamplingError, match="q1"):
            found.extend(sample.request_id for sample in stream)
    assert found == [f"q{i}" for i in range(8) if i != 1]


def test_no_more_is_asked_than_can_be_lost_while_the_reader_keeps_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed now, the program would pay twice for `concurrency` answers: those under way and those not kept yet."""
    pools: list[Pool] = []
    open_pool = OpenAISampler._open_pool
    monkeypatch.setattr(OpenAISampler, "_open_pool", lambda self: pools.append(open_pool(self)) or pools[0])

    async def until_nothing_is_under_way() -> None:
        while any(server.under_way for server in pools[0].servers) or not pools[0]._slots.locked():
            await asyncio.sleep(0)

    with FaultServer() as server, opened(server, concurrency=3) as sampler:
        stream = sampler.sample(many(12, n=1))
        for kept in range(4):  # the reader holds one more than it has kept
            next(stream)
            (background,) = sampler._open
            asyncio.run_coroutine_threadsafe(until_nothing_is_under_way(), background._loop).result(timeout=60)
            assert len(server.seen) == kept + 3
        assert len(list(stream)) == 12 - 4 and len(server.seen) == 12


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_a_request_at_fault_is_refused_and_the_rest_goes_on(api: str) -> None:
    requests = [*many(2), Request("long", "x" * 101, n=2), Request("empty", "", n=3), *many(4)[2:]]
    with FaultServer(context=100) as server, opened(server, api=api) as sampler:
        found = by_name(sampler.sample(requests))
    refused = {key: sample for key, sample in found.items() if sample.finish_reason == "refused"}
    assert set(refused) == {("long", 0), ("long", 1), ("empty", 0), ("empty", 1), ("empty", 2)}
    assert "maximum context length is 100" in refused["long", 1].reason
    assert "empty" in refused["empty", 2].reason
    assert all(sample.text == "" and sample.completion_tokens == 0 for sample in refused.values())
    assert {key: value for key, value in texts(found).items() if key not in refused} == expected(many(4))
    assert len(server.seen) == 5  # the empty prompt is not sent, the long one not sent again


def test_only_the_choice_that_a_filter_stopped_is_refused() -> None:
    with FaultServer(always("content_filter")) as server, opened(server) as sampler:
        found = by_name(sampler.sample(many(1, n=2)))
    reasons = Counter(sample.finish_reason == "refused" for sample in found.values())
    assert reasons == {True: 1, False: 1} and len(server.seen) == 1
    assert any(sample.reason and "content_filter" in sample.reason for sample in found.values())


def test_a_model_that_thought_until_the_limit_said_nothing() -> None:
    def hush(answer, fault, is_chat):
        answer["choices"][0] |= {"finish_reason": "length", "message": {"role": "assistant", "content": None}}

    with pytest.MonkeyPatch.context() as patch, FaultServer() as server, opened(server, api="chat") as sampler:
        patch.setattr("tests.faults.server.spoil", hush)
        (sample,) = sampler.sample(many(1, n=1))
    assert (sample.text, sample.finish_reason) == ("", "length")


def test_chat_sends_a_message_of_a_user() -> None:
    with FaultServer() as server, opened(server, api="chat", model="m") as sampler:
        list(sampler.sample(many(1, stop=("\n",), max_tokens=7, temperature=0.5, top_p=0.9)))
    body = server.seen[0].body
    assert server.seen[0].path == "/v1/chat/completions"
    assert body.pop("seed") == sample_seed(0, "q0", 0)
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "question 0\n"}],
        "n": 2,
        "max_completion_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["\n"],
    }


def test_a_chat_goes_as_its_turns() -> None:
    request = Request("a", Chat("How many?", "Be brief."), n=2)
    with FaultServer() as server, opened(server, api="chat", model="m") as sampler:
        assert len(list(sampler.sample([request]))) == 2
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How many?"}]
    assert server.seen[0].body["messages"] == turns


@pytest.mark.parametrize("vllm", [False, True])
def test_a_chat_goes_as_token_ids_where_the_tokenizer_is_known(vllm: bool) -> None:
    tokenizer, chat = family("qwen2"), Chat("Ann has 7 pens.")
    with FaultServer(speaks_vllm=vllm) as server, opened(server, vllm=vllm) as sampler:
        sampler.caller.tokenizer = tokenizer
        list(sampler.sample([Request("a", chat, "7\n")]))
    body = server.seen[0].body
    assert body["prompt"] == encode_prompt(tokenizer, chat) + encode_text(tokenizer, "7\n")
    assert body.get("stop_token_ids") == ([end_token(tokenizer, chat)] if vllm else None)


def test_a_chat_without_a_tokenizer_is_refused_before_anything_is_sent() -> None:
    with (
        FaultServer() as server,
        opened(server) as sampler,
        pytest.raises(ValueError, match=r"request a is a chat: .* sampler\.openai\.api=chat only"),
    ):
        list(sampler.sample([*many(3), Request("a", Chat("How many?"))]))
    assert server.seen == []


@pytest.mark.parametrize(
    ("request_", "api", "what"),
    [
        (Request("bad", "Q", prefix="A\n"), "chat", "a prefix"),
        (Request("bad", (1, 2)), "chat", "token ids"),
        (Request("bad", (1, 2), prefix="A\n"), "completions", "token ids and a prefix"),
    ],
)
def test_what_cannot_be_sent_is_named_before_anything_is(request_: Request, api: str, what: str) -> None:
    with (
        FaultServer() as server,
        opened(server, api=api) as sampler,
        pytest.raises(ValueError, match=f"request bad has .*{what}"),
    ):
        list(sampler.sample([*many(3), request_]))
    assert server.seen == []


def test_prompts_go_as_text_or_as_token_ids() -> None:
    with FaultServer() as server:
        with opened(server) as sampler:
            list(sampler.sample([Request("a", "Q\n", prefix="A\n"), Request("b", (5, 6))]))
        with opened(server, policy=student()) as sampler:
            request = Request("c", "How many </s> pens?\n", prefix="1+1=2\n")
            list(sampler.sample([request]))
    prompts = {str(seen.body["prompt"]): seen.body["model"] for seen in server.seen}
    ids = prompt_ids(load_tokenizer(student()), request)
    assert prompts == {"Q\nA\n": "student", "[5, 6]": "student", str(ids): student()}


def test_only_a_whole_request_is_asked_for_at_once() -> None:
    first = sample_seed(3, "q0", 0)
    with FaultServer() as server, opened(server, vllm=True, concurrency=1) as sampler:
        whole = many(1, n=4, seed=3)
        found = by_name(sampler.sample(whole))
        assert [(seen.body["n"], seen.body["seed"]) for seen in server.seen] == [(4, first)]
        some = by_name(sampler.sample([replace(whole[0], wanted=(3, 1))]))
        assert [(seen.body["n"], seen.body["seed"]) for seen in server.seen[1:]] == [(1, first + 3), (1, first + 1)]
        assert some == {key: found[key] for key in [("q0", 3), ("q0", 1)]}
        # vllm refuses more than one greedy sample
        list(sampler.sample([replace(whole[0], temperature=0.0)]))
        assert [seen.body["n"] for seen in server.seen[3:]] == [1, 1, 1, 1]


def test_seeds_go_round_at_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollouts.sampling.protocol.sample_seed", lambda *_: 2**63 - 2)
    with FaultServer() as server, opened(server, concurrency=1) as sampler:
        found = by_name(sampler.sample(many(1, n=4)))
    assert [found["q0", i].seed for i in range(4)] == [2**63 - 2, 2**63 - 1, 0, 1]
    assert [seen.body["seed"] for seen in server.seen] == [2**63 - 2, 2**63 - 1, 0, 1]


def test_vllm_tells_tokens_and_their_probabilities() -> None:
    requests = many(1, n=2, logprobs=True)
    with FaultServer() as server, opened(server, vllm=True) as sampler:
        found = by_name(sampler.sample(requests))
    for key, (text, reason, count) in expected(requests).items():
        tokens = tuple([*map(ord, text), 0][:count])
        assert found[key].token_ids == tokens and found[key].finish_reason == reason
        assert found[key].logprobs == pytest.approx([-token / 100 for token in tokens])
    body = server.seen[0].body
    assert body["return_token_ids"] is True and body["logprobs"] == 1
    # the folder's generation_config.json does not decide
    assert (body["top_k"], body["min_p"], body["repetition_penalty"]) == (0, 0.0, 1.0)
    assert not any(seen.body.keys() & {"top_k", "return_token_ids"} for seen in plain_bodies())


def plain_bodies() -> list:
    with FaultServer() as server, opened(server) as sampler:
        list(sampler.sample(many(1)))
    return server.seen


@pytest.mark.parametrize("vllm", [False, True])
def test_chat_tells_probabilities(vllm: bool) -> None:
    with FaultServer() as server, opened(server, api="chat", vllm=vllm) as sampler:
        (sample,) = sampler.sample(many(1, n=1, logprobs=True))
    assert len(sample.logprobs) == sample.completion_tokens and server.seen[0].body["logprobs"] is True
    assert len(sample.token_ids) == (sample.completion_tokens if vllm else 0)


def test_a_server_that_is_not_vllm_is_found_out() -> None:
    with (
        FaultServer(speaks_vllm=False) as server,
        opened(server, vllm=True) as sampler,
        pytest.raises(SamplingError, match="vllm=false"),
    ):
        list(sampler.sample(many(3)))


def test_a_text_that_ran_into_the_end_of_the_context_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """`vllm serve` cuts max_tokens down to the room that is left, and says length."""
    monkeypatch.setattr("tests.faults.server.end", lambda text, limit, stop: end(text, min(limit, 20), stop))
    with FaultServer() as server, opened(server, vllm=True) as sampler:
        found = by_name(sampler.sample(many(20)))
    assert {sample.finish_reason for sample in found.values()} == {"refused", "stop"}
    assert all("context" in sample.reason for sample in found.values() if sample.finish_reason == "refused")


def test_the_key_is_sent_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture
) -> None:
    """The servers repeat it in their errors. Everything that is logged, printed, raised or shown is searched."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    shown: list[str] = []
    schedules = (always("503"), always("401"), always("400"), always("html"), at_first("500", 2), at_first("429", 1))
    for schedule in schedules:
        with FaultServer(schedule) as server, opened(server, api_key_env="MY_KEY", attempts=3) as sampler:
            try:
                shown += map(repr, sampler.sample(many(2)))
            except SamplingError as error:
                shown += chain_of(error)
            shown += [repr(sampler), repr(vars(sampler)), repr(sampler.args), sampler.promise]
            shown += [repr(sampler._open_pool().servers)]
        assert {seen.headers["authorization"] for seen in server.seen} == {f"Bearer {KEY}"}
    assert any("***" in text for text in shown)
    out = capfd.readouterr()
    everything = "\n".join([*shown, caplog.text, out.out, out.err, *(repr(vars(one)) for one in caplog.records)])
    assert "left alone" in everything and "We are back" in everything and "\x1b" not in everything
    assert not any(KEY[start : start + 6] in everything for start in range(len(KEY) - 5))


def chain_of(error: BaseException | None) -> Iterator[str]:
    """An error and all that led to it, as texts."""
    while error is not None:
        yield f"{error!r} {error} {vars(error)}"
        assert error.__cause__ is None
        error = error.__context__


def test_a_server_on_this_machine_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer() as server:
        for value in (None, "", "  "):
            if value is not None:
                monkeypatch.setenv("OPENAI_API_KEY", value)
            with opened(server) as sampler:
                list(sampler.sample(many(1)))
    assert {seen.headers["authorization"] for seen in server.seen} == {"Bearer none"}


def test_a_server_elsewhere_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = OpenAIArgs(base_urls=["http://localhost:1/v1", "https://models.example/v1"], api_key_env="THE_KEY")
    with pytest.raises(ValueError, match=r"models\.example.*THE_KEY is not set"):
        load_sampler("m", sampler_args(backend="openai", openai=settings))
    monkeypatch.setenv("THE_KEY", f"{KEY}\nsecond")
    with pytest.raises(ValueError, match="THE_KEY holds characters") as raised:
        load_sampler("m", sampler_args(backend="openai", openai=settings))
    assert KEY not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["https://me:secret@host/v1", "me:secret@host", "https://host/v1?key=secret", "https://host/v1#secret"]
)
def test_an_address_that_holds_a_secret_is_refused_without_saying_it(url: str) -> None:
    settings = OpenAIArgs(base_urls=["https://host/v1", url])
    with pytest.raises(ValueError, match=r"base_urls\[1\] holds") as raised:
        load_sampler("m", sampler_args(backend="openai", openai=settings))
    assert "secret" not in str(raised.value)


class Counted(Sequence):
    """Requests that are made when they are asked for, and counted."""

    def __init__(self, length: int, taken: Callable[[int], None]) -> None:
        self.length, self.taken = length, taken

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> Request:
        if i >= self.length:
            raise IndexError(i)
        self.taken(i)
        return Request(f"q{i}", f"question {i}\n")


def test_requests_are_taken_as_answers_come() -> None:
    """However many there are, no more are held than a few times the concurrency, also while the reader rests."""
    taken: list[int] = []
    with FaultServer() as server, opened(server, concurrency=4) as sampler:
        stream = sampler.sample(Counted(500, taken.append))
        for number, _ in enumerate(stream):
            # all are looked at once before the first is sent
            assert len(taken) - 500 <= number + 1 + 8
            assert len(server.seen) <= number + 1 + 8
    assert len(taken) == 1000 and len(server.seen) == 500


def test_samples_come_as_they_finish() -> None:
    """The first request hangs until the reader has read the other."""
    hung = sample_seed(0, "q0", 0)
    with FaultServer(lambda body, times: "hang" if body["seed"] == hung else None) as server:
        with opened(server, concurrency=2, timeout=600.0) as sampler:
            stream = sampler.sample(many(2, n=1))
            assert next(stream).request_id == "q1"
            stream.close()
        assert server.leaving.acquire(timeout=60)


def test_a_closed_stream_leaves_no_connection_behind() -> None:
    """Each of the requests under way is seen to be given up, and the sampler can be used again."""
    hangs = {sample_seed(0, f"q{i}", 0) for i in range(1, 5)}
    with (
        FaultServer(lambda body, times: "hang" if body["seed"] in hangs else None) as server,
        opened(server, concurrency=5, timeout=600.0) as sampler,
    ):
        before = set(threading.enumerate())
        stream = sampler.sample(many(5, n=1))
        next(stream)
        assert all(server.hanging.acquire(timeout=60) for _ in range(4))
        assert set(threading.enumerate()) > before
        stream.close()
        assert set(threading.enumerate()) == before
        assert all(server.leaving.acquire(timeout=60) for _ in range(4))
        assert all(seen.left for seen in server.seen if seen.fault)
        assert len(by_name(sampler.sample(many(1, seed=1)))) == 2


def test_closing_the_sampler_ends_what_is_under_way() -> None:
    with (
        FaultServer(lambda body, times: "hang" if len(server.seen) > 1 else None) as server,
        opened(server, concurrency=1, timeout=600.0) as sampler,
    ):
        stream = sampler.sample(many(3, n=1))
        next(stream)
        sampler.close()
        sampler.close()
        with pytest.raises(SamplingError, match="closed"):
            list(stream)


def test_ctrl_c_ends_it() -> None:
    program = (
        "import sys\n"
        "from rollouts.sampling.protocol import *\nfrom rollouts.sampling.args import *\n"
        "args = SamplerArgs(backend='openai', openai=OpenAIArgs(base_urls=[sys.argv[1]]))\n"
        "try:\n    list(load_sampler('m', args).sample([Request(str(i), 'Q') for i in range(3)]))\n"
        "except KeyboardInterrupt:\n    import threading; print('ended with', threading.active_count(), 'thread')\n"
    )
    with FaultServer(always("hang")) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", program, server.url],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONWARNINGS": "default"},
        )
        with process:
            assert all(server.hanging.acquire(timeout=120) for _ in range(3))
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=120)
        assert (said, process.returncode) == ("ended with 1 thread\n", 0)
        assert all(server.leaving.acquire(timeout=60) for _ in range(3))


def test_what_cannot_be_told_apart_is_shared_out() -> None:
    """A server that does not list tokens tells only how many all choices have: the sum stays right."""
    requests = many(30, n=5)
    with FaultServer() as server, opened(server) as sampler:
        found = by_name(sampler.sample(requests))
    for request in requests:
        counts = [found[request.id, i].completion_tokens for i in range(5)]
        assert sum(counts) == sum(expected([request])[request.id, i][2] for i in range(5))


def test_an_error_in_the_background_comes_out_in_front() -> None:
    async def last() -> None:
        ended.append(True)

    async def fail() -> None:
        raise ZeroDivisionError

    ended: list[bool] = []
    background = Background(last)
    background.start(fail())
    with pytest.raises(ZeroDivisionError):
        background.take()
    background.close()
    assert ended == [True]


def test_promises() -> None:
    with FaultServer() as server, opened(server, vllm=True) as seeded, opened(server) as plain:
        assert seeded.promise.startswith("vllm seeds each sample") and plain.promise.startswith("nothing")


def test_the_order_of_faults_is_that_of_the_requests() -> None:
    """The server's own schedule: the same for the same request, whenever it comes."""
    bodies = [{"prompt": f"q{i}", "seed": i, "n": 1} for i in range(200)]
    schedule = at_random(0, 0.5)
    one = [schedule(body, 0) for body in bodies]
    order = random.Random(1).sample(range(200), 200)
    assert [schedule(bodies[i], 0) for i in order] == [one[i] for i in order]
    assert set(one) == {None, *FAULTS} and 60 < sum(fault is not None for fault in one) < 140
    assert not any(schedule(body, 3) for body in bodies)


def test_sample_is_what_is_yielded() -> None:
    with FaultServer() as server, opened(server) as sampler:
        assert all(isinstance(sample, Sample) for sample in sampler.sample(many(2)))
