"""Servers that keep less than the whole protocol, or send what would harm: real HTTP on this machine.

The names of reports stand beside the tests.
"""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from rollouts.backends.servers import clients
from rollouts.sampling.args import OpenAIArgs
from rollouts.sampling.protocol import Request, SamplingError, sample_seed
from tests.faults.server import BOMB, ODD, FaultServer, error
from tests.rollouts.backends.contract import MAX_TOKENS, by_name, sampler_args, student, texts
from tests.rollouts.backends.serving import FastClock, always, expected, many, opened

Page = tuple[int, dict[str, str], bytes]


def reply(text: str = "#### 18", **message: Any) -> bytes:
    """A whole reply of one choice."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text} | message}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}).encode()


def asked(body: dict[str, Any]) -> str:
    return body["messages"][0]["content"]


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize("fault", ODD)
def test_odd_replies_are_used_and_said_once(fault: str, api: str, caplog: pytest.LogCaptureFixture) -> None:
    requests = many(5)

    def schedule(body: dict[str, Any], times: int) -> str | None:
        return fault if fault == "usage 1e30" or fault == "no usage" or body["n"] == 2 else None

    with FaultServer(schedule) as server, opened(server, api=api) as sampler:
        found = by_name(sampler.sample(requests))
    want = expected(requests)
    if "usage" in fault:
        want = {key: (text, reason, 0) for key, (text, reason, _) in want.items()}
        assert {sample.prompt_tokens for sample in found.values()} == {0}
    if fault in ("fewer", "same index"):  # the server has counted the tokens of what it did not send
        assert {key: text[:2] for key, text in texts(found).items()} == {key: text[:2] for key, text in want.items()}
    else:
        assert texts(found) == want
    assert "left alone" not in caplog.text
    odd = [line for line in caplog.messages if "replies that were odd" not in line]
    assert len(odd) == (0 if fault in ("eos", "charset", "byte order mark") else 1), odd
    # what did not come is asked for alone, and what came is not asked for again
    alone = 5 if fault in ("fewer", "same index") else 0
    assert Counter(seen.body["n"] for seen in server.seen) == {2: 5, 1: alone} if alone else {2: 5}


def test_a_server_that_ignores_n(caplog: pytest.LogCaptureFixture) -> None:
    requests = many(3, n=4)  # PB34

    def one(body: dict[str, Any]) -> Page:
        return 200, {}, reply(f"{body['seed']}")

    with FaultServer(page=one) as server, opened(server, api="chat") as sampler:
        found = by_name(sampler.sample(requests))
    assert {key: int(sample.text) for key, sample in found.items()} == {
        (request.id, i): sample_seed(0, request.id, 0) + i for request in requests for i in range(4)
    }
    assert all(int(sample.text) == sample.seed for sample in found.values())
    assert Counter(seen.body["n"] for seen in server.seen) == {4: 3, 1: 9}
    assert caplog.text.count("what is missing is asked for one by one") == 1


def test_tokens_that_a_server_does_not_count_are_counted_here() -> None:
    with FaultServer(always("no usage")) as server, opened(server, policy=student()) as sampler:
        (sample,) = sampler.sample(many(1, n=1))
    encoded = sampler.caller.tokenizer(sample.text, add_special_tokens=False).input_ids
    assert sample.completion_tokens == len(encoded) > 0
    assert sample.prompt_tokens == len(server.seen[0].body["prompt"])


@pytest.mark.parametrize(
    "refusal",
    [
        (200, {}, json.dumps({"error": {"message": "This content was flagged", "code": 502}}).encode()),
        (200, {}, reply(None, refusal="This content was flagged")),
        (200, {}, json.dumps({"error": {"message": "Provider returned error: This content was flagged"}}).encode()),
        (403, {}, error("This content was flagged")),
        (400, {}, error("This content was flagged")),
    ],
)
def test_one_prompt_that_is_refused_for_good(refusal: Page) -> None:
    """PB46: nineteen samples and one refused row with the server's words, without a second try."""
    requests = [*many(19, n=1), Request("red", "something red")]
    with (
        FaultServer(page=lambda body: refusal if "red" in asked(body) else (200, {}, reply())) as server,
        opened(server, api="chat", concurrency=1) as sampler,
    ):
        found = by_name(sampler.sample(requests))
    assert Counter(sample.finish_reason for sample in found.values()) == {"stop": 19, "refused": 1}
    assert "This content was flagged" in found["red", 0].reason and len(server.seen) == 20


