"""Progress: reports for a parent process, plain text in a log, a bar in a terminal."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from stages import progress as module
from stages.progress import Report, progress, read_report


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


def test_reports_to_a_parent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("STEPWISE_PROGRESS", str(file := tmp_path / "progress"))
    clock, seen = Clock(monkeypatch), []
    with progress(100, "problems", "sampling") as bar:
        assert read_report(file) is None
        for _ in range(100):
            clock.now += 1 / 64
            bar.advance()
            seen.append(read_report(file))
    done = [report.done if report else None for report in seen]
    assert done == [None] * 15 + [16] * 16 + [32] * 16 + [48] * 16 + [64] * 16 + [80] * 16 + [96] * 5
    assert read_report(file) == Report("sampling", 100, 100, "problems")
    assert [path.name for path in tmp_path.iterdir()] == ["progress"] and capsys.readouterr() == ("", "")


def test_the_last_report_comes_also_after_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STEPWISE_PROGRESS", str(tmp_path / "progress"))
    with pytest.raises(ValueError, match="no"), progress(None, "tokens", "training") as bar:
        bar.advance(5)
        raise ValueError("no")
    assert read_report(tmp_path / "progress") == Report("training", 5, None, "tokens")


def test_a_parent_that_has_gone_does_not_end_the_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STEPWISE_PROGRESS", str(tmp_path / "gone" / "progress"))
    with progress(1, "tokens", "training") as bar:
        bar.advance()


def test_plain_text_in_a_log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("STEPWISE_PROGRESS", raising=False)
    clock = Clock(monkeypatch)
    with progress(300, "problems", "sampling") as bar:
        for _ in range(100):
            clock.now += 0.4
            bar.advance(2)
    assert capsys.readouterr().err.splitlines() == [
        "sampling: 150/300 problems, 5.0 a second, 0:00:30 left, 0:00:30 so far",
        "sampling: 200/300 problems, 5.0 a second, 0:00:20 left, 0:00:40 so far",
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


@pytest.mark.parametrize("text", ["", "{torn", "3", "{}", '{"label": "x"}', "\udcff"])
def test_a_file_of_something_else_is_no_report(text: str, tmp_path: Path) -> None:
    (tmp_path / "progress").write_bytes(text.encode(errors="surrogateescape"))
    assert read_report(tmp_path / "progress") is None
