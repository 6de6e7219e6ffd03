"""The watch of a cgroup, over hooks that are in no kernel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent import departed, workloads
from agent.departed import Departed, Watch
from agent.news import Outbox


class FakeDepartures:
    """Tells of nobody, but that there was somebody."""

    unknown = 3

    def __init__(self) -> None:
        self.epoll_fd, self._other = os.pipe()

    def watch(self, cgroup: Path, mount: Path, *, refuse: bool) -> None:
        """See Departures."""

    def add(self, pid: int) -> None:
        """See Departures."""

    def read(self) -> list[bytes]:
        """See Departures."""
        return []

    def close(self) -> None:
        """See Departures."""
        os.close(self.epoll_fd)
        os.close(self._other)


def test_departures_that_found_no_room_are_untold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(departed, "Departures", FakeDepartures)
    monkeypatch.setattr(workloads, "cgroup_mount", lambda: tmp_path)
    news = Outbox[Departed]()
    Watch(tmp_path, 1, news.put, news.leave_out).close()
    assert news.untold == 3
