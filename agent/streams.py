"""From the probes' events to ordered streams. Sans-I/O: records in, news out; time arrives with the records.

Rules
1. A stream's bytes come out in order of their offset, once, and what is missing comes out as a gap in its place.
2. A missing range is lost when the kernel's count of lost bytes says so; else it may still arrive (two threads in one socket), and
   is waited for, bounded.
3. Plaintext is never held back for want of a socket: what becomes known of a stream later follows as StreamBound.
4. A socket with TLS yields no bytes. Its hellos describe the TLS stream bound to it; where none is, or the TLS library also wrote
   outside of the probed functions, it comes out as an opaque stream when it ends, so that unseen TLS shows: as one of its own where
   the socket was plain before.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from agent import events
from agent.events import CHUNK_HEAD, Kind, Source
from agent.tls_hello import Hello, HelloReader

READ, WRITE = 0, 1

_AF_INET, _AF_INET6 = 2, 10

OPAQUE_REST = 1 << 62
"""Added to the id of a plain stream for that of the opaque one which it became: the kernel counts ids from 1."""

PENDING_CHUNKS = 256
"""Chunks that wait for an earlier one, per direction: two threads in one call each are a few; past it the range is given up."""

PENDING_BYTES = 32 << 20
"""The same for all streams together, with what each takes besides its bytes: 2,000 chunks of 16 KiB."""

PENDING_ITEM_BYTES = 256
"""What one that waits takes besides its bytes, about: a workload may write byte by byte."""

STREAMS_LIMIT = 262_144
"""Streams that are open at once: as many as the kernel's two maps hold. More are known only where ends were lost for want of room
in the ring: then the oldest is taken for ended."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process image: its id, start (ns since boot), and how many programs it has executed."""

    pid: int
    started: int
    execution: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a stream's socket and TLS session. Empty where not known; `method` as in events.h."""

    inode: int = 0
    local: tuple[str, int] = ("", 0)
    remote: tuple[str, int] = ("", 0)
    role: int = 0
    method: int = 0
    server_name: str = ""
    application_protocol: str = ""
    tls_version: str = ""


@dataclass(frozen=True, slots=True)
class Tally:
    """Bytes of one direction: seen = delivered + lost; opaque ones are not seen."""

    seen: int = 0
    lost: int = 0
    opaque: int = 0


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """A stream begins. Times of all news are CLOCK_MONOTONIC ns."""

    stream: int
    time: int
    capture: int
    process: Process
    command: str
    source: Source
    start_known: bool


@dataclass(frozen=True, slots=True)
class StreamBound:
    """Something became known of a stream; the facts are all that is known so far."""

    stream: int
    time: int
    facts: Facts


@dataclass(frozen=True, slots=True)
class StreamChunk:
    """Bytes, in order."""

    stream: int
    time: int
    direction: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamGap:
    """Missing bytes, in order. `lost` is False where they passed out of the probes' reach."""

    stream: int
    time: int
    direction: int
    offset: int
    length: int
    lost: bool = True


@dataclass(frozen=True, slots=True)
class StreamHalfClosed:
    """The peer has ended its direction."""

    stream: int
    time: int
    direction: int


@dataclass(frozen=True, slots=True)
class StreamClosed:
    """A stream has ended, or (`cut`) only the sight of it may have; the tallies are the kernel's."""

    stream: int
    time: int
    tally: tuple[Tally, Tally]
    cut: bool = False


@dataclass(frozen=True, slots=True)
class StreamOrphaned:
    """A process ended with this TLS stream open: its entry is to be taken from the kernel and given to settle()."""

    stream: int
    key: events.TlsKey


News = StreamOpened | StreamBound | StreamChunk | StreamGap | StreamHalfClosed | StreamClosed
_Item = tuple[int, int, int, bytes | None]  # offset, length, time, bytes or None where out of reach


@dataclass(slots=True)
class _Direction:
    expected: int = 0
    lost: int = 0
    pending: deque[_Item] = field(default_factory=deque)
    end: tuple[int, int] | None = None
    """Where the peer ended it, and when."""


@dataclass(slots=True)
class _Stream:
    id: int
    source: Source
    process: Process
    capture: int
    command: str = ""
    start_known: bool = False
    key: int = 0
    told: bool = False
    facts: Facts = field(default_factory=Facts)
    directions: tuple[_Direction, _Direction] = field(default_factory=lambda: (_Direction(), _Direction()))
    hellos: tuple[HelloReader, HelloReader] = field(default_factory=lambda: (HelloReader(), HelloReader()))


@dataclass(slots=True)
class Account:
    """A capture's bytes so far; `seen` and `lost` of the streams that have ended."""

    seen: int = 0
    lost: int = 0
    opaque: int = 0
    delivered: int = 0
    unknown_starts: int = 0


