"""Captures over probes that are in no kernel: threads, accounts, and which processes are targets."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from understudy.v1 import capture_pb2

from agent import capture, describe, window, workloads
from agent.attach import Attacher
from agent.capture import Capture, Captures, Target, _Session
from agent.events import Kind, Mapped, Opened, Source
from agent.examiner import Examiner
from agent.failures import Failures
from agent.kernel.probes import Missed
from agent.streams import Process, StreamChunk, StreamOpened
from agent.uplink import Uplink
from tests.agent.probing import FakeProbes

ID = "0123456789abcdef" * 4


class Pieces:
    """A session and what it stands on."""

    def __init__(self) -> None:
        self.probes, self.failures, self.opaque = FakeProbes(), Failures(), list[tuple[int, int]]()
        self.uplink = Uplink("unix:/nowhere", "agent", lambda _: capture_pb2.CaptureEvent(), self.failures)
        attacher = Attacher(self.probes, Examiner(), lambda *_: None, self.failures)
        self.session = _Session(self.probes, self.uplink, attacher, self.failures, lambda *told: self.opaque.append(told))
        attacher.system = lambda *_: None  # type: ignore[method-assign]


def opened(stream: int, source: Source, capture_number: int = 1, pid: int = 5) -> bytes:
    event = Opened(source=source)
    event.head.kind, event.head.stream = Kind.OPENED, stream
    event.head.process.capture, event.head.process.tgid = capture_number, pid
    return bytes(event)


@pytest.mark.timeout(60)
def test_while_the_engine_is_behind_the_ring_is_left_alone_and_the_end_comes_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader waits for the engine, and not for a ring that is always readable: that would be a loop without a pause."""
    monkeypatch.setattr(capture, "DELIVERY_SECONDS", 1e6)
    pieces, ending = Pieces(), Capture(1, "ending")
    pieces.uplink.put([StreamChunk(1, 0, 0, 0, bytes(window.UNSENT_BYTES))])
    pieces.probes.events = [opened(2, Source.SOCKET)]
    with closing(pieces.session) as session:
        session.start()
        pieces.uplink.hurry(0)  # the agent itself ends: nobody waits for an engine that is gone
        session.settle(ending)
        assert pieces.probes.waits == 0
    assert ending.ledger is not None


@pytest.mark.timeout(60)
def test_a_capture_ends_though_others_go_on_filling_the_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces, ending = Pieces(), Capture(1, "ending")
    endless = [opened(7, Source.SOCKET)] * 1000
    monkeypatch.setattr(FakeProbes, "read_events", lambda *_: list(endless) if ending.ledger is None else [])
    pieces.session._end(ending)
    assert ending.ledger is not None


def test_an_event_that_cannot_be_taken_is_counted_and_the_others_are_taken() -> None:
    pieces = Pieces()
    pieces.uplink.put(pieces.session._news([b"\xff" * 64, opened(3, Source.TLS)]))
    assert pieces.failures.count == 1
    assert len(pieces.session.streams) == 1
    assert pieces.session._ledger(1).missed == 1


@pytest.mark.parametrize("captures", [1, 2])
def test_whatever_the_probes_missed_is_in_the_ledger(captures: int) -> None:
    """Small events too: one may have told of a library, which is not probed then."""
    pieces = Pieces()
    pieces.session.captures = captures
    pieces.probes.missed_so_far = Missed(runs=1, calls=10, events=100, processes=1000)
    assert pieces.session._ledger(1).missed == 1111


def test_what_found_no_room_is_in_the_ledger_of_its_own_capture_only() -> None:
    pieces = Pieces()
    pieces.session.captures = 2
    pieces.probes.unattributed = {1: 100, 3: 7}
    pieces.session.streams.account(1).seen = pieces.session.streams.account(1).delivered = 50
    found = pieces.session._ledger(1)
    assert (found.seen, found.delivered, found.lost, found.unattributed) == (150, 50, 100, 100)
    found = pieces.session._ledger(2)
    assert (found.seen, found.lost, found.unattributed) == (0, 0, 0)
    assert pieces.probes.unattributed == {3: 7}


