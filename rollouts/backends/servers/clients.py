"""The client of one server: its key, how long it is waited for, and how much it may send."""

from __future__ import annotations

import ipaddress
import os
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit

import httpx2
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, OpenAIError, Timeout

from stages.text import keep_secret

CONNECT = 10.0  # seconds to open a connection: a machine that is gone should be noticed before the time-out
REPLY_BYTES = 2**26  # of a whole reply: 96 texts of 2048 tokens with their ids and log-probabilities have 20 MB
ERROR_BYTES = 2**16
KEPT = ("retry-after", "retry-after-ms", "location")  # headers


class Key(str):
    """A secret that does not show itself where the things that hold it are shown."""

    def __repr__(self) -> str:
        return "'***'"


def is_loopback(url: str) -> bool:
    """Whether an address is on this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def find_key(url: str, variable: str) -> Key | None:
    """The key for a server, from an environment variable; None for one on this machine where the variable is unset.

    Raises:
        ValueError: it is unset or cannot be sent. The message names the variable and holds nothing of the key.
    """
    key = os.environ.get(variable, "").strip()
    if not key and not is_loopback(url):
        raise ValueError(f"{url} needs a key, but the environment variable {variable} is not set")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError(f"the environment variable {variable} holds characters that no key has")
    keep_secret(key)  # whatever a server says may hold it
    return Key(key) if key else None


class BoundedClient(DefaultAsyncHttpxClient):
    """Reads no more of a reply than fits in memory, and keeps nothing of it but its bytes and what says when to ask
    again. A content type is not looked at: JSON is UTF-8, whatever charset a server names.

    Raises:
        OpenAIError: a reply has more than `REPLY_BYTES`, once decompressed. Of an error, the rest is dropped.
    """

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        reply = await super().send(request, stream=True, **options)
        body, limit = bytearray(), REPLY_BYTES if reply.is_success else ERROR_BYTES
        try:
            async with aclosing(reply.aiter_bytes()) as parts:
                async for part in parts:  # at most 1 MiB each, also of what was compressed
                    body += part
                    if len(body) > limit:
                        break
        finally:
            await reply.aclose()
        if len(body) > limit and reply.is_success:
            raise OpenAIError(f"a reply of more than {REPLY_BYTES >> 20} MiB")
        headers = {name: reply.headers[name] for name in KEPT if name in reply.headers}
        return httpx2.Response(reply.status_code, headers=headers, content=bytes(body[:limit]), request=request)


def open_client(url: str, key: str, timeout: float) -> AsyncOpenAI:
    """A client that tries nothing twice, which is the pool's to do, and goes nowhere else with the key."""
    # a proxy does not lead to this machine
    http = BoundedClient(trust_env=not is_loopback(url), follow_redirects=False)
    return AsyncOpenAI(
        api_key=key,
        base_url=url,
        max_retries=0,
        timeout=Timeout(timeout, connect=min(timeout, CONNECT)),
        http_client=http,
    )
