"""Texts from outside (files, models, servers, libraries) made fit to be seen.

Control characters would steer a terminal, line separators forge a line of a log, bidi marks turn a line around, a
megabyte hide the rest, and a server may send our own key back. Data itself is never changed: only what is shown of it.
"""

from __future__ import annotations

import base64
import html
import logging
import re
import traceback
import unicodedata
from decimal import Decimal
from typing import Any

VALUE = 120  # characters shown of one value
LINE = 2000  # and of a whole line
_secrets: dict[str, re.Pattern[str]] = {}


def visible(text: object, limit: int | None = None) -> str:
    """The text without secrets, at most about `limit` characters of it. `\\n` is its only line end, all other white
    space is a space, and what cannot be seen is escaped: a colour is shown as `\\x1b[31m`. Any script and any emoji
    stay as they are.
    """
    text = _hide(str(text))  # before it is cut: half a key is still a key
    if limit is not None and len(text) > limit:
        return f"{visible(text[:limit])}… ({len(text):,} characters)"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _escape(c) for c in text.replace("\r\n", "\n"))


def _escape(char: str) -> str:
    return " " if char == "\t" or unicodedata.category(char) == "Zs" else ascii(char)[1:-1]


def one_line(text: object, limit: int | None = LINE) -> str:
    """The text as `visible` shows it, its lines joined by semicolons."""
    return "; ".join(line.strip() for line in visible(text, limit).split("\n") if line.strip())


def shown(value: Any, limit: int | None = VALUE) -> str:
    """A value as an error message names it: its repr, as `one_line` shows it."""
    # a repr spells a secret in another way, but what is hidden in a text stays hidden in its repr
    value = _hide(value) if isinstance(value, str) else value
    return one_line(str(value) if isinstance(value, Decimal) else repr(value), limit)


def keep_secret(secret: str) -> None:
    """From now on show `***` in place of this text, however a reply may spell it (see `_spellings`)."""
    if secret:
        _secrets[secret] = re.compile(_spellings(secret))


def _hide(text: str) -> str:
    for secret in _secrets.values():
        text = secret.sub("***", text)
    return text


def _spellings(secret: str) -> str:
    """A pattern of a secret as it is, quoted for a URL, JSON, HTML or Python, or in base64 with something before it."""
    # escapes of escapes have several backslashes, and a URL in a URL has %25 for %
    plain = r"\\*".join(map(_spelling, secret))
    found = [rf"\\*{plain}" if not secret[0].isalnum() else plain]
    data = secret.encode()
    for before in range(3):  # base64 makes 4 characters of 3 bytes: where the secret begins changes all of them
        for code in (base64.b64encode, base64.urlsafe_b64encode):
            whole = code(b"\0" * before + data + b"\0\0").decode()
            # those characters that hold nothing but bits of the secret
            core = whole[-(-before * 8 // 6) : (before + len(data)) * 8 // 6]
            if len(core) >= 8:  # fewer are found in any text
                found.append(re.escape(core).replace(r"/", r"\\*/") + "[A-Za-z0-9+/_=-]?=*")
    return "|".join(found)


def _spelling(char: str) -> str:
    code = f"{ord(char):02x}"
    digits = "".join(f"[{d}{d.upper()}]" if d.isalpha() else d for d in code)
    ways = [re.escape(char), rf"%(?:25)*{digits}", rf"(?:u00|x){digits}", rf"&#0*{ord(char)};", rf"&#[xX]0*{digits};"]
    if (named := html.escape(char)) != char:
        ways.append(re.escape(named))
    return f"(?:{'|'.join(ways)})"


class CleanRecord(logging.LogRecord):
    """A log record whose message is one clean line, and whose trace holds nothing that a terminal would obey."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.exc_info and self.exc_info[0] is not None:
            self.exc_text = visible("".join(traceback.format_exception(*self.exc_info)).rstrip("\n"))

    def getMessage(self) -> str:
        return one_line(super().getMessage())
