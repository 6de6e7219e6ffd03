"""Captures: whose traffic is taken, from the first byte to a settled ledger.

The probes are in the kernel only while there is a capture. Two threads serve them: one takes events, one examines what targets map
and must not wait behind the first.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agent import describe, streams, window, workloads
from agent.attach import Attacher
from agent.departed import Departed
from agent.events import Counter, TlsKey
from agent.kernel.planner import Plan
from agent.kernel.probes import Missed, Probes, cgroup_id
from agent.uplink import Uplink
from agent.workloads import Cgroup, Workload

READ_SECONDS = 0.005
"""How often the ring is read when nothing wakes the reader: 16 MiB do not fill in this time at 2 GB/s."""

READ_BYTES = 1 << 20
"""Taken from the ring at once, so that memory stays bounded."""

DELIVERY_SECONDS = 30.0
"""How long a capture that ends waits for the engine to take what is left."""

LAST_DELIVERY_SECONDS = 2.0
"""The same when the agent itself ends: the engine may have gone with whoever started both."""


@dataclass(frozen=True, slots=True)
class Target:
    """One of: a launched process, a running one, a cgroup's path, a container's id."""

    launched_pid: int = 0
    pid: int = 0
    cgroup: str = ""
    container: str = ""


@dataclass(frozen=True, slots=True)
class Unseen:
    """A process whose TLS cannot be captured."""

    workload: Workload
    path: str
    plan: Plan


@dataclass(frozen=True, slots=True)
class Ledger:
    """A capture's account in bytes: seen = delivered + lost. `missed` counts what may have carried more."""

    seen: int = 0
    delivered: int = 0
    lost: int = 0
    unattributed: int = 0
    opaque: int = 0
    missed: int = 0
    unknown_starts: int = 0


@dataclass(slots=True)
class Capture:
    """One client's capture."""

    number: int
    name: str
    cgroup: Cgroup | None = None
    news: queue.SimpleQueue[Unseen | Departed | None] = field(default_factory=queue.SimpleQueue)
    told: set[tuple[int, str]] = field(default_factory=set)
    ledger: Ledger | None = None
    delivered: bool = False
    stopping: bool = False
    settled: threading.Event = field(default_factory=threading.Event)
    stopped: threading.Event = field(default_factory=threading.Event)


