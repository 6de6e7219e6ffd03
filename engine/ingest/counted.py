"""Streams of a recording that are not read: what they say is counted until they end, so that the account holds."""

from __future__ import annotations

from dataclasses import dataclass

from engine.rrpair import Connection, Flow, Way
from engine.store import Progress

COUNTED_LIMIT = 196_608
"""Such streams at a time, of some 600 bytes each: together with those that are read, as many as an agent follows."""


@dataclass(slots=True)
class Counted:
    """One of them.

    Offsets are of the read way and the write way: from `start` on, nothing of it is in a pair or a flow; `end` is where it is.
    `by_turns_since`: see `Progress`.
    """

    connection: Connection
    time: int
    reason: str
    start: tuple[int, int]
    end: tuple[int, int]
    by_turns_since: int | None = None
    _told: bool = False

    def count(self, way: Way, end: int) -> int:
        """Take that it has come to `end` one way; gives how many bytes these are that did not come before."""
        read, write = self.end
        self.end = (max(read, end), write) if way is Way.READ else (read, max(write, end))
        return sum(self.end) - read - write

    def tell(self) -> list[Flow]:
        """What has not been told of it: a flow, at least once."""
        read, written = self._untold
        told, self._told, self.start = self._told, True, self.end
        return [] if told and not (read or written) else [Flow(self.connection, self.time, "", self.reason, read, written)]

    def progress(self, agent: str, stream: int) -> Progress:
        """Where it is for an engine that takes the place of this one: that joins it in the middle, and may read it."""
        return Progress(agent, stream, *self.end, False, False, *self._untold, self.by_turns_since)

    @property
    def _untold(self) -> tuple[int, int]:
        return self.end[0] - self.start[0], self.end[1] - self.start[1]
