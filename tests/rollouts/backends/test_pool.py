"""Several servers as one: who is asked, what is tried again, and how long a server is left alone."""

from __future__ import annotations

import pytest

from rollouts.backends.servers.faults import Refused, Trouble, helping_setting, judge, retry_after
from rollouts.sampling.protocol import SamplingError
from tests.faults.server import AFTER, FaultServer
from tests.rollouts.backends.contract import by_name, texts
from tests.rollouts.backends.serving import FastClock, always, at_first, expected, many, opened


def test_concurrency_is_reached_and_not_exceeded() -> None:
    """No request is answered before 8 are there, so 8 were under way at once; and never a ninth."""
    with FaultServer(gate=8) as server, opened(server, concurrency=8) as sampler:
        assert len(by_name(sampler.sample(many(100)))) == 200
    assert server.most_under_way == 8


def test_concurrency_is_that_of_all_servers_together() -> None:
    with FaultServer(gate=4) as one, FaultServer(gate=4) as two, opened(one, two, concurrency=8) as sampler:
        assert len(by_name(sampler.sample(many(100)))) == 200
    assert one.most_under_way == two.most_under_way == 4  # the one with less to do is asked next
    assert len(one.seen) + len(two.seen) == 100


def test_the_requests_of_a_dead_server_go_to_the_others() -> None:
    """They are tried elsewhere without waiting, so no time passes, and the dead one is not asked again."""
    requests, clock = many(200), FastClock()
    with (
        FaultServer(always("not taken")) as dead,
        FaultServer() as one,
        FaultServer() as two,
        opened(dead, one, two, concurrency=12, clock=clock) as sampler,
    ):
        assert texts(by_name(sampler.sample(requests))) == expected(requests)
    assert 1 <= len(dead.seen) <= 4  # its share of the first twelve
    assert len(one.seen) + len(two.seen) == 200
    assert clock.time == 0


def test_a_server_that_nobody_is_at_counts_as_one_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    with FaultServer() as gone:
        pass
    with FaultServer() as server, opened(gone, server, concurrency=2) as sampler:
        assert len(by_name(sampler.sample(many(20)))) == 40
    assert len(server.seen) == 20
    assert f"{gone.url} is left alone" in caplog.text


def test_a_server_that_comes_back_is_tried_with_one_request_and_then_used() -> None:
    """It fails its first request. An hour later it gets one, and its share only after an answer to that."""
    clock = FastClock()
    with (
        FaultServer(lambda body, times: "503" if len(late.seen) == 0 else None, gate=0) as late,
        FaultServer() as one,
        opened(late, one, concurrency=1, clock=clock) as sampler,
    ):
        stream = sampler.sample(many(40, n=1))
        first = [next(stream) for _ in range(3)]
        assert len(late.seen) == 1
        clock.time += 3600
        rest = list(stream)
    assert len(by_name([*first, *rest])) == 40
    assert len(late.seen) > 10 and abs(len(late.seen) - len(one.seen)) < 15


def test_a_server_that_may_be_back_gets_one_request_until_it_answers() -> None:
    """It fails at first. An hour later it takes requests and does not answer: only one of eight is held up."""
    clock = FastClock()
    with (
        FaultServer(lambda body, times: "hang" if clock.time else "503") as late,
        FaultServer() as one,
        opened(late, one, concurrency=8, clock=clock, timeout=60.0) as sampler,
    ):
        stream = sampler.sample(many(60, n=1))
        first = [next(stream) for _ in range(20)]
        clock.time += 3600
        rest = [next(stream) for _ in range(35)]
        stream.close()
    assert len(by_name([*first, *rest])) == 55
    assert [seen.fault for seen in late.seen].count("hang") == 1


def test_a_server_is_left_alone_longer_each_time() -> None:
    """One request at a time: the times at which a server that is always down is asked."""
    clock = FastClock()
    with (
        FaultServer(always("503"), now=clock.now) as server,
        opened(server, concurrency=1, attempts=8, clock=clock) as sampler,
        pytest.raises(SamplingError),
    ):
        list(sampler.sample(many(1)))
    gaps = [later.at - sooner.at for sooner, later in zip(server.seen, server.seen[1:], strict=False)]
    assert len(gaps) == 7
    assert all(0.75 * 2**i <= gap <= 1.25 * 2**i + 1 for i, gap in enumerate(gaps[:6])), gaps
    assert 45 <= gaps[6] <= 80


def test_failures_of_the_same_moment_count_as_one(caplog: pytest.LogCaptureFixture) -> None:
    """Eight requests are there when it goes down: it is left alone as after one failure."""
    clock = FastClock()
    with (
        FaultServer(at_first("503", 1), gate=8) as server,
        opened(server, concurrency=8, clock=clock) as sampler,
    ):
        assert len(by_name(sampler.sample(many(8)))) == 16
    assert caplog.text.count("is left alone") == 1


def test_an_answer_ends_what_has_grown() -> None:
    """Each request fails once and is then answered: the pauses stay short."""
    clock = FastClock()
    with FaultServer(at_first("503", 1)) as server, opened(server, concurrency=1, clock=clock) as sampler:
        assert len(by_name(sampler.sample(many(20)))) == 40
    assert clock.time < 20 * 2


