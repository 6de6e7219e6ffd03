"""Snapshot files that somebody has damaged, or made to do harm: each is read, or refused in one line.

An input is a whole file, where it begins as SQLite's do, or else changes to a good one: offset (4 bytes, little-endian, modulo the
size), count (1 byte), then so many bytes, again and again.
"""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

from engine.responder.backends import Backends
from engine.snapshot import Snapshot, SnapshotError
from engine.store.encoding import STORED_BODY_LIMIT
from tests.engine.making import Exchange, write_snapshot

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where files are written without waiting for a disk."""
EXCHANGES = (
    Exchange("GET /a?b=c", b"x" * 3000),
    Exchange("POST /b", b'{"id":1}', (("Content-Type", "application/json"),), b'{"a":[1,2,{"b":"c"}]}' * 100),
    Exchange(
        "GET /c",
        raw_answer=b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nT: 1\r\n\r\n",
    ),
)


def _good() -> bytes:
    with tempfile.TemporaryDirectory(prefix="understudy-fuzz-", dir=MEMORY) as folder:
        return write_snapshot(Path(folder) / "good.snapshot", *EXCHANGES).read_bytes()


_GOOD = _good()


def one(data: bytes) -> None:
    """Open, list, read and index."""
    with tempfile.TemporaryDirectory(prefix="understudy-fuzz-", dir=MEMORY) as folder:
        path = Path(folder) / "a.snapshot"
        path.write_bytes(data if data.startswith(b"SQLite format 3\0") else changed(data))
        refused = ""
        try:
            with Snapshot(path) as snapshot:
                _read(snapshot)
        except SnapshotError as error:
            refused = str(error)
        assert not refused or (str(path) in refused and len(refused.splitlines()) == 1)


def changed(data: bytes) -> bytes:
    """The good file with these changes."""
    file = bytearray(_GOOD)
    at = 0
    while at + 5 <= len(data):
        offset, count = struct.unpack_from("<IB", data, at)
        new = data[at + 5 : at + 5 + count]
        offset %= len(file)
        file[offset : offset + len(new)] = new
        at += 5 + count
    return bytes(file)


def _read(snapshot: Snapshot) -> None:
    info, (total, complete) = snapshot.info, snapshot.counts()
    assert 0 <= complete <= total
    assert info.created >= 0
    for pair in snapshot.pairs():
        assert len(pair.request.body) <= STORED_BODY_LIMIT
        pair.operation.encode()
        pair.connection.command.encode()
    for row in snapshot.rows():
        assert row.port >= 0
    snapshot.service_map()
    snapshot.redactor()
    assert all(isinstance(name, str) for name in snapshot.unchecked)
    snapshot.pair("1")
    snapshot.pair("ab")
    for index in Backends(snapshot).indexes.values():
        for rows in index.rows_by_shape.values():
            for row_number in rows:
                assert snapshot.answer(row_number).response is not None