class Streams:
    """All streams of an agent. What is closed in the kernel is forgotten here."""

    def __init__(self) -> None:
        self._streams: dict[int, _Stream] = {}
        self._tls_of_socket: dict[int, int] = {}
        self._socket_of_inode: dict[int, int] = {}
        self._of_process: dict[tuple[int, int], set[int]] = {}
        self._pending_bytes = 0
        self.gone: dict[tuple[int, int], int] = {}
        """Processes (id, start) that ended or executed another program: what they had before this execution is gone. Whoever looks
        for what they left in the kernel takes them out."""
        self.accounts: dict[int, Account] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def account(self, capture: int) -> Account:
        """The capture's account, made when first asked for."""
        return self.accounts.setdefault(capture, Account())

    def take(self, record: bytes) -> Iterator[News | StreamOrphaned]:
        """Take one record of the ring of events. ValueError where it is none, as events.decode."""
        event = events.decode(record)
        if len(self._streams) > STREAMS_LIMIT:
            return itertools.chain(self.abandon(next(iter(self._streams)), event.head.time), self._event(event, record))
        return self._event(event, record)

    def _event(self, event: events.Event, record: bytes) -> Iterator[News | StreamOrphaned]:
        if isinstance(event, events.Chunk):
            return self._chunk(event, record[CHUNK_HEAD : CHUNK_HEAD + event.length])
        if isinstance(event, events.Opened):
            return self._opened(event)
        if isinstance(event, events.Closed):
            tallies = (_tally(event.tally[READ]), _tally(event.tally[WRITE]))
            ending = {"bypassed": bool(event.bypassed), "cut": bool(event.cut)}
            return self._closed(event.head.stream, event.head.time, tallies, **ending)
        if isinstance(event, events.Bound):
            return self._bound(event)
        if isinstance(event, events.Gap):
            return self._gap(event)
        if isinstance(event, events.HalfClosed):
            return self._half_closed(event)
        if isinstance(event, events.ProcessNews):
            return self._process(event)
        return iter(())

    def settle(self, entry: events.StreamEntry, time: int, epoch: int) -> Iterator[News]:
        """Close a stream whose entry was taken from the kernel; `epoch` is the probes' present one."""
        tallies = (_tally(entry.tally[READ]), _tally(entry.tally[WRITE]))
        cut = entry.source == Source.TLS and entry.epoch != epoch
        return self._closed(entry.id, time, tallies, bypassed=bool(entry.bypassed), cut=cut)

    def abandon(self, stream_id: int, time: int) -> Iterator[News]:
        """Close a stream, if it is open, of whose end nothing will be told any more."""
        stream = self._streams.get(stream_id)
        if stream:
            for direction in (READ, WRITE):
                yield from self._flush(stream, direction, time)
                stream.directions[direction].end = None  # what came after it may be lost
            read, write = stream.directions
            tallies = (Tally(read.expected, read.lost), Tally(write.expected, write.lost))
            yield from self._closed(stream_id, time, tallies, cut=True)

    def end(self, capture: int, time: int) -> Iterator[News]:
        """Close what is left of a capture when the kernel's entries were settled: streams whose end found no room in the ring."""
        for stream in [stream for stream in self._streams.values() if stream.capture == capture]:
            yield from self.abandon(stream.id, time)

    # One method an event, each a generator of news.

    def _opened(self, event: events.Opened) -> Iterator[News]:
        stream = self._find(event.head, Source(event.source))
        stream.key = event.key
        if not stream.told:  # else its first bytes overtook this, which found no room then: its start stays unknown
            stream.command, stream.start_known = event.command.decode(errors="replace"), bool(event.start_known)
        if stream.source is Source.TLS:
            yield from self._tell(stream, event.head.time)
        if event.socket.method:
            yield from self._learn(stream, event.head.time, _facts(event.socket))

    def _find(self, head: events.Head, source: Source) -> _Stream:
        """The stream, or a new one: where the event that opened it was lost, this is all that is known of it."""
        stream = self._streams.get(head.stream)
        if stream is None:
            process = _process(head.process)
            stream = self._streams[head.stream] = _Stream(head.stream, source, process, head.process.capture)
            if source is Source.TLS:
                self._of_process.setdefault((process.pid, process.started), set()).add(stream.id)
        return stream

    def _tell(self, stream: _Stream, time: int) -> Iterator[News]:
        if stream.told:
            return
        stream.told = True
        if not stream.start_known:
            self.account(stream.capture).unknown_starts += 1
        yield StreamOpened(stream.id, time, stream.capture, stream.process, stream.command, stream.source, stream.start_known)
        if stream.facts != Facts():
            yield StreamBound(stream.id, time, stream.facts)

    def _learn(self, stream: _Stream, time: int, facts: Facts) -> Iterator[News]:
        """Note a socket's facts and join a TLS stream with what its socket's hellos told."""
        if stream.facts.inode != facts.inode:
            self._forget_inode(stream)
        stream.facts = replace(
            facts,
            server_name=stream.facts.server_name,
            application_protocol=stream.facts.application_protocol,
            tls_version=stream.facts.tls_version,
        )
        if stream.source is Source.SOCKET:
            self._socket_of_inode[facts.inode] = stream.id
            return
        self._tls_of_socket[facts.inode] = stream.id
        carrier = self._streams.get(self._socket_of_inode.get(facts.inode, 0))
        if carrier:
            stream.facts = _joined(stream.facts, carrier.facts)
        yield StreamBound(stream.id, time, stream.facts)

    def _bound(self, event: events.Bound) -> Iterator[News]:
        return self._learn(self._find(event.head, Source.TLS), event.head.time, _facts(event.socket))

    def _chunk(self, event: events.Chunk, data: bytes) -> Iterator[News]:
        if event.source == Source.OPAQUE:
            return self._hello(event, data)
        stream = self._find(event.head, Source(event.source))
        item = (event.offset, len(data), event.head.time, data)
        return self._place(stream, event.direction, item, event.lost)

    def _gap(self, event: events.Gap) -> Iterator[News]:
        stream = self._find(event.head, Source.SOCKET)
        return self._place(stream, event.direction, (event.offset, event.length, event.head.time, None), event.lost)

    def _place(self, stream: _Stream, direction: int, item: _Item, lost: int) -> Iterator[News]:
        yield from self._tell(stream, item[2])
        way = stream.directions[direction]
        if item[0] == way.expected and not way.pending:  # all but always
            yield from self._advance(stream, direction, item)
            return
        way.pending.append(item)
        self._pending_bytes += _weight(item)
        if len(way.pending) > 1:
            way.pending = deque(sorted(way.pending, key=lambda waiting: waiting[0]))
        while way.pending:
            missing = way.pending[0][0] - way.expected
            full = len(way.pending) > PENDING_CHUNKS or self._pending_bytes > PENDING_BYTES
            if missing > 0:
                if lost - way.lost < missing and not full:
                    return
                yield from self._missing(stream, direction, missing, item[2])
            yield from self._advance(stream, direction, self._next(way))

    def _flush(self, stream: _Stream, direction: int, time: int) -> Iterator[News]:
        """Wait no longer for what is missing."""
        way = stream.directions[direction]
        while way.pending:
            item = self._next(way)
            if item[0] > way.expected:
                yield from self._missing(stream, direction, item[0] - way.expected, time)
            yield from self._advance(stream, direction, item)

    def _next(self, way: _Direction) -> _Item:
        item = way.pending.popleft()
        self._pending_bytes -= _weight(item)
        return item

    def _advance(self, stream: _Stream, direction: int, item: _Item) -> Iterator[News]:
        offset, length, time, data = item
        way = stream.directions[direction]
        if offset < way.expected:  # was given up
            return
        way.expected += length
        if data is None:
            way.lost += length
            yield StreamGap(stream.id, time, direction, offset, length, lost=False)
        else:
            self.account(stream.capture).delivered += length
            yield StreamChunk(stream.id, time, direction, offset, data)

    def _missing(self, stream: _Stream, direction: int, length: int, time: int) -> Iterator[News]:
        way = stream.directions[direction]
        yield StreamGap(stream.id, time, direction, way.expected, length)
        way.expected += length
        way.lost += length

    def _hello(self, event: events.Chunk, data: bytes) -> Iterator[News]:
        stream = self._find(event.head, Source.SOCKET)
        hello = stream.hellos[event.direction].feed(event.offset, data)
        if hello is None or hello == Hello():
            return
        stream.facts = replace(
            stream.facts,
            server_name=stream.facts.server_name or hello.server_name,
            application_protocol=stream.facts.application_protocol or hello.application_protocol,
            tls_version=stream.facts.tls_version or hello.version,
        )
        bound = self._streams.get(self._tls_of_socket.get(stream.facts.inode, 0))
        if bound:
            bound.facts = _joined(bound.facts, stream.facts)
            yield StreamBound(bound.id, event.head.time, bound.facts)

    def _half_closed(self, event: events.HalfClosed) -> Iterator[News]:
        """Note the end. Bytes read by another thread may follow it, so it is told when the stream closes and none did."""
        stream = self._streams.get(event.head.stream)
        if stream:
            stream.directions[event.direction].end = (event.offset, event.head.time)
        return iter(())

    def _closed(
        self, stream_id: int, time: int, tallies: tuple[Tally, Tally], *, bypassed: bool = False, cut: bool = False
    ) -> Iterator[News]:
        stream = self._streams.pop(stream_id, None)
        if stream is None:
            return
        account = self.account(stream.capture)
        account.opaque += tallies[READ].opaque + tallies[WRITE].opaque
        if stream.source is Source.SOCKET:
            yield from self._close_socket(stream, time, tallies, bypassed)
        else:
            self._forget_tls(stream)
        if not stream.told and not (tallies[READ].seen or tallies[WRITE].seen):
            return
        yield from self._tell(stream, time)
        for direction, way in enumerate(stream.directions):
            yield from self._flush(stream, direction, time)
            if tallies[direction].seen > way.expected:
                yield from self._missing(stream, direction, tallies[direction].seen - way.expected, time)
            if way.end and way.end[0] == way.expected:
                yield StreamHalfClosed(stream.id, way.end[1], direction)
        account.seen += tallies[READ].seen + tallies[WRITE].seen
        account.lost += tallies[READ].lost + tallies[WRITE].lost
        yield StreamClosed(stream.id, time, tallies, cut)

    def _close_socket(self, stream: _Stream, time: int, tallies: tuple[Tally, Tally], bypassed: bool) -> Iterator[News]:
        covered = self._forget_inode(stream) and not bypassed
        opaque = tallies[READ].opaque or tallies[WRITE].opaque
        if not opaque or covered:
            return
        if not stream.told:
            stream.source = Source.OPAQUE
            yield from self._tell(stream, time)
            return
        rest = stream.id + OPAQUE_REST
        yield StreamOpened(rest, time, stream.capture, stream.process, stream.command, Source.OPAQUE, stream.start_known)
        yield StreamBound(rest, time, stream.facts)
        yield StreamClosed(rest, time, (Tally(opaque=tallies[READ].opaque), Tally(opaque=tallies[WRITE].opaque)))

    def _forget_tls(self, stream: _Stream) -> None:
        process = (stream.process.pid, stream.process.started)
        of_process = self._of_process.get(process, set())
        of_process.discard(stream.id)
        if not of_process:
            self._of_process.pop(process, None)
        # A socket that is followed stays known as covered until it closes, which may be later (a shutdown that waits).
        if stream.facts.inode not in self._socket_of_inode:
            self._forget_inode(stream)

    def _forget_inode(self, stream: _Stream) -> bool:
        """Find a stream by its inode no more; returns whether it is a socket that carried a TLS stream."""
        inode = stream.facts.inode
        table = self._tls_of_socket if stream.source is Source.TLS else self._socket_of_inode
        if table.get(inode) != stream.id:
            return False
        del table[inode]
        return table is self._socket_of_inode and self._tls_of_socket.pop(inode, None) is not None

    def _process(self, event: events.ProcessNews) -> Iterator[StreamOrphaned]:
        """A process ended or became another: its memory is gone, and its TLS streams with it."""
        process = _process(event.head.process)
        executed = event.head.kind == Kind.EXECUTED
        for stream_id in sorted(self._of_process.pop((process.pid, process.started), ())):
            stream = self._streams.get(stream_id)
            if stream is None:
                continue
            if executed and stream.process.execution == process.execution:
                self._of_process.setdefault((process.pid, process.started), set()).add(stream_id)
                continue
            key = events.TlsKey(ssl=stream.key, started=process.started, execution=stream.process.execution, tgid=process.pid)
            yield StreamOrphaned(stream_id, key)
        self.gone[process.pid, process.started] = process.execution if executed else process.execution + 1


