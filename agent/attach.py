"""Which files are probed: examines what targets map or open, and attaches once per file."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from agent import files, workloads
from agent.events import Mapped, decode
from agent.examiner import Examiner
from agent.failures import Failures
from agent.kernel.planner import Plan, Site
from agent.kernel.probes import Probes
from agent.workloads import Workload

Notice = Callable[[int, Workload, str, Plan], None]
"""Called with a capture, a process of it, a path, and the plan of a TLS implementation that cannot be captured."""

FILES_MAX = 65536
"""Files whose plans are kept; as many as the probes remember. One that is forgotten is examined again."""

ATTACH_TRIES = 3
"""A file that cannot be probed is tried again when it is mapped again, so often: memory may have been short."""

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
    plan: Plan
    tries: int = 0

    @property
    def final(self) -> bool:
        return not self.tries or self.tries >= ATTACH_TRIES


class Attacher:
    """Probes files, each once. Thread-safe.

    No file of a workload is opened under the lock: its opening may be held, by another agent too, until that one has examined it.
    """

    def __init__(self, probes: Probes, examiner: Examiner, notice: Notice, failures: Failures) -> None:
        self._probes, self._examiner = probes, examiner
        self._notice, self._failures = notice, failures
        self._lock = threading.Lock()
        self._known: dict[tuple[int, int, int, int], _Known] = {}
        self._attached: dict[tuple[int, int], tuple[Site, ...]] = {}

    @property
    def probed(self) -> int:
        """How many files are probed."""
        return len(self._attached)

    def system(self) -> None:
        """Probe what most programs will load, before any of them starts."""
        for path in system_libraries():
            with contextlib.suppress(OSError):
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    self.examine(fd, path)
                finally:
                    os.close(fd)

    def process(self, pid: int, capture: int) -> None:
        """Probe what a running process has mapped."""
        for mapping in workloads.executable_mappings(pid):
            with contextlib.suppress(OSError):  # gone, or no regular file
                fd = workloads.open_mapping(pid, mapping)
                try:
                    self._report(capture, pid, mapping.path, self.examine(fd, mapping.path).plan)
                except Exception as error:  # of this file: the others are probed
                    self._failures.note(f"{mapping.path} could not be probed", error)
                finally:
                    os.close(fd)

    def opened(self, fd: int) -> bool:
        """Probe what is about to be opened; returns whether it need not be asked about again."""
        return self.examine(fd, os.readlink(f"/proc/self/fd/{fd}")).final

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
        pid = event.head.process.tgid
        try:
            fd, path = _open(event)
        except OSError:
            return  # gone, or no regular file: what it maps next is told again
        try:
            known = self.examine(fd, path)
        finally:
            os.close(fd)
        if known.final and not not_capturable(path, known.plan):  # or each process that maps it is to be known
            with contextlib.suppress(OSError):  # no room: it is told of again, and known here
                self._probes.examined(event.file)
        self._report(event.head.process.capture, pid, path, known.plan)

    def examine(self, fd: int, path: str) -> _Known:
        """What is known of an open file, which is probed now unless it is already."""
        status = os.fstat(fd)
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        with self._lock:
            known = self._known.get(key)
            if known is None or not known.final:
                tries = known.tries if known else 0
                known = self._known[key] = self._attach(self._examiner.plan(fd), fd, path, key[:2], tries)
                if len(self._known) > FILES_MAX:
                    del self._known[next(iter(self._known))]
            return known

    def _attach(self, plan: Plan, fd: int, path: str, file: tuple[int, int], tries: int) -> _Known:
        present = self._attached.get(file, ())
        new = [site for site in plan.sites if site not in present]
        if not new:
            return _Known(plan)
        try:
            if _descriptors_left() < DESCRIPTORS_KEPT:
                raise OSError(f"the agent has no descriptors left for it: {self.probed} files are probed")
            self._probes.attach(f"/proc/self/fd/{fd}", new)
        except OSError as error:
            self._failures.note(f"{path} could not be probed", error)
            return _Known(Plan(plan.kind, reason=str(error)), tries + 1)
        self._attached[file] = (*present, *new)
        return _Known(plan)

    def _report(self, capture: int, pid: int, path: str, found: Plan) -> None:
        reason = not_capturable(path, found)
        if reason:
            self._notice(capture, workloads.look_up(pid), path, reason)


def _descriptors_left() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] - len(os.listdir("/proc/self/fd"))


def not_capturable(path: str, found: Plan) -> Plan | None:
    """The plan of a TLS implementation that cannot be captured; None where it can or there is none."""
    if os.path.basename(path) == "libjvm.so":
        return Plan("Java JSSE", reason="its TLS is written in Java and makes no library call")
    return found if found.kind and found.reason else None


def _open(event: Mapped) -> tuple[int, str]:
    """Open the file of an event: by the descriptor that was mapped, else by the mapping."""
    pid = event.head.process.tgid
    link = f"/proc/{pid}/exe" if event.fd < 0 else f"/proc/{pid}/fd/{event.fd}"
    with contextlib.suppress(OSError):
        path = os.readlink(link)
        return files.open_place(files.place_of(link), event.file.inode), path
    for mapping in workloads.executable_mappings(pid):
        if mapping.inode == event.file.inode:
            return workloads.open_mapping(pid, mapping), mapping.path
    raise FileNotFoundError(f"what process {pid} mapped is gone")
