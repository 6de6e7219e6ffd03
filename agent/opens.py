"""Holds what a launched process opens until it is probed, in the mount namespace that was made for it.

A library is opened before it is mapped, and a program before it is executed, so what is probed while its opening waits is probed
before its first instruction runs. Nobody but the opening thread notices (a stop signal would be told to its parent), and when the
agent dies the kernel lets it go on. In a process of its own (agent/holding.py): every file that is opened waits for it.

Held are openings by way of the mounts that the namespace has when its process is launched. What is mounted later, or lies on a file
system that is not named below, is probed after it was mapped, as under --pid; streams whose beginning was missed say so.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent import files
from agent.failures import Failures
from agent.kernel.fanotify import FILE_SYSTEMS, MOUNTS_MAX, Group, Opening
from agent.kernel.planner import executable_elf

WAITING_MAX = 128
"""Openings that wait for their file to be examined. Past it they go on at once: it bounds descriptors, and how long one waits."""

HELD_SECONDS = 15.0
"""After so long an opening goes on, probed or not: longer than one file may be examined, shorter than a queue of such files."""

SETTLED_SECONDS = 10.0
"""A file that was changed within so many seconds may still be written by way of a mapping, which is no modification to fanotify."""

STALL_SECONDS = 0.2
"""After so long another thread reads on in the place of one that waits for a lease on a file (45 s by default)."""

READERS_MAX = 64
"""Threads that read, with those that wait. Past it nothing more is held; what is held already waits until one of them returns."""

LEAVE_SECONDS = 1.0
"""How long the end waits for threads that read; one that waits for a lease returns by itself later."""

_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH, _CAP_SYS_ADMIN = 1, 2, 21


@dataclass(frozen=True, slots=True)
class _Mount:
    number: int
    device: int
    path: bytes
    file_system: str
    options: str


class Opens:
    """What processes of one mount namespace open. One thread answers what needs no look, one has files probed."""

    def __init__(
        self,
        pid: int,
        examine: Callable[[int, int], bool],
        failures: Failures,
        unmounted: Callable[[frozenset[int]], object] = lambda _: None,
        ours: frozenset[int] = frozenset((os.getpid(),)),
    ) -> None:
        """Hold from now on. OSError tells why nothing can be held.

        `examine` probes a file that a process, by its number, opens, and returns whether it need not be looked at again.
        `unmounted` is called with the devices of file systems that are mounted no more, neither there nor here.
        What the processes of `ours` open is never held: it is probed by them.
        """
        self._examine, self._failures, self._unmounted, self._ours = examine, failures, unmounted, ours
        self._table = os.open(f"/proc/{pid}/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._group = Group()
        except BaseException:
            os.close(self._table)
            raise
        self._waiting: queue.Queue[Opening | None] = queue.Queue(WAITING_MAX)
        self._ended, self._end = os.pipe2(os.O_CLOEXEC)
        self._closing = self._gave_up = False
        self._lock = threading.Lock()
        self._readers: list[threading.Thread] = []
        self._held: dict[int, Opening] = {}  # by descriptor, oldest first: what waits for a file to be probed
        self.not_waited = 0
        try:
            self._devices = _devices(self._table)
            self.held = self._mark(pid)
            """Devices of the file systems on which no file is opened unheld, by way of the mounts of now."""
        except BaseException:
            self._release()
            raise
        self._reading_since = 0.0
        self._add_reader()
        self._probing = threading.Thread(target=self._probe, name="held", daemon=True)
        self._watching = threading.Thread(target=self._watch, name="stalls", daemon=True)
        self._probing.start()
        self._watching.start()

    def close(self) -> None:
        """Hold nothing any more."""
        self._closing = True
        self._group.unmark_mounts()
        os.write(self._end, b"\0")
        self._watching.join()  # from here on there are no further readers
        until = time.monotonic() + LEAVE_SECONDS
        for thread in self._readers:
            thread.join(max(0, until - time.monotonic()))
        self._waiting.put(None)
        self._probing.join()
        if any(thread.is_alive() for thread in self._readers):
            self._add_reader()  # for what else is held
            threading.Thread(target=self._release, name="last openings", daemon=True).start()
        else:
            self._release()

    def _release(self) -> None:
        for thread in self._readers:
            thread.join()
        self._group.close()
        os.close(self._table)
        os.close(self._ended)
        os.close(self._end)

    def _mark(self, pid: int) -> frozenset[int]:
        marked, why = 0, "they are on none of the file systems where that is safe"
        held, unheld = set[int](), set[int]()
        for mount in mounts(pid):
            if mount.file_system not in FILE_SYSTEMS or "idmapped" in mount.options.split(",") or marked == MOUNTS_MAX:
                unheld.add(mount.device)
                continue
            try:
                place = files.place_in(f"/proc/{pid}/root", mount.path)
                try:
                    if _mount_of(place) == mount.number:  # or it is hidden below another
                        self._group.mark_mount(place)
                        marked += 1
                        held.add(mount.device)
                finally:
                    os.close(place)
            except OSError as error:  # unmounted since, or refused
                unheld.add(mount.device)
                why = str(error)
        if not marked:
            raise OSError(f"its mounts cannot be watched: {why}")
        return frozenset(held - unheld)

    def _answer(self) -> None:
        """Let go on what is no executable; hand over what is. It opens nothing itself: that could wait for this very thread."""
        poll = select.poll()
        poll.register(self._group.fd, select.POLLIN)
        poll.register(self._ended, select.POLLIN)
        this = threading.current_thread()
        while self._readers[-1] is this and self._group.fd in (fd for fd, _ in poll.poll()):  # at the end: until none is left
            self._reading_since = time.monotonic()
            try:
                opening = self._group.read()
            except OSError as error:  # of this file: the others go on
                self._failures.note("a file that is being opened could not be looked at", error)
                continue
            finally:
                if self._readers[-1] is this:
                    self._reading_since = 0.0
            if opening:
                self._hand_over(opening)

    def _watch(self) -> None:
        """See that no opening waits for too long, for the thread that reads or for its file to be probed; and what is unmounted."""
        poll = select.poll()
        poll.register(self._ended, select.POLLIN)
        poll.register(self._table, select.POLLPRI)
        while self._ended not in (ready := [fd for fd, _ in poll.poll(STALL_SECONDS * 1000)]):
            since = self._reading_since
            if since and time.monotonic() - since > STALL_SECONDS:
                self._replace_reader()
            self._let_go_of_old()
            if ready:
                self._see_unmounted()

    def _see_unmounted(self) -> None:
        before, self._devices = self._devices, _devices(self._table)
        gone = before - self._devices
        if gone and (gone := gone - {mount.device for mount in mounts(os.getpid())}):  # what is mounted here others may use
            self._unmounted(gone)

    def _add_reader(self) -> None:
        self._readers.append(threading.Thread(target=self._answer, name="opens", daemon=True))
        self._readers[-1].start()

    def _replace_reader(self) -> None:
        """Put another reader in the place of one that waits; that one ends when it has answered."""
        self._readers = [thread for thread in self._readers if thread.is_alive()]
        if len(self._readers) < READERS_MAX:
            self._reading_since = 0.0
            self._add_reader()
        elif not self._gave_up:
            self._gave_up = True
            self._group.unmark_mounts()
            error = TimeoutError(f"{READERS_MAX} files wait for leases on them")
            self._failures.note("what the process opens is no longer held until it is probed", error)

    def _let_go_of_old(self) -> None:
        with self._lock:
            for opening in list(self._held.values()):
                if time.monotonic() - opening.since <= HELD_SECONDS:
                    break
                del self._held[opening.fd]
                self.not_waited += 1
                self._allow(opening)

    def _hand_over(self, opening: Opening) -> None:
        if self._closing or opening.pid in self._ours or not _is_executable(opening.fd):
            self._go_on(opening, forget=opening.pid not in self._ours)
            return
        with self._lock:
            self._held[opening.fd] = opening
        try:
            self._waiting.put_nowait(opening)
        except queue.Full:
            with self._lock:
                self.not_waited += 1
            self._go_on(opening, forget=False)

    def _probe(self) -> None:
        while (opening := self._waiting.get()) is not None:
            known = False
            try:
                known = not self._closing and self._examine(opening.fd, opening.pid)
            except Exception as error:  # of this file: the others go on
                self._failures.note("a file that is being opened could not be probed", error)
            self._go_on(opening, forget=known)

    def _go_on(self, opening: Opening, *, forget: bool) -> None:
        if forget and time.time() - os.fstat(opening.fd).st_mtime > SETTLED_SECONDS:
            with contextlib.suppress(OSError):
                self._group.ignore(opening.fd)
        os.dup2(self._ended, opening.fd, inheritable=False)  # who goes on may unmount at once what it was on
        self._allow(opening)
        with self._lock:  # its number may name another opening from here on
            self._held.pop(opening.fd, None)
            os.close(opening.fd)

    def _allow(self, opening: Opening) -> None:
        with contextlib.suppress(FileNotFoundError):  # killed while it waited, or let go before
            self._group.allow(opening)


def own_mounts(pid: int) -> bool:
    """Whether a process has another mount namespace than the agent."""
    return os.stat(f"/proc/{pid}/ns/mnt").st_ino != os.stat("/proc/self/ns/mnt").st_ino


def may_hold(capabilities: int) -> bool:
    """Whether a process with these can hold openings, and open whatever others open: what it cannot open would be refused."""
    reads = capabilities >> _CAP_DAC_OVERRIDE & 1 or capabilities >> _CAP_DAC_READ_SEARCH & 1
    return bool(capabilities >> _CAP_SYS_ADMIN & 1 and reads)


def mounts(pid: int) -> Iterator[_Mount]:
    """The mounts that a process sees."""
    return _parsed(Path(f"/proc/{pid}/mountinfo").read_bytes())


def _devices(table: int) -> frozenset[int]:
    """Of the file systems in an open table of mounts."""
    os.lseek(table, 0, os.SEEK_SET)
    with open(table, "rb", closefd=False) as file:
        return frozenset(mount.device for mount in _parsed(file.read()))


def _parsed(table: bytes) -> Iterator[_Mount]:
    """See proc(5) on mountinfo."""
    for line in filter(None, table.split(b"\n")):
        left, _, right = line.partition(b" - ")
        fields = left.split(b" ")
        path = fields[4].decode("unicode_escape").encode("latin-1")  # blanks are \040
        device, kind = os.makedev(*map(int, fields[2].split(b":"))), right.split(b" ", 1)[0]
        yield _Mount(int(fields[0]), device, path, kind.decode(errors="replace"), fields[5].decode(errors="replace"))


def _mount_of(place: int) -> int:
    for line in Path(f"/proc/self/fdinfo/{place}").read_text().splitlines():
        if line.startswith("mnt_id:"):
            return int(line.split()[1])
    return -1


def _is_executable(fd: int) -> bool:
    try:
        return executable_elf(os.pread(fd, 20, 0))
    except OSError:
        return False
