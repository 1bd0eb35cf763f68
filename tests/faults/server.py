"""A server of OpenAI's protocol on this machine that answers from a script and fails on purpose.

A text is a function of prompt and seed, and a character stands for a token. What fails, and how, is a function of the
request, so that it does not depend on the order in which requests come. Every request is kept, with its headers.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

# what a reply is made into; each may pass, so the same request is answered later
FAULTS = (
    *("429", "429 for 30 s", "429 until a date", "500", "503", "408", "not taken", "cut", "half", "html", "not utf-8"),
    *("hang", "trickle", "no choices", "no text", "other text", "odd end", "null", "deep", "error 524", "bad gzip"),
)
# what is odd about a reply that is used all the same
ODD = ("fewer", "more", "same index", "twice", "no usage", "usage 1e30", "eos", "charset", "byte order mark")
BOMB = gzip.compress(bytes(2**26 + 1), 9)
AFTER = 30  # seconds that `Retry-After` asks for
# (what was asked, how often it has come, counted from 0) -> a fault, a status such as "401", or None
Schedule = Callable[[dict[str, Any], int], str | None]


def none(body: dict[str, Any], times: int = 0) -> None:
    """The schedule of a server that does not fail, and has no page of its own."""


def at_random(seed: int, share: float, most: int = 3, faults: tuple[str, ...] = FAULTS) -> Schedule:
    """Fail a share of what comes, and none more often than `most` times."""

    def schedule(body: dict[str, Any], times: int) -> str | None:
        draw = random.Random(f"{seed} {times} {name_of(body)}")
        return draw.choice(faults) if times < most and draw.random() < share else None

    return schedule


def name_of(body: dict[str, Any]) -> str:
    """What tells one request from another."""
    return json.dumps([body.get("prompt"), body.get("messages"), body.get("seed"), body.get("n")])


def text_of(prompt: str | list[int], seed: int) -> str:
    """Several lines, of 12 to 60 characters in all."""
    draw = random.Random(f"{prompt} {seed}")
    lines = [f"{draw.randrange(99)}+{draw.randrange(99)}" for _ in range(draw.randrange(2, 9))]
    return "\n".join([*lines, f"#### {draw.randrange(99)}"])


@dataclass
class Seen:
    """A request, when it came (by the server's clock), and what was done to it."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float
    fault: str | None
    left: bool = False  # the client went away before it had its answer


@dataclass
class FaultServer:
    """Use it as a context. `context` is the most characters of a prompt, `speaks_vllm` whether it tells token ids.

    `page` makes status, headers and body of a request's body, or None for the script's answer.

    With `gate`, requests wait until so many are there at once; the gate is open from then on. `now` is the clock.
    """

    schedule: Schedule = none
    context: int = 100_000
    speaks_vllm: bool = True
    gate: int = 0
    page: Callable[[dict[str, Any]], tuple[int, dict[str, str], bytes] | None] = none
    now: Callable[[], float] = lambda: 0.0
    seen: list[Seen] = field(default_factory=list)
    most_under_way: int = 0

    def __enter__(self) -> FaultServer:
        self._under_way, self._times = 0, Counter()
        self.hanging = threading.Semaphore(0)  # released for each request that starts to hang
        self.leaving = threading.Semaphore(0)  # released for each client that goes away
        started: Future[int] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main(started)), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{started.result()}/v1"
        return self

    def __exit__(self, *_) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    async def _main(self, started: Future[int]) -> None:
        self._loop, self._over, self._open = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        started.set_result(server.sockets[0].getsockname()[1])
        await self._over.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has closed it
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = json.loads(await reader.readexactly(int(headers.get("content-length", 0))) or b"{}")
        name = name_of(body)
        fault = self.schedule(body, self._times[name])
        self._times[name] += 1
        seen = Seen(head[0].split(" ")[1], headers, body, self.now(), fault)
        self.seen.append(seen)
        self._under_way += 1
        self.most_under_way = max(self.most_under_way, self._under_way)
        if self._under_way >= self.gate:
            self._open.set()
        try:
            await self._open.wait()
        finally:
            # before the client can have an answer, and so before it can ask again; what never ends it gives up
            self._under_way -= 1
        if fault == "hang":
            self.hanging.release()
            seen.left = not await reader.read()
            self.leaving.release()
            return False
        if fault == "not taken":
            return False
        reply = encode(*self._reply(seen))
        if fault == "trickle":
            await trickle(writer, reply)
        writer.write(reply[: len(reply) * 2 // 3] if fault == "cut" else reply)
        await writer.drain()
        return fault != "cut"

    def _reply(self, seen: Seen) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        fault = seen.fault or ""
        if (page := self.page(seen.body)) is not None:
            return page
        if fault[:3].isdigit():
            # some servers repeat a wrong key
            said = f"status {fault}\x1b[31m, you sent {seen.headers.get('authorization')}"
            date = formatdate(time.time() + 3600, usegmt=True)
            wait = {"429 for 30 s": str(AFTER), "429 until a date": date}.get(fault)
            return int(fault[:3]), {} if wait is None else {"Retry-After": wait}, error(said)
        is_chat = seen.path == "/v1/chat/completions"
        if not is_chat and seen.path != "/v1/completions":
            return 404, {}, error(f"there is no {seen.path}")
        prompt = seen.body["messages"][0]["content"] if is_chat else seen.body["prompt"]
        if len(prompt) > self.context:
            return 400, {}, error(f"This model's maximum context length is {self.context} tokens.")
        answer = self._answer(seen.body, prompt, is_chat)
        spoil(answer, fault, is_chat)
        page = json.dumps(answer).encode()
        if fault == "html":
            # what is shown of it ends within the key
            said = f"<html>\x1b[31mWe are back soon.{'.' * 30}{seen.headers.get('authorization')}</html>"
            return 200, {"Content-Type": "text/html"}, said.encode()
        if fault == "bad gzip":
            return 200, {"Content-Encoding": "gzip"}, page
        spoilt = {
            **{"half": page[: len(page) // 2], "not utf-8": page[:-1] + b"\xff}", "null": b"null"},
            **{"deep": b'{"a":' * 50_000 + page + b"}" * 50_000, "byte order mark": b"\xef\xbb\xbf" + page},
            "error 524": json.dumps({"error": {"message": "Provider returned error", "code": 524}}).encode(),
        }
        charset = {"Content-Type": "application/json; charset=base64"} if fault == "charset" else {}
        return 200, charset, spoilt.get(fault, page)

    def _answer(self, body: dict[str, Any], prompt: str | list[int], is_chat: bool) -> dict[str, Any]:
        choices = []
        limit = body.get("max_completion_tokens", body.get("max_tokens"))
        for index in range(body.get("n", 1)):
            text = text_of(prompt, 0 if body.get("temperature") == 0 else body.get("seed", 0) + index)
            text, reason, tokens = end(text, limit, body.get("stop", []))
            choice: dict[str, Any] = {"index": index, "finish_reason": reason}
            choice |= {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
            if self.speaks_vllm and body.get("return_token_ids"):
                choice["token_ids"] = tokens
            if body.get("logprobs"):
                values = [-token / 100 for token in tokens]
                choice["logprobs"] = (
                    {"content": [{"logprob": value} for value in values]} if is_chat else {"token_logprobs": values}
                )
            choices.append((choice, len(tokens)))
        usage = {"prompt_tokens": len(prompt), "completion_tokens": sum(count for _, count in choices)}
        return {"choices": [choice for choice, _ in choices][::-1], "usage": usage}


async def trickle(writer: asyncio.StreamWriter, reply: bytes) -> None:
    """Send bytes for ever, so that the client never waits long for the next.

    Raises:
        ConnectionError: it has given up.
    """
    writer.write(reply.split(b"\r\n", 1)[0] + b"\r\nContent-Length: 1000000000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


def end(text: str, limit: int, stop: list[str]) -> tuple[str, str, list[int]]:
    """A text up to its limit or its first stop string, why it ends, and its characters as tokens, 0 for the end."""
    stops = [(text.index(one), len(one)) for one in stop if one in text]
    tokens = [*map(ord, text), 0]
    if stops:
        tokens = tokens[: sum(min(stops))]
    if len(tokens) > limit:
        return text[:limit], "length", tokens[:limit]
    return text[: min(stops)[0]] if stops else text, "stop", tokens


def spoil(answer: dict[str, Any], fault: str, is_chat: bool) -> None:
    """Make an answer into one that is none."""
    choices = answer["choices"]
    if fault == "no choices":
        choices.clear()
    elif fault == "no text" and is_chat:
        choices[0]["message"]["content"], choices[0]["finish_reason"] = None, "stop"
    elif fault == "no text":
        choices[0]["text"], choices[0]["finish_reason"] = None, "stop"
    elif fault == "fewer":
        choices.pop()
    elif fault == "more":
        choices.append(choices[0] | {"index": len(choices)})
    elif fault == "twice":
        choices.append(choices[0])
    elif fault == "other text":
        choices[:] = [choices[0], choices[0] | {"message": {"content": "another"}, "text": "another"}]
    elif fault == "eos":
        for choice in choices:
            choice["finish_reason"] = {"stop": "eos_token", "length": "MAX_TOKENS"}[choice["finish_reason"]]
    elif fault == "usage 1e30":
        answer["usage"] = {"prompt_tokens": -3, "completion_tokens": 1e30}
    elif fault == "same index":
        choices[0]["index"] = len(choices)
    elif fault == "no usage":
        del answer["usage"]
    elif fault in ("odd end", "content_filter"):
        choices[0]["finish_reason"] = "abort" if fault == "odd end" else fault


def error(message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": "fault", "code": None}}).encode()


def encode(status: int, headers: dict[str, str], body: bytes) -> bytes:
    """The bytes of a reply."""
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in ({"Content-Type": "application/json"} | headers).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
