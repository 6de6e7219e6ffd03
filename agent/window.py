"""What is on its way to the engine: sent and kept until it need not be sent again. Sans-I/O; not thread-safe.

Each stream's news stays here until the engine says that it is committed. After a reconnection everything that is kept goes out
again, in the order of each stream. Room is bounded: beyond it, what the engine has already received is let go, oldest first, and
should it be needed again it comes as a gap. What has not been received is never let go: the caller stops taking when `full`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from agent.streams import News, StreamBound, StreamChunk, StreamClosed, StreamGap, StreamOpened

UNSENT_BYTES = 32 << 20
"""Chunks that wait to be sent: two seconds of a busy node; past it the ring fills, and loses by the ledger."""

KEPT_BYTES = 64 << 20
"""Chunks that are kept for a reconnection: sixteen answers of 4 MiB that are not complete yet."""

BATCH_BYTES = 1 << 20
"""Of chunks in one message: larger ones are no cheaper, and gRPC's default limit is 4 MiB."""

BATCH_EVENTS = 4096
EVENT_BYTES = 96
"""What a message without bytes counts for."""


@dataclass(frozen=True, slots=True)
class Marker:
    """The beginning or end of a capture; `ended` holds its ledger, as the edge made it."""

    capture: int
    ended: object | None = None


Item = News | Marker


@dataclass(slots=True)
class _Kept:
    opened: StreamOpened | None = None
    bound: StreamBound | None = None
    items: deque[tuple[int, News]] = field(default_factory=deque)
    committed: list[int] = field(default_factory=lambda: [0, 0])
    let_go: list[StreamGap] = field(default_factory=list)
    """What would be missing if the engine had to be sent everything again."""


def _size(item: Item) -> int:
    return len(item.data) + EVENT_BYTES if isinstance(item, StreamChunk) else EVENT_BYTES