class _Session:
    """The probes' time in the kernel: from the first capture to the end of the last."""

    def __init__(self, probes: Probes, uplink: Uplink, notice: Callable[[int, Workload, str, Plan], None]) -> None:
        self.probes = probes
        self.uplink = uplink
        self.streams = streams.Streams()
        self.attacher = Attacher(probes, notice)
        self.captures = 0
        self._requests: queue.SimpleQueue[Capture] = queue.SimpleQueue()
        self._stopping = False
        self._attach_lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._take_events, name="events", daemon=True),
            threading.Thread(target=self._take_mappings, name="mappings", daemon=True),
        ]

    def start(self) -> None:
        with self._attach_lock:
            self.attacher.system()
        for thread in self._threads:
            thread.start()

    def attach_process(self, pid: int, capture: int) -> None:
        with self._attach_lock:
            self.attacher.process(pid, capture)

    def settle(self, capture: Capture) -> None:
        """Take what is left of a capture that is no target any more; returns when its ledger is settled."""
        self._requests.put(capture)
        capture.settled.wait()

    def close(self) -> None:
        self._stopping = True
        for thread in self._threads:
            thread.join()
        self.probes.close()

    def _take_mappings(self) -> None:
        while not self._stopping:
            self.probes.wait_for_mappings(0.2)
            with self._attach_lock:
                self.attacher.mappings(self.probes.read_mappings)

    def _take_events(self) -> None:
        while not self._stopping:
            self.probes.wait_for_events(READ_SECONDS)
            self._drain()
            with contextlib.suppress(queue.Empty):
                self._end(self._requests.get_nowait())

    def _drain(self) -> None:
        """Take all that waits, unless the engine is behind: then the ring fills, and what it cannot hold is counted."""
        while not self.uplink.full and (records := self.probes.read_events(READ_BYTES)):
            self.uplink.put(self._news(records))

    def _news(self, records: list[bytes]) -> list[window.Item]:
        found: list[window.Item] = []
        for record in records:
            for item in self.streams.take(record):
                if isinstance(item, streams.StreamOrphaned):
                    found += self._settle_stream(item.key)
                    found += self.streams.abandon(item.stream, time.monotonic_ns())  # where its entry is gone: its end was lost
                else:
                    found.append(item)
        return found

    def _settle_stream(self, key: TlsKey | int) -> Iterator[window.Item]:
        entry = self.probes.take_tls_stream(key) if isinstance(key, TlsKey) else self.probes.take_socket(key)
        if entry is not None:
            yield from self.streams.settle(entry, time.monotonic_ns())

    def _end(self, capture: Capture) -> None:
        deadline = time.monotonic() + DELIVERY_SECONDS
        while records := self.probes.read_events(READ_BYTES):
            self.uplink.put(self._news(records))
            while self.uplink.full and time.monotonic() < deadline:
                time.sleep(READ_SECONDS)
        for key, _ in list(self.probes.streams(capture.number)):
            self.uplink.put(self._settle_stream(key))
        self.uplink.put(self.streams.end(capture.number, time.monotonic_ns()))
        capture.ledger = self._ledger(capture.number)
        self.uplink.put([window.Marker(capture.number, ended=capture.ledger)])
        capture.settled.set()

    def _ledger(self, capture: int) -> Ledger:
        account = self.streams.account(capture)
        count = self.probes.counter
        missed = self.probes.missed()
        if self.captures > 1:  # the kernel counts for all captures together: of one, only its streams are known
            return Ledger(
                seen=account.seen,
                delivered=account.delivered,
                lost=account.lost,
                opaque=account.opaque,
                missed=_missed(missed),
                unknown_starts=account.unknown_starts,
            )
        unattributed = count(Counter.UNATTRIBUTED)
        return Ledger(
            seen=count(Counter.SEEN),
            delivered=account.delivered,
            lost=sum(map(count, (Counter.LOST_RING, Counter.LOST_FAULT, Counter.LOST_UNREADABLE))) + unattributed,
            unattributed=unattributed,
            opaque=count(Counter.OPAQUE),
            missed=_missed(missed),
            unknown_starts=account.unknown_starts,
        )


def _missed(missed: Missed) -> int:
    return missed.runs + missed.calls + missed.holds


