"""Which files are probed: examines what targets map or open, and attaches once per file.

Probes go by inode and stay where they are when a file is written to: in the middle of other instructions, then. So a file's probes
are taken off as soon as it is modified, and whenever it is looked at and has other instructions where they are; then it is examined
anew. What is said meanwhile is not seen, and breaks streams (probes/tls.c): so a file that was only linked or touched keeps them.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, field, replace

from agent import files, workloads
from agent.allowance import Allowances
from agent.events import FileKey, Mapped, decode
from agent.examiner import Examiner
from agent.failures import Failures
from agent.kernel.inotify import LOST, Watches
from agent.kernel.planner import UNKNOWN, Plan, Site
from agent.kernel.probes import Attached, Probes
from agent.workloads import Mapping, Workload

Notice = Callable[[int, Workload, str, Plan], None]
"""Called with a capture, a process of it, a path, and the plan of a TLS implementation that cannot be captured."""

File = tuple[int, int]
"""A file: its device and inode."""

Content = tuple[int, int, int]
"""What differs when a file's content does: size in bytes, times of the last change of the content and of anything in ns."""

FILES_MAX = 65536
"""Files whose plans are kept; as many as the probes remember. One that is forgotten is examined again."""

ATTACH_TRIES = 3
"""A file that cannot be probed is tried again when it is mapped again, so often: memory may have been short."""

MOUNTERS = frozenset(
    ("bwrap", "crun", "firejail", "flatpak", "ip", "nsenter", "podman", "runc", "snap-confine", "systemd-nspawn", "unshare")
)
"""Programs that run others in mount namespaces of their own, where no opening is held. Others that do are not known before."""

_TOO_MANY = Plan(UNKNOWN, reason="it was not examined: too many slow files came before it")

INSTRUCTION_MAX = 15
"""Bytes of the longest instruction (x86). A probe has a copy of the one in whose place it is."""

DESCRIPTORS_KEPT = 512
"""What is left of the agent's descriptors when no more files are probed. Each takes seven, and with none left the kernel would
refuse what is held, and nobody could ask the agent for anything."""


def system_libraries() -> list[str]:
    """The TLS libraries that the dynamic linker knows, and the libcrypto beside them."""
    try:
        listing = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    names = (line.partition(" => ") for line in os.fsdecode(listing).splitlines())
    return sorted({path for name, _, path in names if name.strip().startswith(("libssl.so", "libcrypto.so"))})


@dataclass(frozen=True, slots=True)
class _Known:
    content: Content
    plan: Plan
    tries: int = 0

    @property
    def final(self) -> bool:
        return not self.tries or self.tries >= ATTACH_TRIES


@dataclass(frozen=True, slots=True)
class _Probed:
    size: int
    sites: tuple[Site, ...]
    instructions: bytes  # at the sites, without the probes
    attached: Attached
    watch: int
    keys: set[bytes] = field(default_factory=set)  # the FileKeys of which the kernel does not tell any more


