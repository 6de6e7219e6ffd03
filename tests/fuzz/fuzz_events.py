"""Records of the probes' ring in any order and shape: what comes out is in order, adds up, and was in a record."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from agent import events
from agent.streams import News, StreamChunk, StreamClosed, StreamGap, StreamOpened, StreamOrphaned, Streams

Direction = tuple[int, int]
"""Stream and direction."""


def records(data: bytes) -> Iterator[bytes]:
    """The records of an input: each behind its length, in two bytes."""
    position = 0
    while position + 2 <= len(data):
        length = int.from_bytes(data[position : position + 2], "little")
        yield data[position + 2 : position + 2 + length]
        position += 2 + length


class Account:
    """What was put in, and where each direction's news have got to."""

    def __init__(self) -> None:
        self.given: dict[tuple[int, int, int], set[bytes]] = defaultdict(set)
        self.position: dict[Direction, int] = defaultdict(int)
        self.lost: dict[Direction, int] = defaultdict(int)
        self.delivered = 0

    def give(self, event: events.Event, record: bytes) -> None:
        """Note the bytes of a record."""
        if isinstance(event, events.Chunk) and event.source != events.Source.OPAQUE:
            data = record[events.CHUNK_HEAD : events.CHUNK_HEAD + event.length]
            self.given[event.head.stream, event.direction, event.offset].add(data)

    def check(self, items: Iterable[News | StreamOrphaned], *, told_by_us: bool = False) -> None:
        """Hold news against what was given; `told_by_us` where the tallies are the streams' own."""
        for item in items:
            if isinstance(item, StreamOpened):
                for direction in (0, 1):
                    self.position[item.stream, direction] = self.lost[item.stream, direction] = 0
            elif isinstance(item, StreamChunk):
                assert item.data in self.given[item.stream, item.direction, item.offset], "bytes that were in no record"
                self._advance(item, len(item.data))
                self.delivered += len(item.data)
            elif isinstance(item, StreamGap):
                assert item.length > 0 or not item.lost
                self._advance(item, item.length)
                self.lost[item.stream, item.direction] += item.length
            elif isinstance(item, StreamClosed) and told_by_us:
                for direction, tally in enumerate(item.tally):
                    place = (item.stream, direction)
                    assert (tally.seen, tally.lost) == (self.position[place], self.lost[place])

    def _advance(self, item: StreamChunk | StreamGap, length: int) -> None:
        place = (item.stream, item.direction)
        assert item.offset == self.position[place], "not in order"
        self.position[place] += length


def one(data: bytes) -> None:
    """Take an input's records, and then end all streams."""
    streams, account, count = Streams(), Account(), 0
    for record in records(data):
        try:
            event = events.decode(record)
        except ValueError:
            continue  # the only thing that may be said of what is no record
        account.give(event, record)
        account.check(streams.take(record))
        count += 1
        assert len(streams) <= count
    for capture in list(streams.accounts) + [stream.capture for stream in list(streams._streams.values())]:
        account.check(streams.end(capture, 1), told_by_us=True)
    assert len(streams) == 0
    assert streams._pending_bytes == 0
    assert not streams._of_process
    assert not streams._socket_of_inode
    assert not streams._tls_of_socket
    assert sum(each.delivered for each in streams.accounts.values()) == account.delivered
