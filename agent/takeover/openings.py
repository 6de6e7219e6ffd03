"""Covers bundles that only show while programs run: in the packages of an interpreter that some script starts, in a changed root.

The opening of a file waits until it was looked at (fanotify(7)), so a package's bundle is covered when the first of its modules
is opened, before its own turn comes. What is itself a bundle and was not known is told of: this once it is read as it is.

Runs in the process of agent/takeover/cover.py, which has one thread: it must not open by way of the mounts that it watches, for
that would wait for itself. So it looks from a mount namespace of its own, and enters the workload's only to attach mounts. With
the standard library alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from agent.kernel.fanotify import FILE_SYSTEMS, MOUNTS_MAX, Group, Opening
from agent.takeover import bundles
from agent.takeover.bundles import File
from agent.takeover.certificates import is_bundle, joined
from agent.takeover.copies import write_once

ROOTS_MAX = 1000
"""Folders of packages that are searched."""

TOLD_MAX = 100
"""Bundles that are told of."""

SECONDS_MAX = 5
"""For one opening: then this process ends, and the kernel lets all of them go on, but for one whose event could not be taken, as
somebody has a lease on the file: that one it refuses (fanotify_read, fs/notify/fanotify/fanotify_user.c)."""

_PACKAGES = ("/site-packages/", "/dist-packages/", "/node_modules/", "/vendor/bundle/")
_ENDINGS = (".pem", ".crt", ".cer")

_CLONE_NEWNS = 0x20000
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
"""On every machine architecture."""
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH, _AT_EMPTY_PATH, _AT_FDCWD = 4, 0x40, 0x1000, -100
_MOUNT_ATTR_RDONLY = 1

_libc = ctypes.CDLL(None, use_errno=True)


class Openings:
    """What is opened in a workload's mount namespace. Made in there; `rights` gives the person's rights."""

    def __init__(self, ca: bytes, known: set[str], roots: set[str], rights: Callable[[], AbstractContextManager[None]]) -> None:
        """Hold from now on. OSError where the kernel cannot. `known`: what is covered; `roots`: what was searched."""
        self._ca, self._known, self._roots, self._rights = ca, known, roots, rights
        self._told: set[str] = set()
        self._group = Group()
        for path in _mounts():
            with contextlib.suppress(OSError):  # unmounted, or hidden below another
                fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
                try:
                    self._group.mark_mount(fd)
                finally:
                    os.close(fd)
        self._theirs = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def watch(self, own: int, place: str) -> None:
        """Until standard input ends. `own`: the own mount namespace, in which this process is from now on, with room at `place`."""
        _enter(own)
        self._own, self._place = own, place
        self._room = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        poll = select.poll()
        poll.register(self._group.fd, select.POLLIN)
        poll.register(0, select.POLLIN)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        while 0 not in {fd for fd, _ in poll.poll()}:
            signal.alarm(SECONDS_MAX)  # reading opens the file, which waits for whoever has a lease on it (fcntl(2))
            with contextlib.suppress(OSError):  # one that cannot be opened for us: the kernel has refused it
                self._take(self._group.read())
            signal.alarm(0)

    def _take(self, opening: Opening | None) -> None:
        if opening is None:
            return
        try:
            with contextlib.suppress(OSError):  # gone meanwhile
                self._look(opening.fd, opening.pid)
                self._group.ignore(opening.fd)
        finally:
            with contextlib.suppress(FileNotFoundError):  # killed while it waited
                self._group.allow(opening)

    def _look(self, fd: int, pid: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        new = [*self._new_packages(path), *self._new_root(pid)]
        if new:
            self._cover(new)
        if path not in self._known and (path.endswith(_ENDINGS) or os.path.basename(path) in bundles.NAMES):
            self._look_at_bundle(path, fd, pid)

    def _new_packages(self, path: str) -> Iterator[Path]:
        """The bundles of packages that are met for the first time."""
        for folder in _PACKAGES:
            before, found, _ = path.partition(folder)
            if found and self._is_new(root := before + folder.rstrip("/")):
                with self._rights():
                    yield from bundles.below([Path(root)])

    def _new_root(self, pid: int) -> Iterator[Path]:
        """The bundles of a system in a folder, into which a process has changed its root."""
        with contextlib.suppress(OSError):
            root = os.readlink(f"/proc/{pid}/root")
            if root != "/" and self._is_new(root):
                yield from (Path(root + path) for path in bundles.SYSTEM_FILES)

    def _is_new(self, root: str) -> bool:
        if root in self._roots or len(self._roots) >= ROOTS_MAX:
            return False
        self._roots.add(root)
        return True

    def _look_at_bundle(self, path: str, fd: int, pid: int) -> None:
        """One that nobody knew: the next time it is covered, if it is called as such files are; else somebody may name it."""
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or not is_bundle(os.pread(fd, bundles.BUNDLE_MAX, 0)):
            return
        if os.path.basename(path) in bundles.NAMES:
            self._cover([Path(path)])
        if path not in self._told and len(self._told) < TOLD_MAX:
            self._told.add(path)
            print(json.dumps({"path": path, "pid": pid}), flush=True)

    def _cover(self, paths: list[Path]) -> None:
        """Lay copies over those that are bundles. They are read here; the copies go onto the same files there."""
        with contextlib.ExitStack() as stack:
            mounts = []
            with self._rights():
                found = {path: bundles.open_bundle(path) for path in bundles.existing(paths) if str(path) not in self._known}
            for path, opened in found.items():
                if opened and opened.bundle:
                    stack.callback(os.close, opened.fd)
                    mounts.append((path, opened.bundle, self._copy(joined(opened.bundle.data, self._ca))))
                    stack.callback(os.close, mounts[-1][2])
            if mounts:
                _enter(self._theirs)
                stack.callback(_enter, self._own)
            for path, bundle, mount in mounts:
                with contextlib.suppress(OSError):  # gone meanwhile, or another file
                    self._attach(path, bundle, mount)

    def _attach(self, path: Path, bundle: File, mount: int) -> None:
        with self._rights():
            target = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)  # this is no opening that is waited for
        try:
            status = os.fstat(target)
            if (status.st_dev, status.st_ino) == bundle.identity:
                flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
                if _libc.syscall(_MOVE_MOUNT, mount, b"", target, b"", flags) == 0:
                    self._known.add(str(path))
        finally:
            os.close(target)

    def _copy(self, content: bytes) -> int:
        """A mount of a file with this content, which is nowhere yet."""
        path = f"{self._place}/{write_once(self._room, content)}"
        mount = _libc.syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(path), _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC)
        if mount < 0:
            raise OSError(ctypes.get_errno(), "open_tree")
        attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, 0, 0)  # struct mount_attr
        _libc.syscall(_MOUNT_SETATTR, mount, b"", _AT_EMPTY_PATH, attributes, ctypes.c_size_t(ctypes.sizeof(attributes)))
        return int(mount)


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "setns")


def _mounts() -> list[str]:
    """Where file systems are mounted whose files can be opened at once (proc(5), mountinfo)."""
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        left, _, right = line.partition(b" - ")
        fields = left.split(b" ")
        if right.split(b" ", 1)[0].decode(errors="replace") in FILE_SYSTEMS and b"idmapped" not in fields[5]:
            found.append(os.fsdecode(fields[4].decode("unicode_escape").encode("latin-1")))
    return found[:MOUNTS_MAX]
