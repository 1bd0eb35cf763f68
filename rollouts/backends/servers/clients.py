"""The client of one server: whether the server is on this machine, its key, and how long it is waited for."""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit

from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Timeout

from stages.text import keep_secret

CONNECT = 10.0  # seconds to open a connection: a machine that is gone should be noticed before the time-out


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


def open_client(url: str, key: str, timeout: float) -> AsyncOpenAI:
    """A client that tries nothing twice: that is the pool's to do."""
    # a proxy does not lead to this machine
    http = DefaultAsyncHttpxClient(trust_env=not is_loopback(url))
    return AsyncOpenAI(
        api_key=key,
        base_url=url,
        max_retries=0,
        timeout=Timeout(timeout, connect=min(timeout, CONNECT)),
        http_client=http,
    )
