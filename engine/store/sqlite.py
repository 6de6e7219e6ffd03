"""A snapshot as one SQLite file.

While it is recorded: write-ahead log, so that whatever was committed survives a SIGKILL. When it is finished: one file
without a log. Captured values go in as parameters only. What is known of a connection is kept once, not in each pair:
it may become known after the pairs.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from engine.redaction.learned import SECRETS_LIMIT, Digest
from engine.rrpair import UNREAD, Connection, Direction, Flow, RRPair
from engine.store import NOTHING_REFUTED, Added, Answer, Entry, Group, Heads, Kind, Progress, Row, SnapshotError
from engine.store.encoding import well_formed
from engine.store.files import (
    APPLICATION_ID,
    BY_CONNECTION,
    FORMAT_VERSION,
    INDEXES,
    LEARNED,
    PROGRESS,
    SCHEMA,
    Steps,
    change_counter,
    check_file,
    check_schema,
    connect,
    readable,
    writable,
)
from engine.store.rows import (
    SEPARATOR,
    Values,
    answer_of,
    clamped,
    entry_of,
    facts_row,
    flow_of,
    flow_row,
    group_of,
    heads_of,
    learned_of,
    learned_row,
    pair_of,
    pair_row,
    row_of,
    storable,
    unstorable_row,
    weight,
)

_COLUMNS = (
    "id, time, duration, direction, protocol, host, port, connection, technology, missing, method, path, operation,"
    " status, request_size, response_size, request_ended, response_started, redacted, signature, compressed, heads,"
    " request_body, response_body"
)
_SET_META = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
_INSERT = f"INSERT INTO pairs VALUES ({', '.join('?' * 24)})"
_INSERT_FLOW = "INSERT INTO flows VALUES (?, ?, ?, ?, ?, ?)"
_SELECT = f"SELECT {_COLUMNS}, facts FROM pairs JOIN connections ON connections.id = pairs.connection"
_SELECT = _SELECT.replace("SELECT id", "SELECT pairs.id")
_ASKED = (
    _SELECT.replace(" response_size", " response_size * 0")
    .replace(" compressed", " compressed & 1")
    .replace(" response_body", " CASE WHEN response_body IS NULL THEN NULL ELSE x'' END")
)
_ROW = (
    "SELECT pairs.id, time, duration, direction, protocol, host, port, technology, missing, operation,"
    " status, request_size, response_size, facts FROM pairs JOIN connections ON connections.id = pairs.connection"
)
_ENTRY = (
    "SELECT rowid, protocol, host, port, connection, method, path, operation, status, signature FROM pairs"
    " WHERE direction = 'OUT' AND missing = '' AND response_size IS NOT NULL ORDER BY time, id"
)
_ENTRIES = {
    Kind.COMPLETE: _ENTRY,
    Kind.UNREAD: _ENTRY.replace("missing = ''", f"missing = '{UNREAD}'"),
    Kind.PARTIAL: _ENTRY.replace("missing = '' AND response_size IS NOT NULL", f"missing NOT IN ('', '{UNREAD}') AND method != ''"),
}
_CONNECTIONS = "SELECT id, facts FROM connections"
_OTHER_CONNECTIONS = _CONNECTIONS + " WHERE id IN (SELECT connection FROM pairs WHERE missing != '')"
_ANSWER = (
    "SELECT method, status, request_ended, response_started, compressed, response_size, heads, response_body, missing FROM pairs"
    " WHERE rowid = ?"
)
_HEADS = "SELECT status, response_size IS NOT NULL, heads FROM pairs WHERE rowid = ?"
_REFUTE = (  # one that leads through a proxy has its pairs under ids that begin with its own: `engine.pairing.description`
    "UPDATE pairs SET missing = 'pairing', signature = '' WHERE missing = '' AND time >= ?2"
    " AND (connection = ?1 OR connection > ?1 || '>' AND connection < ?1 || '?')"
)
_REFUTE_OTHERS = _REFUTE.replace("'pairing'", f"missing || '{SEPARATOR}pairing'").replace(
    "missing = '' AND", "missing NOT LIKE '%pairing' AND missing != '' AND"
)
_IN_ORDER = " ORDER BY pairs.time, pairs.id"
_GROUP = (
    "SELECT direction, protocol, host, port, technology, COUNT(*), SUM(missing = ''), facts FROM pairs"
    " JOIN connections ON connections.id = pairs.connection "
    " GROUP BY connection, direction, protocol, host, port, technology"
)
_GROUP_OF = _GROUP.replace(" GROUP BY", " WHERE direction = ? GROUP BY")
_SEAL = "sealed"
"""Name of the fact that holds the file's change counter as it is once that fact is written."""
REPEATED = "repeated_pairs"
"""Name of the fact that holds how many pairs were left out because they had been taken in before."""
LOST = "lost_pairs"
"""Name of the fact that holds how many pairs could not be written."""
UNSETTLED = "unsettled_pairs"
"""Name of the fact that holds the row of the last pair that was kept when the last secret was learned, until that is settled."""
_NOTE_UNSETTLED = f"INSERT OR REPLACE INTO meta SELECT '{UNSETTLED}', COALESCE(MAX(rowid), 0) FROM pairs"
_SELECT_UNSETTLED = _SELECT.replace("SELECT", "SELECT pairs.rowid,") + (
    f" WHERE pairs.rowid <= (SELECT CAST(value AS INTEGER) FROM meta WHERE name = '{UNSETTLED}') ORDER BY pairs.rowid"
)
_UPDATE = (  # what redaction changes
    "UPDATE pairs SET missing = :missing, path = :path, operation = :operation, request_size = :request_size,"
    " response_size = :response_size, redacted = :redacted, signature = :signature, compressed = :compressed, heads = :heads,"
    " request_body = :request_body, response_body = :response_body WHERE rowid = :rowid"
)
_FORGET = "DELETE FROM learned WHERE rowid <= (SELECT rowid FROM learned ORDER BY rowid DESC LIMIT 1 OFFSET ?)"
_UNSTORABLE = (UnicodeError, OverflowError, sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError)
"""A value that cannot be written: it says nothing of the rest, nor of the disk."""

