"""Rows of unfinished work: what survives a kill, and every kind of damaged file."""

from __future__ import annotations

import logging
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
from stages.journal import Journal, Rows

ROOT = Path(__file__).parents[2]


def filled(path: Path, requests: int = 40, samples: int = 3, about: str = "a") -> Path:
    """A journal of long rows, so that it has many pages."""
    with closing(Journal(path, about)) as kept:
        for i in range(requests):
            for index in range(samples):
                kept.add(f"r{i}", index, i, None, {"text": f"{i}/{index} " + "é" * 300})
    return path


def all_of(*paths: Path) -> Rows:
    return Rows(list(paths))


def test_what_goes_in_comes_out_in_order(tmp_path):
    one, two = tmp_path / "0.sqlite", tmp_path / "1.sqlite"
    with closing(Journal(one, "a")) as kept, closing(Journal(two, "a")) as other:
        kept.add("r", 2, 5, None, {"text": "c\0\u2028"})
        kept.add("s", 0, 0, "too long", {"text": ""})
        other.add("r", 0, 7, None, {"text": "a", "steps": ["x", None], "score": 0.1})
    with closing(all_of(one, two)) as rows:
        assert list(rows.of("r")) == [
            (0, {"text": "a", "steps": ["x", None], "score": 0.1}),
            (2, {"text": "c\0\u2028"}),
        ]
        assert rows.samples() == {"r": {0, 2}, "s": {0}} and list(rows.of("t")) == []
        assert rows.tokens() == 12 and rows.refused() == {"s": "too long"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.sqlite", "1.sqlite"]


def test_the_same_sample_twice_is_an_error(tmp_path):
    with closing(Journal(tmp_path / "0.sqlite", "a")) as kept:
        kept.add("r", 0, 1, None, {})
        with pytest.raises(StoreError, match=r"0.sqlite: a sample came twice: .*rows.request, rows.sample"):
            kept.add("r", 0, 1, None, {})
    for name in ("1", "2"):
        filled(tmp_path / f"{name}.sqlite", 1, 1)
    with pytest.raises(StoreError, match=r"2.sqlite: r0#0 is also in another file"):
        list(all_of(tmp_path / "1.sqlite", tmp_path / "2.sqlite").of("r0"))


def test_a_row_that_is_no_json_is_named_and_stops_a_repair_before_it_begins(tmp_path, monkeypatch):
    path = tmp_path / "0.sqlite"
    with monkeypatch.context() as patch, closing(Journal(path, "a")) as kept:
        patch.setattr(journal.json, "dumps", lambda *_, **__: "{no")
        kept.add("r", 4, 1, None, {})
    journal.check(path, "a")  # its checksum is right
    data, message = path.read_bytes(), r"0.sqlite, row r#4: malformed JSON: .*; '{no'"
    with closing(all_of(path)) as rows, pytest.raises(StoreError, match=message):
        list(rows.of("r"))
    with pytest.raises(StoreError, match=message):
        journal.repair(path)
    assert path.read_bytes() == data and list(tmp_path.iterdir()) == [path]


def test_text_that_cannot_be_stored_is_named(tmp_path):
    with (
        closing(Journal(tmp_path / "0.sqlite", "a")) as kept,
        pytest.raises(StoreError, match=r"r#0: cannot be stored"),
    ):
        kept.add("r", 0, 1, None, {"text": "\ud800"})


def test_rows_can_be_counted_and_read_while_they_are_written(tmp_path):
    path = tmp_path / "0.sqlite"
    assert journal.count(path) == 0
    with closing(Journal(path, "a")) as kept:
        for index in range(30):
            kept.add("r", index, 1, None, {})
            assert journal.count(path) == index + 1
        with closing(all_of(path)) as rows:
            assert rows.samples() == {"r": set(range(30))}
    assert journal.count(path) == 30


def test_every_row_added_survives_a_kill(tmp_path):
    """Also without anybody closing the file: what SQLite keeps beside it is read too."""
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from stages.journal import Journal\n"
        "kept = Journal(Path(sys.argv[1]), 'a')\n"
        "for index in range(700):\n"
        "    kept.add('r', index, 1, None, {'n': index})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "0.sqlite"
    killed = subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT, env=os.environ | {"PYTHONPATH": "."})
    assert killed.returncode == -signal.SIGKILL and path.with_name("0.sqlite-wal").exists()
    journal.check(path, "a")
    with closing(all_of(path)) as rows:
        assert list(rows.of("r")) == [(index, {"n": index}) for index in range(700)]
    with closing(Journal(path, "a")) as kept:
        kept.add("r", 700, 1, None, {"n": 700})
    assert journal.count(path) == 701


@pytest.mark.parametrize("size", [0, 1, 4096])
def test_a_file_from_before_the_first_commit_is_empty(tmp_path, size):
    path = tmp_path / "0.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL") if size else None
    path.write_bytes(path.read_bytes()[: size if size != 1 else 4096])
    journal.check(path, "a")
    with closing(Journal(path, "a")) as kept:
        kept.add("r", 0, 1, None, {})
    assert journal.count(path) == 1


def test_rows_of_other_requests_are_dropped_with_a_warning(tmp_path, caplog):
    path = filled(tmp_path / "0.sqlite", 2, 1, about="old")
    journal.check(path, "old")
    assert journal.count(path) == 2
    with caplog.at_level(logging.WARNING):
        journal.check(path, "new")
    assert "0.sqlite: holds rows of other requests" in caplog.text and list(tmp_path.iterdir()) == []


