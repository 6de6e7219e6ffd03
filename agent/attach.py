"""Which files are probed: examines what targets map, attaches once per file, and lets held processes go on."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterable

from agent import workloads
from agent.events import Mapped, decode
from agent.kernel.planner import Plan, plan
from agent.kernel.probes import Probes
from agent.workloads import Workload

Notice = Callable[[int, Workload, str, Plan], None]
"""Called with a capture, a process of it, a path, and the plan of a TLS implementation that cannot be captured."""


def system_libraries() -> list[str]:
    """The TLS libraries that the dynamic linker knows, and the libcrypto beside them."""
    try:
        listing = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    names = (line.partition(" => ") for line in listing.splitlines())
    return sorted({path for name, _, path in names if name.strip().startswith(("libssl.so", "libcrypto.so"))})


class Attacher:
    """Probes files, each once. Runs on one thread."""

    def __init__(self, probes: Probes, notice: Notice) -> None:
        self._probes = probes
        self._notice = notice
        self._plans: dict[tuple[int, int, int], Plan] = {}
        self.probed: dict[str, Plan] = {}
        self.errors: list[str] = []

    def system(self) -> None:
        """Probe what most programs will load, before any of them starts."""
        for path in system_libraries():
            with contextlib.suppress(OSError):
                fd = os.open(path, os.O_RDONLY)
                try:
                    self._examine(fd, path)
                finally:
                    os.close(fd)

    def process(self, pid: int, capture: int) -> None:
        """Probe what a running process has mapped."""
        for mapping in workloads.executable_mappings(pid):
            with contextlib.suppress(OSError):
                fd = workloads.open_mapping(pid, mapping)
                try:
                    found = self._examine(fd, mapping.path)
                    self._report(capture, pid, mapping.path, found)
                finally:
                    os.close(fd)

    def mappings(self, read: Callable[[], Iterable[bytes]]) -> None:
        """Probe what targets have just mapped; those that are held go on when nothing of theirs is left to do."""
        held: set[int] = set()
        while records := list(read()):
            for record in records:
                event = decode(record)
                if isinstance(event, Mapped):
                    if event.held:
                        held.add(event.head.process.tgid)
                    self._mapped(event)
        for pid in held:
            workloads.resume(pid)

    def _mapped(self, event: Mapped) -> None:
        pid = event.head.process.tgid
        try:
            fd, path = _open(event)
        except OSError:
            return  # gone: what it maps next is told again
        try:
            found = self._examine(fd, path)
            self._probes.examined(event.file)
            self._report(event.head.process.capture, pid, path, found)
        finally:
            os.close(fd)

    def _examine(self, fd: int, path: str) -> Plan:
        status = os.fstat(fd)
        key = (status.st_dev, status.st_ino, status.st_size)
        if key in self._plans:
            return self._plans[key]
        found = plan(fd)
        if found.sites:
            try:
                self._probes.attach(f"/proc/self/fd/{fd}", found.sites)
                self.probed[path] = found
            except OSError as error:
                found = Plan(found.kind, reason=str(error))
                self.errors.append(f"{path}: {error}")
        self._plans[key] = found
        return found

    def _report(self, capture: int, pid: int, path: str, found: Plan) -> None:
        reason = not_capturable(path, found)
        if reason:
            self._notice(capture, workloads.look_up(pid), path, reason)


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
        fd, path = os.open(link, os.O_RDONLY), os.readlink(link)
        if os.fstat(fd).st_ino == event.file.inode:
            return fd, path
        os.close(fd)
    for mapping in workloads.executable_mappings(pid):
        if mapping.inode == event.file.inode:
            return workloads.open_mapping(pid, mapping), mapping.path
    raise FileNotFoundError(f"what process {pid} mapped is gone")
