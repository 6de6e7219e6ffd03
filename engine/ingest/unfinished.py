"""What the recordings of an engine keep of messages that have not ended, bounded for all of them together."""

from __future__ import annotations

import threading
from typing import Protocol

UNFINISHED_LIMIT = 1024 * 1024 * 1024
"""Bytes: sixteen of the longest bodies, or sixteen thousand streams with as much as a socket's buffer holds."""


class Keeper(Protocol):
    """Keeps bytes of messages that have not ended. It is called by one thread at a time: whoever calls holds its `lock`."""

    @property
    def lock(self) -> threading.RLock: ...  # noqa: D102

    def let_go(self, size: int) -> None:
        """Keep so many bytes less, or none at all; `Unfinished.add` is told."""


class Unfinished:
    """The account of these bytes: a sum that is changed by differences. Any thread may call it."""

    def __init__(self, limit: int = UNFINISHED_LIMIT) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self.size = 0
        self._by_keeper: dict[Keeper, int] = {}

    def add(self, keeper: Keeper, difference: int) -> None:
        """Count bytes more, or (negative) less, of a keeper."""
        with self._lock:
            self.size += difference
            self._by_keeper[keeper] = self._by_keeper.get(keeper, 0) + difference
            if not self._by_keeper[keeper]:
                del self._by_keeper[keeper]

    def make_room(self) -> None:
        """Where the limit is exceeded, have keepers let go, those that keep the most first.

        An eighth is made free, so that the search for what to drop is rare. A keeper that another thread has is passed over; the
        caller has its own, so there is always one that can let go.
        """
        if self.size <= self._limit:
            return
        with self._lock:
            keepers = sorted(self._by_keeper, key=self._by_keeper.__getitem__, reverse=True)
        for keeper in keepers:
            over = self.size - self._limit * 7 // 8
            if over > 0 and keeper.lock.acquire(blocking=False):
                try:
                    keeper.let_go(over)
                finally:
                    keeper.lock.release()
