"""inotify, as far as the agent uses it: which files were modified (inotify(7)).

It needs no privilege, holds up nobody, and keeps no file system mounted.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct

LOST = -1
"""In the place of a watch: there was no room for some events, so any file may have been modified."""

_MODIFY, _Q_OVERFLOW = 0x2, 0x4000
_READ_BYTES = 64 << 10

_EVENT = struct.Struct("=iIII")  # struct inotify_event: watch, mask, cookie, length of the name that follows

_libc = ctypes.CDLL(None, use_errno=True)


class Watches:
    """Files that are watched, by the numbers of their watches, which are not used again soon."""

    def __init__(self) -> None:
        """OSError where the user has too many of these."""
        self.fd: int = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self.fd < 0:
            _raise("files cannot be watched (see fs.inotify.max_user_instances)")

    def add(self, fd: int) -> int:
        """Watch an open file for being written or truncated; the number of its watch. Writing by a mapping is not told of."""
        watch: int = _libc.inotify_add_watch(self.fd, f"/proc/self/fd/{fd}".encode(), _MODIFY)
        if watch < 0:
            _raise("it cannot be watched (see fs.inotify.max_user_watches)")
        return watch

    def remove(self, watch: int) -> None:
        """Watch it no more, if it is still there."""
        _libc.inotify_rm_watch(self.fd, watch)

    def modified(self) -> set[int]:
        """The watches whose files were modified since this was last asked, and LOST."""
        try:
            data = os.read(self.fd, _READ_BYTES)
        except BlockingIOError:
            return set()
        found, place = set(), 0
        while place < len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, place)
            place += _EVENT.size + length
            if mask & (_MODIFY | _Q_OVERFLOW):
                found.add(LOST if mask & _Q_OVERFLOW else watch)
        return found

    def wait(self, seconds: float) -> None:
        """Sleep until there is something to ask for, or so long."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        poll.poll(seconds * 1000)

    def close(self) -> None:
        """Watch nothing any more."""
        os.close(self.fd)


def _raise(what: str) -> None:
    code = ctypes.get_errno()
    raise OSError(code, f"{what}: {os.strerror(code)}")
