"""Requests into kept samples: order, restarts, shares of several processes, and samplers that do not do as asked."""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rollouts.sampling.collect import collect
from rollouts.sampling.protocol import Request, Sample, refuse
from stages.files import StoreError
from stages.journal import Entry, Journal
from stages.processes import Processes
from stages.rows import read_rows
from stages.workspace import Quarantined, Untracked, Workspace

ASKED = [Request(f"r{i}", "x", n=1 + i % 3) for i in range(10)]


class Backwards:
    """A sampler that answers the last request first, its last sample first, and notes what it was asked for.

    It forgets the samples in `forgets`, refuses the requests and samples in `refuses`, and fails after `fails_after`
    samples.
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
                    if (request.id, index) in self.refuses:
                        yield from refuse(replace(request, wanted=(index,)), "filtered")
                        continue
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
    whole = Sample("r", 0, "a\n\u2028b", "length", 4, 2, 2**63 - 1, (5, 6), None)

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


def test_a_kill_before_the_first_row_does_not_stop_the_restart(tmp_path):
    (tmp_path / "kept" / "test").mkdir(parents=True)
    (tmp_path / "kept" / "test" / "0.jsonl").write_bytes(b'{"request":"r0","key":')
    (tmp_path / "kept" / "test" / "1.jsonl").touch()
    work = workspace(tmp_path)
    assert of_all(collect(Backwards(), ASKED, work, "test")) == WANTED
    work.close()


@pytest.mark.parametrize(
    ("now", "drawn"),
    [
        ([*ASKED[:4], replace(ASKED[4], prompt="y"), *ASKED[5:]], [("r4", 0), ("r4", 1)]),
        ([*ASKED[:4], replace(ASKED[4], temperature=0.5), *ASKED[5:]], [("r4", 0), ("r4", 1)]),
        ([*ASKED, Request("new", "x")], [("new", 0)]),
        ([Request("new", "x"), *reversed(ASKED)], [("new", 0)]),
        (ASKED[3:], []),
        ([replace(request, n=request.n + 1) for request in ASKED], [(r.id, r.n) for r in ASKED]),
        ([replace(request, seed=1) for request in ASKED], [(r.id, i) for r in ASKED for i in range(r.n)]),
    ],
    ids=["another prompt", "another setting", "one more", "another order", "fewer", "one more sample", "another seed"],
)
def test_rows_of_requests_that_are_still_asked_for_are_used(tmp_path, now, drawn):
    work = workspace(tmp_path)
    collect(Backwards(), ASKED, work, "test")
    work.close()
    sampler, work = Backwards(), workspace(tmp_path)
    found = collect(sampler, now, work, "test")
    assert sorted(sampler.asked) == sorted(drawn)
    assert of_all(found) == {r.id: [f"{r.id}{index}" for index in range(r.n)] for r in now}
    assert work.tokens == 3 * sum(r.n for r in now)  # of these requests only
    work.close()


def test_rows_that_nobody_asks_for_are_ignored_and_said(tmp_path, caplog):
    work = workspace(tmp_path)
    collect(Backwards(), ASKED, work, "test")
    with caplog.at_level(logging.WARNING):
        collect(Backwards(), ASKED[5:], work, "test")
        assert "test: 9 kept samples are not used: of requests that are not asked for now; the first: " in caplog.text
        caplog.clear()
        collect(Backwards(), ASKED, work, "test")
    assert caplog.text == ""
    work.close()


def test_a_damaged_line_costs_its_sample_and_is_named(tmp_path, caplog):
    work = workspace(tmp_path)
    collect(Backwards(), ASKED, work, "test")
    path = tmp_path / "kept" / "test" / "0.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:6], lines[6].replace(b"stop", b"stap"), *lines[7:]]))
    sampler = Backwards()
    assert of_all(collect(sampler, ASKED, work, "test")) == WANTED
    assert sampler.asked == [tuple(json.loads(lines[6])[name] for name in ("request", "sample"))]
    assert f"test: 1 kept samples are not used: damaged; the first: {path}, line 7" in caplog.text
    work.close()


class Alone(Processes):
    """One of several processes, whose others are not here to be waited for."""

    def wait(self) -> None: ...


def test_each_process_draws_its_shard_and_a_restart_may_have_more_of_them(tmp_path):
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
    (tmp_path / "kept" / "test" / "1.jsonl").unlink()
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


def quarantined(work: Workspace) -> dict[str, str]:
    work.finish()
    return {one.id: one.reason for one in read_rows(work.folder / "quarantine.parquet", Quarantined)}


@pytest.mark.parametrize("others", [(), (Request("s", "x", n=2), Request("t", "x"))], ids=["alone", "among others"])
def test_of_16_samples_two_are_refused_and_14_kept(tmp_path, caplog, others):
    """Where each request has a refused sample as well as where only one has."""
    refused = (("r", 3), ("r", 11), ("s", 0))
    work = workspace(tmp_path)
    found = collect(Backwards(refuses=refused), [Request("r", "x", n=16), *others], work, "test")
    assert [s.index for s in found["r"]] == list(range(16))
    assert [s.index for s in found["r"] if s.finish_reason == "refused"] == [3, 11]
    assert [s.text for s in found["r"] if s.finish_reason == "stop"] == [f"r{i}" for i in range(16) if i not in (3, 11)]
    named = dict.fromkeys(["r#3", "r#11", *(["s#0"] if others else [])], "filtered")
    assert quarantined(work) == named and work.tokens == 3 * (14 + 2 * bool(others))
    assert f"test: {len(named)} samples were refused" in caplog.text and "r#11: filtered" in caplog.text
    work.close()


def test_what_was_refused_is_drawn_again_after_a_restart_and_nothing_else(tmp_path):
    asked = [Request("a", "x", n=3), Request("b", "x", n=2)]
    work = workspace(tmp_path)
    collect(Backwards(refuses=("b", ("a", 1))), asked, work, "test")
    work.close()
    sampler, work = Backwards(), workspace(tmp_path)
    assert of_all(collect(sampler, asked, work, "test")) == {"a": ["a0", "a1", "a2"], "b": ["b0", "b1"]}
    assert sorted(sampler.asked) == [("a", 1), ("b", 0), ("b", 1)] and work.tokens == 15
    work.finish()
    assert work.counts == {}
    work.close()


def test_that_all_is_refused_is_no_error_where_nothing_is_needed(tmp_path):
    work = workspace(tmp_path)
    found = collect(Backwards(refuses=("a",)), [Request("a", "x", n=2)], work, "test", need_some=False)
    assert [sample.reason for sample in found["a"]] == ["too long"] * 2 and quarantined(work) == {"a": "too long"}
    work.close()


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


def test_if_all_are_refused_it_is_an_error_and_what_was_kept_of_others_stays(tmp_path):
    asked, work = [Request("b", "x"), Request("a", "x")], workspace(tmp_path)
    collect(Backwards(), ASKED, work, "test")
    work.close()
    with pytest.raises(ValueError, match="test: none of the 2 requests can be sampled; a: too long"):
        collect(Backwards(refuses=("a", "b")), asked, workspace(tmp_path), "test")
    work = workspace(tmp_path)  # as when the server's settings were what was wrong
    assert of_all(collect(Backwards(), asked, work, "test")) == {"a": ["a0"], "b": ["b0"]}
    sampler = Backwards()
    assert of_all(collect(sampler, ASKED, work, "test")) == WANTED and sampler.asked == []
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
    (path,) = tmp_path.glob("kept/test/*.jsonl")
    key = json.loads(path.read_bytes())["key"]
    path.unlink()
    with closing(Journal(path)) as kept:
        kept.add(Entry("r0", key, 0, 1, None, row))
    found = collect(Backwards(), [Request("r0", "x")], work, "test")
    with pytest.raises(StoreError, match=f"kept/test: a row kept for r0: .*{message}.*; delete the folder"):
        found["r0"]
    work.close()
