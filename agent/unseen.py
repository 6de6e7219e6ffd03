"""Which processes opened TLS connections that were not seen. Pure.

A program may have mapped a TLS library that it never uses, as curl has GnuTLS by way of another library. So what cannot be captured
is told of only where both are known: a library that is not probed, and a TLS connection of the process that no probe saw.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.kernel.planner import Plan
from agent.workloads import Workload

PROCESSES_MAX = 4096
"""Remembered at most: a build starts thousands of programs, and few of them map such a library."""

LIBRARIES_MAX = 16
"""Of one process: none uses more than a few, but one could map as many copies as it likes."""


@dataclass(frozen=True, slots=True)
class Unseen:
    """A process whose TLS cannot be captured."""

    workload: Workload
    path: str
    plan: Plan


@dataclass(slots=True)
class UnseenTls:
    """Joins libraries with connections, for one capture; each process and library comes out once."""

    _libraries: dict[int, dict[str, Unseen]] = field(default_factory=dict)
    _connected: dict[int, None] = field(default_factory=dict)

    def mapped(self, unseen: Unseen) -> list[Unseen]:
        """A process has a library that cannot be captured; returns what is to be told now."""
        pid = unseen.workload.pid
        libraries = self._libraries.setdefault(pid, {})
        if unseen.path in libraries or len(libraries) == LIBRARIES_MAX:
            return []
        libraries[unseen.path] = unseen
        _bound(self._libraries)
        return [unseen] if pid in self._connected else []

    def connected(self, pid: int) -> list[Unseen]:
        """A process had a TLS connection that no probe saw; returns what is to be told now."""
        if pid in self._connected:
            return []
        self._connected[pid] = None
        _bound(self._connected)
        return list(self._libraries.get(pid, {}).values())


def _bound(table: dict[int, object] | dict[int, dict[str, Unseen]] | dict[int, None]) -> None:
    if len(table) > PROCESSES_MAX:
        del table[next(iter(table))]