@pytest.mark.parametrize(
    "page",
    [
        (200, {}, json.dumps({"error": {"message": "odd one", "code": 524}}).encode()),
        (200, {}, b'{"choices": "odd one"}'),
        (200, {}, b"<html>odd one</html>"),
        (500, {}, error("odd one")),
        (404, {}, error("odd one")),
        (307, {"Location": "/odd one"}, b"odd one"),
    ],
)
@pytest.mark.parametrize("place", [3, 19])
def test_one_request_that_always_fails_is_given_up_alone(page: Page, place: int) -> None:
    """Whatever a server does with one of them, also with the last, the others come."""
    requests = many(20, n=1)
    with (
        FaultServer(page=lambda body: page if asked(body) == f"question {place}\n" else (200, {}, reply())) as server,
        opened(server, api="chat", concurrency=1, attempts=3) as sampler,
    ):
        found = by_name(sampler.sample(requests))
    refused = {key: sample.reason for key, sample in found.items() if sample.finish_reason == "refused"}
    assert set(refused) == {(f"q{place}", 0)} and "odd" in refused[f"q{place}", 0]
    assert len(server.seen) == 19 + 3


def test_a_server_that_has_gone_wrong_for_good_ends_it() -> None:
    """It answers ten and then refuses all: that is not the requests' fault."""
    answers = iter([(200, {}, reply())] * 10)
    broken = (200, {}, b'{"error": {"message": "no model is loaded"}}')
    with (
        FaultServer(page=lambda body: next(answers, broken)) as server,
        opened(server, api="chat", concurrency=4, attempts=2) as sampler,
    ):
        stream = sampler.sample(many(200, n=1))
        found = []
        with pytest.raises(SamplingError, match="no model is loaded"):
            found.extend(stream)
    assert sum(sample.finish_reason == "stop" for sample in found) == 10 and len(found) <= 30
    assert len(server.seen) < 100


@pytest.mark.parametrize("fault", ["503", "not taken", "500", "html"])
def test_a_server_that_dies_ends_it(fault: str) -> None:
    """It answers forty, with eight under way, and then none: the first to fail for good ends it, or the second."""
    with (
        FaultServer(lambda body, times: fault if len(server.seen) >= 40 else None) as server,
        opened(server, concurrency=8, attempts=3) as sampler,
    ):
        found = []
        with pytest.raises(SamplingError, match="failed 3 times"):
            found.extend(sampler.sample(many(100, n=1)))
    assert sum(sample.finish_reason == "refused" for sample in found) <= 1 and len(server.seen) < 40 + 30


@pytest.mark.parametrize("fault", ["503", "not taken"])
def test_a_request_that_a_server_never_survives_is_given_up(fault: str) -> None:
    """Others are answered between its tries."""
    bad = sample_seed(0, "q3", 0)
    with (
        FaultServer(lambda body, times: fault if body["seed"] == bad else None) as server,
        opened(server, concurrency=2, attempts=3) as sampler,
    ):
        found = by_name(sampler.sample(many(300, n=1)))
    assert [key for key, sample in found.items() if sample.finish_reason == "refused"] == [("q3", 0)]


@pytest.mark.parametrize(
    ("settings", "taken", "said"),
    [  # PB47, PB51, PB52
        ({"omit": ["temperature"]}, lambda body: "temperature" not in body, "'temperature' does not support 1.0"),
        ({"omit": ["n", "top_p"]}, lambda body: not body.keys() & {"n", "top_p"}, "'n' is not supported"),
        ({"omit": ["seed"]}, lambda body: "seed" not in body, "Unrecognized argument: seed"),
        ({"seed_bits": 31}, lambda body: body["seed"] < 2**31, "seed must be a 32-bit integer"),
        (
            {"max_tokens_field": "max_tokens"},
            lambda body: body.get("max_tokens") == MAX_TOKENS and "max_completion_tokens" not in body,
            "extra_forbidden: max_completion_tokens",
        ),
    ],
)
def test_settings_for_servers_that_do_not_take_a_parameter(settings: dict, taken, said: str) -> None:
    def page(body: dict[str, Any]) -> Page | None:
        return None if taken(body) else (400, {}, error(said))

    name, value = next(iter(settings.items()))
    helps = f"sampler.openai.{name}={f'[{value[0]}]' if name == 'omit' else value}"
    with FaultServer(page=page) as server:
        with opened(server, api="chat") as sampler, pytest.raises(SamplingError) as raised:
            list(sampler.sample(many(50)))
        assert helps in str(raised.value) and len(server.seen) <= 50
        server.seen.clear()
        with opened(server, api="chat", **settings) as sampler:
            found = by_name(sampler.sample(many(5)))
    assert len(found) == 10 and all(sample.finish_reason != "refused" for sample in found.values())
    bits = settings.get("seed_bits", 63)
    # what is recorded is what is sent, or would be
    assert all(s.seed == (sample_seed(0, s.request_id, 0) >> 63 - bits) + s.index for s in found.values())


