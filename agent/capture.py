"""Captures: whose traffic is taken, from the first byte to a settled ledger.

The probes are in the kernel only while there is a capture. Three threads serve them: one takes events, one examines what targets
map and must not wait behind the first, and one takes probes off files that are modified and waits behind neither. A capture of a
launched process holds what that opens, in a process of its own (agent/holder.py).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent import describe, streams, window, workloads
from agent.attach import Attacher
from agent.departed import Departed
from agent.events import Counter, Source, TlsKey
from agent.examiner import Examiner
from agent.failures import Failures
from agent.holder import Holder
from agent.kernel.planner import Plan
from agent.kernel.probes import Missed, Probes, cgroup_id
from agent.leftovers import Leftovers
from agent.news import Outbox
from agent.opens import may_hold, own_mounts
from agent.unseen import Unseen, UnseenTls
from agent.uplink import Uplink
from agent.workloads import Cgroup, Workload

READ_SECONDS = 0.005
"""How often the ring is read when nothing wakes the reader: 16 MiB do not fill in this time at 2 GB/s."""

READ_BYTES = 1 << 20
"""Taken from the ring at once, so that memory stays bounded."""

ROOM_SECONDS = 0.2
"""How long to wait for the engine before looking whether something else is to be done."""

ENUMERATIONS_MAX = 16
"""How often the processes below one are listed until none is new: each time there are fewer that forked since."""

NAMES_MAX = 65_536
"""Names that are remembered, so that no other capture has one: a month's, with a capture each 40 s."""

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
    opens: Holder | None = None
    not_held: str = ""
    news: Outbox[Unseen | Departed] = field(default_factory=Outbox)
    unseen: UnseenTls = field(default_factory=UnseenTls)
    unseen_lock: threading.Lock = field(default_factory=threading.Lock)
    ledger: Ledger | None = None
    delivered: bool = False
    stopping: bool = False
    settled: threading.Event = field(default_factory=threading.Event)
    stopped: threading.Event = field(default_factory=threading.Event)