class Attacher:
    """Probes files, each once. Thread-safe.

    No file of a workload is opened under a lock: its opening may be held, by another agent too, until that one has examined it.
    """

    def __init__(self, probes: Probes, examiner: Examiner, notice: Notice, failures: Failures) -> None:
        """OSError where files cannot be watched."""
        self._probes, self._examiner = probes, examiner
        self._notice, self._failures = notice, failures
        self._examining = threading.Lock()  # one file at a time
        self._allowances = Allowances()
        self._lock = threading.Lock()  # of what follows: probes are taken off without waiting for an examination
        self._known: dict[File, _Known] = {}
        self._probed: dict[File, _Probed] = {}
        self._watches = Watches()

    def close(self) -> None:
        """Watch nothing any more."""
        self._watches.close()

    @property
    def probed(self) -> int:
        """How many files are probed."""
        return len(self._probed)

    def system(self, held: Set[int] = frozenset()) -> None:
        """Probe what most programs will load, before any of them starts.

        What lies on devices where openings are held is probed when it is opened: a program that runs a copy of probed code, though
        nobody records it, ends by that. (btrfs and the like show another device here: what is there is probed now.)
        """
        for path in system_libraries():
            with contextlib.suppress(OSError):
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if os.fstat(fd).st_dev not in held:
                        self.examine(fd, path, os.getpid())
                finally:
                    os.close(fd)

    def process(self, pid: int, capture: int) -> None:
        """Probe what a running process has mapped."""
        for mapping in workloads.executable_mappings(pid):
            with contextlib.suppress(OSError):  # gone, or no regular file
                fd = workloads.open_mapping(pid, mapping)
                try:
                    self._report(capture, pid, mapping.path, self.examine(fd, mapping.path, pid, capture).plan)
                except Exception as error:  # of this file: the others are probed
                    self._failures.note(f"{mapping.path} could not be probed", error)
                finally:
                    os.close(fd)

    def opened(self, fd: int, pid: int, capture: int = 0) -> bool:
        """Probe what a process is about to open; returns whether it need not be asked about again."""
        path = os.readlink(f"/proc/self/fd/{fd}")
        if os.path.basename(path) in MOUNTERS:
            self.system()
        return self.examine(fd, path, pid, capture).final

    def mapped(self, records: Iterable[bytes]) -> None:
        """Probe what targets have mapped."""
        for record in records:
            try:
                event = decode(record)
                if isinstance(event, Mapped):
                    self._mapped(event)
            except Exception as error:  # of this file: the others are probed
                self._failures.note("what a process mapped could not be probed", error)

    def _mapped(self, event: Mapped) -> None:
        pid, capture, known = event.head.process.tgid, event.head.process.capture, None
        with contextlib.suppress(OSError):  # without opening it, which would keep a mount busy: what was held is known
            path, status = _status(event)
            file, content = _identity(status)
            known = self._look(file, content)
        if known is None:
            try:
                fd, path = _open(event)
            except OSError:
                return  # gone, or no regular file: what it maps next is told again
            try:
                file, known = _identity(os.fstat(fd))[0], self.examine(fd, path, pid, capture)
            finally:
                os.close(fd)
        if known.final and not not_capturable(path, known.plan):  # or each process that maps it is to be known
            with contextlib.suppress(OSError):  # no room: it is told of again, and known here
                self._examined(event.file, file, known)
        self._report(capture, pid, path, known.plan)

    def _examined(self, key: FileKey, file: File, known: _Known) -> None:
        """Do not be told of a file again, unless it was modified meanwhile."""
        with self._lock:
            if self._known.get(file) is known:
                self._probes.examined(key)
                if file in self._probed:
                    self._probed[file].keys.add(bytes(key))

    def examine(self, fd: int, path: str, pid: int, capture: int = 0) -> _Known:
        """What is known of a file that a process of a capture has open or mapped. It is probed now unless it is already."""
        with self._examining:
            file, content = _identity(os.fstat(fd))
            known = self._look(file, content) or self._look_at_probed(fd, file, content)
            if known:
                return known
            known = self._known.get(file)
            tries = known.tries if known and known.content == content else 0
            if not self._allowances.left(capture, pid):
                return _Known(content, _TOO_MANY, tries=1)  # not kept: the next time it may be examined
            since = time.monotonic()
            plan = self._examiner.plan(fd)
            self._allowances.spend(capture, pid, time.monotonic() - since)
            known = _Known(content, plan)
            with self._lock:
                if plan.sites and file not in self._probed:
                    try:
                        self._probed[file] = self._probe(plan, fd, pid, content)
                    except OSError as error:
                        self._failures.note(f"{path} could not be probed", error)
                        known = _Known(content, Plan(plan.kind, reason=str(error)), tries + 1)
                self._known[file] = known
                if len(self._known) > FILES_MAX:
                    del self._known[next(iter(self._known))]
            return known

    def _look(self, file: File, content: Content) -> _Known | None:
        """What is known of a file for good."""
        with self._lock:
            known = self._known.get(file)
            return known if known and known.content == content and known.final else None

    def _look_at_probed(self, fd: int, file: File, content: Content) -> _Known | None:
        """What is known of a probed file whose times alone have changed. One that has changed itself is not probed any more.

        What was written to it by a mapping, its watch does not tell.
        """
        probed = self._probed.get(file)
        same = probed and probed.size == content[0] and _instructions(fd, probed.sites) == probed.instructions
        with self._lock:
            self._take_off_modified()
            if probed is None or self._probed.get(file) is not probed:
                return None
            if not same:
                self._detach(file)
                return None
            known = self._known.get(file)
            if known:
                known = self._known[file] = replace(known, content=content)
            return known

    def _probe(self, plan: Plan, fd: int, pid: int, content: Content) -> _Probed:
        if _descriptors_left() < DESCRIPTORS_KEPT:
            raise OSError(f"the agent has no descriptors left for it: {self.probed} files are probed")
        watch = self._watches.add(fd)
        try:
            if _identity(os.fstat(fd))[1] != content:
                raise OSError("it is being written to")
            instructions = _instructions(fd, plan.sites)
            with files.unbound(fd, pid) as found:  # what is attached has the path, and keeps its mount busy
                attached = self._probes.attach(f"/proc/self/fd/{found}", plan.sites)
            return _Probed(content[0], plan.sites, instructions, attached, watch)
        except BaseException:
            self._watches.remove(watch)
            raise

    def wait_for_modifications(self, seconds: float) -> None:
        """Sleep until something probed was modified, or so long."""
        self._watches.wait(seconds)

    def modified(self) -> None:
        """Take the probes off what was modified."""
        with self._lock:
            self._take_off_modified()

    def _take_off_modified(self) -> None:
        watches = self._watches.modified()
        for file in [file for file, probed in self._probed.items() if watches & {probed.watch, LOST}] if watches else ():
            self._detach(file)

    def unmounted(self, devices: Set[int]) -> None:
        """Take the probes off what is on file systems that are mounted no more: these end with the last that refers to them."""
        with self._lock:
            for file in [file for file in self._probed if file[0] in devices]:
                self._detach(file)

    def _detach(self, file: File) -> None:
        probed = self._probed.pop(file)
        probed.attached.close()
        self._known.pop(file, None)
        self._watches.remove(probed.watch)
        for key in probed.keys:
            self._probes.forget_examined(FileKey.from_buffer_copy(key))

    def _report(self, capture: int, pid: int, path: str, found: Plan) -> None:
        reason = not_capturable(path, found)
        if reason:
            self._notice(capture, workloads.look_up(pid), path, reason)