def _weight(item: _Item) -> int:
    return len(item[3] or b"") + PENDING_ITEM_BYTES


def _joined(tls: Facts, carrier: Facts) -> Facts:
    return replace(
        tls,
        server_name=carrier.server_name,
        application_protocol=carrier.application_protocol,
        tls_version=carrier.tls_version,
    )


def _process(process: events.Process) -> Process:
    return Process(process.tgid, process.started, process.execution)


def _tally(tally: events.Tally) -> Tally:
    return Tally(tally.seen, tally.lost, tally.opaque)


def _facts(facts: events.SocketFacts) -> Facts:
    return Facts(
        inode=facts.inode,
        local=(_address(facts.family, bytes(facts.local)), facts.local_port),
        remote=(_address(facts.family, bytes(facts.remote)), facts.remote_port),
        role=facts.role,
        method=facts.method,
    )


def _address(family: int, packed: bytes) -> str:
    """Textual form; an IPv4 address mapped into IPv6 (RFC 4291 section 2.5.5.2) is shown as the IPv4 address that it is."""
    if family == _AF_INET:
        return str(ipaddress.IPv4Address(packed[:4]))
    if family == _AF_INET6:
        address = ipaddress.IPv6Address(packed)
        return str(address.ipv4_mapped or address)
    return ""