class _Session:
    """The probes' time in the kernel: from the first capture to the end of the last."""

    def __init__(
        self, probes: Probes, uplink: Uplink, attacher: Attacher, failures: Failures, opaque: Callable[[int, int], None]
    ) -> None:
        """`opaque` is called with a capture and a process of it that had a TLS connection which no probe saw."""
        self.probes = probes
        self.uplink = uplink
        self.streams = streams.Streams()
        self._leftovers = Leftovers(probes, self.streams)
        self.attacher = attacher
        self.captures = 0
        """So far: what has ended stays in the kernel's counters."""
        self.failures = failures
        self.failures_before = failures.count
        self._opaque = opaque
        self._requests: queue.SimpleQueue[Capture] = queue.SimpleQueue()
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._take_events, name="events", daemon=True),
            threading.Thread(target=self._take_mappings, name="mappings", daemon=True),
            threading.Thread(target=self._take_modifications, name="modifications", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def settle(self, capture: Capture) -> None:
        """Take what is left of a capture that is no target any more; returns when its ledger is settled."""
        self._requests.put(capture)
        capture.settled.wait()

    def close(self) -> None:
        self._stopping = True
        for thread in self._threads:
            thread.join()
        self.probes.close()
        self.attacher.close()

    def _take_mappings(self) -> None:
        while not self._stopping:
            self.probes.wait_for_mappings(0.2)
            self.attacher.mapped(itertools.takewhile(lambda _: not self._stopping, self.probes.read_mappings()))

    def _take_modifications(self) -> None:
        while not self._stopping:
            self.attacher.wait_for_modifications(0.2)
            self.attacher.modified()

    def _take_events(self) -> None:
        while not self._stopping:
            if self.uplink.wait_for_room(ROOM_SECONDS):
                self.probes.wait_for_events(READ_SECONDS)
                self._drain()
                self._clear_away()
            with contextlib.suppress(queue.Empty):
                self._end(self._requests.get_nowait())

    def _drain(self) -> None:
        """Take all that waits, unless the engine is behind: then the ring fills, and what it cannot hold is counted."""
        while not self.uplink.full and (records := self.probes.read_events(READ_BYTES)):
            self.uplink.put(self._news(records))
            self._clear_away()

    def _clear_away(self) -> None:
        for key in self._leftovers.some():
            self.uplink.put(self._settle_stream(key))

    def _news(self, records: list[bytes]) -> list[window.Item]:
        found: list[window.Item] = []
        for record in records:
            try:
                for item in self.streams.take(record):
                    if isinstance(item, streams.StreamOrphaned):
                        found += self._settle_stream(item.key)
                        found += self.streams.abandon(item.stream, time.monotonic_ns())  # where its entry is gone: its end was lost
                    else:
                        found.append(item)
                        self._look_at(item)
            except Exception as error:  # of this event: the others are taken
                self.failures.note("an event of the probes could not be taken", error)
        return found

    def _look_at(self, item: window.Item) -> None:
        if isinstance(item, streams.StreamOpened) and item.source is Source.OPAQUE:
            self._opaque(item.capture, item.process.pid)

    def _settle_stream(self, key: TlsKey | int) -> Iterator[window.Item]:
        entry = self.probes.take_tls_stream(key) if isinstance(key, TlsKey) else self.probes.take_socket(key)
        if entry is not None:
            for item in self.streams.settle(entry, time.monotonic_ns(), self.probes.epoch):
                self._look_at(item)
                yield item

    def _end(self, capture: Capture) -> None:
        """Take what was in the ring when the capture ended. Other captures may go on filling it: so much, not until it is empty."""
        deadline, left = time.monotonic() + DELIVERY_SECONDS, self.probes.ring_bytes
        while left > 0 and (records := self.probes.read_events(READ_BYTES)):
            left -= sum(map(len, records))
            self.uplink.put(self._news(records))
            self.uplink.wait_for_room(deadline - time.monotonic())
        for key, _ in list(self.probes.streams(capture.number)):
            self.uplink.put(self._settle_stream(key))
        last = list(self.streams.end(capture.number, time.monotonic_ns()))
        for item in last:
            self._look_at(item)
        self.uplink.put(last)
        ledger, gone = self._ledger(capture.number), self.uplink.missed_bytes(capture.number)
        self.streams.accounts.pop(capture.number)
        capture.ledger = replace(
            ledger,
            delivered=ledger.delivered - gone,
            lost=ledger.lost + gone,
            missed=ledger.missed + (capture.opens.not_waited if capture.opens else 0),
        )
        self.uplink.put([window.Marker(capture.number, ended=capture.ledger)])
        capture.settled.set()

    def _ledger(self, capture: int) -> Ledger:
        account = self.streams.account(capture)
        count = self.probes.counter
        missed = self.probes.missed()
        unattributed = self.probes.take_unattributed(capture)
        if self.captures > 1:  # the kernel counts most for all captures together: of one, its streams are known
            return Ledger(
                seen=account.seen + unattributed,
                delivered=account.delivered,
                lost=account.lost + unattributed,
                unattributed=unattributed,
                opaque=account.opaque,
                missed=self._missed(missed),
                unknown_starts=account.unknown_starts,
            )
        return Ledger(
            seen=count(Counter.SEEN),
            delivered=account.delivered,
            lost=sum(map(count, (Counter.LOST_RING, Counter.LOST_FAULT, Counter.LOST_UNREADABLE))) + unattributed,
            unattributed=unattributed,
            opaque=count(Counter.OPAQUE),
            missed=self._missed(missed),
            unknown_starts=account.unknown_starts,
        )

    def _missed(self, missed: Missed) -> int:
        return missed.runs + missed.calls + missed.events + missed.processes + self.failures.count - self.failures_before


class Captures:
    """All captures of an agent. Thread-safe."""

    def __init__(self, load: Callable[[], Probes], uplink: Uplink | None, examiner: Examiner, failures: Failures) -> None:
        """`load` puts the probes into the kernel; without an uplink nothing can be captured."""
        self._load = load
        self._uplink = uplink
        self._examiner = examiner
        self.failures = failures
        self._lock, self._aiming = threading.Lock(), threading.Lock()
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
            if check.required:
                check.require()
        mount = workloads.cgroup_mount()
        assert mount is not None  # one of the checks
        with self._lock:
            if name in self._names.values():
                raise ValueError(f"there is or was a capture {name!r}: choose another id")
            capture = Capture(next(self._numbers), name)
            session = self._session or self._open_session(self._uplink)
            session.captures += 1
            self._active[capture.number] = capture
            self._names[capture.number] = name
            if len(self._names) > NAMES_MAX:
                del self._names[next(number for number in self._names if number not in self._active)]
        self._uplink.put([window.Marker(capture.number)])
        try:
            for target in targets:
                self._aim(session, capture, target, mount)
            for pid in self._running(targets, mount):
                session.attacher.process(pid, capture.number)
        except BaseException:
            self.stop(capture)
            raise
        return capture

    def _open_session(self, uplink: Uplink) -> _Session:
        probes = self._load()
        try:
            attacher = Attacher(probes, self._examiner, self._notice, self.failures)
        except BaseException:
            probes.close()
            raise
        session = _Session(probes, uplink, attacher, self.failures, self._opaque)
        session.start()
        self._session = session
        return session

    def _refuse_what_is_taken(self, probes: Probes, capture: Capture, target: Target, mount: Path) -> None:
        """OSError where another capture takes a part of the target, or all of it: the kernel counts a byte for one capture."""
        if pid := target.launched_pid or target.pid:
            processes = workloads.descendants(pid)
            cgroups = {path for each in processes for path in workloads.lineage(workloads.cgroup_of(each), mount)}
        else:
            tops = _cgroups(target, mount)
            processes = list(_processes_in(tops))
            cgroups = {path for top in tops for path in workloads.lineage(str(top.relative_to(mount)), mount)}
            cgroups |= {procs.parent for top in tops for procs in top.rglob("cgroup.procs")}
        takers = set(map(probes.capture_of_process, processes))
        for path in cgroups:
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                takers.add(probes.capture_of_cgroup(cgroup_id(str(path))))
        for other in takers - {0, capture.number}:
            raise OSError(f"capture {self.name_of(other)!r} takes that, or a part of it: end it first, or use an agent for each")

    def _aim(self, session: _Session, capture: Capture, target: Target, mount: Path) -> None:
        if not target.launched_pid:
            session.attacher.system()
        with self._aiming:
            self._refuse_what_is_taken(session.probes, capture, target, mount)
            self._take(session.probes, capture, target, mount)
        if target.launched_pid and capture.cgroup:
            self._hold(session, capture, target.launched_pid)
            session.attacher.system(capture.opens.held if capture.opens else frozenset())
            capture.cgroup.adopt(target.launched_pid)

    def _take(self, probes: Probes, capture: Capture, target: Target, mount: Path) -> None:
        if target.launched_pid:
            if capture.cgroup:
                raise ValueError("a capture can have one launched process: start another capture for the other")
            capture.cgroup = Cgroup.for_launched(mount, f"{os.getpid()}-{capture.number}", target.launched_pid)
            self._aim_at(probes, capture, capture.cgroup.path)
        elif target.pid:
            if not workloads.started(target.pid):
                raise LookupError(f"there is no process {target.pid}")
            aim_at_processes(probes, capture.number, target.pid)
        else:
            for path in _cgroups(target, mount):
                self._aim_at(probes, capture, path)

    @staticmethod
    def _aim_at(probes: Probes, capture: Capture, path: Path) -> None:
        probes.target_cgroup(cgroup_id(str(path)), workloads.depth(path), capture.number)

    def _hold(self, session: _Session, capture: Capture, pid: int) -> None:
        """Hold what the process opens until it is probed, where that can be had; the capture goes on without."""
        if not may_hold(describe.effective_capabilities()):
            capture.not_held = "the agent lacks CAP_SYS_ADMIN or CAP_DAC_READ_SEARCH"
            return
        try:
            if own_mounts(pid):
                examine = functools.partial(session.attacher.opened, capture=capture.number)
                capture.opens = Holder(pid, examine, self.failures, session.attacher.unmounted)
            else:
                capture.not_held = "the process has no mount namespace of its own"
        except OSError as error:
            capture.not_held = str(error)

    @staticmethod
    def _running(targets: list[Target], mount: Path) -> Iterator[int]:
        for target in targets:
            if target.pid:
                yield from workloads.descendants(target.pid)
            elif not target.launched_pid:
                yield from _processes_in(_cgroups(target, mount))

    def _notice(self, number: int, workload: Workload, path: str, plan: Plan) -> None:
        capture = self._active.get(number)
        if capture:
            with capture.unseen_lock:
                for each in capture.unseen.mapped(Unseen(workload, path, plan)):
                    capture.news.put(each)

    def _opaque(self, number: int, pid: int) -> None:
        capture = self._active.get(number)
        if capture:
            with capture.unseen_lock:
                for each in capture.unseen.connected(pid):
                    capture.news.put(each)

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
        if capture.opens:
            capture.opens.close()
        session.probes.forget_capture(capture.number)
        session.settle(capture)
        capture.delivered = self._uplink.wait_until_idle(patience)
        if not capture.delivered and capture.ledger:  # others must not wait behind what no engine wants
            given_up = self._uplink.give_up(capture.number)
            delivered, lost = capture.ledger.delivered - given_up, capture.ledger.lost + given_up
            capture.ledger = replace(capture.ledger, delivered=delivered, lost=lost)
        with self._lock:
            if capture.cgroup and not capture.cgroup.remove():
                self._full_cgroups.append(capture.cgroup)
                threading.Thread(target=_remove_when_empty, args=(capture.cgroup,), name="cgroup", daemon=True).start()
            del self._active[capture.number]
            if last := not self._active:
                self._session = None
        if last:  # not under the lock: its threads may have a file to examine yet
            session.close()
        capture.news.end()
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


def aim_at_processes(probes: Probes, capture: int, root: int) -> None:
    """Count a process and those below it as the capture's. OSError where there is no room for so many.

    What a process forks is followed from the moment that it is counted itself; what it forked before is listed until none is new.
    """
    known: dict[int, int] = {}
    for _ in range(ENUMERATIONS_MAX):
        listed = {pid: workloads.started(pid) for pid in workloads.descendants(root)}
        new = {pid: start for pid, start in listed.items() if start and known.get(pid) != start}
        if not new:
            return
        for pid, start in new.items():
            try:
                probes.target_process(pid, capture)
            except OSError as error:
                raise OSError(f"there are more processes below {root} than can be followed: {error}") from error
            if workloads.started(pid) != start:  # it ended before it was counted, and its number is or will be another's
                probes.forget_process(pid)
        known |= new


def _cgroups(target: Target, mount: Path) -> list[Path]:
    if target.container:
        return _of_container(target.container, mount)
    if not target.cgroup.strip("/"):
        raise ValueError("a target needs a process, a container or a cgroup below the root: the root's would be the whole machine")
    path = Path(target.cgroup)
    if not path.is_relative_to(mount):
        path = mount / target.cgroup.lstrip("/")
    path = Path(os.path.normpath(path))
    if path == mount or not path.is_relative_to(mount):
        raise ValueError(f"{target.cgroup} is not below {mount}: name a cgroup that is")
    if not (path / "cgroup.procs").exists():
        raise LookupError(f"{path} is no cgroup")
    return [path]


def _processes_in(cgroups: Iterable[Path]) -> Iterator[int]:
    """Those in cgroups and below them."""
    for path in cgroups:
        for procs in path.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):  # removed meanwhile; or of threads, whose processes stand in the one above
                yield from map(int, procs.read_text().split())


def _of_container(prefix: str, mount: Path) -> list[Path]:
    if not re.fullmatch(r"[0-9a-f]{1,64}", prefix):
        raise ValueError(f"{prefix!r} is no container's id: give the hexadecimal one that the runtime shows")
    found = workloads.find_container(mount, prefix)
    if not found:
        raise LookupError(f"there is no container {prefix} here")
    if len(found) > 1:
        raise ValueError(f"{len(found)} containers have ids that begin with {prefix}: give more of it, such as {min(found)[:12]}")
    return next(iter(found.values()))


def _remove_when_empty(cgroup: Cgroup) -> None:
    """A launched process may live on: its cgroup goes when it has."""
    while not cgroup.remove():
        time.sleep(0.2)
