"""Where pairs are kept: what a store can do, whatever it is made of."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from engine.redaction.learned import Digest
from engine.rrpair import Connection, Direction, Fields, Flow, Message, RRPair


class SnapshotError(Exception):
    """A snapshot cannot be used. The message says what is wrong, with which file, and how to mend it."""


class NotASnapshotError(SnapshotError):
    """A file is something else: it was not damaged, and must not be replaced."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Up to where a stream of an agent is committed: offsets of the first bytes that are still needed.

    `in_step`: whether it is known from there on which response answers which request. `read_unstored` and `write_unstored`: how
    many bytes right before the offsets are in no pair and no flow yet: what they said, only the engine that took them in knows.
    `by_turns_since`: time of the stream's first pair that rests on what may yet prove wrong, as the conversation has it.
    """

    agent: str
    stream: int
    read_offset: int
    write_offset: int
    finished: bool = False
    in_step: bool = True
    read_unstored: int = 0
    write_unstored: int = 0
    by_turns_since: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A pair without its messages. `ordinal` counts from 1 in the order of requests; sizes are bytes."""

    ordinal: int
    id: str
    time: int
    duration: int
    direction: Direction
    protocol: str
    host: str
    port: int
    operation: str
    status: int
    request_size: int
    response_size: int
    missing: tuple[str, ...]
    tls: bool


class Kind(enum.Enum):
    """How much of a pair was recorded: all of it, all that its client read (`RRPair.unread`), or less than that but a request."""

    COMPLETE = enum.auto()
    UNREAD = enum.auto()
    PARTIAL = enum.auto()


@dataclass(frozen=True, slots=True)
class Entry:
    """What an index needs of a pair. `row` is its number in the store, for `Store.at`.

    `address` is where the backend was reached, "" where that is not known. `signature` is as the writer made it, empty
    where it made none.
    """

    row: int
    protocol: str
    host: str
    port: int
    address: str
    tls: bool
    method: str
    path: str
    operation: str
    status: int
    signature: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a pair. `delay`: from the request's end to its first byte, nanoseconds. `unread`: see `RRPair.unread`.

    `asked`: the headers of the request that got it.
    """

    method: str
    status: int
    response: Message
    interim: tuple[Message, ...]
    delay: int
    unread: bool = False
    asked: Fields = ()


@dataclass(frozen=True, slots=True)
class Heads:
    """A pair without its bodies: as much as is in the file of it is what it costs to read."""

    status: int
    request: Message
    response: Message | None


@dataclass(frozen=True, slots=True)
class Group:
    """Pairs of one backend (or of one port of the service) that have the same technologies, counted.

    `address` is that of the server's end, "" where it is not known.
    """

    direction: Direction
    protocol: str
    tls: bool
    host: str
    port: int
    technology: tuple[str, ...]
    requests: int
    complete: int
    address: str = ""


@dataclass(frozen=True, slots=True)
class Added:
    """What came of adding: pairs that could not be kept, and those that are complete no longer."""

    refused: int = 0
    refuted: int = 0


NOTHING_REFUTED: Mapping[str, int] = MappingProxyType({})


class Store(Protocol):
    """Keeps the pairs of one snapshot. One writer; readers see what is committed."""

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
        """Keep these in one transaction. `connections` are those of which more became known since pairs of theirs were kept.
        `learned`: of secrets that were not known before; the latest are kept.

        `refuted`: connections by id, and the time since when it is in doubt which of their responses answers which request:
        pairs of theirs that were complete are so no longer.
        `lost`: how many pairs could not be kept until now. That is kept with the progress past them, as are those that this adds.
        A pair that no store can take costs only itself: it is kept as a flow that says why.
        Raises SnapshotError where nothing can be written: pairs and flows are held then, and go with the next.
        """

    @property
    def in_place(self) -> bool:
        """Whether what is written goes to the file that has its name. Where not, `add` and `finish` raise SnapshotError."""

    @property
    def held(self) -> int:
        """How many pairs and flows are held."""

    def drop_beyond(self, items: int, size: int) -> int:
        """Drop what is held where it is more than this, or takes more bytes; gives the number of what was dropped."""

    def progress(self, agent: str, stream: int) -> Progress | None:
        """Up to where a stream is in."""

    def learned(self) -> Iterator[Digest]:
        """Of the secrets that answers told, in the order in which they were learned."""

    def settle(self, settled: Callable[[RRPair], RRPair | Flow]) -> bool:
        """Change the pairs that were kept before the last secret was learned, if any was since this was done; whether any changed.

        What comes back as it was stays, and so does what cannot be read. Raises SnapshotError.
        """

    def get_meta(self, name: str) -> str | None:
        """A fact about the snapshot."""

    def set_meta(self, name: str, value: str) -> None:
        """Keep a fact about the snapshot. Raises SnapshotError."""

    def finish(self) -> None:
        """Make it a single file that only needs to be read. May be tried again. Raises SnapshotError."""

    def close(self) -> None:
        """Let go of it; nothing committed is lost."""

    @property
    def sealed(self) -> bool:
        """Whether nobody has changed it since it was finished: only then do signatures surely fit their pairs."""

    def counts(self) -> tuple[int, int]:
        """How many pairs there are, and how many of them are complete."""

    def pairs(self) -> Iterator[RRPair]:
        """Every pair in the order of requests, one at a time."""

    def rows(self, limit: int = -1) -> Iterator[Row]:
        """The pairs in the order of requests without their messages; the first `limit` unless negative."""

    def entries(self, kind: Kind = Kind.COMPLETE) -> Iterator[Entry]:
        """The outbound pairs of this kind, in the order of requests."""

    def at(self, row: int) -> RRPair:
        """The pair of an entry."""

    def asked(self, row: int) -> RRPair:
        """The pair of an entry without the body of its answer, which says nothing of what was asked."""

    def heads(self, row: int) -> Heads:
        """The heads of an entry."""

    def answer(self, row: int) -> Answer:
        """The answer of an entry: half the work of `at`."""

    def find(self, reference: str) -> RRPair | None:
        """One pair by its ordinal, or by the beginning of its id where only one begins so."""

    def flows(self) -> Iterator[Flow]:
        """Every flow in the order of time."""

    def groups(self, direction: Direction | None = None) -> Iterator[Group]:
        """The pairs counted, of one direction or both."""
