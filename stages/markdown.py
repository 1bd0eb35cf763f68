"""Texts from outside as Markdown: nothing of them is markup, so that a report or a card shows them as they are."""

from __future__ import annotations

import re

from stages.text import VALUE, one_line


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def plain(text: str) -> str:
    """A text on one line as Markdown, so that nothing of it is markup."""
    # an underscore within a word is none
    return re.sub(r"[\\`*\[\]<>&$~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)


def code_span(text: object) -> str:
    """The same as code, which nothing within it can end."""
    text = one_line(text, VALUE) or " "
    fence, space = "`" * (longest_run(text) + 1), " " if text[0] in "` " or text[-1] in "` " else ""
    return f"{fence}{space}{text}{space}{fence}"


def code_block(code: str, language: str = "") -> str:
    """Lines as they are, in a fence that is longer than any within them."""
    fence = "`" * max(3, longest_run(code) + 1)
    return f"{fence}{language}\n{code}\n{fence}"


def longest_run(text: str) -> int:
    """How many backticks stand together at most."""
    return max(map(len, re.findall("`+", text)), default=0)
