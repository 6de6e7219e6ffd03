"""Snapshots that somebody else has made, or has edited: one line says what is wrong, at a cost that their size bounds."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import zstandard

from engine.redaction.learned import SECRETS_LIMIT
from engine.responder.backends import Backends
from engine.rrpair import Connection, Flow
from engine.snapshot import Snapshot, SnapshotError, SnapshotWriter, uncheck
from engine.store.encoding import STORED_BODY_LIMIT
from engine.store.files import change_counter
from tests.engine.making import Exchange, write_snapshot

TIB = 2**40
HEADER_OF_1_TIB = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", TIB) + b"\x01\x00\x00"
"""A zstd frame (RFC 8878 section 3.1.1.1) that claims a content of 1 TiB."""


def zeros(size: int) -> bytes:
    """So many zeros as one zstd frame."""
    frame = zstandard.ZstdCompressor(level=1).compressobj(size=size)
    return b"".join(frame.compress(bytes(1 << 20)) for _ in range(size >> 20)) + frame.flush()


def changed(path: Path, *statements: str, sealed: bool = False, values: tuple[object, ...] = ()) -> Path:
    """Change a snapshot as another program would; `sealed`: and pretend that the recorder did."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA writable_schema = ON")
        for statement in statements:
            database.execute(statement, values)
        if sealed:
            database.execute("INSERT OR REPLACE INTO meta VALUES ('sealed', ?)", (str(change_counter(path) + 1),))
        database.commit()
    return path


def made(folder: Path, *exchanges: Exchange) -> Path:
    return write_snapshot(folder / "a.snapshot", *(exchanges or (Exchange("GET /a", b"x" * 3000), Exchange("GET /b"))))


def read_everything(path: Path) -> None:
    with Snapshot(path) as snapshot:
        assert snapshot.info
        list(snapshot.rows())
        list(snapshot.pairs())
        list(snapshot.flows())
        snapshot.service_map()
        snapshot.redactor()
        Backends(snapshot)
        for entry in snapshot.entries():
            snapshot.answer(entry.row)


def damage(path: Path, read: Callable[[Path], object] = read_everything) -> str:
    with pytest.raises(SnapshotError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_small_file_makes_no_large_body(tmp_path: Path) -> None:
    body = zeros(STORED_BODY_LIMIT + (1 << 20))
    assert len(body) < 100_000
    path = changed(
        made(tmp_path),
        "UPDATE pairs SET response_body = ?, response_size = ?, compressed = 2",
        values=(body, STORED_BODY_LIMIT + (1 << 20)),
    )
    assert "longer than any that is recorded" in damage(path)


def test_a_body_that_claims_a_tebibyte(tmp_path: Path) -> None:
    statement = "UPDATE pairs SET response_body = ?, response_size = ?, compressed = 2"
    assert "is damaged" in damage(changed(made(tmp_path), statement, values=(HEADER_OF_1_TIB, TIB)))


def test_a_body_of_another_length_than_its_pair_says(tmp_path: Path) -> None:
    assert "another length" in damage(changed(made(tmp_path), "UPDATE pairs SET request_size = 7, request_body = x'00'"))


def test_a_flipped_bit_in_a_compressed_body_is_found(tmp_path: Path) -> None:
    text = b" ".join(b"%d" % (n * n) for n in range(2000))
    path = made(tmp_path, Exchange("GET /a", text))
    with closing(sqlite3.connect(path)) as database:
        [(stored,)] = database.execute("SELECT response_body FROM pairs").fetchall()
    for at in range(20, len(stored), len(stored) // 50):
        changed(path, "UPDATE pairs SET response_body = ?", values=(stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :],))
        assert "is damaged" in damage(path)


@pytest.mark.parametrize("signature", ['{"request":"zz"}', "[]", '{"request":1}', "null", "[" * 100_000, '{"request":"00"}'])
def test_a_damaged_signature(tmp_path: Path, signature: str) -> None:
    path = changed(made(tmp_path), "UPDATE pairs SET signature = ?", values=(signature,))
    assert "is damaged" in damage(changed(path, sealed=True))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE meta SET value = 'zz' WHERE name = 'created'",
        "UPDATE meta SET value = '-1' WHERE name = 'created'",
        f"UPDATE meta SET value = '{2**70}' WHERE name = 'created'",
        "INSERT OR REPLACE INTO meta VALUES ('ledger', '[1]')",
        "INSERT OR REPLACE INTO meta VALUES ('ledger', '{\"seen\": -1}')",
        "INSERT OR REPLACE INTO meta VALUES ('unchecked_backends', '{\"a\": ')",
        "UPDATE meta SET value = 'xyz' WHERE name = 'redaction_key'",
        f"UPDATE meta SET value = '{'ab' * 65}' WHERE name = 'redaction_key'",
        "DELETE FROM meta WHERE name = 'redaction_key'",
        "UPDATE connections SET facts = '[]'",
        "UPDATE connections SET facts = json_set(facts, '$.remote_port', 'abc')",
        "UPDATE connections SET facts = json_set(facts, '$.remote_port', -1)",
        "UPDATE connections SET facts = json_set(facts, '$.more', 1)",
        "UPDATE pairs SET status = 'x'",
        "UPDATE pairs SET status = -1",
        "UPDATE pairs SET port = 1e300",
        "UPDATE pairs SET host = x'ff'",
        "UPDATE pairs SET operation = CAST(x'ff' AS TEXT)",
        "UPDATE pairs SET direction = 'UP'",
        "UPDATE pairs SET duration = 'long'",
        "UPDATE pairs SET heads = x'ffffffff'",
        "UPDATE pairs SET heads = x''",
        "UPDATE pairs SET heads = 5",
        "UPDATE learned SET word = 'text'",
        "UPDATE learned SET length = 0",
        "UPDATE learned SET length = 5000",
        "UPDATE learned SET alone = 2",
        "UPDATE learned SET before = -1",
        "UPDATE learned SET after = 5000",
        "UPDATE learned SET token = 'secret'",
        "UPDATE learned SET token = x'ff'",
        "UPDATE learned SET token = CAST(x'ff' AS TEXT)",
    ],
)
def test_a_damaged_value(tmp_path: Path, statement: str) -> None:
    path = made(tmp_path, Exchange("GET /a", b"x" * 3000), Exchange("GET /b", b'{"access_token":"tok-5af6c0ffee81"}'))
    assert "is damaged" in damage(changed(path, statement))


