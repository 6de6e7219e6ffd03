"""What is on its way to the engine: sent and kept until it need not be sent again. Sans-I/O; not thread-safe.

Each stream's news stays here until the engine says that it is committed. After a reconnection everything that is kept goes out
again, in the order of each stream. Room is bounded: beyond it, what the engine has already received is let go, oldest first, and
should it be needed again it comes as a gap. What has not been received is never let go: the caller stops taking when `full`.
Every method takes time in proportion to what it puts in, takes out or sends, however long a stream is.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from agent.streams import News, StreamBound, StreamChunk, StreamClosed, StreamGap, StreamHalfClosed, StreamOpened

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
class _Missing:
    """Bytes that cannot be sent: they never came, or were `let_go`."""

    gap: StreamGap
    let_go: bool

    @property
    def end(self) -> int:
        return self.gap.offset + self.gap.length


@dataclass(slots=True)
class _Kept:
    """What is kept of a stream. `items` begins with a chunk, where there is one: `missing` has the gaps that came before it, per
    direction, neighbours as one. `queued`: whether the window's queue has the stream."""

    opened: StreamOpened | None = None
    bound: StreamBound | None = None
    missing: tuple[deque[_Missing], deque[_Missing]] = field(default_factory=lambda: (deque(), deque()))
    items: deque[tuple[int, StreamChunk | StreamGap]] = field(default_factory=deque)
    ends: list[StreamHalfClosed | StreamClosed] = field(default_factory=list)
    committed: list[int] = field(default_factory=lambda: [0, 0])
    queued: bool = False

    def add_missing(self, gap: StreamGap, *, let_go: bool) -> int:
        """Add what comes after all of `missing` and before all of `items`; says how many more gaps there are: 0 or 1."""
        gaps = self.missing[gap.direction]
        last = gaps[-1] if gaps else None
        if last and (last.end, last.let_go, last.gap.lost) == (gap.offset, let_go, gap.lost):
            first = last.gap
            last.gap = StreamGap(first.stream, first.time, first.direction, first.offset, first.length + gap.length, first.lost)
            return 0
        gaps.append(_Missing(gap, let_go))
        return 1

    def news(self) -> Iterator[News]:
        """Everything but what it was opened with and bound to, each direction in its order."""
        for each in heapq.merge(*self.missing, key=lambda missing: missing.gap.time):
            yield each.gap
        yield from (item for _, item in self.items)
        yield from self.ends

    def missed(self) -> int:
        """Bytes that were let go and are not committed."""
        return sum(
            each.end - min(each.end, max(each.gap.offset, self.committed[each.gap.direction]))
            for gaps in self.missing
            for each in gaps
            if each.let_go
        )


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
        self._oldest: list[tuple[int, int]] = []
        """A heap of the streams with chunks, by the batch that their first chunk was in; some have moved on, or are gone."""
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
        elif isinstance(item, StreamChunk):
            if item.offset + len(item.data) > kept.committed[item.direction]:
                kept.items.append((self._sequence, item))
                self._kept_bytes += _size(item)
                if not kept.queued:
                    self._queue(item.stream, kept)
        elif isinstance(item, StreamGap) and kept.items:
            kept.items.append((self._sequence, item))
            self._kept_bytes += EVENT_BYTES
        elif isinstance(item, StreamGap):
            self._kept_bytes += kept.add_missing(item, let_go=False) * EVENT_BYTES
        else:
            kept.ends.append(item)
            self._kept_bytes += EVENT_BYTES

    def _queue(self, stream: int, kept: _Kept) -> None:
        kept.queued = True
        heapq.heappush(self._oldest, (kept.items[0][0], stream))
        if len(self._oldest) > 2 * len(self._kept):  # most are gone
            for each in self._kept.values():
                each.queued = bool(each.items)
            self._oldest = [(each.items[0][0], number) for number, each in self._kept.items() if each.items]
            heapq.heapify(self._oldest)

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
            self._kept_bytes -= sum(map(_size, kept.news()))
            del self._kept[stream]
            return
        for direction, gaps in enumerate(kept.missing):
            while gaps and gaps[0].end <= kept.committed[direction]:
                gaps.popleft()
                self._kept_bytes -= EVENT_BYTES
        while kept.items:
            item = kept.items[0][1]
            if isinstance(item, StreamGap):
                self._begin_with_chunk(kept)
            elif item.offset + len(item.data) <= kept.committed[item.direction]:
                kept.items.popleft()
                self._kept_bytes -= _size(item)
            else:
                return

    def _begin_with_chunk(self, kept: _Kept) -> None:
        while kept.items and isinstance(gap := kept.items[0][1], StreamGap):
            kept.items.popleft()
            self._kept_bytes -= EVENT_BYTES
            if gap.offset + gap.length > kept.committed[gap.direction]:
                self._kept_bytes += kept.add_missing(gap, let_go=False) * EVENT_BYTES

    def _let_go(self) -> None:
        while self._kept_bytes > self._kept_limit and self._oldest:
            queued, stream = self._oldest[0]
            kept = self._kept.get(stream)
            if kept is None or not kept.items:
                heapq.heappop(self._oldest)
                if kept:
                    kept.queued = False
                continue
            sequence, item = kept.items[0]
            if sequence > queued:
                heapq.heapreplace(self._oldest, (sequence, stream))
                continue
            if sequence > self._received:
                return
            assert isinstance(item, StreamChunk)
            kept.items.popleft()
            gap = StreamGap(item.stream, item.time, item.direction, item.offset, len(item.data))
            self._kept_bytes += kept.add_missing(gap, let_go=True) * EVENT_BYTES - _size(item)
            self.let_go_bytes += len(item.data)
            self._begin_with_chunk(kept)

    def give_up(self, capture: int) -> int:
        """Drop what is left of a capture that has ended; says how many of its bytes the engine has not received."""
        gone = {stream for stream, kept in self._kept.items() if kept.opened and kept.opened.capture == capture}
        gone |= {item.stream for item in self._unsent if isinstance(item, StreamOpened) and item.capture == capture}
        unsent = [item for item in self._unsent if _is_of(item, capture, gone)]
        self._unsent = deque(item for item in self._unsent if not _is_of(item, capture, gone))
        self._unsent_bytes -= sum(map(_size, unsent))
        self._markers = deque(each for each in self._markers if each[1].capture != capture)
        for kept in [self._kept.pop(stream) for stream in gone & self._kept.keys()]:
            self._kept_bytes -= sum(map(_size, kept.news()))
            unsent += [item for sequence, item in kept.items if sequence > self._received]
        return sum(len(item.data) for item in unsent if isinstance(item, StreamChunk))

    def reconnected(self) -> None:
        """A new connection: what is kept goes out again, before what was never sent."""
        again: list[Item] = [marker for _, marker in self._markers if marker.ended is None]
        for kept in self._kept.values():
            again += filter(None, (kept.opened, kept.bound))
            again += kept.news()
            if kept.opened and (missed := kept.missed()):
                self.missed_bytes[kept.opened.capture] += missed
        again += [marker for _, marker in self._markers if marker.ended is not None]
        self._kept = {stream: _Kept(committed=kept.committed) for stream, kept in self._kept.items()}
        self._markers.clear()
        self._oldest.clear()
        self._kept_bytes = 0
        self._unsent.extendleft(reversed(again))
        self._unsent_bytes += sum(map(_size, again))
        self._received = self._sequence


def _is_of(item: Item, capture: int, streams: set[int]) -> bool:
    return item.capture == capture if isinstance(item, Marker) else item.stream in streams
