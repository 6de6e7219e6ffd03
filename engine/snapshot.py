"""A snapshot: what was recorded of a service, as one file. Nothing reaches the file before it is redacted."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from types import TracebackType

from engine.matching.signature import SIGNATURE_VERSION, signature
from engine.redaction import Redactor
from engine.redaction.handed_out import handed_out
from engine.rrpair import Connection, Direction, Flow, Role, RRPair
from engine.servicemap import ServiceMap, service_map
from engine.store import NOTHING_REFUTED, Answer, Entry, Heads, Kind, NotASnapshotError, Progress, Row, SnapshotError, Store
from engine.store.files import check_file, readable, settle
from engine.store.rows import INTEGER_LIMIT, unstorable_flow
from engine.store.sqlite import LOST, REPEATED, UNSETTLED, SqliteStore, amend

__all__ = ["Info", "NotASnapshotError", "Snapshot", "SnapshotError", "SnapshotWriter", "uncheck"]

KEY_BYTES = 32
HELD_ITEMS = 10_000
"""Pairs and flows that wait for a disk that takes nothing, until they are dropped and counted."""
HELD_BYTES = 64 * 1024 * 1024
"""Of these, as they are stored: one body of the longest size, or the heads and bodies of 10,000 pairs of ordinary size."""
SIGNED_AT_LEAST = 512 * 1024 * 1024
"""Bytes of bodies that are signed anew at a start, at least: some 5 seconds."""
SIGNED_PER_BYTE = 100
"""And for each byte of the file: what people record is compressed to a tenth, zeros to a ten-thousandth."""
HANDED_OUT = "answer to the real secret: it was asked with what the mock had handed out"
"""What a pair lacks that was heard of a real backend in such a case: how it would answer whoever it knows."""
_UNCHECKED = "unchecked_backends"
_ADDED = "added_pairs"
_EDITED = "edited"
"""Version of the signatures of a snapshot that was changed by hand before pairs were added: they are made again at each start."""


@dataclass(frozen=True, slots=True)
class Info:
    """Facts about a snapshot. `created`: nanoseconds since the Unix epoch. `ledger`: empty until the capture ended.

    `added_pairs`: those that came later, and are not in the ledger. `lost_pairs`: those that could not be written.
    `repeated_pairs`: those that were left out because they had been taken in before.
    """

    service: str
    capture_id: str
    created: int
    tool_version: str
    ledger: Mapping[str, int]
    finished: bool
    added_pairs: int
    lost_pairs: int
    repeated_pairs: int


@dataclass(frozen=True, slots=True)
class Finished:
    """Where a snapshot is once it is finished, and where the one is that was there before, if it was kept."""

    path: Path
    kept: Path | None


class SnapshotWriter:
    """Writes FILE.partial, which `finish` turns into FILE. One at a time for a FILE.

    The redaction key is kept in the file, because what a responder is asked must become the same tokens: see
    `engine.redaction.tokens` for what that means to whoever holds the file.
    """

    def __init__(self, path: Path, store: Store, *, extends: bool = False) -> None:
        """`extends`: what is added was heard under mock."""
        self.path = path
        self._extends = extends
        self.partial = _partial(path)
        self._store = store
        self._redactor = _redactor(path, store)
        self.is_file = False
        """Whether it takes nothing any more: what is left of `finish` is to give the file its name."""
        self._added_before = int(self._store.get_meta(_ADDED) or 0)
        self.pairs, self.complete_pairs = self._store.counts()
        self.lost_pairs = int(self._store.get_meta(LOST) or 0)
        """What could not be written: each pair is a flow with the reason, unless the disk took nothing at all."""

    @classmethod
    def create(
        cls, path: Path, *, service: str, capture_id: str, created: int, tool_version: str, resume: bool = False
    ) -> SnapshotWriter:
        """Begin a new one. With `resume`, go on with the FILE.partial of the same capture, if there is one.

        Raises SnapshotError, and OSError.
        """
        check_replaceable(path)
        store = _resumed(_partial(path), capture_id) if resume else None
        if store is None:
            store = SqliteStore.create(_out_of_the_way(_partial(path)))
            facts = {"service": service, "capture_id": capture_id, "created": str(created), "tool_version": tool_version}
            made = {"redaction_key": secrets.token_hex(KEY_BYTES), "signature_version": SIGNATURE_VERSION}
            for name, value in {**facts, **made}.items():
                store.set_meta(name, value)
        return cls(path, store)

    @classmethod
    def extend(cls, path: Path) -> SnapshotWriter:
        """Begin with what FILE has. Raises SnapshotError and OSError."""
        check_file(path)
        partial = _out_of_the_way(_partial(path))
        partial.touch(0o600, exist_ok=False)
        shutil.copyfile(path, partial)
        shutil.copymode(path, partial)
        with closing(SqliteStore.open(partial)) as copy:
            sealed = copy.sealed
        store = SqliteStore.resume(partial)
        if not sealed:
            store.set_meta("signature_version", _EDITED)
        return cls(path, store, extends=True)

    def add(
        self,
        finished: Iterable[RRPair | Flow],
        progress: Iterable[Progress] = (),
        connections: Iterable[Connection] = (),
        refuted: Mapping[str, int] = NOTHING_REFUTED,
    ) -> None:
        """Redact these and keep them in one transaction, with how far their streams are; see `Store.add`.

        Where that raises SnapshotError, they are held and go with the next, within bounds; the rest is to be given again.
        """
        items = [self._prepared(self._heard(item)) if isinstance(item, RRPair) else item for item in finished]
        pairs = [item for item in items if isinstance(item, RRPair)]
        flows = [item for item in items if isinstance(item, Flow)]
        again = self.holds
        try:
            added = self._store.add(pairs, flows, progress, connections, refuted, self.lost_pairs, self._redactor.take_learned())
        except SnapshotError:
            self.lost_pairs += self._store.drop_beyond(HELD_ITEMS, HELD_BYTES)
            raise
        self.lost_pairs += added.refused
        if again or added.refused:
            self.pairs, self.complete_pairs = self._store.counts()
        else:
            self.pairs += len(pairs)
            self.complete_pairs += sum(pair.complete for pair in pairs) - added.refuted

    @property
    def holds(self) -> bool:
        """Whether something waits to be written."""
        return self._store.held > 0

    def _heard(self, pair: RRPair) -> RRPair:
        """Judge a pair as it was heard, before it is redacted: then every secret in it is a token."""
        if self._extends and pair.direction is Direction.OUT and handed_out(pair.request):
            return replace(pair, missing=(*pair.missing, HANDED_OUT))
        return pair

    def _prepared(self, pair: RRPair) -> RRPair | Flow:
        """Redact and sign a pair. A fault of ours costs that pair, and nothing of it is kept: it was not redacted."""
        try:
            return _signed(self._redactor.pair(pair))
        except Exception as error:
            self.lost_pairs += 1
            return unstorable_flow(pair, f"{type(error).__name__} while it was redacted")

    def progress(self, agent: str, stream: int) -> Progress | None:
        """Up to where a stream of an agent is in."""
        return self._store.progress(agent, stream)

    def set_ledger(self, ledger: Mapping[str, int]) -> None:
        """Keep the account of the capture: it has ended in good order."""
        self._store.set_meta("ledger", json.dumps(dict(ledger)))

    def note_added(self, pairs: int) -> None:
        """Keep that so many pairs are not of the capture that the ledger is of."""
        self._store.set_meta(_ADDED, str(self._added_before + pairs))

    def finish(self) -> Finished:
        """Make FILE of it. May be tried again. Raises SnapshotError and OSError; FILE.partial stays then.

        A FILE that is there is kept as FILE.old. A snapshot without pairs replaces none that has pairs: it becomes FILE.empty.
        """
        if not self.is_file:
            check_replaceable(self.path)
            self._settle()
            self._store.set_meta(LOST, str(self.lost_pairs))
            self._store.finish()
            self.is_file = True
        if not self.pairs and _has_pairs(self.path):
            empty = self.path.with_name(self.path.name + ".empty")
            self.partial.replace(empty)
            return Finished(empty, None)
        old = self.path.with_name(self.path.name + ".old")
        kept = None
        if self.path.exists() and (_has_pairs(self.path) or not _has_pairs(old)):
            kept = old
            self.path.replace(old)
        self.partial.replace(self.path)
        return Finished(self.path, kept)

    def _settle(self) -> None:
        """Replace what was kept in the clear before an answer told that it is a secret, as the end of a stream of events may do."""
        if self._store.settle(lambda pair: self._prepared(pair) if self._redactor.repeats(pair) else pair):
            self.pairs, self.complete_pairs = self._store.counts()

    def close(self) -> None:
        """Leave FILE.partial as it is: it can be gone on with, and read."""
        self._store.close()

    def abandon(self) -> None:
        """Remove what was written, unless the file is another's by now."""
        in_place = self._store.in_place
        self._store.close()
        if in_place:
            _remove_log(self.partial)
            self.partial.unlink(missing_ok=True)