@pytest.mark.parametrize(
    "statements",
    [
        ("ALTER TABLE pairs RENAME TO hidden", "CREATE VIEW pairs AS SELECT * FROM hidden"),
        ("CREATE TRIGGER t AFTER INSERT ON meta BEGIN DELETE FROM pairs; END",),
        ("CREATE TABLE more (a, b AS (abs(-9223372036854775807 - 1)))",),
        ("DROP TABLE flows",),
        ("DROP TABLE flows", "CREATE TABLE flows (connection, time, protocol, reason, read, written AS (1))"),
        ("CREATE INDEX mine ON pairs (abs(time))",),
        ("DROP TABLE learned", "CREATE VIEW learned AS SELECT * FROM meta"),
        ("DROP TABLE learned", "CREATE TABLE learned (word BLOB PRIMARY KEY, length, before, after, alone, token AS (1))"),
    ],
)
def test_nothing_that_could_act_is_opened(tmp_path: Path, statements: tuple[str, ...]) -> None:
    assert "is damaged" in damage(changed(made(tmp_path), *statements))


def test_more_secrets_than_any_recorder_keeps_are_not_read(tmp_path: Path) -> None:
    more = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
    path = changed(
        made(tmp_path), f"{more} INSERT INTO learned SELECT randomblob(16), 16, 0, 0, 0, 'REDACTED-secret-0123456789abcde' FROM n"
    )
    with Snapshot(path) as snapshot:
        assert len(snapshot.redactor()._learned._digests) == SECRETS_LIMIT


LEVELS, CHILDREN = 4, 400


def inner_page(page_size: int, child: int) -> bytes:
    """An inner page of a table (SQLite, "Database File Format", section 1.6), all of whose children are one."""
    cells = struct.pack(">IB", child, 1) * CHILDREN
    start = page_size - len(cells)
    pointers = b"".join(struct.pack(">H", start + 5 * cell) for cell in range(CHILDREN))
    head = struct.pack(">BHHHBI", 5, 0, CHILDREN, start, 0, child) + pointers
    return head.ljust(start, b"\0") + cells


def test_pages_that_are_their_own_cousins_are_not_read_for_ever(tmp_path: Path) -> None:
    """A file of 200 KiB with 400 to the power of 4 rows."""
    path = tmp_path / "a.snapshot"
    writer = SnapshotWriter.create(path, service="test", capture_id="c", created=0, tool_version="0")
    writer.add([Flow(Connection(f"{n}"), n, "postgres", "not parsed", n, n) for n in range(1000)])
    writer.finish()
    with closing(sqlite3.connect(path)) as database:
        [(root,)] = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'flows'").fetchall()
        [(page_size,)] = database.execute("PRAGMA page_size").fetchall()
    data = bytearray(path.read_bytes())
    start, pages = (root - 1) * page_size, len(data) // page_size
    assert data[start] == 5
    (leaf,) = struct.unpack(">I", data[start + 8 : start + 12])
    data[start : start + page_size] = inner_page(page_size, pages + 1)
    for level in range(1, LEVELS):
        data += inner_page(page_size, leaf if level == LEVELS - 1 else pages + level + 1)
    data[28:32] = struct.pack(">I", len(data) // page_size)
    path.write_bytes(data)
    with Snapshot(path) as snapshot:
        assert "interrupted" in damage(path, lambda _: list(snapshot.flows()))


def test_what_was_edited_by_hand_counts(tmp_path: Path) -> None:
    """The signatures are those of the pairs as they were: they are made anew."""
    path = made(tmp_path, Exchange("GET /a"))
    with Snapshot(path) as snapshot:
        [before] = snapshot.entries()
        assert snapshot.at(before.row).signature == before.signature
    changed(path, "UPDATE pairs SET path = '/other'")
    with Snapshot(path) as snapshot:
        [after] = snapshot.entries()
    assert after.signature["request"] != before.signature["request"]


def test_our_own_changes_keep_the_signatures(tmp_path: Path) -> None:
    path = changed(
        made(tmp_path, Exchange("GET /a")), 'UPDATE pairs SET signature = replace(signature, \'"request": "\', \'"request": "ab\')'
    )
    changed(path, sealed=True)
    uncheck(path, ["api.example.com:443"])
    with Snapshot(path) as snapshot:
        [entry] = snapshot.entries()
        assert entry.signature["request"].startswith("ab"), "it was not made anew"
    changed(path, "UPDATE meta SET value = 'x' WHERE name = 'service'")
    uncheck(path, [])
    with Snapshot(path) as snapshot:
        [entry] = snapshot.entries()
        assert not entry.signature["request"].startswith("ab"), "somebody else's change in between was noticed"
