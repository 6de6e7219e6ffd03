"""A snapshot: what was recorded of a service, as one file. Nothing reaches the file before it is redacted."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from engine.matching.signature import SIGNATURE_VERSION, signature
from engine.redaction import Redactor
from engine.rrpair import Connection, Direction, Flow, RRPair
from engine.servicemap import ServiceMap, service_map
from engine.store import Answer, Entry, Progress, Row, SnapshotError, Store
from engine.store.sqlite import SqliteStore, amend, check_file, settle

__all__ = ["Info", "Snapshot", "SnapshotError", "SnapshotWriter", "uncheck"]

KEY_BYTES = 32
_UNCHECKED = "unchecked_backends"
_ADDED = "added_pairs"


@dataclass(frozen=True, slots=True)
class Info:
    """Facts about a snapshot. `created`: nanoseconds since the Unix epoch. `ledger`: empty until the capture ended.

    `added_pairs`: those that came later, and are not in the ledger.
    """

    service: str
    capture_id: str
    created: int
    tool_version: str
    ledger: Mapping[str, int]
    finished: bool
    added_pairs: int


class SnapshotWriter:
    """Writes FILE.partial, which `finish` turns into FILE. One at a time for a FILE.

    The redaction key is kept in the file, because what a responder is asked must become the same tokens: see
    `engine.redaction.tokens` for what that means to whoever holds the file.
    """

    def __init__(self, path: Path, store: Store) -> None:
        self.path = path
        self.partial = _partial(path)
        self._store = store
        self._redactor = Redactor(bytes.fromhex(self._store.get_meta("redaction_key") or ""))
        self.pairs, self.complete_pairs = self._store.counts()

    @classmethod
    def create(
        cls, path: Path, *, service: str, capture_id: str, created: int, tool_version: str, resume: bool = False
    ) -> SnapshotWriter:
        """Begin a new one. With `resume`, go on with the FILE.partial of the same capture, if there is one.

        Raises SnapshotError, and OSError.
        """
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
        return cls(path, SqliteStore.resume(partial))

    def add(
        self,
        finished: Iterable[RRPair | Flow],
        progress: Iterable[Progress] = (),
        connections: Iterable[Connection] = (),
    ) -> None:
        """Redact these and keep them in one transaction, with how far their streams are; see `Store.add`."""
        redact = self._redactor.pair
        pairs = [_signed(redact(item)) for item in finished if isinstance(item, RRPair)]
        flows = [item for item in finished if isinstance(item, Flow)]
        self._store.add(pairs, flows, progress, connections)
        self.pairs += len(pairs)
        self.complete_pairs += sum(pair.complete for pair in pairs)

    def progress(self, agent: str) -> dict[int, Progress]:
        """Up to where the streams of an agent are in, by stream."""
        return self._store.progress(agent)

    def set_ledger(self, ledger: Mapping[str, int]) -> None:
        """Keep the account of the capture: it has ended in good order."""
        self._store.set_meta("ledger", json.dumps(dict(ledger)))

    def note_added(self, pairs: int) -> None:
        """Keep that so many pairs are not of the capture that the ledger is of."""
        self._store.set_meta(_ADDED, str(pairs + int(self._store.get_meta(_ADDED) or 0)))

    def finish(self) -> None:
        """Make FILE of it. A FILE that is there is kept as FILE.old. Raises SnapshotError and OSError; FILE.partial stays then."""
        self._store.finish()
        if self.path.exists():
            self.path.replace(self.path.with_name(self.path.name + ".old"))
        self.partial.replace(self.path)

    def close(self) -> None:
        """Leave FILE.partial as it is: it can be gone on with, and read."""
        self._store.close()

    def abandon(self) -> None:
        """Remove what was written."""
        self._store.close()
        _remove_log(self.partial)
        self.partial.unlink(missing_ok=True)


class Snapshot:
    """Reads a snapshot, without reading all of it. A context manager. Every method may raise SnapshotError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._store: Store = SqliteStore.open(path)

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def info(self) -> Info:
        """Facts about it."""
        meta = self._store.get_meta
        return Info(
            meta("service") or "",
            meta("capture_id") or "",
            int(meta("created") or 0),
            meta("tool_version") or "",
            json.loads(meta("ledger") or "{}"),
            not self.path.name.endswith(".partial"),
            int(meta(_ADDED) or 0),
        )

    def redactor(self) -> Redactor:
        """Give the redactor that it was written with: what a live request holds becomes the tokens of the recording."""
        return Redactor(bytes.fromhex(self._store.get_meta("redaction_key") or ""))

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
        """The pairs that can be served, in the order of requests, each signed as this version does."""
        current = self._store.get_meta("signature_version") == SIGNATURE_VERSION
        for entry in self._store.entries():
            yield entry if current else replace(entry, signature=signature(self._store.at(entry.row)))

    def at(self, row: int) -> RRPair:
        """The pair of an entry."""
        return self._store.at(row)

    def answer(self, row: int) -> Answer:
        """The answer of an entry."""
        return self._store.answer(row)

    @property
    def unchecked(self) -> frozenset[str]:
        """Backends that are not mocked, as HOST:PORT."""
        return frozenset(json.loads(self._store.get_meta(_UNCHECKED) or "[]"))

    def flows(self) -> Iterator[Flow]:
        """Every flow in the order of time."""
        return self._store.flows()

    def service_map(self) -> ServiceMap:
        """Who called the service, and whom it called."""
        return service_map(self.info.service, self._store.groups(), self._store.flows())

    def close(self) -> None:
        """Let go of the file."""
        self._store.close()


def uncheck(path: Path, backends: Iterable[str]) -> None:
    """Keep in a snapshot which backends are not mocked, as HOST:PORT. Raises SnapshotError."""
    amend(path, _UNCHECKED, json.dumps(sorted(backends)))


def _signed(pair: RRPair) -> RRPair:
    """Sign a pair that can be served: in place, for a copy would cost as much as the signature."""
    if pair.direction is Direction.OUT and pair.complete:
        pair.signature.update(signature(pair))
    return pair


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _out_of_the_way(partial: Path) -> Path:
    """Keep aside what another capture left unfinished. Raises SnapshotError where it is not over."""
    if partial.exists():
        settle(partial)
        _remove_log(partial)
        partial.replace(partial.with_name(partial.name + ".old"))
    return partial


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