class Snapshot:
    """Reads a snapshot, without reading all of it. A context manager. Every method may raise SnapshotError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._store: Store = SqliteStore.open(path)
        self._size = path.stat().st_size

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def info(self) -> Info:
        """Facts about it."""
        meta = self._store.get_meta
        with readable(self.path):
            return Info(
                meta("service") or "",
                meta("capture_id") or "",
                _number(meta("created") or 0),
                meta("tool_version") or "",
                {str(name): _number(value) for name, value in json.loads(meta("ledger") or "{}").items()},
                not self.path.name.endswith(".partial"),
                _number(meta(_ADDED) or 0),
                _number(meta(LOST) or 0),
                _number(meta(REPEATED) or 0),
            )

    def redactor(self) -> Redactor:
        """Give the redactor that it was written with: what a live request holds becomes the tokens of the recording.

        Raises SnapshotError.
        """
        return _redactor(self.path, self._store)

    def counts(self) -> tuple[int, int]:
        """How many pairs there are, and how many of them are complete."""
        return self._store.counts()

    def pairs(self) -> Iterator[RRPair]:
        """Every pair in the order of requests, one at a time."""
        return self._store.pairs()

    def rows(self, limit: int = -1) -> Iterator[Row]:
        """The pairs in the order of requests without their messages."""
        return self._store.rows(limit)

    def pair(self, reference: str) -> RRPair | None:
        """One pair by its ordinal (from 1), or by the beginning of its id where only one begins so."""
        return self._store.find(reference)

    def entries(self) -> Iterator[Entry]:
        """The complete pairs, in the order of requests, each signed as this version does.

        Where the file was changed by another program, each is signed anew: what was edited by hand counts.
        """
        return self._signed_entries(Kind.COMPLETE)

    def unread_entries(self) -> Iterator[Entry]:
        """The same of pairs whose client did not read the answer to its end."""
        return self._signed_entries(Kind.UNREAD)

    def _signed_entries(self, kind: Kind) -> Iterator[Entry]:
        current = self._store.get_meta("signature_version") == SIGNATURE_VERSION and self._store.sealed
        limit = left = SIGNED_AT_LEAST + SIGNED_PER_BYTE * self._size
        for entry in self._store.entries(kind):
            if current and entry.signature:
                yield entry
                continue
            pair = self._store.at(entry.row)
            left -= pair.body_bytes
            if left < 0:
                size = f"more than {limit // 1024**2:,} MiB of bodies"
                raise SnapshotError(f"{self.path} was changed by others, and has {size} to read at each start: record again")
            settled = self._settled(pair)
            if settled.missing == pair.missing:
                yield replace(entry, path=settled.path, operation=settled.operation, signature=signature(settled))

    @cached_property
    def _late(self) -> Redactor | None:
        """Of a recording that was not finished: what replaces the secrets that were learned after they were written."""
        return self.redactor() if self._store.get_meta(UNSETTLED) is not None else None

    def _settled(self, pair: RRPair) -> RRPair:
        """What the pair is to become when its recording is finished: without the secrets that were learned after it."""
        return self._late.pair(pair) if self._late and self._late.repeats(pair) else pair

    def partial_entries(self) -> Iterator[Entry]:
        """The outbound pairs that were recorded incompletely and have a request, in the order of requests; they answer nothing."""
        return self._store.entries(Kind.PARTIAL)

    def at(self, row: int) -> RRPair:
        """The pair of an entry."""
        return self._store.at(row)

    def asked(self, row: int) -> RRPair:
        """The pair of an entry without the body of its answer."""
        return self._settled(self._store.asked(row))

    def heads(self, row: int) -> Heads:
        """The heads of an entry."""
        if self._late is None:
            return self._store.heads(row)
        pair = self.asked(row)
        return Heads(pair.status, pair.request, pair.response)

    def answer(self, row: int) -> Answer:
        """The answer of an entry."""
        answer = self._store.answer(row)
        if self._late is None:
            return answer
        pair = self._settled(self._store.at(row))
        return replace(answer, response=pair.response or answer.response, interim=pair.interim, asked=pair.request.headers)

    @property
    def unchecked(self) -> frozenset[str]:
        """Backends that are not mocked, as HOST:PORT."""
        with readable(self.path):
            return frozenset(str(name) for name in json.loads(self._store.get_meta(_UNCHECKED) or "[]"))

    def flows(self) -> Iterator[Flow]:
        """Every flow in the order of time."""
        return self._store.flows()

    def service_map(self) -> ServiceMap:
        """Who called the service, and whom it called."""
        return service_map(self.info.service, self._store.groups(), self._store.flows())

    def served(self) -> frozenset[tuple[str, int]]:
        """Addresses ("" where that is not known) and ports at which the service was called, in whatever protocol."""
        ends = [flow.connection for flow in self._store.flows() if flow.connection.role is Role.SERVER]
        return frozenset(
            [(group.address, group.port) for group in self._store.groups(Direction.IN)]
            + [(end.local_address, end.local_port) for end in ends]
        )

    def close(self) -> None:
        """Let go of the file."""
        self._store.close()


def uncheck(path: Path, backends: Iterable[str]) -> None:
    """Keep in a snapshot which backends are not mocked, as HOST:PORT. Raises SnapshotError."""
    amend(path, _UNCHECKED, json.dumps(sorted(backends)))


def check_replaceable(path: Path) -> None:
    """Raise SnapshotError where a FILE is there that is none of ours: nothing but a snapshot is ever replaced by one."""
    if path.exists() and not path.is_file():
        raise SnapshotError(f"{path} is no file: choose another name")
    try:
        if path.exists() and path.stat().st_size:
            check_file(path)
    except NotASnapshotError:
        raise SnapshotError(f"{path} is not a snapshot, and is not replaced: choose another file") from None
    except SnapshotError:
        pass  # a damaged one, or one of another version: it is kept as FILE.old


def _has_pairs(path: Path) -> bool:
    """Whether a snapshot is there that has pairs, or cannot be read: it may be all that somebody has."""
    if not path.exists() or not path.stat().st_size:
        return False
    try:
        with Snapshot(path) as snapshot:
            return snapshot.counts()[0] > 0
    except SnapshotError:
        return True


def _number(value: object) -> int:
    """A count that was written. Raises ValueError."""
    number = int(str(value))
    if not 0 <= number <= INTEGER_LIMIT:
        raise ValueError(f"{number} counts nothing")
    return number


def _signed(pair: RRPair) -> RRPair:
    """Sign a pair that can be served: in place, for a copy would cost as much as the signature."""
    if pair.direction is Direction.OUT and pair.complete:
        pair.signature.update(signature(pair))
    else:
        pair.signature.pop("secrets", None)
    return pair


def _redactor(path: Path, store: Store) -> Redactor:
    with readable(path):
        key = bytes.fromhex(store.get_meta("redaction_key") or "")
        if len(key) != KEY_BYTES:
            raise ValueError(f"its redaction key has {len(key)} bytes instead of {KEY_BYTES}")
        return Redactor(key, store.learned())


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _out_of_the_way(partial: Path) -> Path:
    """Keep aside what another capture left unfinished. Raises SnapshotError where it is not over."""
    if partial.exists():
        settle(partial)
        _remove_log(partial)
        partial.replace(_aside(partial))
    return partial


def _aside(partial: Path) -> Path:
    """FILE.partial.old; where that has pairs, FILE.partial.2.old and so on: only people remove what was committed."""
    names = (f"{partial.name}{f'.{number}' if number > 1 else ''}.old" for number in count(1))
    return next(path for name in names if not _has_pairs(path := partial.with_name(name)))


def _resumed(partial: Path, capture_id: str) -> Store | None:
    if not partial.exists():
        return None
    store = SqliteStore.resume(partial)
    if store.get_meta("capture_id") == capture_id:
        return store
    store.close()
    return None


def _remove_log(path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        Path(os.fspath(path) + suffix).unlink(missing_ok=True)
