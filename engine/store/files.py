"""Snapshot files as SQLite opens them: which may be opened, with which limits, and what to say of one that cannot be used.

A snapshot may come from somebody else: nothing in it is executed, and what it costs to read is bounded by its size.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path

import zstandard

from engine.store import NotASnapshotError, SnapshotError

APPLICATION_ID = 0x556E5344
"""SQLite's mark of whose file it is: "UnSD"."""
FORMAT_VERSION = 2
"""Rises with every change that an older reader would not understand; each step gets a converter. 2: `LEARNED`, made
where it is missing."""

CACHE_KIB = 4096
"""Page cache of a connection: the engine's memory must not grow with the snapshot."""
ROW_LIMIT = 192 * 1024 * 1024
"""Bytes of a row: two bodies of the longest size that is recorded, and their heads."""
STEPS_PER_BYTE = 10
"""Steps of SQLite's machine that a query may take for each byte of the file. Reading a row takes some 100, and no row is shorter
than 60 bytes: only a damaged file, whose pages lead to each other in circles, needs more."""
ERROR_LIMIT = 300
"""Characters of SQLite's own words in an error message: they may quote the file."""
STEPS_AT_LEAST = 10_000_000
STEPS_BETWEEN_LOOKS = 1_000_000

SCHEMA = """
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
PROGRESS = """
CREATE TABLE IF NOT EXISTS progress (
    agent TEXT, stream INTEGER, read_offset INTEGER NOT NULL, write_offset INTEGER NOT NULL, finished INTEGER NOT NULL,
    in_step INTEGER NOT NULL, read_unstored INTEGER NOT NULL, write_unstored INTEGER NOT NULL,
    by_turns_since INTEGER, PRIMARY KEY (agent, stream)
) WITHOUT ROWID
"""
LEARNED = """
CREATE TABLE IF NOT EXISTS learned (
    word BLOB PRIMARY KEY, length INTEGER NOT NULL, before INTEGER NOT NULL, after INTEGER NOT NULL, alone INTEGER NOT NULL,
    token TEXT NOT NULL
)
"""
# Made at the end: kept up to date pair by pair they would cost a tenth of the throughput.
BY_CONNECTION = "CREATE INDEX IF NOT EXISTS pairs_group ON pairs (connection, direction, protocol, host, port, technology, missing)"
INDEXES = f"""
CREATE INDEX IF NOT EXISTS pairs_time ON pairs (time, id);
CREATE UNIQUE INDEX IF NOT EXISTS pairs_id ON pairs (id);
{BY_CONNECTION};
"""
_ALWAYS = frozenset({"meta", "connections", "pairs", "flows"})


def check_file(path: Path) -> None:
    """Tell by the first 100 bytes (SQLite, "Database File Format") whether it can be opened. Raises SnapshotError."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise NotASnapshotError(f"{path} is not a regular file: give a file written by `understudy record`")
            header = file.read(100)
            size = file.seek(0, 2)
    except OSError as error:
        raise SnapshotError(_missing(path, error)) from None
    if len(header) < 100 or header[:16] != b"SQLite format 3\0" or header[68:72] != struct.pack(">I", APPLICATION_ID):
        raise NotASnapshotError(f"{path} is not a snapshot: give a file written by `understudy record`")
    (version,) = struct.unpack(">I", header[60:64])
    if version > FORMAT_VERSION:
        raise SnapshotError(
            f"{path} has format {version}, this understudy reads up to {FORMAT_VERSION}: use the version that wrote it"
        )
    page_size, pages = struct.unpack(">H", header[16:18])[0], struct.unpack(">I", header[28:32])[0]
    if size < (65536 if page_size == 1 else page_size) * pages and not path.name.endswith(".partial"):
        raise SnapshotError(f"{path} is truncated: copy it again, or record again")


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting, as a FIFO would have it until somebody writes to it."""
    return os.open(path, flags | os.O_NONBLOCK)


def _missing(path: Path, error: OSError) -> str:
    partial = Path(f"{path}.partial")
    if isinstance(error, FileNotFoundError) and partial.exists():
        return f"{path} does not exist, its recording was not finished: what had arrived is in {partial} and can be used there"
    if isinstance(error, FileNotFoundError):
        return f"{path} does not exist: `understudy record -o {path} -- CMD` makes it"
    return f"{path} cannot be read: {error.strerror or error}"


def change_counter(path: Path) -> int:
    """How often the file was changed (SQLite, "Database File Format", section 1.3.7); every program's changes count."""
    with path.open("rb") as file:
        file.seek(24)
        (counter,) = struct.unpack(">I", file.read(4))
    return int(counter)


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open a file; a connection may be used by another thread than its maker, one at a time."""
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    database = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, ROW_LIMIT)
    database.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    database.execute("PRAGMA trusted_schema = OFF")
    database.execute("PRAGMA cell_size_check = ON")
    return database


def check_schema(database: sqlite3.Connection) -> None:
    """Raise ValueError unless it has our tables and indexes, and nothing that could act: no view, trigger or other table."""
    found = {row[1]: row for row in database.execute("SELECT type, name, sql FROM sqlite_master") if row[2]}
    ours = _own_schema()
    for name, row in found.items():
        if row != ours.get(name) and not str(name).startswith("sqlite_stat"):
            raise ValueError(f"it has a {row[0]} {name!r} that no recorder makes")
    if missing := _ALWAYS - found.keys():
        raise ValueError(f"the table {min(missing)!r} is missing")


@lru_cache(1)
def _own_schema() -> dict[str, tuple[str, str, str]]:
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(";".join((SCHEMA, PROGRESS, LEARNED, INDEXES)))
        return {row[1]: row for row in database.execute("SELECT type, name, sql FROM sqlite_master") if row[2]}


class Steps:
    """Counts the work of a reader's query; what takes more than its file can need is interrupted."""

    def __init__(self, database: sqlite3.Connection, path: Path) -> None:
        size = sum(each.stat().st_size for each in (path, Path(os.fspath(path) + "-wal")) if each.exists())
        self._limit = (STEPS_AT_LEAST + STEPS_PER_BYTE * size) // STEPS_BETWEEN_LOOKS
        self._left = self._limit
        database.set_progress_handler(self._look, STEPS_BETWEEN_LOOKS)

    def allow(self) -> None:
        """Begin a query."""
        self._left = self._limit

    def _look(self) -> bool:
        self._left -= 1
        return self._left < 0


