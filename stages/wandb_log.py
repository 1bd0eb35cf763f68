"""The log of a run in W&B that is kept offline: records in blocks, as LevelDB keeps them."""

from __future__ import annotations

import struct

_BLOCK, _START = 1 << 15, 7  # bytes of a block; of what the file begins with


def last_record(data: bytes) -> bytes:
    """The last record that is whole, given all bytes of the file; empty where there is none.

    A block has pieces of records, each after 4 bytes of checksum, 2 of length and 1 that says whether it is all of its
    record (1), the first piece (2), one within (3) or the last (4). Where less than that is left, it is not used.
    """
    at, record, whole = _START, b"", b""
    while at + 7 <= len(data):
        left = _BLOCK - at % _BLOCK
        length, kind = struct.unpack_from("<HB", data, at + 4) if left >= 7 else (0, 0)
        if kind == 0:  # the rest of the block is empty
            at += left
            continue
        piece, at = data[at + 7 : at + 7 + length], at + 7 + length
        record = piece if kind in (1, 2) else record + piece
        if kind in (1, 4) and at <= len(data):
            whole = record
    return whole
