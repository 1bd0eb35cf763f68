"""The log of an offline run: its last record, whole or cut short, in one block or in several."""

from __future__ import annotations

import struct

import pytest

from stages.wandb_log import last_record

BLOCK = 1 << 15


def written(*records: bytes) -> bytes:
    """A log of these records, as LevelDB's description of its format has it."""
    data = b"header!"
    for record in records:
        first = True
        while True:
            left = BLOCK - len(data) % BLOCK
            if left < 7:
                data += bytes(left)
                continue
            piece, record = record[: left - 7], record[left - 7 :]
            kind = (1 if not record else 2) if first else (4 if not record else 3)
            data += struct.pack("<IHB", 0, len(piece), kind) + piece
            first = False
            if not record:
                break
    return data


@pytest.mark.parametrize("size", [0, 1, 100, BLOCK - 14, BLOCK, 3 * BLOCK])
# so that the last record begins in a block's middle, or within its last bytes, too few for a piece
@pytest.mark.parametrize("before", [10, *range(BLOCK - 30, BLOCK - 10)])
def test_the_last_record_that_is_whole(size: int, before: int) -> None:
    first, last = b"a" * before, b"b" * size
    log = written(first, last)
    assert last_record(log) == last
    if size:
        assert last_record(log[:-1]) == first  # the disk is full
    assert last_record(written()) == b"" == last_record(b"")
