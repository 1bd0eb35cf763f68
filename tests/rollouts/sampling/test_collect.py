"""Requests into kept samples: order, restarts, shares of several processes, and samplers that do not do as asked."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from rollouts.sampling.collect import collect
from rollouts.sampling.protocol import Request, Sample, refuse
from stages.files import StoreError
from stages.journal import Journal
from stages.processes import Processes
from stages.rows import read_rows
from stages.workspace import Quarantined, Untracked, Workspace

ASKED = [Request(f"r{i}", "x", n=1 + i % 3) for i in range(10)]


class Backwards:
    """A sampler that answers the last request first, its last sample first, and notes what it was asked for.

    It forgets those in `forgets`, refuses those in `refuses`, and fails after `fails_after` samples.
    """

    promise = "the same text, always"

    def __init__(self, forgets=(), refuses=(), fails_after: int | None = None) -> None:
        self.forgets, self.refuses, self.fails_after = forgets, refuses, fails_after
        self.asked: list[tuple[str, int]] = []
        self.closed = 0

    def sample(self, requests: Sequence[Request]) -> Generator[Sample, None, None]:
        try:
            for request in reversed(requests):
                if request.id in self.refuses:
                    yield from refuse(request, "too long")
                    continue
                for index in reversed(request.indices):
                    self.asked.append((request.id, index))
                    if (request.id, index) not in self.forgets:
                        if self.fails_after is not None and len(self.asked) > self.fails_after:
                            raise KeyboardInterrupt
                        yield Sample(request.id, index, f"{request.id}{index}", "stop", 1, 3, 0)
        finally:
            self.closed += 1

    def close(self) -> None: ...


def workspace(folder: Path, rank: int = 0, count: int = 1) -> Workspace:
    return Workspace(folder, {}, Untracked(), folder / "kept", Processes(rank, count))


def of_all(found) -> dict[str, list[str]]:
    return {name: [sample.text for sample in found[name]] for name in found}


WANTED = {request.id: [f"{request.id}{index}" for index in range(request.n)] for request in ASKED}


def test_samples_come_back_by_request_in_order(tmp_path):
    work = workspace(tmp_path)
    found = collect(Backwards(), [Request("b", "x", n=2), Request("a", "x", n=1)], work, "test")
    assert list(found) == ["b", "a"] and of_all(found) == {"b": ["b0", "b1"], "a": ["a0"]}
    assert work.tokens == 9 and work.notes == {"promise of test": "the same text, always"}
    assert found["a"] == [Sample("a", 0, "a0", "stop", 1, 3, 0)]
    assert "a" in found and "c" not in found
    with pytest.raises(KeyError):
        found["c"]
    work.close()


def test_all_fields_of_a_sample_are_kept(tmp_path):
    whole = Sample("r", 0, "a\n\u2028b", "length", 4, 2, 2**63 - 1, (5, 6), (-0.5, -1e-9), None)

    class One(Backwards):
        def sample(self, requests):
            yield whole

    work = workspace(tmp_path)
    assert collect(One(), [Request("r", "x")], work, "test")["r"] == [whole]
    work.close()


def test_what_is_kept_can_be_another_record(tmp_path):
    @dataclass(frozen=True)
    class Length:
        name: str
        letters: int

    work = workspace(tmp_path)
    found = collect(Backwards(), ASKED, work, "test", lambda r, s: Length(r.id, len(s.text)), Length)
    assert found["r2"] == [Length("r2", 3)] * 3
    work.close()


@pytest.mark.parametrize("after", [0, 1, 7, 18])
def test_after_an_interruption_only_what_is_missing_is_drawn(tmp_path, after):
    stopped = Backwards(fails_after=after)
    with pytest.raises(KeyboardInterrupt):
        collect(stopped, ASKED, workspace(tmp_path), "test")
    assert len(stopped.asked) == after + 1 and stopped.closed == 1
    work, again = workspace(tmp_path), Backwards()
    found = collect(again, ASKED, work, "test")
    assert of_all(found) == WANTED and work.tokens == 3 * 19
    assert sorted(stopped.asked[:after] + again.asked) == sorted((r.id, i) for r in ASKED for i in range(r.n))
    work.close()
    third = Backwards()
    assert of_all(collect(third, ASKED, work, "test")) == WANTED and third.asked == []
    work.close()


def test_each_piece_of_work_has_its_own_rows(tmp_path):
    work = workspace(tmp_path)
    one, two = Backwards(), Backwards()
    collect(one, ASKED, work, "local (orm)")
    collect(two, ASKED, work, "local (sorm)/x")
    assert len(one.asked) == len(two.asked) == 19 and work.tokens == 2 * 57
    work.close()


def test_a_kill_before_the_first_commit_does_not_stop_the_restart(tmp_path):
    (tmp_path / "kept" / "test").mkdir(parents=True)
    with closing(sqlite3.connect(tmp_path / "kept" / "test" / "0.sqlite")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    (tmp_path / "kept" / "test" / "1.sqlite").touch()
    work = workspace(tmp_path)
    assert of_all(collect(Backwards(), ASKED, work, "test")) == WANTED
    work.close()


def test_rows_of_other_requests_are_not_used(tmp_path, caplog):
    work = workspace(tmp_path)
    collect(Backwards(), ASKED, work, "test")
    work.close()
    other = [Request(request.id, "y", n=request.n) for request in ASKED]
    again = Backwards()
    with caplog.at_level(logging.WARNING):
        collect(again, other, work, "test")
    assert len(again.asked) == 19 and "rows of other requests" in caplog.text
    work.close()


class Alone(Processes):
    """One of several processes, whose others are not here to be waited for."""

    def wait(self) -> None: ...


def test_each_process_draws_its_share_and_a_restart_may_have_more_of_them(tmp_path):
    asked = []
    for rank in range(3):
        sampler = Backwards()
        work = Workspace(tmp_path, {}, Untracked(), tmp_path / "kept", Alone(rank, 3))
        if rank < 2:  # the others are not there yet: together they are not complete
            with pytest.raises(RuntimeError, match="samples of r"):
                collect(sampler, ASKED, work, "test")
        else:
            found = collect(sampler, ASKED, work, "test")
            assert of_all(found) == WANTED and work.tokens == 57
        work.close()
        asked += sampler.asked
    assert sorted(asked) == sorted((r.id, i) for r in ASKED for i in range(r.n))
    (tmp_path / "kept" / "test" / "1.sqlite").unlink()
    sampler, work = Backwards(), workspace(tmp_path)
    assert of_all(collect(sampler, ASKED, work, "test")) == WANTED
    assert {name for name, _ in sampler.asked} == {"r1", "r4", "r7"}
    work.close()


def test_refused_requests_are_left_out_and_named(tmp_path, caplog):
    work = workspace(tmp_path)
    with caplog.at_level(logging.WARNING):
        found = collect(Backwards(refuses=("r2", "r7")), ASKED, work, "test")
    assert "2 of 10 requests cannot be sampled" in caplog.text and "r2: too long" in caplog.text
    assert [sample.finish_reason for sample in found["r2"]] == ["refused"] * 3
    assert found["r1"][0].text == "r10"
    work.finish()
    work.close()
    wanted = [Quarantined("r2", "too long"), Quarantined("r7", "too long")]
    assert read_rows(tmp_path / "quarantine.parquet", Quarantined) == wanted
    assert work.counts == {"quarantine": 2}


def test_a_request_that_nobody_can_read_never_reaches_the_sampler(tmp_path):
    work, sampler = workspace(tmp_path), Backwards()
    found = collect(sampler, [Request("a", "x"), Request("b", "\ud800", n=2), Request("c", (1.5,))], work, "test")
    assert sampler.asked == [("a", 0)] and sampler.closed == 1
    assert [sample.finish_reason for sample in (*found["b"], *found["c"])] == ["refused"] * 3
    assert r"the lone surrogate '\ud800'" in found["b"][1].reason and "not (1.5,)" in found["c"][0].reason
    work.close()


@pytest.mark.parametrize(("name", "n"), [(5, 1), (None, 1), ("\ud800", 1), ("a", 0), ("a", -1)])
def test_a_request_without_a_name_or_samples(tmp_path, name, n):
    with pytest.raises(ValueError, match=f"a text as its id and n >= 1, not .* and {n}"):
        collect(Backwards(), [Request(name, "x", n=n)], workspace(tmp_path), "test")


def test_if_all_are_refused_it_is_an_error_and_forgotten(tmp_path):
    asked = [Request("b", "x"), Request("a", "x")]
    with pytest.raises(ValueError, match="test: none of the 2 requests can be sampled; a: too long"):
        collect(Backwards(refuses=("a", "b")), asked, workspace(tmp_path), "test")
    work = workspace(tmp_path)  # as when the server's settings were what was wrong
    assert of_all(collect(Backwards(), asked, work, "test")) == {"a": ["a0"], "b": ["b0"]}
    work.close()


class Wrong(Backwards):
    def __init__(self, *samples: Sample) -> None:
        super().__init__()
        self.samples = samples

    def sample(self, requests):
        yield from self.samples


def one(name: str, index: int) -> Sample:
    return Sample(name, index, "", "stop", 1, 3, 0)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (Backwards(forgets=(("b", 0),)), "1 of 2 samples of b"),
        (Backwards(forgets=(("b", 0), ("b", 1))), "0 of 2 samples of b"),
        (Wrong(one("b", 0), one("b", 0), one("b", 1)), "sample 0 of b, unasked"),
        (Wrong(one("b", 2)), "sample 2 of b, unasked"),
        (Wrong(one("c", 0)), "sample 0 of c, unasked"),
        (Wrong(one("b", -1)), "sample -1 of b, unasked"),
    ],
)
def test_a_sampler_that_does_not_do_as_asked(tmp_path, sampler, message):
    with pytest.raises(RuntimeError, match=message):
        collect(sampler, [Request("b", "x", n=2)], workspace(tmp_path), "test")


def test_nothing_asked_nothing_kept(tmp_path):
    work = workspace(tmp_path)
    assert of_all(collect(Backwards(), [], work, "test")) == {} and work.tokens == 0
    work.close()


def test_two_requests_of_one_name(tmp_path):
    with pytest.raises(ValueError, match="same id"):
        collect(Backwards(), [Request("b", "x"), Request("b", "y")], workspace(tmp_path), "test")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"request_id": "r0"}, "missing fields"),
        ({**{f: None for f in Sample.__dataclass_fields__}, "index": 0}, "Sample.request_id must be str, not None"),
    ],
)
def test_a_kept_row_that_is_no_record_is_named(tmp_path, row, message):
    work = workspace(tmp_path)
    collect(Backwards(), [Request("r0", "x")], work, "test")
    work.close()
    (path,) = tmp_path.glob("kept/test/*.sqlite")
    with closing(sqlite3.connect(path)) as connection:
        (about,) = connection.execute("SELECT value FROM about").fetchone()
    path.unlink()
    with closing(Journal(path, about)) as kept:
        kept.add("r0", 0, 1, None, row)
    found = collect(Backwards(), [Request("r0", "x")], work, "test")
    with pytest.raises(StoreError, match=f"kept/test: a row kept for r0: .*{message}.*; delete the folder"):
        found["r0"]
    work.close()