def test_aiming_takes_the_process_and_all_below_it() -> None:
    probes = FakeProbes()
    with subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60 & echo; wait"], stdout=subprocess.PIPE, process_group=0) as process:
        assert process.stdout
        process.stdout.readline()
        capture.aim_at_processes(probes, 4, process.pid)
        assert probes.processes == dict.fromkeys(workloads.descendants(process.pid), 4)
        assert len(probes.processes) == 3
        os.killpg(process.pid, 9)


def test_what_is_forked_while_processes_are_listed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    probes = FakeProbes()
    lists = iter([[10], [10, 11], [10, 11, 12], [10, 11, 12]])
    monkeypatch.setattr(workloads, "descendants", lambda _: next(lists))
    monkeypatch.setattr(workloads, "started", lambda _: 1)
    capture.aim_at_processes(probes, 4, 10)
    assert probes.processes == {10: 4, 11: 4, 12: 4}


def test_a_number_that_became_another_process_is_no_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ends between being listed and being counted: its number may be anybody's by then."""
    probes = FakeProbes()
    starts = {10: iter([1] * 9), 11: iter([1, 2, 0]), 12: iter([1, 0, 0])}
    lists = iter([[10, 11, 12], [10]])
    monkeypatch.setattr(workloads, "descendants", lambda _: next(lists))
    monkeypatch.setattr(workloads, "started", lambda pid: next(starts[pid]))
    capture.aim_at_processes(probes, 4, 10)
    assert probes.processes == {10: 4}


def test_a_tree_that_never_stops_forking_is_listed_so_often_only(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = 0

    def more(_: int) -> list[int]:
        nonlocal listed
        listed += 1
        return list(range(listed))

    monkeypatch.setattr(workloads, "descendants", more)
    monkeypatch.setattr(workloads, "started", lambda _: 1)
    capture.aim_at_processes(FakeProbes(), 4, 10)
    assert listed == capture.ENUMERATIONS_MAX


def test_more_processes_than_there_is_room_for_are_an_error() -> None:
    probes = FakeProbes()
    probes.process_room = 0
    with pytest.raises(OSError, match="full"):
        capture.aim_at_processes(probes, 4, os.getpid())


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    """Stands for the mount of the cgroups: some containers, and a cgroup beside them."""
    for path in (
        ".",
        "own",
        "pod",
        f"pod/cri-containerd-{ID}.scope",
        f"pod/cri-containerd-{ID[:40]}{'0' * 24}.scope",
        f"docker-{'ab' * 32}.scope",
    ):
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
        (tmp_path / path / "cgroup.procs").touch()
    return tmp_path


@pytest.mark.parametrize("cgroup", ["", "/", "//", "/.", "own/..", "../..", "."])
def test_the_whole_machine_is_no_target(mount: Path, cgroup: str) -> None:
    with pytest.raises(ValueError, match="below"):
        capture._cgroups(Target(cgroup=cgroup), mount)


def test_a_cgroup_by_its_name_or_path(mount: Path) -> None:
    for name in ("own", "/own", f"{mount}/own", "pod/../own"):
        assert capture._cgroups(Target(cgroup=name), mount) == [mount / "own"]


def test_a_container_by_as_much_of_its_id_as_only_it_has(mount: Path) -> None:
    assert capture._cgroups(Target(container="ab"), mount) == [mount / f"docker-{'ab' * 32}.scope"]
    assert len(capture._cgroups(Target(container=ID), mount)) == 1
    with pytest.raises(ValueError, match="2 containers have ids that begin with 0123456789ab"):
        capture._cgroups(Target(container=ID[:12]), mount)
    with pytest.raises(LookupError):
        capture._cgroups(Target(container="f" * 12), mount)
    with pytest.raises(ValueError, match="hexadecimal"):
        capture._cgroups(Target(container="my-container"), mount)


@pytest.fixture
def captures(mount: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Captures, FakeProbes]]:
    """Captures where this process is in the cgroup own/below, all others in the root, and nobody waits for an engine."""
    (mount / "own" / "below" / "more").mkdir(parents=True)
    for name, processes in (("own/below", f"{os.getpid()}\n"), ("own/below/more", "")):
        (mount / name / "cgroup.procs").write_text(processes)
    monkeypatch.setattr(workloads, "cgroup_mount", lambda: mount)
    monkeypatch.setattr(workloads, "cgroup_of", lambda pid: "/own/below" if pid == os.getpid() else "/")
    monkeypatch.setattr(describe, "checks", lambda: iter(()))
    monkeypatch.setattr(Attacher, "process", lambda *_: None)
    pieces = Pieces()
    pieces.uplink.hurry(0)
    made = Captures(lambda: pieces.probes, pieces.uplink, Examiner(), pieces.failures)
    made._session = pieces.session
    pieces.session.start()
    yield made, pieces.probes
    for each in list(made._active.values()):
        made.stop(each, patience=0)