NUMBER_DIGITS = 8
"""A shorter run of digits is a pair's number, a longer one the beginning of an id, which has 16 characters."""


@dataclass(slots=True)
class _Held:
    """What is written next: made into rows once, however often it is tried. `size`: bytes of what was tried in vain."""

    pairs: list[Values] = field(default_factory=list)
    flows: list[Values] = field(default_factory=list)
    connections: dict[str, Connection] = field(default_factory=dict)
    size: int = 0
    learned: list[Digest] = field(default_factory=list)


def _progress_row(p: Progress) -> Values:
    offsets = p.read_offset, p.write_offset
    return p.agent, p.stream, *offsets, p.finished, p.in_step, p.read_unstored, p.write_unstored, p.by_turns_since


def _progress_of(row: Values) -> Progress:
    agent, stream, read, written, finished, in_step, *rest = row
    return Progress(agent, stream, read, written, bool(finished), bool(in_step), *rest)


class SqliteStore:
    """A store in a SQLite file; see `engine.store.Store`."""

    def __init__(self, database: sqlite3.Connection, path: Path, service: str = "") -> None:
        self._database = database
        self._path = path
        self._steps: Steps | None = None
        self._held = _Held()
        self._file = _identity(path)
        self.service = service

    # -- opening -------------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: Path) -> SqliteStore:
        """Make a new store. Raises FileExistsError."""
        path.touch(0o600, exist_ok=False)
        database = connect(path, "rwc")
        # Both before the log is begun, so that they are in the file itself even if nothing else ever is.
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        database.executescript(";".join((SCHEMA, PROGRESS, LEARNED)))
        return cls._for_writing(database, path)

    @classmethod
    def resume(cls, path: Path) -> SqliteStore:
        """Go on with a store, finished or not. Raises SnapshotError."""
        check_file(path)
        with readable(path):
            database = connect(path, "rw")
            try:
                check_schema(database)
                database.executescript(f"{PROGRESS};{LEARNED};PRAGMA user_version = {FORMAT_VERSION}")
                return cls._for_writing(database, path)
            except BaseException:
                database.close()
                raise

    @classmethod
    def _for_writing(cls, database: sqlite3.Connection, path: Path) -> SqliteStore:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        return cls(database, path)

    @classmethod
    def open(cls, path: Path) -> SqliteStore:
        """Read a store, finished or not. Raises SnapshotError."""
        check_file(path)
        with readable(path):
            database = connect(path, "ro")
            try:
                store = cls(database, path)
                store._steps = Steps(database, path)
                check_schema(database)
                store.service = store.get_meta("service") or ""
                return store
            except BaseException:
                database.close()
                raise

    # -- writing -------------------------------------------------------------------------------------------------------

    def add(
        self,
        pairs: Iterable[RRPair],
        flows: Iterable[Flow] = (),
        progress: Iterable[Progress] = (),
        connections: Iterable[Connection] = (),
        refuted: Mapping[str, int] = NOTHING_REFUTED,
        lost: int = 0,
        learned: Iterable[Digest] = (),
    ) -> Added:
        """Keep these in one transaction; see `Store.add`."""
        held = self._held
        held.learned += learned
        del held.learned[:-SECRETS_LIMIT]
        pair_rows = [pair_row(pair, held.connections) for pair in pairs]
        flow_rows = [flow_row(flow, held.connections) for flow in flows]
        held.pairs += pair_rows
        held.flows += flow_rows
        try:
            self._check_in_place()
            with writable(self._path):
                added = self._add(held, list(connections), list(progress), refuted, lost)
        except SnapshotError:
            held.size += sum(map(weight, pair_rows)) + sum(map(weight, flow_rows))
            raise
        self._held = _Held()
        return added

    def _add(
        self, held: _Held, connections: list[Connection], progress: list[Progress], refuted: Mapping[str, int], lost: int
    ) -> Added:
        known = held.connections.values()
        try:
            return Added(0, self._insert(held.pairs, held.flows, known, connections, progress, refuted, lost))
        except _UNSTORABLE:
            taken, refused = self._storable(held.pairs)
            flows = [*map(clamped, held.flows), *refused]
            lost += len(refused)
            return Added(len(refused), self._insert(taken, flows, known, connections, progress, refuted, lost))

    @property
    def in_place(self) -> bool:
        """Whether what is written goes to the file that has its name: a file that was removed still takes everything."""
        return _identity(self._path) == self._file

    def _check_in_place(self) -> None:
        if not self.in_place:
            raise SnapshotError(f"{self._path} was removed or replaced while it was written: what it had is lost, record again")

    @property
    def held(self) -> int:
        """How many pairs and flows are held."""
        return len(self._held.pairs) + len(self._held.flows)

    def drop_beyond(self, items: int, size: int) -> int:
        """Drop what is held where it is more than this; see `Store.drop_beyond`."""
        held = self.held
        if held <= items and self._held.size <= size:
            return 0
        self._held = _Held(learned=self._held.learned)
        return held

    def _insert(
        self,
        pairs: Iterable[Values],
        flows: Iterable[Values],
        known: Iterable[Connection],
        connections: Iterable[Connection],
        progress: Iterable[Progress],
        refuted: Mapping[str, int],
        lost: int,
    ) -> int:
        """Write all this; gives how many pairs are complete no longer."""
        with self._database as database:
            database.execute("BEGIN")
            database.executemany(_INSERT, pairs)
            database.executemany(_INSERT_FLOW, flows)
            database.executemany("INSERT OR REPLACE INTO connections VALUES (?, ?)", map(storable, map(facts_row, known)))
            database.executemany("UPDATE connections SET facts = ?2 WHERE id = ?1", map(storable, map(facts_row, connections)))
            database.executemany(
                "INSERT OR REPLACE INTO progress VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                map(_progress_row, progress),
            )
            if lost:
                database.execute(_SET_META, (LOST, str(lost)))
            if self._held.learned:
                database.executemany(
                    "INSERT OR REPLACE INTO learned VALUES (?, ?, ?, ?, ?, ?)", map(learned_row, self._held.learned)
                )
                database.execute(_FORGET, (SECRETS_LIMIT,))
                database.execute(_NOTE_UNSETTLED)
            if not refuted:
                return 0
            database.execute(BY_CONNECTION)  # all pairs are looked through once, and not for each of these connections
            database.executemany(_REFUTE_OTHERS, refuted.items())
            return database.executemany(_REFUTE, refuted.items()).rowcount

    def _storable(self, rows: list[Values]) -> tuple[list[Values], list[Values]]:
        """The rows that can be written, as the database itself says of each, and flows that are left of the others."""
        taken, refused = [], []
        for row in map(storable, rows):
            try:
                self._database.execute("BEGIN")
                self._database.execute(_INSERT, row)
                taken.append(row)
            except _UNSTORABLE as error:
                refused.append(unstorable_row(row, error))
            finally:
                self._database.rollback()
        return taken, refused

    def progress(self, agent: str, stream: int) -> Progress | None:
        """Up to where a stream of an agent is in."""
        query = "SELECT * FROM progress WHERE agent = ? AND stream = ?"
        return next(self._rows(query, (agent, stream), _progress_of), None)

    def set_meta(self, name: str, value: str) -> None:
        """Keep a fact about the snapshot."""
        with writable(self._path):
            self._database.execute(_SET_META, (name, value))

    def settle(self, settled: Callable[[RRPair], RRPair | Flow]) -> bool:
        """Change the pairs that were kept before the last secret was learned; see `Store.settle`."""
        self._check_in_place()
        with writable(self._path), self._database as database:
            database.execute("PRAGMA secure_delete = ON")  # a row that becomes another may leave its bytes in the file
            database.execute("BEGIN")
            changes = [self._settle(*row, settled=settled) for row in database.execute(_SELECT_UNSETTLED)]
            database.execute("DELETE FROM meta WHERE name = ?", (UNSETTLED,))
        return True in changes

    def _settle(self, number: int, *row: Any, settled: Callable[[RRPair], RRPair | Flow]) -> bool:
        """Change one pair; whether it changed."""
        try:
            with readable(self._path):
                before = pair_of(row, self.service)
        except SnapshotError:
            return False  # nor is it ever served
        after = settled(before)
        if isinstance(after, Flow):
            self._database.execute("DELETE FROM pairs WHERE rowid = ?", (number,))
            self._database.execute(_INSERT_FLOW, clamped(flow_row(after, {})))
        elif after != before:
            values = dict(zip(_COLUMNS.split(", "), storable(pair_row(after, {})), strict=True))
            self._database.execute(_UPDATE, {**values, "rowid": number})
        return after != before

    def finish(self) -> None:
        """Make it a single file that only needs to be read. Raises SnapshotError."""
        self._check_in_place()
        with writable(self._path):
            self._index()
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._database.execute("PRAGMA journal_mode = DELETE")
            self._database.execute("PRAGMA optimize")
            self._database.execute("DROP TABLE IF EXISTS progress")  # last: until it is finished it can be gone on with
            _seal(self._database, self._path)
        self.close()

    def _index(self) -> None:
        """Make the indexes. An id is that of certain bytes: what has the id of another pair was taken in twice, and goes."""
        try:
            self._database.executescript(INDEXES)
        except sqlite3.IntegrityError:
            again = "DELETE FROM pairs WHERE rowid NOT IN (SELECT MIN(rowid) FROM pairs GROUP BY id)"
            removed = self._database.execute(again).rowcount
            self.set_meta(REPEATED, str(removed + int(self.get_meta(REPEATED) or 0)))
            self._database.executescript(INDEXES)

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    # -- reading -------------------------------------------------------------------------------------------------------

    def get_meta(self, name: str) -> str | None:
        """A fact about the snapshot."""
        return next(self._rows("SELECT value FROM meta WHERE name = ?", (name,), lambda row: str(row[0])), None)

    @property
    def sealed(self) -> bool:
        """Whether nobody has changed it since it was finished."""
        with suppress(OSError):
            return self.get_meta(_SEAL) == str(change_counter(self._path))
        return False

    def learned(self) -> Iterator[Digest]:
        """Of the secrets that answers told, in the order in which they were learned."""
        if any(self._rows("SELECT 1 FROM sqlite_master WHERE name = 'learned'")):  # format 1 has none
            query = f"SELECT * FROM (SELECT rowid, * FROM learned ORDER BY rowid DESC LIMIT {SECRETS_LIMIT}) ORDER BY rowid"
            yield from self._rows(query, make=lambda row: learned_of(row[1:]))

    def counts(self) -> tuple[int, int]:
        """How many pairs there are, and how many of them are complete."""
        pairs, complete = next(self._rows("SELECT COUNT(*), COALESCE(SUM(missing = ''), 0) FROM pairs"))
        return pairs, complete

    def pairs(self) -> Iterator[RRPair]:
        """Every pair in the order of requests, one at a time."""
        return self._pairs(_SELECT + _IN_ORDER)

    def rows(self, limit: int = -1) -> Iterator[Row]:
        """The pairs in the order of requests without their messages."""
        ordinals = count(1)
        return self._rows(_ROW + _IN_ORDER + " LIMIT ?", (limit,), lambda row: row_of(next(ordinals), row))

    def find(self, reference: str) -> RRPair | None:
        """One pair by its ordinal, or by the beginning of its id where only one begins so."""
        if reference.isdecimal() and len(reference) < NUMBER_DIGITS:
            ordinal = int(reference)
            found = list(self._pairs(_SELECT + _IN_ORDER + " LIMIT 1 OFFSET ?", (ordinal - 1,))) if ordinal else []
            return found[0] if found else None
        reference = well_formed(reference)  # it may be any word of a command line
        bounds = (reference, reference + "g")
        found = list(self._pairs(_SELECT + " WHERE pairs.id >= ? AND pairs.id < ? LIMIT 2", bounds))
        return found[0] if len(found) == 1 and reference else None

    def entries(self, kind: Kind = Kind.COMPLETE) -> Iterator[Entry]:
        """The outbound pairs of this kind, in the order of requests."""
        connections = dict(self._rows(_CONNECTIONS if kind is Kind.COMPLETE else _OTHER_CONNECTIONS))
        return self._rows(_ENTRIES[kind], make=lambda row: entry_of(row, connections))

    def at(self, row: int) -> RRPair:
        """The pair of an entry."""
        return next(self._pairs(_SELECT + " WHERE pairs.rowid = ?", (row,)))

    def asked(self, row: int) -> RRPair:
        """The pair of an entry without the body of its answer."""
        return next(self._pairs(_ASKED + " WHERE pairs.rowid = ?", (row,)))

    def heads(self, row: int) -> Heads:
        """The heads of an entry."""
        found: Heads = next(self._rows(_HEADS, (row,), heads_of))
        return found

    def answer(self, row: int) -> Answer:
        """The answer of an entry: half the work of `at`."""
        found: Answer = next(self._rows(_ANSWER, (row,), answer_of))
        return found

    def flows(self) -> Iterator[Flow]:
        """Every flow in the order of time."""
        query = "SELECT facts, time, protocol, reason, read, written FROM flows JOIN connections ON id = connection"
        return self._rows(query + " ORDER BY time", make=flow_of)

    def groups(self, direction: Direction | None = None) -> Iterator[Group]:
        """The pairs counted, of one direction or both: what became known of a connection late is in it."""
        if direction is None:
            return self._rows(_GROUP, make=group_of)
        return self._rows(_GROUP_OF, (direction,), group_of)

    def _pairs(self, query: str, parameters: tuple[Any, ...] = ()) -> Iterator[RRPair]:
        return self._rows(query, parameters, lambda row: pair_of(row, self.service))

    def _rows(self, query: str, parameters: tuple[Any, ...] = (), make: Callable[[Values], Any] = tuple) -> Iterator[Any]:
        """What `make` makes of each row. Raises SnapshotError where the file is damaged."""
        with readable(self._path):
            if self._steps:
                self._steps.allow()
            for row in self._database.execute(query, parameters):
                yield make(row)


def amend(path: Path, name: str, value: str) -> None:
    """Change a fact about a snapshot that is finished. Raises SnapshotError."""
    check_file(path)
    if not os.access(path, os.W_OK):
        raise SnapshotError(f"{path} cannot be written: it is not yours to change; copy it")
    with closing(SqliteStore.open(path)) as store:
        sealed = store.sealed
    with readable(path), closing(connect(path, "rw")) as database, database:
        database.execute("BEGIN IMMEDIATE")
        database.execute(_SET_META, (name, value))
        if sealed:
            _seal(database, path)


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file has a name, by device and inode; None where there is none."""
    with suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None


def _seal(database: sqlite3.Connection, path: Path) -> None:
    """Note that this is the last change: the transaction that holds the note raises the counter by one."""
    database.execute(_SET_META, (_SEAL, str(change_counter(path) + 1)))
