"""What is shown of texts from outside: nothing that steers a terminal or a page, nothing endless, no secret."""

from __future__ import annotations

import base64
import html
import io
import json
import logging
import re
import unicodedata
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import text as texts
from stages.text import CleanRecord, keep_secret, one_line, shown, visible

KEYS = ["sk-proj-0123456789abcdefghij", "a/b+c=d&e<f>\"g'h\\i%j{k}~" * 3, "ключ".encode().hex() * 6]
HARMFUL = ["\x00", "\x07", "\x1b[31m", "\x9b2J", "\x7f", "\u202e", "\u2066", "\u200b", "\u2028", "\x85", "\r", "\ud800"]


@pytest.fixture
def secret(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(texts, "_secrets", {})
    keep_secret(request.param)
    return request.param


@pytest.mark.parametrize("harmful", HARMFUL)
def test_what_cannot_be_seen_is_escaped(harmful: str) -> None:
    for found in (visible(f"a{harmful}b"), one_line(f"a{harmful}b"), shown(f"a{harmful}b"), shown([f"a{harmful}"])):
        assert found.isprintable() and "\\" in found and found.isascii()


@given(st.text(st.characters()))
def test_what_is_shown_can_be_seen_and_written(text: str) -> None:
    assert all(part.isprintable() for part in visible(text).split("\n"))
    assert one_line(text).isprintable() and shown(text).isprintable()
    visible(text).encode()  # no lone surrogate is left


@pytest.mark.parametrize("text", ["Ürümqi 3 µm", "四 個 苹果", "🍎🚀 x", "𝒳 + 𝒴", "a\nb"])
def test_what_can_be_seen_stays(text: str) -> None:
    assert visible(text) == text


def test_white_space_is_a_space_and_lines_are_joined() -> None:
    assert visible("a\tb\u00a0c\u3000d\r\ne") == "a b c d\ne"
    assert one_line(" a \n\n  b\r\nc ") == "a; b; c"
    assert shown("a\nb") == r"'a\nb'"


def test_long_texts_are_shortened() -> None:
    assert visible("\x1b" * 5, 3) == r"\x1b\x1b\x1b… (5 characters)"
    assert visible("abc", 3) == one_line("abc", 3) == "abc" and len(one_line("\n" * 10**6)) < 2100
    assert shown("x" * 999) == f"'{'x' * 119}… (1,001 characters)"
    assert len(shown({"a" * 10**6: 1})) < 200


def spellings(key: str) -> list[str]:
    places = [(lead, tail) for lead in ("", "u:", "me:") for tail in ("", "x")]
    encoded = [base64.b64encode((lead + key + tail).encode()).decode() for lead, tail in places]
    return [
        *(key, quote(key, safe=""), quote_plus(key), quote(quote(key, safe=""), safe=""), repr(key)[1:-1]),
        *(json.dumps(key)[1:-1], json.dumps(json.dumps(key)), json.dumps(key).replace("/", r"\/"), html.escape(key)),
        *("".join(f"\\u{ord(c):04X}" for c in key), "".join(f"&#{ord(c)};" for c in key)),
        *(quote(key, safe="").lower() if key == key.lower() else key, *encoded),
        *(base64.urlsafe_b64encode(key.encode()).decode(), json.dumps(encoded[0]).replace("/", r"\/")),
    ]


def parts(text: str, length: int = 9) -> set[str]:
    return {text[start : start + length] for start in range(len(text) - length + 1)}


@pytest.mark.parametrize("secret", KEYS, indirect=True)
def test_no_part_of_a_secret_is_left_wherever_a_text_is_cut(secret: str) -> None:
    wanted = set().union(*(parts(spelling) for spelling in spellings(secret)))
    for spelling in spellings(secret):
        assert "***" in one_line(f"<{spelling}>"), spelling
        for before in range(82):
            text = "." * before + spelling + "." * 50
            for found in (one_line(text, 80), shown(text, 80), visible(text, 80), shown({"reply": text}, 80)):
                assert not parts(found) & wanted, (spelling, before, found)


@pytest.mark.parametrize("secret", ["short"], indirect=True)
def test_a_short_secret_is_hidden_too(secret: str) -> None:
    assert one_line("a short text") == "a *** text"
    keep_secret("")
    assert one_line("abc") == "abc"


@pytest.mark.parametrize("secret", KEYS[:1], indirect=True)
def test_a_log_has_one_clean_line_a_message(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "_logRecordFactory", CleanRecord)
    out = io.StringIO()
    handler, logger = logging.StreamHandler(out), logging.getLogger("a_log_of_this_test")
    logger.addHandler(handler)
    logger.propagate = False
    logger.warning("%s said %s", "\x1b]0;x\x07", f"yes\u2028\nWARNING forged {secret}")
    try:
        raise OSError(f"\x1b[2J {secret}")
    except OSError:
        logger.exception("no %d", 7)
    lines = out.getvalue().split("\n")
    assert lines[0] == r"\x1b]0;x\x07 said yes\u2028; WARNING forged ***" and lines[1:3] == [
        *("no 7", "Traceback (most recent call last):"),
    ]
    assert lines[-2] == r"OSError: \x1b[2J ***" and all(line.isprintable() for line in lines)


def test_every_control_character_of_unicode_is_caught() -> None:
    every = [chr(code) for code in range(0x110000)]
    harmful = [c for c in every if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in "\n\t"]
    assert not re.search(f"[{re.escape(''.join(harmful))}]", visible("".join(harmful)))
