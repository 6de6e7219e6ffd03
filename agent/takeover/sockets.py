"""Which process has which socket, as /proc shows it."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

_LISTEN, _UNCONNECTED = "0A", "07"
"""States in /proc/net/tcp and udp: TCP_LISTEN, and TCP_CLOSE, which is that of datagram sockets (include/net/tcp_states.h)."""

_TABLES = (("tcp", _LISTEN), ("tcp6", _LISTEN), ("udp", _UNCONNECTED), ("udp6", _UNCONNECTED))


_PIDFD_GETFD = 438
"""On every machine architecture."""


def taken(pid: int, ports: Iterable[int]) -> list[int]:
    """Descriptors of ours for the sockets by which a process takes calls at ports. Fewer where we may not, or it is gone."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        process = os.pidfd_open(pid)
        libc = ctypes.CDLL(None)
        for fd in (fd for port in ports if port for fd in listening(pid, port)):
            ours = libc.syscall(ctypes.c_long(_PIDFD_GETFD), process, fd, 0)
            if ours >= 0:
                found.append(ours)
        os.close(process)
    return found


def listening(pid: int, port: int) -> Iterator[int]:
    """The descriptors by which a process takes calls at a port of its network."""
    inodes = set(_inodes(pid, port))
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir() if inodes else ():
            with contextlib.suppress(OSError):
                if os.readlink(entry) in inodes:
                    yield int(entry.name)


def _inodes(pid: int, port: int) -> Iterator[str]:
    for table, wanted in _TABLES:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                _, local, _, state, *rest = line.split()
                if state == wanted and int(local.rpartition(":")[2], 16) == port:
                    yield f"socket:[{rest[5]}]"