OWN, BELOW, MORE = (Target(cgroup=name) for name in ("own", "own/below", "own/below/more"))
PROCESS = Target(pid=os.getpid())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (OWN, OWN),
        (OWN, MORE),
        (MORE, OWN),
        (PROCESS, PROCESS),
        (OWN, PROCESS),
        (BELOW, PROCESS),
        (PROCESS, OWN),
        (PROCESS, BELOW),
        (BELOW, Target(launched_pid=os.getpid())),
        (PROCESS, Target(launched_pid=os.getpid())),
    ],
)
def test_what_one_capture_takes_no_other_takes(captures: tuple[Captures, FakeProbes], first: Target, second: Target) -> None:
    """It would take it away from the first, and both accounts would be right."""
    made, probes = captures
    made.start("apart", [Target(cgroup="pod")])
    taking = made.start("first", [first])
    before = dict(probes.cgroups), dict(probes.processes)
    with pytest.raises(OSError, match="capture 'first' takes"):
        made.start("second", [second])
    assert (probes.cgroups, probes.processes) == before
    assert made.active() == 2
    made.stop(taking, patience=0)
    if not second.launched_pid:
        made.start("third", [second])


@pytest.mark.parametrize(("first", "second"), [(PROCESS, MORE), (MORE, PROCESS)])
def test_captures_that_share_nothing_go_side_by_side(captures: tuple[Captures, FakeProbes], first: Target, second: Target) -> None:
    made, probes = captures
    made.start("first", [first])
    made.start("second", [second])
    assert {*probes.cgroups.values(), *probes.processes.values()} == {1, 2}


def test_targets_of_one_capture_may_overlap(captures: tuple[Captures, FakeProbes]) -> None:
    made, probes = captures
    made.start("first", [OWN, MORE, PROCESS, OWN])
    assert {*probes.cgroups.values(), *probes.processes.values()} == {1}


