"""The probes in the kernel: loaded, attached to files, told whose traffic counts, and read.

`Probes` is the Protocol that the rest of the agent knows; `CoreProbes` is the prebuilt CO-RE object through libbpf.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.resources
import os
import platform
import re
import select
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import c_uint32, c_uint64
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Protocol

from agent.events import Counter, FileKey, Settings, StreamEntry, TlsKey
from agent.kernel import libbpf, seccomp
from agent.kernel.planner import Site

RING_BYTES = 128 << 20
"""Default size of the ring of events. A call's bytes are put there at once, when it returns, faster than anybody reads them: so
this holds one write of 64 MiB, the largest body that the engine keeps, and what else is said meanwhile. (A power of two.)"""

WAKE_BYTES = 4 << 20
"""Wake the reader when so much waits: less than fills in the 5 ms after which it looks by itself, more than is worth a wake-up."""

SMALL_EVENTS_SHARE = 8
"""One part in so many of the ring is kept for the small events, which tell how streams begin, bind and end."""

CLOSERS_MAX = 32
"""Threads that detach at the same time: more than a file has links (6 at most; by perf events one a site, some 20)."""

NO_ATTACHMENT = (1 << 32) - 1
"""No number of an attachment: they count from 0."""

LEVELS = 16
"""Depths of cgroups that the filter looks at; as in probes/streams.h."""

_RAW_TRACEPOINTS = (
    "process_fork",
    "process_exec",
    "process_exit",
    "socket_state",
    "socket_destroyed",
    "syscall_exit",
    "syscall_enter",
)

_RETURN = "tls_return"
_SESSIONS = {"tls_enter": "tls_session", "tls_new": "tls_new_session"}
"""What is attached instead where there are sessions; that of an entry has its return, too, which is _RETURN elsewhere."""


@dataclass(frozen=True, slots=True)
class Missed:
    """What could not be followed, since the probes were loaded."""

    runs: int
    calls: int
    events: int
    processes: int


class Attached(Protocol):
    """The probes of one file."""

    def close(self) -> None:
        """Take them out of it, and out of every process that has it mapped; returns when that is done. Again is no harm."""


class Probes(Protocol):
    """What the agent needs of its probes, however they came into the kernel."""

    @property
    def ring_bytes(self) -> int:
        """Size of the ring of events."""

    def attach(self, path: str, sites: Iterable[Site]) -> Attached:
        """Probe a file, until that is closed. OSError where the kernel refuses: then nothing of it is probed."""

    def target_cgroup(self, cgroup_id: int, depth: int | None, capture: int) -> None:
        """Count a cgroup and those below it as the capture's; `depth` is how far it lies below the root, None if not known."""

    def target_process(self, tgid: int, capture: int) -> None:
        """Count a process and what it forks as the capture's."""

    def capture_of_cgroup(self, cgroup_id: int) -> int:
        """The capture that a cgroup is a target of, 0 for none; of those above it nothing is said."""

    def capture_of_process(self, tgid: int) -> int:
        """The capture that a process is counted for by itself, 0 for none; of its cgroup nothing is said."""

    def forget_process(self, tgid: int) -> None:
        """Do not count a process as anybody's any more."""

    def forget_capture(self, capture: int) -> None:
        """Count nothing as the capture's any more."""

    def examined(self, key: FileKey) -> None:
        """Do not tell of mappings of this file again."""

    def forget_examined(self, key: FileKey) -> None:
        """Tell of them again."""

    def read_events(self, at_most: int) -> list[bytes]:
        """Take what waits in the ring of events."""

    def read_mappings(self) -> list[bytes]:
        """Take what waits in the ring of mappings."""

    def wait_for_events(self, seconds: float) -> None:
        """Sleep until the ring of events asks to be read, or so long."""

    def wait_for_mappings(self, seconds: float) -> None:
        """Sleep until the ring of mappings has something, or so long."""

    def counter(self, which: Counter) -> int:
        """A counter of the ledger."""

    def missed(self) -> Missed:
        """What could not be followed."""

    @property
    def epoch(self) -> int:
        """Counts from 1 how often probes were taken off a file; 0 while they are. TLS streams of another one may have holes."""

    def take_unattributed(self, capture: int) -> int:
        """Forget, and return, how many bytes of a capture were lost for which there was no room for a stream."""

    def tls_keys(self) -> Iterator[TlsKey]:
        """All TLS streams; begins anew where the one that it has come to is removed."""

    def take_tls_stream(self, key: TlsKey) -> StreamEntry | None:
        """Remove a TLS stream and return what was known of it."""

    def take_socket(self, sock: int) -> StreamEntry | None:
        """Remove a socket and return what was known of it."""

    def streams(self, capture: int) -> Iterator[tuple[TlsKey | int, StreamEntry]]:
        """All streams of a capture that are still open, by what removes them."""

    def close(self) -> None:
        """Detach and unload everything."""