def _identity(status: os.stat_result) -> tuple[File, Content]:
    return (status.st_dev, status.st_ino), (status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _instructions(fd: int, sites: Iterable[Site]) -> bytes:
    return b"".join(os.pread(fd, INSTRUCTION_MAX, site.offset) for site in sites)


def _descriptors_left() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] - len(os.listdir("/proc/self/fd"))


def not_capturable(path: str, found: Plan) -> Plan | None:
    """The plan of a TLS implementation that cannot be captured; None where it can or there is none."""
    if os.path.basename(path) == "libjvm.so":
        return Plan("Java JSSE", reason="its TLS is written in Java and makes no library call")
    return found if found.kind and found.reason else None


def _link(event: Mapped) -> str:
    """By what descriptor it was mapped, in /proc."""
    pid = event.head.process.tgid
    return f"/proc/{pid}/exe" if event.fd < 0 else f"/proc/{pid}/fd/{event.fd}"


def _status(event: Mapped) -> tuple[str, os.stat_result]:
    """The path and the state of the file of an event, by the descriptor that was mapped, else by the mapping."""
    with contextlib.suppress(OSError):
        path, status = os.readlink(_link(event)), os.stat(_link(event))
        if status.st_ino == event.file.inode:
            return path, status
    mapping = _mapping(event)
    return mapping.path, workloads.stat_mapping(event.head.process.tgid, mapping)


def _open(event: Mapped) -> tuple[int, str]:
    """Open the file of an event for reading, likewise."""
    pid = event.head.process.tgid
    with contextlib.suppress(OSError):
        path = os.readlink(_link(event))
        return files.open_place(files.place_of(_link(event)), event.file.inode, pid=pid), path
    mapping = _mapping(event)
    return workloads.open_mapping(pid, mapping), mapping.path


def _mapping(event: Mapped) -> Mapping:
    pid = event.head.process.tgid
    for mapping in workloads.executable_mappings(pid):
        if mapping.inode == event.file.inode:
            return mapping
    raise FileNotFoundError(f"what process {pid} mapped is gone")
