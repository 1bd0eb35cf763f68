"""Entries of unfinished work: what survives a kill, a full disk and damage, and how they are found again."""

from __future__ import annotations

import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from stages import journal
from stages.files import StoreError
from stages.journal import Entry, Journal, JournalIndex

ROOT = Path(__file__).parents[2]


def entry(number: int, sample: int = 0, refused: str | None = None, **row: object) -> Entry:
    return Entry(f"r{number}", f"key{number}", sample, number, refused, row or {"text": f"{number}/{sample} é\u2028"})


def filled(path: Path, requests: int = 20, samples: int = 3) -> list[Entry]:
    entries = [entry(number, sample) for number in range(requests) for sample in range(samples)]
    with closing(Journal(path)) as kept:
        for one in entries:
            kept.add(one)
    return entries


def read_all(path: Path) -> list[Entry | None]:
    return [journal.parse(line) for _, line in journal.read(path)]


def index_of(folder: Path, requests: int = 20, samples: int = 3) -> JournalIndex:
    index = JournalIndex(folder, {f"key{number}": samples for number in range(requests)})
    index.update()
    return index


def test_a_line_is_plain_json_as_head_shows_it(tmp_path):
    filled(tmp_path / "0.jsonl")
    first = subprocess.run(["head", "-1", tmp_path / "0.jsonl"], capture_output=True, text=True, check=True).stdout
    line = json.loads(first)
    assert line.pop("crc32") and line == {
        "request": "r0", "key": "key0", "sample": 0, "tokens": 0, "refused": None, "row": {"text": "0/0 é\u2028"},
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["0.jsonl"]


def test_a_journal_needs_no_database(tmp_path, monkeypatch):
    """SQLite's WAL cannot be opened on NFS, GPFS and Lustre, where artifacts live."""

    def refuse(*_, **__):
        raise sqlite3.OperationalError("locking protocol")

    monkeypatch.setattr(sqlite3, "connect", refuse)
    entries = filled(tmp_path / "0.jsonl")
    assert read_all(tmp_path / "0.jsonl") == entries


def test_what_goes_in_comes_out_by_request_in_order(tmp_path):
    steps = {"text": "a\0\n", "steps": ["x", None], "score": 0.1}
    with closing(Journal(tmp_path / "0.jsonl")) as kept, closing(Journal(tmp_path / "1.jsonl")) as other:
        kept.add(entry(5, 2, text="c"))
        kept.add(entry(7, 0, "too long", text=""))
        other.add(entry(5, 0, **steps))
    with closing(index_of(tmp_path)) as index:
        assert list(index.rows("key5")) == [steps, {"text": "c"}] and list(index.rows("key6")) == []
        assert index.samples("key5") == {0: None, 2: None} and index.samples("key7") == {0: "too long"}
        assert index.tokens == 17 and index.left_out == {}


def test_an_index_follows_what_is_added(tmp_path):
    index = index_of(tmp_path / "journals")
    assert index.update() == 0
    with closing(Journal(tmp_path / "journals" / "0.jsonl")) as one, closing(index):
        for number in range(6):
            one.add(entry(number))
            assert index.update() == 1 and index.samples(f"key{number}") == {0: None}
        with closing(Journal(tmp_path / "journals" / "1.jsonl")) as two:
            two.add(entry(7))
            one.add(entry(8))
        assert index.update() == 2 and index.update() == 0
        assert [row["text"][0] for number in (0, 7, 8) for row in index.rows(f"key{number}")] == ["0", "7", "8"]


def test_a_refused_sample_gives_way_to_one_that_was_drawn(tmp_path):
    with closing(Journal(tmp_path / "0.jsonl")) as kept:
        for refused, text in (("busy", ""), ("busy again", ""), (None, "good"), ("busy", "")):
            kept.add(entry(3, 1, refused, text=text))
    with closing(index_of(tmp_path)) as index:
        assert index.samples("key3") == {1: None} and list(index.rows("key3")) == [{"text": "good"}]


def test_what_is_not_asked_for_or_there_twice_is_left_out_and_said(tmp_path):
    filled(tmp_path / "0.jsonl")
    (tmp_path / "1.jsonl").write_bytes((tmp_path / "0.jsonl").read_bytes())
    with closing(index_of(tmp_path, requests=10, samples=2)) as index:
        assert index.samples("key3") == {0: None, 1: None} and index.samples("key10") == {}
        assert index.tokens == 2 * sum(range(10))
        unasked, twice = index.left_out["of requests that are not asked for now"], index.left_out["there twice"]
    assert unasked == (2 * 40, f"{tmp_path / '0.jsonl'}, line 3") and twice == (20, f"{tmp_path / '1.jsonl'}, line 1")


def test_every_entry_added_survives_a_kill(tmp_path):
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from stages.journal import Entry, Journal\n"
        "kept = Journal(Path(sys.argv[1]))\n"
        "for index in range(700):\n"
        "    kept.add(Entry('r', 'key', index, 1, None, {'n': index}))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "0.jsonl"
    killed = subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT, env=os.environ | {"PYTHONPATH": "."})
    assert killed.returncode == -signal.SIGKILL
    assert [one.row["n"] for one in read_all(path)] == list(range(700))
    with closing(Journal(path)) as kept:
        kept.add(entry(0))
    assert len(read_all(path)) == 701


@pytest.mark.parametrize("left", [1, 30, -1])
def test_a_torn_last_line_is_dropped_and_the_next_one_is_whole(tmp_path, caplog, left):
    path = tmp_path / "0.jsonl"
    entries = filled(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:left])
    assert read_all(path) == entries[:-1]
    with closing(Journal(path)) as kept:
        kept.add(entries[-1])
    assert path.read_bytes() == b"".join(lines) and read_all(path) == entries
    assert f"{path}: the last line was cut off" in caplog.text


