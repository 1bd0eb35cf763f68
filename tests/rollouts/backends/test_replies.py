"""What servers reply, as people have reported it: what is read, what is refused, and what is tried again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rollouts.backends.servers.faults import BadReply, ReplyError
from rollouts.backends.servers.replies import LEAST_LOGPROB, Reply, count_tokens, read_reply
from rollouts.grading.answers import grade

USAGE = {"prompt_tokens": 3, "completion_tokens": 4}


def body_of(*choices: dict[str, Any], **others: Any) -> str:
    return json.dumps({"choices": list(choices), "usage": USAGE} | others)


def choice(content: Any = "#### 18", index: int | None = 0, finish: Any = "stop", **message: Any) -> dict[str, Any]:
    found = {"finish_reason": finish, "message": {"role": "assistant", "content": content} | message}
    return found if index is None else found | {"index": index}


def read(*choices: dict[str, Any], n: int = 1, **others: Any) -> Reply:
    return read_reply("chat", body_of(*choices, **others), n)


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content", "reasoning_details"])
def test_a_text_that_is_all_reasoning_is_empty(key: str) -> None:
    (one,) = read(choice(None, **{key: "6*3=18, so \\boxed{18}"})).choices  # PB33
    assert (one.text, one.finish_reason, one.thought_only) == ("", "stop", True)
    assert grade(one.text, "18").rule == "none"
    (one,) = read(choice("#### 18", **{key: "is it \\boxed{17}?"})).choices
    assert (one.text, one.thought_only) == ("#### 18", False)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "6*3=18\n"}, {"type": "text", "text": "#### 18"}], "6*3=18\n#### 18"),
        ([{"type": "output_text", "text": "#### 18"}], "#### 18"),
        ([{"type": "thinking", "thinking": [{"text": "17?"}]}, {"type": "text", "text": "#### 18"}], "#### 18"),
        (["#### 18"], "#### 18"),
        ([{"type": "thinking", "thinking": "17?"}], ""),
        ("", ""),
    ],
)
def test_content_in_parts(content: Any, text: str) -> None:
    assert read(choice(content)).choices[0].text == text


@pytest.mark.parametrize("content", [[{"type": "image_url", "image_url": "x"}], [7], [], None, {"a": 1}, 3])
def test_content_that_is_no_text(content: Any) -> None:
    with pytest.raises(BadReply) as raised:
        read(choice(content))
    assert raised.value.readable


@pytest.mark.parametrize(
    ("told", "reason"),
    [  # PB35, PB73
        *((told, "stop") for told in ("stop", "eos", "eos_token", "stop_sequence", "end_turn", "STOP")),
        *((told, "length") for told in ("length", "max_tokens", "model_length", "MAX_TOKENS")),
        *((told, "refused") for told in ("content_filter", "SAFETY", "refusal", "tool_calls")),
    ],
)
def test_how_servers_say_that_a_text_ended(told: str, reason: str) -> None:
    (one,) = read(choice(finish=told)).choices
    assert one.finish_reason == reason and (one.reason is not None) == (reason == "refused")
    completion = body_of({"index": 0, "text": "#### 18", "finish_reason": told})
    assert read_reply("completions", completion, 1).choices[0].finish_reason == reason


def test_a_choice_that_was_stopped_may_have_no_text_at_all() -> None:
    stopped = {"index": 1, "finish_reason": "content_filter: PROHIBITED_CONTENT"}
    reply = read(choice("a"), stopped | {"message": None}, n=2)
    assert [one.finish_reason for one in reply.choices] == ["stop", "refused"] and reply.fault is None
    assert read(stopped).choices[0].finish_reason == "refused"
    (one,) = read_reply("completions", body_of(stopped | {"text": None}), 1).choices
    assert (one.text, one.finish_reason) == ("", "refused")


@pytest.mark.parametrize("told", ["abort", "error", None, "", "wat"])
def test_an_end_that_nobody_knows_is_named(told: Any) -> None:
    with pytest.raises(BadReply, match=f"ends for the reason {told!r}"):
        read(choice(finish=told))


@pytest.mark.parametrize(
    ("usage", "counts"),
    [  # PB37
        (None, (None, None)),
        ({"prompt_tokens": 3, "total_tokens": 7}, (3, 4)),
        ({"prompt_tokens": 3}, (3, None)),
        ({"input_tokens": 3, "output_tokens": 4.0}, (3, 4)),
        ({"prompt_tokens": -3, "completion_tokens": 1e30}, (None, None)),
        ({"prompt_tokens": 10**30, "completion_tokens": "many"}, (None, None)),
        ({"prompt_tokens": 3, "completion_tokens": True, "total_tokens": 1}, (3, None)),
        ([7], (None, None)),
    ],
)
def test_token_counts(usage: Any, counts: tuple[int | None, int | None]) -> None:
    reply = read(choice(), usage=usage)
    assert (reply.prompt_tokens, reply.completion_tokens) == counts
    assert count_tokens(reply, 100) == [counts[1]]


def test_no_usage_at_all() -> None:
    reply = read_reply("chat", json.dumps({"choices": [choice(), choice("b", 1)]}), 2)
    assert count_tokens(reply, 100) == [None, None]


@pytest.mark.parametrize(
    ("choices", "n", "kept"),
    [  # PB34
        ([choice()], 4, [0]),
        ([choice("a", 3), choice("b", 1)], 4, [1, 3]),
        ([choice("a", None), choice("b", None)], 2, [0, 1]),
        ([choice("a", 1)], 1, [0]),
        ([choice("a", 0), choice("b", 0), choice("c", 1)], 2, [1]),
        ([choice("a", 0), choice("a", 0)], 1, [0]),
        ([choice("a", 0), choice("b", 1)], 1, [0]),
        ([choice("a", 0), choice("b", 1, finish="abort")], 2, [0]),
    ],
)
def test_which_choices_are_kept(choices: list, n: int, kept: list[int]) -> None:
    reply = read(*choices, n=n)
    assert [one.index for one in reply.choices] == kept
    assert (reply.fault is None) == (len(choices) == n == len(kept))


@pytest.mark.parametrize("choices", [[], [choice("a"), choice("b")], [choice("a", 7), choice("b", 8)]])
def test_choices_that_cannot_be_told_apart(choices: list) -> None:
    with pytest.raises(BadReply, match="where 1 were asked for"):
        read(*choices)


def test_probabilities_of_nothing() -> None:
    content = {"content": [{"logprob": -1.5}, {"logprob": float("-inf")}]}
    (one,) = read(choice() | {"logprobs": content}).choices
    assert one.logprobs == (-1.5, LEAST_LOGPROB)
    completion = '{"choices":[{"index":0,"text":"a","finish_reason":"stop","logprobs":{"token_logprobs":[%s]}}]}'
    assert read_reply("completions", completion % "-Infinity", 1).choices[0].logprobs == (LEAST_LOGPROB,)
    assert read_reply("completions", completion % "null", 1).choices[0].logprobs is None
    with pytest.raises(BadReply, match="log-probabilities"):
        read_reply("completions", completion % "NaN", 1)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"content": None, "refusal": "I cannot help with that."}, "I cannot help with that."),
        ({"content": [{"type": "refusal", "refusal": "No."}]}, "No."),
        ({"content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]}, "calls a tool"),
    ],
)
def test_a_message_that_is_a_refusal(message: dict[str, Any], reason: str) -> None:
    (one,) = read(choice(**message) if "content" not in message else choice() | {"message": message}).choices  # PB46
    assert one.finish_reason == "refused" and reason in one.reason and one.text == ""


@pytest.mark.parametrize(
    ("reply", "status", "said"),
    [
        ({"error": {"message": "This content was flagged", "code": 502}}, 502, "This content was flagged"),
        ({"error": "no model is loaded"}, 500, "no model is loaded"),
        ({"object": "error", "message": "bad", "code": 400}, 400, "bad"),
        ({"choices": [], "error": {"message": "slow down", "code": "429"}}, 429, "slow down"),
        ({"error": {"message": None, "code": 10**40}}, 500, "the server replies with an error"),
    ],
)
def test_an_error_with_status_200(reply: dict[str, Any], status: int, said: str) -> None:
    with pytest.raises(ReplyError, match=said) as raised:
        read_reply("chat", json.dumps(reply), 1)
    assert raised.value.status == status


@pytest.mark.parametrize("body", ["", "<html>", "[" * 100_000, '{"choices":' * 50_000, b"\xff\xfe{", '{"a": NaN'])
def test_what_is_no_json_is_no_answer(body: str | bytes) -> None:
    with pytest.raises(BadReply) as raised:
        read_reply("chat", body, 1)
    assert not raised.value.readable and len(str(raised.value)) < 400


def test_a_reply_of_many_faults_is_read_up_to_the_first() -> None:
    with pytest.raises(BadReply) as raised:
        read(*({"message": 1} for _ in range(200_000)))
    assert len(str(raised.value)) < 400


def test_a_byte_order_mark_is_no_fault() -> None:
    assert read_reply("chat", b"\xef\xbb\xbf" + body_of(choice()).encode(), 1) == read(choice())
    assert read_reply("chat", "\ufeff" + body_of(choice()), 1) == read(choice())
