"""One direction of one stream, put in order: every byte and every gap exactly once.

Agents send again after a reconnection, so what lies before the next expected offset is dropped here. Nothing is kept:
events arrive in order, and a jump in offsets is a gap that nobody announced.
"""

from __future__ import annotations

from dataclasses import dataclass

LOST = "lost"
UNKNOWN = "unknown"

END = 2**63 - 1
"""Offsets and times do not exceed it: they are stored as signed integers of 64 bits. No stream is that long, no clock that late."""


@dataclass(slots=True)
class Segment:
    """Bytes that follow the ones before without a hole. `time` is nanoseconds since the Unix epoch.

    Built for every chunk, so not frozen: that would double its cost.
    """

    offset: int
    data: bytes
    time: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes that passed and are missing; `reason` is LOST or UNKNOWN."""

    offset: int
    length: int
    reason: str


class Reassembler:
    """Puts the chunks and gaps of one direction in order."""

    __slots__ = ("next_offset",)

    def __init__(self, offset: int = 0) -> None:
        self.next_offset = offset

    def data(self, offset: int, data: bytes, time: int) -> list[Segment | Gap]:
        """Take a chunk: at most one gap that it proves, then the bytes of it that are new."""
        expected = self.next_offset
        if offset == expected and data:
            self.next_offset = expected + len(data)
            return [Segment(offset, data, time)]
        end = offset + len(data)
        if end <= expected or not data:
            return []
        self.next_offset = end
        if offset < expected:
            return [Segment(expected, data[expected - offset :], time)]
        return [Gap(expected, offset - expected, UNKNOWN), Segment(offset, data, time)]

    def gap(self, offset: int, length: int, reason: str) -> list[Segment | Gap]:
        """Take an announced gap: what of it is new, and a jump before it as a gap of unknown reason."""
        expected = self.next_offset
        end = offset + length
        if end <= expected or not length:
            return []
        self.next_offset = end
        if offset <= expected:
            return [Gap(expected, end - expected, reason)]
        return [Gap(expected, offset - expected, UNKNOWN), Gap(offset, length, reason)]