def object_path(name: str = "capture") -> Path:
    """The object built for this machine. FileNotFoundError tells how to build it."""
    path = Path(str(importlib.resources.files("probes"))) / f"{name}.{platform.machine().replace('aarch64', 'arm64')}.o"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: build it with `make probes`")
    return path


def kernel_version(release: str) -> tuple[int, int]:
    """The first two numbers of a kernel's release; (0, 0) where it has none."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def multi_supported() -> bool:
    """Whether the kernel attaches many uprobes in one link (6.6), which needs CAP_BPF and CAP_PERFMON only."""
    return kernel_version(platform.release()) >= (6, 6)


def sessions_supported() -> bool:
    """Whether the kernel has programs that run at the entry of a call and then, if they want to, at its return (6.13).

    Then the calls of processes that are no targets return as if there were no probes.
    """
    return kernel_version(platform.release()) >= (6, 13)


def _as_sessions(sites: Iterable[Site]) -> list[Site]:
    """The same probes, each entry with its return as one."""
    return [
        replace(site, program=_SESSIONS.get(site.program, site.program), returns=False) for site in sites if site.program != _RETURN
    ]


def close_all(links: Sequence[libbpf.Link]) -> None:
    """Detach all; returns when that is done.

    At once and not in turn: for each, the kernel first takes the probes away and then waits (some 50 ms) until nobody runs them.
    """
    with contextlib.suppress(RuntimeError), ThreadPoolExecutor(CLOSERS_MAX, "detaching") as closers:
        list(closers.map(libbpf.Link.close, links))
    for link in links:
        link.close()  # for which there was no thread


class _Links:
    """The links of one file."""

    def __init__(self, links: Sequence[libbpf.Link], attachment: int, detach: Callable[[_Links], object]) -> None:
        self.links, self.attachment, self._detach = links, attachment, detach

    def close(self) -> None:
        """See Attached."""
        self._detach(self)


class CoreProbes:
    """Probes from the prebuilt object."""

    def __init__(
        self,
        ring_bytes: int = RING_BYTES,
        path: Path | None = None,
        multi: bool | None = None,
        *,
        sessions: bool | None = None,
        probe_filtered: bool = False,
    ) -> None:
        """Load and attach what is not bound to a file.

        `ring_bytes` is a power of two, at least a page. `multi` False attaches uprobes by perf events, the legacy way; `sessions`
        False attaches entries and returns apart.
        `probe_filtered` attaches return probes on kernels, too, on which they end processes with a seccomp filter.
        """
        self._spare_filtered = not probe_filtered and seccomp.returns_are_dangerous()
        self._object = libbpf.Object(path or object_path())
        self._multi = multi_supported() if multi is None else multi
        self._sessions = self._multi and (sessions_supported() if sessions is None else sessions)
        self._links: list[libbpf.Link] = []
        self._attached: set[_Links] = set()
        self._rings: list[libbpf.Ring] = []
        self._levels, self._epoch = 0, 1
        self._attachments, self._detaching = 0, NO_ATTACHMENT
        self._placing, self._setting = threading.Lock(), threading.Lock()
        self.ring_bytes = ring_bytes
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    def _load(self) -> None:
        self._programs = {program.name: program for program in self._object.programs()}
        for name in (_RETURN, *_SESSIONS) if self._sessions else _SESSIONS.values():
            self._programs.pop(name).leave_out()
        if self._multi:
            for program in self._programs.values():
                if "probe" in program.section:
                    program.expect_uprobe_multi(session=program.name in _SESSIONS.values())
        self._object.set_max_entries("events", self.ring_bytes)
        self._object.load()
        self._maps = {
            name: self._object.map(name)
            for name in (
                "settings",
                "counters",
                "unattributed",
                "target_cgroups",
                "target_processes",
                "known_files",
                "tls_streams",
                "sockets",
            )
        }
        self._write_settings()
        self._events, self._mappings = self._ring("events"), self._ring("mappings")
        for name in _RAW_TRACEPOINTS:
            program = self._programs[name]
            tracepoint = program.section.partition("/")[2]
            self._links.append(program.attach_raw_tracepoint(tracepoint))

    def _ring(self, name: str) -> libbpf.Ring:
        self._rings.append(self._object.ring(name))
        return self._rings[-1]

    def _write_settings(self) -> None:
        with self._setting:
            settings = Settings(
                ring_limit=self.ring_bytes - self.ring_bytes // SMALL_EVENTS_SHARE,
                wake_at=min(self.ring_bytes // 4, WAKE_BYTES),
                cgroup_levels=self._levels,
                epoch=self._epoch,
                attached=self._attachments,
                detaching=self._detaching,
            )
            self._maps["settings"].put(c_uint32(0), settings)

    def attach(self, path: str, sites: Iterable[Site]) -> Attached:
        """See Probes."""
        sites = list(sites)
        if self._spare_filtered and any(site.returns for site in sites) and (pid := seccomp.filtered_user(os.stat(path).st_ino)):
            raise PermissionError(
                errno.EPERM,
                f"process {pid} uses it under a seccomp filter, and a return probe would end that process on Linux "
                f"{platform.release()}: run 6.14 or later, or start the agent with --probe-filtered to risk it",
            )
        with self._placing:
            attached = _Links(self._links_to(path, sites, self._attachments), self._attachments, self._detach)
            self._attachments += 1
            self._write_settings()
            self._attached.add(attached)
        return attached

    def _links_to(self, path: str, sites: Iterable[Site], attachment: int) -> list[libbpf.Link]:
        links: list[libbpf.Link] = []
        try:
            placed = _as_sessions(sites) if self._sessions else sites
            for (name, returns), group in groupby(placed, key=lambda site: (site.program, site.returns)):
                program = self._programs[name]
                places = [(site.offset, site.cookie | attachment << 8) for site in group]  # see CALL_OF in probes/maps.h
                if self._multi:
                    links.append(program.attach_uprobe_multi(path, places, returns))
                else:
                    links.extend(program.attach_uprobe(path, offset, cookie, returns) for offset, cookie in places)
        except BaseException:
            close_all(links)
            raise
        return links

    def _detach(self, attached: _Links) -> None:
        """Take the probes off a file: for the streams all at one moment. These break when nobody runs a probe any more."""
        with self._placing:
            if attached in self._attached:
                self._detaching = attached.attachment
                self._write_settings()
                close_all(attached.links)
                self._epoch, self._detaching = self._epoch + 1, NO_ATTACHMENT
                self._write_settings()
                self._attached.remove(attached)

    @property
    def epoch(self) -> int:
        """See Probes."""
        return self._epoch if self._detaching == NO_ATTACHMENT else 0

    def target_cgroup(self, cgroup_id: int, depth: int | None, capture: int) -> None:
        """See Probes. The filter looks at 16 levels: no known system nests deeper."""
        if depth is not None and depth >= LEVELS:
            raise ValueError(f"the cgroup lies {depth} levels deep; {LEVELS - 1} can be captured")
        self._maps["target_cgroups"].put(c_uint64(cgroup_id), c_uint32(capture))
        self._levels |= (1 << LEVELS) - 1 if depth is None else 1 << depth
        self._write_settings()

    def target_process(self, tgid: int, capture: int) -> None:
        """See Probes."""
        self._maps["target_processes"].put(c_uint32(tgid), c_uint32(capture))

    def capture_of_cgroup(self, cgroup_id: int) -> int:
        """See Probes."""
        return self._capture_of("target_cgroups", c_uint64(cgroup_id))

    def capture_of_process(self, tgid: int) -> int:
        """See Probes."""
        return self._capture_of("target_processes", c_uint32(tgid))

    def _capture_of(self, table: str, key: c_uint64 | c_uint32) -> int:
        capture = c_uint32()
        return capture.value if self._maps[table].get(key, capture) else 0

    def forget_process(self, tgid: int) -> None:
        """See Probes."""
        self._maps["target_processes"].delete(c_uint32(tgid))

    def forget_capture(self, capture: int) -> None:
        """See Probes."""
        for name, kind in (("target_cgroups", c_uint64), ("target_processes", c_uint32)):
            table, value = self._maps[name], c_uint32()
            for key in [kind.from_buffer_copy(key) for key in table.keys(kind)]:
                if table.get(key, value) and value.value == capture:
                    table.delete(key)

    def examined(self, key: FileKey) -> None:
        """See Probes."""
        self._maps["known_files"].put(key, c_uint32(1))

    def forget_examined(self, key: FileKey) -> None:
        """See Probes."""
        self._maps["known_files"].delete(key)

    def read_events(self, at_most: int) -> list[bytes]:
        """See Probes."""
        return self._events.read(at_most)

    def read_mappings(self) -> list[bytes]:
        """See Probes."""
        return self._mappings.read()

    def wait_for_events(self, seconds: float) -> None:
        """See Probes."""
        _wait(self._events.epoll_fd, seconds)

    def wait_for_mappings(self, seconds: float) -> None:
        """See Probes."""
        _wait(self._mappings.epoll_fd, seconds)

    def counter(self, which: Counter) -> int:
        """See Probes."""
        value = c_uint64()
        self._maps["counters"].get(c_uint32(which), value)
        return value.value

    def missed(self) -> Missed:
        """See Probes."""
        return Missed(
            runs=sum(program.missed_runs() for program in self._programs.values()),
            calls=self.counter(Counter.CALLS_UNRETURNED) + self.counter(Counter.CALLS_UNTRACKED),
            events=self.counter(Counter.EVENTS_LOST),
            processes=self.counter(Counter.PROCESSES_UNTRACKED),
        )

    def take_unattributed(self, capture: int) -> int:
        """See Probes."""
        key, value = c_uint32(capture), c_uint64()
        self._maps["unattributed"].get(key, value)
        self._maps["unattributed"].delete(key)
        return value.value

    def tls_keys(self) -> Iterator[TlsKey]:
        """See Probes."""
        return (TlsKey.from_buffer_copy(key) for key in self._maps["tls_streams"].keys(TlsKey))

    def take_tls_stream(self, key: TlsKey) -> StreamEntry | None:
        """See Probes."""
        return _take(self._maps["tls_streams"], key)

    def take_socket(self, sock: int) -> StreamEntry | None:
        """See Probes."""
        return _take(self._maps["sockets"], c_uint64(sock))

    def streams(self, capture: int) -> Iterator[tuple[TlsKey | int, StreamEntry]]:
        """See Probes."""
        for key in list(self.tls_keys()):
            entry = StreamEntry()
            if self._maps["tls_streams"].get(key, entry) and entry.process.capture == capture:
                yield key, entry
        for sock in [c_uint64.from_buffer_copy(key) for key in self._maps["sockets"].keys(c_uint64)]:
            entry = StreamEntry()
            if self._maps["sockets"].get(sock, entry) and entry.process.capture == capture:
                yield sock.value, entry

    def close(self) -> None:
        """See Probes."""
        close_all([*self._links, *(link for attached in self._attached for link in attached.links)])
        for ring in self._rings:
            ring.close()
        self._object.close()


def _take(table: libbpf.Map, key: TlsKey | c_uint64) -> StreamEntry | None:
    entry = StreamEntry()
    if not table.get(key, entry):
        return None
    table.delete(key)
    return entry


def _wait(epoll_fd: int, seconds: float) -> None:
    poll = select.poll()
    poll.register(epoll_fd, select.POLLIN)
    poll.poll(seconds * 1000)


def cgroup_id(path: str) -> int:
    """The kernel's id of a cgroup: the inode of its folder (64-bit systems)."""
    return os.stat(path).st_ino
