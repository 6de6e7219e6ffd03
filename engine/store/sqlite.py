"""A snapshot as one SQLite file.

While it is recorded: write-ahead log, so that whatever was committed survives a SIGKILL. When it is finished: one file
without a log. Captured values go in as parameters only. What is known of a connection is kept once, not in each pair:
it may become known after the pairs.
"""

from __future__ import annotations

import json
import os
import sqlite3
import struct
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import zstandard

from engine.pairing.description import Place, placed
from engine.protocols.http1 import query_of
from engine.rrpair import Connection, Direction, Flow, Role, RRPair
from engine.store import Answer, Entry, Group, Progress, Row, SnapshotError
from engine.store.encoding import compress, decompress, pack_messages, unpack_messages

APPLICATION_ID = 0x556E5344
"""SQLite's mark of whose file it is: "UnSD"."""
FORMAT_VERSION = 1
"""Rises with every change that an older reader would not understand; each step gets a converter."""

CACHE_KIB = 4096
"""Page cache of a connection: the engine's memory must not grow with the snapshot."""

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE connections (id TEXT PRIMARY KEY, facts TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE pairs (
    id TEXT NOT NULL, time INTEGER NOT NULL, duration INTEGER NOT NULL, direction TEXT NOT NULL, protocol TEXT NOT NULL,
    host TEXT NOT NULL, port INTEGER NOT NULL, connection TEXT NOT NULL, technology TEXT NOT NULL,
    missing TEXT NOT NULL, method TEXT NOT NULL, path TEXT NOT NULL, operation TEXT NOT NULL, status INTEGER NOT NULL,
    request_size INTEGER NOT NULL, response_size INTEGER, request_ended INTEGER NOT NULL,
    response_started INTEGER NOT NULL, redacted TEXT NOT NULL, signature TEXT NOT NULL,
    compressed INTEGER NOT NULL, heads BLOB NOT NULL, request_body BLOB, response_body BLOB
);
CREATE TABLE flows (
    connection TEXT NOT NULL, time INTEGER NOT NULL, protocol TEXT NOT NULL, reason TEXT NOT NULL,
    read INTEGER NOT NULL, written INTEGER NOT NULL
);
"""
_PROGRESS = """
CREATE TABLE IF NOT EXISTS progress (
    agent TEXT, stream INTEGER, read_offset INTEGER NOT NULL, write_offset INTEGER NOT NULL, finished INTEGER NOT NULL,
    PRIMARY KEY (agent, stream)
) WITHOUT ROWID
"""
# Made at the end: kept up to date pair by pair they would cost a tenth of the throughput.
_INDEXES = """
CREATE INDEX IF NOT EXISTS pairs_time ON pairs (time, id);
CREATE UNIQUE INDEX IF NOT EXISTS pairs_id ON pairs (id);
CREATE INDEX IF NOT EXISTS pairs_group ON pairs (connection, direction, protocol, host, port, technology, missing);
"""
_COLUMNS = (
    "id, time, duration, direction, protocol, host, port, connection, technology, missing, method, path, operation,"
    " status, request_size, response_size, request_ended, response_started, redacted, signature, compressed, heads,"
    " request_body, response_body"
)
_INSERT = f"INSERT INTO pairs VALUES ({', '.join('?' * 24)})"
_SELECT = f"SELECT {_COLUMNS}, facts FROM pairs JOIN connections ON connections.id = pairs.connection"
_SELECT = _SELECT.replace("SELECT id", "SELECT pairs.id")
_ROW = (
    "SELECT pairs.id, time, duration, direction, protocol, host, port, technology, missing, operation,"
    " status, request_size, response_size, facts FROM pairs JOIN connections ON connections.id = pairs.connection"
)
_ENTRY = (
    "SELECT rowid, protocol, host, port, connection, method, path, operation, status, signature FROM pairs"
    " WHERE direction = 'OUT' AND missing = '' AND response_size IS NOT NULL ORDER BY time, id"
)
_ANSWER = (
    "SELECT method, status, request_ended, response_started, compressed, response_size, heads, response_body FROM pairs"
    " WHERE rowid = ?"
)
_IN_ORDER = " ORDER BY pairs.time, pairs.id"
_GROUP = (
    "SELECT direction, protocol, host, port, technology, COUNT(*), SUM(missing = ''), facts FROM pairs"
    " JOIN connections ON connections.id = pairs.connection"
    " GROUP BY connection, direction, protocol, host, port, technology"
)
_SEPARATOR = "\x1f"
_FACTS = tuple(field.name for field in fields(Connection))
_REQUEST_COMPRESSED, _RESPONSE_COMPRESSED = 1, 2


class SqliteStore:
    """A store in a SQLite file; see `engine.store.Store`."""

    def __init__(self, database: sqlite3.Connection, path: Path, service: str = "") -> None:
        self._database = database
        self._path = path
        self.service = service

    # -- opening -------------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: Path) -> SqliteStore:
        """Make a new store. Raises FileExistsError."""
        path.touch(0o600, exist_ok=False)
        database = _connect(path, "rwc")
        # Both before the log is begun, so that they are in the file itself even if nothing else ever is.
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        database.executescript(_SCHEMA + _PROGRESS)
        return cls._for_writing(database, path)

    @classmethod
    def resume(cls, path: Path) -> SqliteStore:
        """Go on with a store, finished or not. Raises SnapshotError."""
        check_file(path)
        with _readable(path):
            database = _connect(path, "rw")
            database.execute(_PROGRESS)
            return cls._for_writing(database, path)

    @classmethod
    def _for_writing(cls, database: sqlite3.Connection, path: Path) -> SqliteStore:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        return cls(database, path)

    @classmethod
    def open(cls, path: Path) -> SqliteStore:
        """Read a store, finished or not. Raises SnapshotError."""
        check_file(path)
        with _readable(path):
            store = cls(_connect(path, "ro"), path)
            store.service = store.get_meta("service") or ""
            return store

    # -- writing -------------------------------------------------------------------------------------------------------

    def add(
        self,
        pairs: Iterable[RRPair],
        flows: Iterable[Flow] = (),
        progress: Iterable[Progress] = (),
        connections: Iterable[Connection] = (),
    ) -> None:
        """Keep these in one transaction. Raises SnapshotError."""
        known: dict[str, Connection] = {}
        rows = [_pair_row(pair, known) for pair in pairs]
        flow_rows = [_flow_row(flow, known) for flow in flows]
        with _writable(self._path), self._database as database:
            database.execute("BEGIN")
            database.executemany(_INSERT, rows)
            database.executemany("INSERT INTO flows VALUES (?, ?, ?, ?, ?, ?)", flow_rows)
            database.executemany("INSERT OR REPLACE INTO connections VALUES (?, ?)", map(_facts, known.values()))
            database.executemany("UPDATE connections SET facts = ?2 WHERE id = ?1", map(_facts, connections))
            database.executemany(
                "INSERT OR REPLACE INTO progress VALUES (?, ?, ?, ?, ?)",
                [(p.agent, p.stream, p.read_offset, p.write_offset, p.finished) for p in progress],
            )

    def progress(self, agent: str) -> dict[int, Progress]:
        """Up to where the streams of an agent are in, by stream."""
        rows = self._database.execute("SELECT * FROM progress WHERE agent = ?", (agent,))
        return {row[1]: Progress(row[0], row[1], row[2], row[3], bool(row[4])) for row in rows}

    def set_meta(self, name: str, value: str) -> None:
        """Keep a fact about the snapshot."""
        with _writable(self._path):
            self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def finish(self) -> None:
        """Make it a single file that only needs to be read. Raises SnapshotError."""
        with _writable(self._path):
            self._database.execute("DROP TABLE progress")
            self._database.executescript(_INDEXES)
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._database.execute("PRAGMA journal_mode = DELETE")
            self._database.execute("PRAGMA optimize")
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    # -- reading -------------------------------------------------------------------------------------------------------

    def get_meta(self, name: str) -> str | None:
        """A fact about the snapshot."""
        found = next(self._rows("SELECT value FROM meta WHERE name = ?", (name,)), None)
        return found[0] if found else None

    def counts(self) -> tuple[int, int]:
        """How many pairs there are, and how many of them are complete."""
        pairs, complete = next(self._rows("SELECT COUNT(*), COALESCE(SUM(missing = ''), 0) FROM pairs"))
        return pairs, complete

    def pairs(self) -> Iterator[RRPair]:
        """Every pair in the order of requests, one at a time."""
        return self._pairs(_SELECT + _IN_ORDER)

    def rows(self, limit: int = -1) -> Iterator[Row]:
        """The pairs in the order of requests without their messages."""
        for ordinal, row in enumerate(self._rows(_ROW + _IN_ORDER + " LIMIT ?", (limit,)), 1):
            yield _row(ordinal, row)

    def find(self, reference: str) -> RRPair | None:
        """One pair by its ordinal, or by the beginning of its id where only one begins so."""
        if reference.isdecimal() and len(reference) < 16:
            found = list(self._pairs(_SELECT + _IN_ORDER + " LIMIT 1 OFFSET ?", (int(reference) - 1,)))
            if found and int(reference):
                return found[0]
        bounds = (reference, reference + "g")
        found = list(self._pairs(_SELECT + " WHERE pairs.id >= ? AND pairs.id < ? LIMIT 2", bounds))
        return found[0] if len(found) == 1 and reference else None

    def entries(self) -> Iterator[Entry]:
        """The outbound pairs of which every byte was seen, in the order of requests."""
        connections = {name: _connection(facts) for name, facts in self._rows("SELECT id, facts FROM connections")}
        for row in self._rows(_ENTRY):
            with _readable(self._path):
                entry = _entry(row, connections)
            yield entry

    def at(self, row: int) -> RRPair:
        """The pair of an entry."""
        return next(self._pairs(_SELECT + " WHERE pairs.rowid = ?", (row,)))

    def answer(self, row: int) -> Answer:
        """The answer of an entry: half the work of `at`."""
        with _readable(self._path):
            return _answer(self._database.execute(_ANSWER, (row,)).fetchone())

    def flows(self) -> Iterator[Flow]:
        """Every flow in the order of time."""
        query = "SELECT facts, time, protocol, reason, read, written FROM flows JOIN connections ON id = connection"
        for facts, *rest in self._rows(query + " ORDER BY time"):
            yield Flow(_connection(facts), *rest)

    def groups(self) -> Iterator[Group]:
        """The pairs counted, for the service map: what became known of a connection late is in it."""
        for direction, protocol, host, port, technology, requests, complete, facts in self._rows(_GROUP):
            way, connection = Direction(direction), _connection(facts)
            place = _place(way, host, port, technology, connection)
            tls = connection.tls
            yield Group(way, protocol, tls, place.host, place.port, place.technology, requests, complete)

    def _pairs(self, query: str, parameters: tuple[Any, ...] = ()) -> Iterator[RRPair]:
        for row in self._rows(query, parameters):
            with _readable(self._path):
                pair = _pair(row, self.service)
            yield pair

    def _rows(self, query: str, parameters: tuple[Any, ...] = ()) -> Iterator[Any]:
        with _readable(self._path):
            yield from self._database.execute(query, parameters)


def amend(path: Path, name: str, value: str) -> None:
    """Change a fact about a snapshot that is finished. Raises SnapshotError."""
    check_file(path)
    if not os.access(path, os.W_OK):
        raise SnapshotError(f"{path} cannot be written: it is not yours to change; copy it")
    with _readable(path), closing(_connect(path, "rw")) as database:
        database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def settle(path: Path) -> None:
    """Fold what was left unfinished, with its log, into one file. Raises SnapshotError where it is still being written."""
    try:
        with closing(_connect(path, "rw")) as database:
            database.execute("PRAGMA busy_timeout = 0")
            database.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            raise SnapshotError(f"{path} is being written by another run: wait for its end, or choose another file") from error
        raise SnapshotError(f"{path} is in the way and cannot be moved ({error}): remove it") from error
    except sqlite3.DatabaseError:
        pass  # it is no store of ours


def check_file(path: Path) -> None:
    """Tell by the first 100 bytes (SQLite, "Database File Format") whether it can be opened. Raises SnapshotError."""
    try:
        with path.open("rb") as file:
            header = file.read(100)
            size = file.seek(0, 2)
    except OSError as error:
        raise SnapshotError(_missing(path, error)) from None
    if len(header) < 100 or header[:16] != b"SQLite format 3\0" or header[68:72] != struct.pack(">I", APPLICATION_ID):
        raise SnapshotError(f"{path} is not a snapshot: give a file written by `understudy record`")
    (version,) = struct.unpack(">I", header[60:64])
    if version > FORMAT_VERSION:
        raise SnapshotError(
            f"{path} has format {version}, this understudy reads up to {FORMAT_VERSION}: use the version that wrote it"
        )
    page_size, pages = struct.unpack(">H", header[16:18])[0], struct.unpack(">I", header[28:32])[0]
    if size < (65536 if page_size == 1 else page_size) * pages and not path.name.endswith(".partial"):
        raise SnapshotError(f"{path} is truncated: copy it again, or record again")


def _missing(path: Path, error: OSError) -> str:
    partial = path.with_name(path.name + ".partial")
    if isinstance(error, FileNotFoundError) and partial.exists():
        return f"{path} does not exist, its recording was not finished: what had arrived is in {partial}"
    if isinstance(error, FileNotFoundError):
        return f"{path} does not exist: `understudy record -o {path} -- CMD` makes it"
    return f"{path} cannot be read: {error.strerror or error}"


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say of damage which file has it."""
    try:
        yield
    except (sqlite3.DatabaseError, zstandard.ZstdError, struct.error, LookupError, ValueError, TypeError) as error:
        raise SnapshotError(f"{path} is damaged ({error}): copy it again, or record again") from error


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    """Say of what cannot be written which file it is."""
    try:
        yield
    except sqlite3.Error as error:
        raise SnapshotError(f"{path} cannot be written ({error}): see whether its disk is full") from error


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open a file; a connection may be used by another thread than its maker, one at a time."""
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    database = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    return database


def _pair_row(pair: RRPair, known: dict[str, Connection]) -> tuple[Any, ...]:
    response = pair.response
    known[pair.connection.id] = pair.connection
    request_body, compressed = compress(pair.request.body)
    response_body, response_compressed = compress(response.body) if response else (None, False)
    return (
        pair.id,
        pair.time,
        pair.duration,
        pair.direction.value,
        pair.protocol,
        pair.host,
        pair.port,
        pair.connection.id,
        _SEPARATOR.join(pair.technology),
        _SEPARATOR.join(pair.missing),
        pair.method,
        pair.path,
        pair.operation,
        pair.status,
        len(pair.request.body),
        len(response.body) if response else None,
        pair.request_ended,
        pair.response_started,
        _SEPARATOR.join(pair.redacted),
        json.dumps(pair.signature) if pair.signature else "",
        compressed * _REQUEST_COMPRESSED + response_compressed * _RESPONSE_COMPRESSED,
        pack_messages(pair.request, response, pair.interim),
        request_body,
        response_body,
    )


def _flow_row(flow: Flow, known: dict[str, Connection]) -> tuple[Any, ...]:
    known[flow.connection.id] = flow.connection
    return (flow.connection.id, flow.time, flow.protocol, flow.reason, flow.read, flow.written)


def _facts(connection: Connection) -> tuple[str, str]:
    return connection.id, json.dumps({name: getattr(connection, name) for name in _FACTS})


def _connection(facts: str) -> Connection:
    values = json.loads(facts)
    return Connection(**{**values, "role": Role(values["role"])})


def _parted(text: str) -> tuple[str, ...]:
    return tuple(text.split(_SEPARATOR)) if text else ()


def _place(direction: Direction, host: str, port: int, technology: str, connection: Connection) -> Place:
    return placed(Place(host, port, _parted(technology)), direction, connection)


def _row(ordinal: int, row: tuple[Any, ...]) -> Row:
    (identity, time, duration, way, protocol, host, port, technology, missing, operation, status, asked, answered,
     facts) = row  # fmt: skip
    direction, connection = Direction(way), _connection(facts)
    place = _place(direction, host, port, technology, connection)
    return Row(
        ordinal, identity, time, duration, direction, protocol, place.host, place.port, operation, status, asked,
        answered or 0, _parted(missing), connection.tls,
    )  # fmt: skip


def _entry(row: tuple[Any, ...], connections: dict[str, Connection]) -> Entry:
    number, protocol, host, port, connection_id, method, path, operation, status, signature = row
    connection = connections.get(connection_id)
    if connection is None:
        raise ValueError("a pair without its connection")
    place = _place(Direction.OUT, host, port, "", connection)
    signed = json.loads(signature) if signature else {}
    return Entry(
        number, protocol, place.host, place.port, connection.remote_address, connection.tls, method, path, operation, status, signed
    )  # fmt: skip


def _answer(row: tuple[Any, ...]) -> Answer:
    method, status, request_ended, response_started, compressed, size, heads, body = row
    if compressed & _RESPONSE_COMPRESSED:
        body = decompress(body, size)
    _, response, interim = unpack_messages(heads, b"", body)
    if response is None:
        raise ValueError("an answer that is not there")
    return Answer(method, status, response, interim, max(response_started - request_ended, 0))


def _pair(row: tuple[Any, ...], service: str) -> RRPair:
    (identity, time, duration, way, protocol, host, port, _, technology, missing, method, path, operation, status,
     asked, answered, request_ended, response_started, redacted, signature, compressed, heads, request_body,
     response_body, facts) = row  # fmt: skip
    if compressed & _REQUEST_COMPRESSED:
        request_body = decompress(request_body, asked)
    if compressed & _RESPONSE_COMPRESSED:
        response_body = decompress(response_body, answered)
    request, response, interim = unpack_messages(heads, request_body, response_body)
    direction, connection = Direction(way), _connection(facts)
    place = _place(direction, host, port, technology, connection)
    return RRPair(
        identity, time, direction, service, protocol, place.host, place.port, method, path,
        query_of(request.start_line), operation, request, connection, status, response, interim, request_ended,
        response_started, duration, place.technology, _parted(missing), _parted(redacted),
        json.loads(signature) if signature else {},
    )  # fmt: skip