def test_a_disk_that_takes_half_a_line_leaves_no_part_of_it(tmp_path, monkeypatch):
    path = tmp_path / "0.jsonl"
    kept, whole = Journal(path), entry(1)
    kept.add(whole)

    class Full:
        """A file on a disk with room for so many bytes."""

        def __init__(self, file, room: int) -> None:
            self.file, self.room = file, room

        def write(self, data: bytes) -> int:
            if not self.room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            taken, self.room = self.file.write(data[: self.room]), 0
            return taken

        def truncate(self, size: int) -> int:
            return self.file.truncate(size)

    with monkeypatch.context() as patch:
        patch.setattr(kept, "_file", Full(kept._file, 9))
        with pytest.raises(StoreError, match=r"0.jsonl: No space left on device"):
            kept.add(entry(2))
    kept.add(entry(3))
    kept.close()
    assert read_all(path) == [whole, entry(3)]


def test_entries_reach_the_disk_itself_each_second_and_at_the_end(tmp_path, monkeypatch):
    now, synced = [0.0], []
    monkeypatch.setattr(journal.time, "monotonic", lambda: now[0])
    kept = Journal(tmp_path / "0.jsonl")
    monkeypatch.setattr(journal.os, "fsync", lambda _: synced.append(now[0]))
    for tick in range(25):
        now[0] = tick / 10
        kept.add(entry(tick))
    assert synced == [1.0, 2.0]
    kept.close()
    kept.close()
    assert synced == [1.0, 2.0, 2.4]


def test_a_disk_that_fails_to_sync_is_named(tmp_path, monkeypatch):
    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    kept = Journal(tmp_path / "0.jsonl")
    monkeypatch.setattr(journal.os, "fsync", fail)
    with pytest.raises(StoreError, match=r"0.jsonl: Input/output error"):
        kept.close()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (entry(0, text="\ud800"), r"r0#0: cannot be stored: .*surrogates"),
        (Entry("r0", "key", 0, 2**63, None, {}), r"r0#0: cannot be stored: 9223372036854775808 has more than 64 bits"),
        (entry(0, prompt_tokens=-(2**63) - 1), r"r0#0: cannot be stored: -9223372036854775809 has more than 64 bits"),
    ],
)
def test_what_cannot_be_stored_is_named_and_costs_nothing_else(tmp_path, bad, message):
    path = tmp_path / "0.jsonl"
    with closing(Journal(path)) as kept:
        with pytest.raises(StoreError, match=rf"0.jsonl, {message}"):
            kept.add(bad)
        kept.add(entry(1, seed=2**63 - 1))
    assert read_all(path) == [entry(1, seed=2**63 - 1)]


@pytest.mark.parametrize(
    "text",
    [
        '{"request":"r1","key":"key1","sample":"0","tokens":1,"refused":null,"row":{}',
        '{"request":"r1","key":"key1","sample":0,"tokens":1,"refused":null,"row":[]',
        '{"request":"r1","key":"key1","sample":0,"row":{}',
        '{"request":"r1"',
        "{torn",
        "",
        "[" * 100_000,
    ],
)
def test_a_line_that_is_no_entry_is_damaged_whatever_its_checksum(tmp_path, text):
    path = tmp_path / "0.jsonl"
    filled(path, 2, 1)
    body = text.encode()
    path.write_bytes(path.read_bytes() + body + journal._seal(body))
    with closing(index_of(tmp_path)) as index:
        assert index.left_out == {"damaged": (1, f"{path}, line 3")} and index.samples("key1") == {0: None}


def test_a_damaged_line_in_the_middle_costs_its_own_sample_only(tmp_path):
    path = tmp_path / "0.jsonl"
    entries = filled(path)
    data = path.read_bytes()
    at = data.index("17/1 é".encode())
    path.write_bytes(data[:at] + b"3" + data[at + 1 :])
    found = read_all(path)
    assert found[52] is None and [one for one in found if one] == entries[:52] + entries[53:]
    with closing(index_of(tmp_path)) as index:
        assert index.left_out == {"damaged": (1, f"{path}, line 53")}
        assert index.samples("key17") == {0: None, 2: None}


def test_a_line_that_changes_after_it_was_indexed_is_never_taken_for_another(tmp_path):
    path = tmp_path / "0.jsonl"
    filled(path)
    index = index_of(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))
    with closing(index):
        with pytest.raises(StoreError, match=r"0.jsonl: the line at byte 0 has changed on disk"):
            list(index.rows("key0"))
        assert [row["text"][:2] for row in index.rows("key1")] == ["1/"] * 3


@pytest.mark.parametrize("data", [b"", b"no journal at all" * 300, b"\0" * 4096, b"SQLite format 3\0\n" + b"\n" * 90])
def test_a_file_of_anything_else_can_be_gone_on_with(tmp_path, data):
    path = tmp_path / "0.jsonl"
    path.write_bytes(data)
    with closing(Journal(path)) as kept:
        kept.add(entry(4))
    with closing(index_of(tmp_path)) as index:
        assert index.samples("key4") == {0: None}
        assert index.left_out.get("damaged", (0,))[0] == data.count(b"\n")


def test_a_journal_that_cannot_be_opened_or_read_is_named(tmp_path):
    (tmp_path / "0.jsonl").mkdir()
    with pytest.raises(StoreError, match=r"0.jsonl: cannot be written: Is a directory"):
        Journal(tmp_path / "0.jsonl")
    with pytest.raises(StoreError, match=r"0.jsonl: cannot be read: Is a directory"):
        index_of(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"0.jsonl: cannot be written: "):
        Journal(tmp_path / "file" / "0.jsonl")
