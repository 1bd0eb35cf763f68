"""W&B's server: whether there is a key for it and it answers, and what it must not be told."""

from __future__ import annotations

import logging
import netrc
import os
import re
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from stages.leaks import secret_variables
from stages.text import visible

logger = logging.getLogger(__name__)

_ANSWERS = 3  # seconds: a server that is down must not hold a pipeline
_PASSWORD = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def find_mode(wandb: Any) -> str:
    """What WANDB_MODE says, else online where there is a key; offline where nobody answers."""
    mode = os.environ.get("WANDB_MODE") or ("online" if has_key(wandb) else "offline")
    url = wandb.setup().settings.base_url
    if mode == "online" and not answers(url):
        return go_offline(f"W&B's server {url} does not answer, runs are kept offline")
    return mode


def go_offline(why: str) -> str:
    """From now on every run of this process, and of those that it starts, is offline: they need not wait as well."""
    logger.warning("%s", clean(why))
    os.environ["WANDB_MODE"] = "offline"
    return "offline"


def answers(url: str) -> bool:
    """Whether anything answers at this address, be it with an error."""
    try:
        with urlopen(Request(url, method="HEAD"), timeout=_ANSWERS):
            return True
    except HTTPError:
        return True
    except (OSError, ValueError) as error:
        return "certificate" in str(error).lower()  # one that W&B may have been told to trust


def has_key(wandb: Any) -> bool:
    """Whether there is a key, in WANDB_API_KEY or netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(wandb.setup().settings.base_url).hostname
    files = [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]
    for name in files:
        try:
            if netrc.netrc(Path(name).expanduser()).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def clean(value: Any) -> Any:
    """Plain values without secrets: the value of every secret environment variable becomes the variable's name, a
    password in a URL `***`, and so does a secret that `stages.text` was told of."""
    if isinstance(value, dict):
        return {key: clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    if isinstance(value, str):
        for name, secret in secret_variables(os.environ).items():
            value = value.replace(secret, f"${name}")
        return visible(_PASSWORD.sub("***", value))
    return value