def test_of_captures_that_have_ended_no_more_than_so_many_names_are_kept(
    captures: tuple[Captures, FakeProbes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no accounts, while another capture goes on for months."""
    monkeypatch.setattr(capture, "NAMES_MAX", 3)
    made, _ = captures
    made.start("goes on", [PROCESS])
    for name in ("first", "second", "third"):
        made.stop(made.start(name, [MORE]), patience=0)
    assert made.session
    assert not made.session.streams.accounts
    for taken in ("goes on", "second", "third"):
        with pytest.raises(ValueError, match="choose another"):
            made.start(taken, [MORE])
    made.start("first", [MORE])


def test_tls_that_no_probe_saw_is_told_with_its_process() -> None:
    pieces = Pieces()
    for source in (Source.TLS, Source.SOCKET, Source.OPAQUE):
        pieces.session._look_at(StreamOpened(3, 0, 1, Process(5, 0, 0), "curl", source, start_known=True))
    assert pieces.opaque == [(1, 5)]


def test_what_no_engine_took_of_a_capture_is_lost_and_holds_up_no_other() -> None:
    pieces, ending = Pieces(), Capture(1, "ending")
    captures = Captures(lambda: pieces.probes, pieces.uplink, Examiner(), pieces.failures)
    captures._session, captures._active = pieces.session, {1: ending}
    pieces.session.captures = 1
    pieces.uplink.put([StreamOpened(4, 1, 1, Process(5, 1, 1), "curl", Source.TLS, True), StreamChunk(4, 2, 0, 0, b"never taken")])
    pieces.session.start()
    captures.stop(ending, patience=0)
    assert not ending.delivered
    assert ending.ledger
    assert ending.ledger.lost == len(b"never taken")
    assert pieces.uplink.wait_until_idle(0)


def test_what_an_engine_lost_and_could_not_be_sent_again_is_lost() -> None:
    pieces, ending = Pieces(), Capture(1, "ending")
    pieces.uplink._window = kept = window.Window(kept_bytes=0)
    kept.put([StreamOpened(4, 1, 1, Process(5, 1, 1), "curl", Source.TLS, True), StreamChunk(4, 2, 0, 0, b"taken, not kept")])
    kept.batch()
    kept.received(1)
    kept.reconnected()
    with closing(pieces.session) as session:
        session.start()
        session.settle(ending)
    assert ending.ledger
    assert (ending.ledger.lost, ending.ledger.delivered) == (15, -15)  # moved from one to the other: these probes saw nothing


def test_the_end_waits_for_no_more_than_the_file_that_is_being_examined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may take seconds, and the ring holds some 700."""
    pieces, examined = Pieces(), list[object]()

    def examine(_: Attacher, event: object) -> None:
        examined.append(event)
        pieces.session._stopping = True

    event = Mapped()
    event.head.kind = Kind.MAPPED
    monkeypatch.setattr(FakeProbes, "read_mappings", lambda _: [bytes(event)] * 40)
    monkeypatch.setattr(Attacher, "_mapped", examine)
    pieces.session._take_mappings()
    assert len(examined) == 1


def test_other_captures_can_be_started_while_the_last_one_ends(
    captures: tuple[Captures, FakeProbes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its threads may have a file to examine yet."""
    made, _ = captures
    close, locked = _Session.close, list[bool]()

    def look(session: _Session) -> None:
        locked.append(made._lock.locked())
        close(session)

    monkeypatch.setattr(_Session, "close", look)
    made.stop(made.start("only", [OWN]), patience=0)
    assert locked == [False]


def test_what_the_system_has_is_probed_before_a_running_process_is_recorded(
    captures: tuple[Captures, FakeProbes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing holds what that opens."""
    made, probes = captures
    targets = list[dict[int, int]]()
    monkeypatch.setattr(made.session and made.session.attacher, "system", lambda *_: targets.append(dict(probes.processes)))
    made.start("running", [PROCESS])
    assert targets == [{}]
    assert probes.processes


@pytest.mark.parametrize("held", [frozenset({7, 8}), None])
def test_where_openings_are_held_what_lies_there_is_not_probed_before(
    captures: tuple[Captures, FakeProbes], monkeypatch: pytest.MonkeyPatch, held: frozenset[int] | None
) -> None:
    made, _ = captures
    done = list[object]()

    class Launched:
        path = Path("own")

        def adopt(self, pid: int) -> None:
            done.append(pid)

        def remove(self) -> bool:
            return True

    class Holding:
        not_waited = 0

        def __init__(self, *_: object) -> None:
            if held is None:
                raise OSError("nothing can be held")
            self.held = held

        def close(self) -> None:
            pass

    monkeypatch.setattr(workloads.Cgroup, "for_launched", lambda *_: Launched())
    monkeypatch.setattr(Captures, "_aim_at", lambda *_: None)
    monkeypatch.setattr(capture, "own_mounts", lambda _: True)
    monkeypatch.setattr(capture, "may_hold", lambda _: True)
    monkeypatch.setattr(capture, "Holder", Holding)
    monkeypatch.setattr(made.session and made.session.attacher, "system", done.append)
    made.start("launched", [Target(launched_pid=os.getpid())])
    assert done == [held or frozenset(), os.getpid()]
