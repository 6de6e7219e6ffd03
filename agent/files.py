"""Opens files that workloads control: regular ones only, only those that are meant, and so that they can be unmounted.

What stands at a path or a descriptor of a workload may be a FIFO, which blocks whoever opens it, a device, whose opening has
effects, or a link into somewhere else. So it is opened as a mere place (O_PATH) first, looked at, and then opened for reading as
what was looked at.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import threading
from collections.abc import Iterator

_SYS_OPENAT2 = 437  # the same on all machines
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10
_SYS_OPEN_TREE = 428
_OPEN_TREE_CLONE, _AT_EMPTY_PATH = 0x1, 0x1000
_CLONE_FS, _CLONE_NEWNS = 0x200, 0x20000

UNMOUNTED_LATE = frozenset(
    (
        0x01021994,  # tmpfs
        0x858458F6,  # ramfs
        0x794C7630,  # overlay
        0x73717368,  # squashfs
        0xE0F5E1E2,  # erofs
        0x9660,  # iso9660
    )
)
"""File systems (statfs(2)) that may go on after their last mount is gone, for that writes nothing to a disk. Of others, whoever
unmounts an image and then reads it would read what is half written: there unmounting is to fail."""


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


def open_place(place: int, inode: int | None = None, device: int | None = None, pid: int = 0) -> int:
    """Open the regular file at a place for reading, and close the place. FileNotFoundError where it is another file than is meant;
    without an inode, any is.

    A device is compared where both sides know it: btrfs and overlayfs show another one in stat(2) than in /proc/PID/maps. With a
    process, it is opened by way of no mount of its, see unbound().
    """
    try:
        status = os.fstat(place)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"what is there is no regular file (mode {stat.filemode(status.st_mode)})")
        if inode not in (None, status.st_ino) or not _same_device(status.st_dev, device):
            raise FileNotFoundError("another file has taken its place")
        with unbound(place, pid) as found:
            # O_NONBLOCK: a lease that somebody has on the file is an error, not a wait.
            return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    finally:
        os.close(place)


def _same_device(found: int, wanted: int | None) -> bool:
    return wanted is None or found == wanted or 0 in (os.major(found), os.major(wanted))


@contextlib.contextmanager
def unbound(fd: int, pid: int) -> Iterator[int]:
    """A descriptor of a file that the process has open or mapped, by way of no mount of its: what is done with it keeps none busy.

    It is a mere place. Where it cannot be had, or the file system is none of UNMOUNTED_LATE, it is `fd` itself.
    """
    try:
        found = _clone_from(fd, pid) if pid and _type(fd) in UNMOUNTED_LATE else fd
    except OSError:  # the process is gone or elsewhere, the kernel too old or without the privilege
        found = fd
    try:
        yield found
    finally:
        if found != fd:
            os.close(found)


def _type(fd: int) -> int:
    status = ctypes.create_string_buffer(256)  # struct statfs, 120 bytes
    _check(_libc.fstatfs(ctypes.c_int(fd), status))
    return int.from_bytes(status.raw[:8], "little")


def _clone_from(fd: int, pid: int) -> int:
    """The file on a mount that is nowhere. Only from within a mount namespace can its mounts be cloned: so on a thread."""
    found: list[int | OSError] = []

    def clone() -> None:
        try:
            found.append(_clone(fd, pid))
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=clone, name="cloning")
    thread.start()
    thread.join()
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]


def _clone(fd: int, pid: int) -> int:
    """On a thread that ends then: it stays in the namespace."""
    namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.unshare(_CLONE_FS))  # or the root and folder of all threads would change
        _check(_libc.setns(ctypes.c_int(namespace), _CLONE_NEWNS))
    finally:
        os.close(namespace)
    flags = ctypes.c_uint(_OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_EMPTY_PATH)
    return _check(_libc.syscall(ctypes.c_long(_SYS_OPEN_TREE), ctypes.c_int(fd), b"", flags))


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