def settle(path: Path) -> None:
    """Fold what was left unfinished, with its log, into one file. Raises SnapshotError where it is still being written."""
    try:
        with closing(connect(path, "rw")) as database:
            database.execute("PRAGMA busy_timeout = 0")
            database.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            raise SnapshotError(f"{path} is being written by another run: wait for its end, or choose another file") from error
        raise SnapshotError(f"{path} is in the way and cannot be moved ({error}): remove it") from error
    except sqlite3.DatabaseError:
        pass  # it is no store of ours


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Say of damage which file has it."""
    try:
        yield
    except (
        sqlite3.DatabaseError, zstandard.ZstdError, struct.error, LookupError, ValueError, TypeError, AttributeError,
        OverflowError, RecursionError,
    ) as error:  # fmt: skip
        raise SnapshotError(f"{path} is damaged ({_line(error)}): copy it again, or record again") from error


def _line(error: Exception) -> str:
    """What is wrong, which may quote the file: as one line."""
    return "".join([character if character.isprintable() else " " for character in str(error)[:ERROR_LIMIT]])


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Say of what cannot be written which file it is."""
    try:
        yield
    except (sqlite3.Error, UnicodeError, OverflowError) as error:
        raise SnapshotError(f"{path} cannot be written ({error}): {_remedy(error)}") from error


def _remedy(error: Exception) -> str:
    """What to do, by the primary result code (https://www.sqlite.org/rescode.html)."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return "see whether its disk is full"
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "another program has it open, which must close it"
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN):
        return "see whether its file and folder may be written"
    return "record to another file"
