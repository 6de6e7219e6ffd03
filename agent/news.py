"""What is to be told to a client: in order, and bounded, for a workload may cause as much of it as it likes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

WAITING_MAX = 4096
"""Pieces that wait for a client: one that takes them is never so far behind."""

_News = TypeVar("_News")


class Outbox(Generic[_News]):
    """News on their way to one client. Thread-safe."""

    def __init__(self, waiting_max: int = WAITING_MAX) -> None:
        self._waiting: queue.SimpleQueue[_News | None] = queue.SimpleQueue()
        self._waiting_max = waiting_max
        self._lock = threading.Lock()
        self.untold = 0
        """What was left out."""

    def put(self, news: _News, *, count: int = 1, always: bool = False) -> None:
        """Tell of this, which stands for so many; where too much waits it is only counted, unless `always`."""
        if always or self._waiting.qsize() < self._waiting_max:
            self._waiting.put(news)
        else:
            self.leave_out(count)

    def leave_out(self, count: int = 1) -> None:
        """Count what is not told."""
        with self._lock:
            self.untold += count

    def end(self) -> None:
        """There is no more."""
        self._waiting.put(None)

    def __iter__(self) -> Iterator[_News]:
        """Take what comes, until the end."""
        while (news := self._waiting.get()) is not None:
            yield news
