"""fanotify's permission events, as far as the agent uses them: the opening of a file waits until it is answered (fanotify(7)).

The kernel allows what is waiting when the group's descriptor is closed, so nobody waits for an agent that is gone.
"""

from __future__ import annotations

import ctypes
import os
import struct
import time
from dataclasses import dataclass, field

FILE_SYSTEMS = frozenset(
    (
        *("bcachefs", "btrfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "iso9660", "overlay", "ramfs", "squashfs"),
        *("tmpfs", "vfat", "virtiofs", "xfs", "zfs"),
    )
)
"""Where root can open every file at once. On others (NFS without root, FUSE of another user, a server that is away) the event's
descriptor could not be opened, which would refuse the workload's own open, or would take as long as the server likes."""

MOUNTS_MAX = 4096
"""Marked at most; a node with many containers has some hundred."""

_CLOEXEC, _NONBLOCK, _CLASS_CONTENT, _UNLIMITED_MARKS = 0x1, 0x2, 0x4, 0x20
_MARK_ADD, _MARK_MOUNT, _MARK_IGNORED_MASK, _MARK_FLUSH, _MARK_EVICTABLE = 0x1, 0x10, 0x20, 0x80, 0x200
_OPEN_PERM = 0x10000
_ALLOW = 1
_AT_FDCWD = -100
_METADATA_VERSION = 3

_METADATA = struct.Struct("<IBBHQii")  # struct fanotify_event_metadata
_RESPONSE = struct.Struct("<iI")  # struct fanotify_response

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fanotify_init.argtypes = [ctypes.c_uint, ctypes.c_uint]
_libc.fanotify_mark.argtypes = [ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p]


@dataclass(frozen=True, slots=True)
class Opening:
    """A file that a process is about to open: a descriptor of ours for reading it, the process, and since when we have it."""

    fd: int
    pid: int
    since: float = field(default_factory=time.monotonic)


class Group:
    """A group of marks and the openings that they hold."""

    def __init__(self) -> None:
        """OSError where the kernel or the privilege for it is missing."""
        flags = _CLOEXEC | _NONBLOCK | _CLASS_CONTENT | _UNLIMITED_MARKS
        self.fd: int = _libc.fanotify_init(flags, os.O_RDONLY | os.O_CLOEXEC | os.O_NOATIME)
        if self.fd < 0:
            _raise("fanotify_init")

    def mark_mount(self, place: int) -> None:
        """Hold what is opened by way of the mount that a place is on."""
        path = f"/proc/self/fd/{place}".encode()  # a descriptor of O_PATH itself is refused
        if _libc.fanotify_mark(self.fd, _MARK_ADD | _MARK_MOUNT, _OPEN_PERM, _AT_FDCWD, path):
            _raise("fanotify_mark")

    def unmark_mounts(self) -> None:
        """Hold nothing from now on. What is held already waits for its answer."""
        if _libc.fanotify_mark(self.fd, _MARK_FLUSH | _MARK_MOUNT, 0, _AT_FDCWD, None):
            _raise("fanotify_mark")

    def ignore(self, fd: int) -> None:
        """Do not hold a file until it is modified. OSError where the kernel could only by keeping it in memory (before 5.19)."""
        if _libc.fanotify_mark(self.fd, _MARK_ADD | _MARK_IGNORED_MASK | _MARK_EVICTABLE, _OPEN_PERM, fd, None):
            _raise("fanotify_mark")

    def read(self) -> Opening | None:
        """Take one that is held, which must be answered; None where there is none.

        OSError where the kernel cannot open the file for us (a FIFO or a device, before 6.14): it has refused that opening itself.
        The kernel opens the file in here, which may wait for a lease on it (fcntl(2), F_SETLEASE): one at a time, so that none that
        was taken waits with it.
        """
        try:
            data = os.read(self.fd, _METADATA.size)
        except BlockingIOError:
            return None
        _, version, _, _, _, fd, pid = _METADATA.unpack(data)
        if version != _METADATA_VERSION:
            raise RuntimeError(f"fanotify speaks version {version} here; {_METADATA_VERSION} is known")
        return Opening(fd, pid) if fd >= 0 else None

    def allow(self, opening: Opening) -> None:
        """Let it go on; FileNotFoundError where it did before, or was killed.

        The descriptor's number names the event, so it must still be taken, if by another file.
        """
        os.write(self.fd, _RESPONSE.pack(opening.fd, _ALLOW))

    def close(self) -> None:
        """Let all go on."""
        os.close(self.fd)


def _raise(what: str) -> None:
    code = ctypes.get_errno()
    raise OSError(code, f"{what}: {os.strerror(code)}")