def test_a_row_that_changed_on_disk_is_dropped_with_a_warning(tmp_path, caplog):
    path = filled(tmp_path / "0.sqlite")
    data = path.read_bytes()
    at = data.index("17/1 éééé".encode())
    path.write_bytes(data[:at] + b"3" + data[at + 1 :])
    with caplog.at_level(logging.WARNING):
        journal.check(path, "a")
    assert "row r17#1 has changed on disk" in caplog.text
    with closing(all_of(path)) as rows:
        known = rows.samples()
    assert known["r17"] == {0, 2} and sum(map(len, known.values())) == 119
    caplog.clear()
    journal.check(path, "a")
    assert caplog.text == ""


def test_a_damaged_index_never_gives_a_row_for_another(tmp_path):
    path = filled(tmp_path / "0.sqlite", samples=1)
    with closing(sqlite3.connect(path)) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name LIKE 'sqlite_autoindex_rows%'")
        start = (page.fetchone()[0] - 1) * 4096
    data = bytearray(path.read_bytes())
    at = data.index(b"r23", start, start + 4096)
    data[at : at + 3] = b"r24"
    path.write_bytes(data)
    with closing(all_of(path)) as rows, pytest.raises(StoreError, match=r"0.sqlite, row r24#0: has changed on disk"):
        list(rows.of("r24"))
    with pytest.raises(StoreError, match=r"0.sqlite: damaged \(.*index.*\); 40 of its rows can still be read"):
        journal.check(path, "a")
    assert journal.repair(path)[1] == 40
    with closing(all_of(path)) as rows:
        assert [row["text"][:4] for name in ("r23", "r24") for _, row in rows.of(name)] == ["23/0", "24/0"]


@pytest.mark.parametrize("column", ["tokens", "refused"])
def test_every_value_of_a_row_is_in_its_checksum(tmp_path, caplog, column):
    path = filled(tmp_path / "0.sqlite", 3, 1)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"UPDATE rows SET {column} = 9 WHERE request = 'r1'")
        connection.commit()
    journal.check(path, "a")
    assert "row r1#0 has changed on disk" in caplog.text and journal.count(path) == 2


def test_a_byte_that_is_no_text_any_more_costs_one_row(tmp_path, caplog):
    path = filled(tmp_path / "0.sqlite", 3, 1)
    data = bytearray(path.read_bytes())
    data[data.index("1/0 é".encode()) + 4] ^= 0x40
    path.write_bytes(data)
    assert journal.readable(path) == 2
    journal.check(path, "a")
    assert "row r1#0 has changed on disk" in caplog.text and journal.count(path) == 2


def test_a_damaged_page_is_refused_and_can_be_repaired(tmp_path):
    path = filled(tmp_path / "0.sqlite")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = b"\xa5" * 4096
    path.write_bytes(data)
    message = r"0.sqlite: damaged \(.*\); (\d+) of its rows can still be read.* --repair .*0.sqlite"
    with pytest.raises(StoreError, match=message) as raised:
        journal.check(path, "a")
    assert path.read_bytes() == data
    aside, kept = journal.repair(path)
    assert 60 <= kept < 120 and f"; {kept} of its rows" in str(raised.value) and aside.read_bytes() == data
    journal.check(path, "a")
    with closing(all_of(path)) as rows:
        for name, samples in rows.samples().items():
            for index, row in rows.of(name):
                assert index in samples and row["text"] == f"{name[1:]}/{index} " + "é" * 300


def test_each_repair_keeps_the_file_as_it_was(tmp_path):
    path = filled(tmp_path / "0.sqlite", 2, 1)
    first = path.read_bytes()
    asides = [journal.repair(path)[0] for _ in range(3)]
    assert len(set(asides)) == 3 and asides[0].read_bytes() == first
    assert [kept for _, kept in map(journal.repair, asides)] == [2, 2, 2]


@pytest.mark.parametrize("data", [b"no database at all" * 10, b""])
def test_what_belongs_to_no_work_cannot_be_repaired(tmp_path, data):
    path = tmp_path / "0.sqlite"
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"0.sqlite: what its rows belong to cannot be read; delete it"):
        journal.repair(path)
    assert path.read_bytes() == data and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "data", [b"no database at all, but long enough to be one" * 10, b"SQLite format 3\0" + b"x" * 90]
)
def test_what_is_no_journal_is_refused_by_name(tmp_path, data):
    (tmp_path / "0.sqlite").write_bytes(data)
    with pytest.raises(StoreError, match=r"0.sqlite: damaged"):
        journal.check(tmp_path / "0.sqlite", "a")


def test_a_cut_file_is_refused_and_keeps_its_first_rows(tmp_path):
    path = filled(tmp_path / "0.sqlite")
    path.write_bytes(path.read_bytes()[: -5 * 4096])
    with pytest.raises(StoreError, match=r"0.sqlite: damaged"):
        journal.check(path, "a")
    kept = journal.repair(path)[1]
    assert 60 <= kept < 120 == 40 * 3 and journal.count(path) == kept


def test_a_kill_while_the_file_is_written_back_is_undone(tmp_path):
    """What a rollback journal is left of: only a process that may write can undo it."""
    path = filled(tmp_path / "0.sqlite")
    program = (
        "import os, sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "connection.execute('PRAGMA cache_size=2')\n"
        "connection.execute('BEGIN')\n"
        "connection.execute('UPDATE rows SET tokens = tokens + 1')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL and path.with_name("0.sqlite-journal").stat().st_size > 0
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        all_of(path).tokens()
    journal.check(path, "a")
    with closing(all_of(path)) as rows:
        assert rows.tokens() == 3 * sum(range(40))
