"""Opens files that workloads control: regular ones only, and only those that are meant.

What stands at a path or a descriptor of a workload may be a FIFO, which blocks whoever opens it, a device, whose opening has
effects, or a link into somewhere else. So it is opened as a mere place (O_PATH) first, looked at, and then opened for reading as
what was looked at.
"""

from __future__ import annotations

import ctypes
import os
import stat

_SYS_OPENAT2 = 437  # the same on all machines
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10
_AT_FDCWD = -100


class _How(ctypes.Structure):
    """struct open_how (include/uapi/linux/openat2.h)."""

    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def place_of(link: str) -> int:
    """The place that a link of /proc leads to, as an O_PATH descriptor."""
    return os.open(link, os.O_PATH | os.O_CLOEXEC)


def place_in(root: str, path: bytes) -> int:
    """A place below another root, in which links are resolved as for a process that has that root (Linux 5.6)."""
    top = os.open(root, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        how = _How(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
        number, size = ctypes.c_long(_SYS_OPENAT2), ctypes.c_size_t(ctypes.sizeof(how))
        fd = _libc.syscall(number, ctypes.c_int(top), ctypes.c_char_p(path), ctypes.byref(how), size)
    finally:
        os.close(top)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), os.fsdecode(path))
    return int(fd)


def open_place(place: int, inode: int, device: int | None = None) -> int:
    """Open the regular file at a place for reading, and close the place. FileNotFoundError where it is another file.

    A device is compared where both sides know it: btrfs and overlayfs show another one in stat(2) than in /proc/PID/maps.
    """
    try:
        status = os.fstat(place)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"what is mapped is no regular file (mode {stat.filemode(status.st_mode)})")
        if status.st_ino != inode or not _same_device(status.st_dev, device):
            raise FileNotFoundError("another file has taken its place")
        # O_NONBLOCK: a lease that somebody has on the file is an error, not a wait.
        return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    finally:
        os.close(place)


def _same_device(found: int, wanted: int | None) -> bool:
    return wanted is None or found == wanted or 0 in (os.major(found), os.major(wanted))