def test_a_setting_that_is_left_out_is_not_asked_for() -> None:
    with (
        FaultServer() as server,
        opened(server, omit=["temperature"]) as sampler,
        pytest.raises(ValueError, match=r"temperature=0\.7, which sampler\.openai\.omit leaves out"),
    ):
        list(sampler.sample([*many(2), Request("a", "Q", temperature=0.7)]))
    assert not server.seen


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"omit": ["seeds"]}, "omit takes n, temperature, top_p, seed, stop, not seeds"),
        ({"omit": ["seed"], "vllm": True}, "vllm serve takes seed"),
        ({"seed_bits": 64}, "seed_bits must be in \\[8, 63\\], not 64"),
        ({"max_tokens_field": "limit"}, "max_tokens_field=.limit. is none of"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sampler_args(backend="openai", openai=OpenAIArgs(**settings)).validate()


def test_a_text_ends_before_its_stop_string_also_where_none_is_sent() -> None:
    with (
        FaultServer(page=lambda body: (200, {}, reply("6*3=18\nQ: next"))) as server,
        opened(server, api="chat", omit=["stop"]) as sampler,
    ):
        (sample,) = sampler.sample(many(1, n=1, stop=("\n\n", "\nQ:")))
    assert (sample.text, sample.finish_reason) == ("6*3=18", "stop") and "stop" not in server.seen[0].body


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (reply(None, reasoning_content="6*3=18, so \\boxed{18}"), "its text is empty"),
        (reply()[:-1] + b', "model": "another"}', "is said to be of the model 'another', where student was asked for"),
        (reply().replace(b'"completion_tokens": 4', b'"completion_tokens": 4000'), "has 4000 tokens, where at most 40"),
    ],
)
def test_what_is_noticed(page: bytes, said: str, caplog: pytest.LogCaptureFixture) -> None:
    with FaultServer(page=lambda body: (200, {}, page)) as server, opened(server, api="chat") as sampler:
        found = list(sampler.sample(many(6, n=1)))
    assert {sample.finish_reason for sample in found} == {"stop"} and len(server.seen) == 6
    assert caplog.text.count(said) == 1 and "in all" in caplog.text


def test_a_model_whose_name_has_a_date_is_the_same(caplog: pytest.LogCaptureFixture) -> None:
    page = reply()[:-1] + b', "model": "student-2026-11-28"}'
    with FaultServer(page=lambda body: (200, {}, page)) as server, opened(server, api="chat") as sampler:
        list(sampler.sample(many(2, n=1)))
    assert not caplog.messages


def test_a_wait_of_thirty_years_is_not_waited_for() -> None:
    clock = FastClock()
    with (
        FaultServer(page=lambda body: (429, {"Retry-After": "1e9"}, error("busy"))) as server,
        opened(server, clock=clock, attempts=4, concurrency=1) as sampler,
        pytest.raises(SamplingError, match=r"failed 4 times, .*busy"),
    ):
        list(sampler.sample(many(1)))
    assert clock.time < 600 and len(server.seen) == 4


def test_a_redirect_is_not_followed() -> None:
    with FaultServer() as other:
        to = {"Location": f"{other.url}/chat/completions"}
        with (
            FaultServer(page=lambda body: (307, to, b"")) as server,
            opened(server, api="chat") as sampler,
            pytest.raises(SamplingError, match=f"to {other.url}.*redirects are not followed"),
        ):
            list(sampler.sample(many(5)))
    assert not other.seen


@pytest.mark.parametrize("status", [200, 400])
def test_a_bomb_takes_no_memory(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 MiB in 64 KiB: not more of it is read than the limit, and one piece."""
    monkeypatch.setattr(clients, "REPLY_BYTES", 2**20)
    bomb = (status, {"Content-Encoding": "gzip"}, BOMB)
    with (
        FaultServer(page=lambda body: bomb if asked(body) == "question 1\n" else (200, {}, reply())) as server,
        opened(server, api="chat", attempts=2, concurrency=1) as sampler,
    ):
        tracemalloc.start()
        try:
            found = by_name(sampler.sample(many(4, n=1)))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert found["q1", 0].finish_reason == "refused" and peak < 2**24
    assert status == 400 or "more than 1 MiB" in found["q1", 0].reason


def test_error_texts_of_megabytes_are_cut() -> None:
    words = error("x" * 20_000_000)
    with FaultServer(page=lambda body: (400, {}, words)) as server, opened(server, api="chat") as sampler:
        (sample,) = sampler.sample(many(1, n=1))
    assert sample.finish_reason == "refused" and len(sample.reason) < 500


def test_a_reply_that_lacks_what_others_have_is_tried_again() -> None:
    """A server that tells token ids forgets them once: it speaks vllm all the same."""
    with FaultServer() as server, opened(server, vllm=True, concurrency=1) as sampler:
        whole = by_name(sampler.sample(many(4)))
        server.speaks_vllm = False
        request = replace(many(1)[0], id="other", n=1)
        server.schedule = lambda body, times: setattr(server, "speaks_vllm", times > 0)
        (sample,) = sampler.sample([request])
    assert sample.token_ids and len(whole) == 8
