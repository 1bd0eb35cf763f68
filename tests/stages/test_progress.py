"""Progress: single lines for a parent process, plain text in a log, a bar in a terminal."""

from __future__ import annotations

import io
import sys

import pytest

from stages import progress as module
from stages.progress import parse_line, progress


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


def test_lines_for_a_parent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("STEPWISE_PROGRESS", "lines")
    clock = Clock(monkeypatch)
    with progress(100, "problems", "sampling") as bar:
        for _ in range(100):
            clock.now += 1 / 64
            bar.advance()
    captured = capsys.readouterr()
    reports = [parse_line(line) for line in captured.err.splitlines()]
    assert captured.out == ""
    assert [report["done"] for report in reports] == [16, 32, 48, 64, 80, 96, 100]
    assert reports[-1] == {"label": "sampling", "done": 100, "total": 100, "unit": "problems"}


def test_last_line_comes_also_after_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STEPWISE_PROGRESS", "lines")
    with pytest.raises(ValueError, match="no"), progress(None, "tokens", "training") as bar:
        bar.advance(5)
        raise ValueError("no")
    report = parse_line(capsys.readouterr().err)
    assert report == {"label": "training", "done": 5, "total": None, "unit": "tokens"}


def test_plain_text_in_a_log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("STEPWISE_PROGRESS", raising=False)
    clock = Clock(monkeypatch)
    with progress(300, "problems", "sampling") as bar:
        for _ in range(100):
            clock.now += 0.4
            bar.advance(2)
    assert capsys.readouterr().err.splitlines() == [
        "sampling: 150/300 problems, 5.0 a second, 0:30 left, 0:30 so far",
        "sampling: 200/300 problems, 5.0 a second, 0:20 left, 0:40 so far",
    ]


@pytest.mark.parametrize(("seconds", "lines"), [(4.9, 0), (5.1, 1)])
def test_what_is_short_leaves_no_line_in_a_log(monkeypatch, capsys, seconds: float, lines: int) -> None:
    """The labeller samples in dozens of waves."""
    monkeypatch.delenv("STEPWISE_PROGRESS", raising=False)
    clock = Clock(monkeypatch)
    with progress(3, "samples", "label_steps/7") as bar:
        bar.advance(3)
        clock.now += seconds
    assert len(capsys.readouterr().err.splitlines()) == lines


def test_bar_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("STEPWISE_PROGRESS", raising=False)
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    with progress(2, "rounds", "iterating [x]") as outer:
        with progress(3, "problems", "sampling") as inner:
            inner.advance(3)
        outer.advance()
    text = screen.getvalue()
    assert "iterating [x]" in text and "3/3" in text and "1/2" in text and "problems" in text


@pytest.mark.parametrize("line", ["", "hello", "@progress {torn", "@progress 3", " @progress {}"])
def test_other_lines_are_no_reports(line: str) -> None:
    assert parse_line(line) is None
