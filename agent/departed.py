"""Processes that leave the cgroup in which they were started: what hooks of that cgroup do for them ends there."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent import workloads
from agent.kernel.departures import Departures
from agent.takeover.events import decode_departure
from agent.workloads import Workload


@dataclass(frozen=True, slots=True)
class Departed:
    """A process that has left the cgroup, where it is now, and whether it was ended for that."""

    workload: Workload
    cgroup: str
    ended: bool = False


def departed(record: bytes) -> Departed:
    """What the kernel told, with what is known of the process now."""
    left = decode_departure(record)
    if not workloads.is_still(left.pid, left.started):
        return Departed(Workload(left.pid, left.started, left.command), "")
    workload = workloads.look_up(left.pid, left.started, left.command)
    return Departed(workload, workload.cgroup)


class Watch:
    """Tells of processes that leave a cgroup, on a thread. Nothing is done to them."""

    def __init__(self, cgroup: Path, pid: int, tell: Callable[[Departed], None], leave_out: Callable[[int], None]) -> None:
        """Watch `pid` and what it starts from now on; `leave_out` is told how many there was no room to tell of.

        OSError where the kernel does not let us.
        """
        mount = workloads.cgroup_mount()
        assert mount is not None  # there is a cgroup
        self._tell, self._leave_out = tell, leave_out
        self._departures = Departures()
        try:
            self._departures.watch(cgroup, mount, refuse=False)
            self._departures.add(pid)
        except BaseException:
            self._departures.close()
            raise
        self._ended, self._end = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._watch, name="departures", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        poll = select.poll()
        for fd in (self._departures.epoll_fd, self._ended):
            poll.register(fd, select.POLLIN)
        while self._ended not in {fd for fd, _ in poll.poll()}:
            self._take()
        self._take()

    def _take(self) -> None:
        for record in self._departures.read():
            self._tell(departed(record))

    def close(self) -> None:
        """No more."""
        with contextlib.closing(self._departures):
            os.write(self._end, b"\0")
            self._thread.join()
            self._leave_out(self._departures.unknown)
        os.close(self._end)
        os.close(self._ended)