@pytest.mark.parametrize(("fault", "least"), [("429 for 30 s", AFTER), ("429 until a date", 3590)])
def test_a_server_that_asks_to_be_left_alone_is(fault: str, least: int) -> None:
    clock = FastClock()
    with (
        FaultServer(at_first(fault, 1), now=clock.now) as server,
        opened(server, concurrency=1, clock=clock) as sampler,
    ):
        assert len(by_name(sampler.sample(many(3)))) == 6
    for number, seen in enumerate(server.seen[:-1]):
        if seen.fault:
            assert server.seen[number + 1].at - seen.at >= least
    assert sum(seen.fault is not None for seen in server.seen) == 3


def test_others_are_asked_while_one_asks_to_be_left_alone() -> None:
    clock = FastClock()
    with (
        FaultServer(always("429 for 30 s"), now=clock.now) as busy,
        FaultServer() as free,
        opened(busy, free, concurrency=2, clock=clock) as sampler,
    ):
        assert len(by_name(sampler.sample(many(30)))) == 60
    assert len(busy.seen) == 1 and clock.time == 0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 1970 00:02:00 GMT"}, 20),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0),
        ({"retry-after": "-5"}, 0),
        ({"retry-after": "inf"}, 0),
        ({"retry-after": "3600"}, 3600),
        ({"retry-after": "1e9"}, 0),
        ({"retry-after-ms": "1e300"}, 0),
        ({"retry-after": "9" * 5000}, 0),
        ({"retry-after": "Thu, 01 Jan 9999 00:00:00 GMT"}, 0),
        ({"retry-after": "nan"}, 0),
        ({"retry-after": "soon"}, 0),
        ({"retry-after": "Thu, 99 Jan 1970 00:00:00 GMT"}, 0),
    ],
)
def test_what_retry_after_means(headers: dict[str, str], seconds: float) -> None:
    assert retry_after(headers, now=100) == seconds


def test_when_every_server_has_failed_all_are_named() -> None:
    with (
        FaultServer(always("503")) as one,
        FaultServer(always("html")) as two,
        opened(one, two, concurrency=1, attempts=3) as sampler,
        pytest.raises(SamplingError, match="q0: every server has failed 3 times") as raised,
    ):
        list(sampler.sample(many(1)))
    assert len(one.seen) == len(two.seen) == 3
    said = str(raised.value)
    assert one.url in said and "503" in said and two.url in said and "We are back soon" in said


CONTEXT = "This model's maximum context length is 4096 tokens. However, you requested 5000 (max_tokens=1000)."


@pytest.mark.parametrize(
    ("said", "param", "setting"),
    [  # PB47, PB51, PB52
        ("Unsupported value: 'temperature' does not support 0.7 with this model", "temperature", "omit=[temperature]"),
        ("`temperature` and `top_p` cannot both be specified for this model.", None, "omit=[temperature]"),
        ("Unsupported parameter: 'top_p' is not supported with this model.", None, "omit=[top_p]"),
        ("Unsupported parameter: 'stop' is not supported with this model.", "stop", "omit=[stop]"),
        ("n must be 1", None, "omit=[n]"),
        ("'n' : value must be at most 1; is not supported", None, "omit=[n]"),
        (
            "[{'type': 'extra_forbidden', 'loc': ('body', 'max_completion_tokens')}]",
            None,
            "max_tokens_field=max_tokens",
        ),
        (
            "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.",
            "max_tokens",
            "max_tokens_field=max_completion_tokens",
        ),
        ("seed must be a 32-bit integer", None, "seed_bits=31"),
        ("Unrecognized request argument supplied: seed", None, "omit=[seed]"),
        ("property 'return_token_ids' is unsupported", None, "vllm=false"),
        (CONTEXT, None, None),
        ("max_tokens is too large: 50000. This model supports at most 16384 completion tokens", "max_tokens", None),
        ("messages: at least one message is required", "messages", None),
    ],
)
def test_the_setting_that_helps(said: str, param: str | None, setting: str | None) -> None:
    assert helping_setting(said, param) == (setting and f"sampler.openai.{setting}")
    first, later = (judge(400, said, param, answered) for answered in (False, True))
    assert type(first) is (SamplingError if setting else Refused) and type(later) is Refused
    assert not setting or (setting in str(first) and setting in str(later))


@pytest.mark.parametrize(
    ("status", "said", "answered", "in_reply", "found"),
    [
        (403, "Your input was flagged", False, False, Refused),
        (403, "no entry", False, False, SamplingError),
        (403, "no entry", True, False, "either"),
        (307, "moved", False, False, SamplingError),
        (307, "moved", True, False, "either"),
        (401, "no key", True, False, SamplingError),
        (401, "no key", True, True, "request"),
        (402, "no money", True, False, SamplingError),
        (500, "content policy of a proxy", True, False, "either"),
        (502, "bad gateway", True, False, "server"),
        (502, "This content was flagged", False, True, Refused),  # PB46
        (502, "Provider returned error", False, True, "request"),
        (524, "Provider returned error", False, True, "request"),  # PB84
        (429, "slow down", True, True, "server"),
        (400, CONTEXT, False, True, Refused),
    ],
)
def test_what_a_status_means(status: int, said: str, answered: bool, in_reply: bool, found: object) -> None:
    fault = judge(status, said, None, answered, 5.0, in_reply)
    assert (fault.kind if isinstance(fault, Trouble) else type(fault)) == found


def test_what_is_said_is_short() -> None:
    assert len(str(judge(400, "é\n" * 1_000_000, None, True))) < 700