class Window:
    """The items between the streams and the engine."""

    def __init__(self, kept_bytes: int = KEPT_BYTES, unsent_bytes: int = UNSENT_BYTES) -> None:
        self._kept_limit, self._unsent_limit = kept_bytes, unsent_bytes
        self._unsent: deque[Item] = deque()
        self._unsent_bytes = 0
        self._kept: dict[int, _Kept] = {}
        self._kept_bytes = 0
        self._markers: deque[tuple[int, Marker]] = deque()
        self._sequence = 0
        self._received = 0
        self._let_go_from: deque[int] = deque()  # streams with chunks, in the order they were sent
        self.let_go_bytes = 0
        self.missed_bytes: Counter[int] = Counter()
        """Bytes of each capture that had been let go when the engine had to be sent them again."""

    @property
    def full(self) -> bool:
        """Whether nothing more should be put in for now."""
        return self._unsent_bytes >= self._unsent_limit

    @property
    def empty(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self._unsent

    @property
    def idle(self) -> bool:
        """Whether everything was sent and received."""
        return not self._unsent and self._received == self._sequence

    @property
    def in_flight(self) -> int:
        """Batches sent and not yet received."""
        return self._sequence - self._received

    @property
    def kept_bytes(self) -> int:
        """Bytes kept for a reconnection."""
        return self._kept_bytes

    def put(self, items: Iterable[Item]) -> None:
        """Add what is to be sent."""
        for item in items:
            self._unsent.append(item)
            self._unsent_bytes += _size(item)

    def batch(self) -> tuple[int, list[Item]] | None:
        """The next batch and its number; None when there is nothing to send."""
        if not self._unsent:
            return None
        self._sequence += 1
        items: list[Item] = []
        size = 0
        while self._unsent and size < BATCH_BYTES and len(items) < BATCH_EVENTS:
            item = self._unsent.popleft()
            size += _size(item)
            items.append(item)
            self._keep(item)
        self._unsent_bytes -= size
        self._let_go()
        return self._sequence, items

    def _keep(self, item: Item) -> None:
        if isinstance(item, Marker):
            self._markers.append((self._sequence, item))
            return
        kept = self._kept.setdefault(item.stream, _Kept())
        if isinstance(item, StreamOpened):
            kept.opened = item
        elif isinstance(item, StreamBound):
            kept.bound = item
        elif isinstance(item, StreamChunk) and item.offset + len(item.data) <= kept.committed[item.direction]:
            return
        else:
            kept.items.append((self._sequence, item))
            self._kept_bytes += _size(item)
            if isinstance(item, StreamChunk):
                self._let_go_from.append(item.stream)

    def received(self, sequence: int) -> None:
        """The engine has taken in every batch up to this one."""
        self._received = max(self._received, min(sequence, self._sequence))
        while self._markers and self._markers[0][0] <= self._received:
            self._markers.popleft()
        self._let_go()

    def committed(self, stream: int, read_offset: int, write_offset: int, finished: bool) -> None:
        """The engine does not need what lies before these offsets any more."""
        kept = self._kept.get(stream)
        if kept is None:
            return
        kept.committed = [max(kept.committed[0], read_offset), max(kept.committed[1], write_offset)]
        if finished:
            self._kept_bytes -= sum(_size(item) for _, item in kept.items)
            del self._kept[stream]
            return
        while kept.items and self._is_committed(kept, kept.items[0][1]):
            self._kept_bytes -= _size(kept.items.popleft()[1])

    @staticmethod
    def _is_committed(kept: _Kept, item: News) -> bool:
        if isinstance(item, StreamChunk):
            return item.offset + len(item.data) <= kept.committed[item.direction]
        if isinstance(item, StreamGap):
            return item.offset + item.length <= kept.committed[item.direction]
        return False

    def _let_go(self) -> None:
        while self._kept_bytes > self._kept_limit and self._let_go_from:
            kept = self._kept.get(self._let_go_from[0])
            index = next((i for i, (_, item) in enumerate(kept.items) if isinstance(item, StreamChunk)), -1) if kept else -1
            if kept is None or index < 0:
                self._let_go_from.popleft()
                continue
            sequence, item = kept.items[index]
            if sequence > self._received:
                return
            assert isinstance(item, StreamChunk)
            self._let_go_from.popleft()
            gap = StreamGap(item.stream, item.time, item.direction, item.offset, len(item.data))
            kept.items[index] = sequence, gap
            kept.let_go.append(gap)
            self._kept_bytes -= len(item.data)
            self.let_go_bytes += len(item.data)

    def give_up(self, capture: int) -> int:
        """Drop what is left of a capture that has ended; says how many of its bytes the engine has not received."""
        gone = {stream for stream, kept in self._kept.items() if kept.opened and kept.opened.capture == capture}
        gone |= {item.stream for item in self._unsent if isinstance(item, StreamOpened) and item.capture == capture}
        unsent = [item for item in self._unsent if _is_of(item, capture, gone)]
        self._unsent = deque(item for item in self._unsent if not _is_of(item, capture, gone))
        self._unsent_bytes -= sum(map(_size, unsent))
        self._markers = deque(each for each in self._markers if each[1].capture != capture)
        for kept in [self._kept.pop(stream) for stream in gone & self._kept.keys()]:
            self._kept_bytes -= sum(_size(item) for _, item in kept.items)
            unsent += [item for sequence, item in kept.items if sequence > self._received]
        return sum(len(item.data) for item in unsent if isinstance(item, StreamChunk))

    def reconnected(self) -> None:
        """A new connection: what is kept goes out again, before what was never sent."""
        again: list[Item] = [marker for _, marker in self._markers if marker.ended is None]
        for kept in self._kept.values():
            again += _replay(kept)
            if kept.opened and kept.let_go:
                self.missed_bytes[kept.opened.capture] += sum(_uncommitted(kept, gap) for gap in kept.let_go)
        again += [marker for _, marker in self._markers if marker.ended is not None]
        self._kept.clear()
        self._markers.clear()
        self._let_go_from.clear()
        self._kept_bytes = 0
        self._unsent.extendleft(reversed(again))
        self._unsent_bytes += sum(map(_size, again))
        self._received = self._sequence


def _uncommitted(kept: _Kept, gap: StreamGap) -> int:
    end = gap.offset + gap.length
    return end - min(end, max(gap.offset, kept.committed[gap.direction]))


def _is_of(item: Item, capture: int, streams: set[int]) -> bool:
    return item.capture == capture if isinstance(item, Marker) else item.stream in streams


def _replay(kept: _Kept) -> Iterator[Item]:
    if kept.opened:
        yield kept.opened
    if kept.bound:
        yield kept.bound
    closed = [item for _, item in kept.items if isinstance(item, StreamClosed)]
    yield from (item for _, item in kept.items if not isinstance(item, StreamClosed))
    yield from closed