class Captures:
    """All captures of an agent. Thread-safe."""

    def __init__(self, load: Callable[[], Probes], uplink: Uplink | None) -> None:
        """`load` puts the probes into the kernel; without an uplink nothing can be captured."""
        self._load = load
        self._uplink = uplink
        self._lock = threading.Lock()
        self._session: _Session | None = None
        self._active: dict[int, Capture] = {}
        self._names: dict[int, str] = {}
        self._numbers = itertools.count(1)
        self._full_cgroups: list[Cgroup] = []

    def name_of(self, number: int) -> str:
        """The name a client gave to a capture."""
        return self._names.get(number, "")

    @property
    def session(self) -> _Session | None:
        """The probes' present time in the kernel, if any: for metrics."""
        return self._session

    def active(self) -> int:
        """How many captures are on."""
        return len(self._active)

    def start(self, name: str, targets: list[Target]) -> Capture:
        """Start a capture. OSError, ValueError or LookupError tell what is wrong, and leave nothing behind."""
        if self._uplink is None:
            raise ValueError("this agent has no engine to send to: start it with --engine ADDRESS")
        for check in describe.checks():
            if check.required and not check.ok:
                raise OSError(f"{check.name}: {check.detail}: {check.remedy}")
        mount = workloads.cgroup_mount()
        assert mount is not None  # one of the checks
        with self._lock:
            if name in self._names.values():
                raise ValueError(f"there is or was a capture {name!r}: choose another id")
            capture = Capture(next(self._numbers), name)
            session = self._session or self._open_session(self._uplink)
            session.captures += 1
            self._names[capture.number] = name
            self._active[capture.number] = capture
        self._uplink.put([window.Marker(capture.number)])
        try:
            for target in targets:
                self._aim(session.probes, capture, target, mount)
            for pid in self._running(targets, mount):
                session.attach_process(pid, capture.number)
        except BaseException:
            self.stop(capture)
            raise
        return capture

    def _open_session(self, uplink: Uplink) -> _Session:
        session = _Session(self._load(), uplink, self._notice)
        session.start()
        self._session = session
        return session

    def _aim(self, probes: Probes, capture: Capture, target: Target, mount: Path) -> None:
        if target.launched_pid:
            capture.cgroup = Cgroup.for_launched(mount, f"{os.getpid()}-{capture.number}", target.launched_pid)
            self._aim_at(probes, capture, capture.cgroup.path, hold=True)
            capture.cgroup.adopt(target.launched_pid)
        elif target.pid:
            if not workloads.started(target.pid):
                raise LookupError(f"there is no process {target.pid}")
            for pid in workloads.descendants(target.pid):
                probes.target_process(pid, capture.number)
        else:
            for path in _cgroups(target, mount):
                self._aim_at(probes, capture, path, hold=False)

    @staticmethod
    def _aim_at(probes: Probes, capture: Capture, path: Path, *, hold: bool) -> None:
        probes.target_cgroup(cgroup_id(str(path)), workloads.depth(path), capture.number, hold=hold)

    @staticmethod
    def _running(targets: list[Target], mount: Path) -> Iterator[int]:
        for target in targets:
            if target.pid:
                yield from workloads.descendants(target.pid)
            elif not target.launched_pid:
                for path in _cgroups(target, mount):
                    for procs in path.rglob("cgroup.procs"):
                        yield from map(int, procs.read_text().split())

    def _notice(self, number: int, workload: Workload, path: str, plan: Plan) -> None:
        capture = self._active.get(number)
        if capture and (workload.pid, path) not in capture.told:
            capture.told.add((workload.pid, path))
            capture.news.put(Unseen(workload, path, plan))

    def find(self, name: str) -> Capture | None:
        """An active capture by its name."""
        return next((capture for capture in self._active.values() if capture.name == name), None)

    def stop(self, capture: Capture, patience: float = DELIVERY_SECONDS) -> Capture:
        """End a capture: settle its ledger, and hand everything to the engine within `patience` seconds. Again is no harm."""
        with self._lock:
            first, capture.stopping = not capture.stopping, True
            session = self._session
        if not first or session is None or self._uplink is None:
            capture.stopped.wait(patience)
            return capture
        session.probes.forget_capture(capture.number)
        session.settle(capture)
        capture.delivered = self._uplink.wait_until_idle(patience)
        with self._lock:
            if capture.cgroup and not capture.cgroup.remove():
                self._full_cgroups.append(capture.cgroup)
                threading.Thread(target=_remove_when_empty, args=(capture.cgroup,), name="cgroup", daemon=True).start()
            del self._active[capture.number]
            if not self._active:
                self._session = None
                session.close()
        capture.news.put(None)
        capture.stopped.set()
        return capture

    def stop_all(self) -> None:
        """End every capture, soon: the engine may be gone."""
        if self._uplink:
            self._uplink.hurry(LAST_DELIVERY_SECONDS)
        for capture in list(self._active.values()):
            self.stop(capture)

    def wait_for_cgroups(self) -> None:
        """Wait until what was launched has ended and its cgroups are removed: nobody else would do it."""
        for cgroup in self._full_cgroups:
            _remove_when_empty(cgroup)


def _cgroups(target: Target, mount: Path) -> list[Path]:
    if target.container:
        found = workloads.find_container(mount, target.container)
        if not found:
            raise LookupError(f"there is no container {target.container} here")
        return found
    path = Path(target.cgroup)
    if not path.is_relative_to(mount):
        path = mount / target.cgroup.lstrip("/")
    if not (path / "cgroup.procs").exists():
        raise LookupError(f"{path} is no cgroup")
    return [path]


def _remove_when_empty(cgroup: Cgroup) -> None:
    """A launched process may live on: its cgroup goes when it has."""
    while not cgroup.remove():
        time.sleep(0.2)
