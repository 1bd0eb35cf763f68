"""What a report is put together from, whatever it is written down as: sentences, tables, figures by name, sections."""

from __future__ import annotations

from dataclasses import dataclass


class Link(str):
    """A cell that leads to `href`, another page beside this one."""

    href: str

    def __new__(cls, text: str, href: str) -> Link:
        link = super().__new__(cls, text)
        link.href = href
        return link


@dataclass(frozen=True)
class Table:
    """Cells as texts, which may be from outside; the first `texts` columns are words, the others numbers."""

    caption: str
    header: list[str]
    rows: list[list[str]]
    texts: int = 1


@dataclass(frozen=True)
class Figure:
    """A picture by its name: a file of figures/, and what is drawn in the page."""

    name: str
    caption: str


@dataclass(frozen=True)
class Bullets:
    """Sentences, each of which stands for itself."""

    lines: list[str]


Part = str | Table | Figure | Bullets


@dataclass(frozen=True)
class Section:
    """What stands under one title; `name` is what a link to it says."""

    name: str
    title: str
    parts: list[Part]
