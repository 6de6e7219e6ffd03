"""The engine's services over gRPC, as a program meets them."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry, generate_latest
from understudy.v1 import capture_pb2 as pb
from understudy.v1 import capture_pb2_grpc, control_pb2, control_pb2_grpc

from engine.__main__ import build
from engine.cli.reports import merged, report_of
from engine.control.messages import run_parts
from engine.metrics import EngineCollector
from engine.redaction import Redactor
from engine.responder.server import Responder
from engine.rrpair import RRPair
from engine.snapshot import Snapshot, uncheck
from engine.store.sqlite import SqliteStore
from tests.e2e.machine import eventually
from tests.engine.making import Exchange, Headers, write_own_service, write_snapshot

JSON: Headers = (("Content-Type", "application/json"),)
ASKED = b"GET /a?b=c HTTP/1.1\r\nHost: api.example\r\n\r\n"
ANSWERED = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Engine:
    """An engine on a unix socket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server, self.recordings = build(f"unix:{folder}/e.sock", folder, folder / "state")
        self.server.start()
        # No bigger window than the default is offered, however fast the connection: what is sent ahead has one bound.
        self.channel = grpc.insecure_channel(f"unix:{folder}/e.sock", [("grpc.http2.bdp_probe", 0)])
        self.control = control_pb2_grpc.ControlServiceStub(self.channel)

    def create(self, name: str = "a.snapshot", capture_id: str = "c1") -> control_pb2.Snapshot:
        request = control_pb2.CreateSnapshotRequest(name=name, service="shop", capture_id=capture_id)
        return self.control.CreateSnapshot(request).snapshot

    def upload(self, *batches: list[pb.CaptureEvent]) -> list[pb.UploadResponse]:
        requests = (pb.UploadRequest(agent_id="agent", sequence=n, events=batch) for n, batch in enumerate(batches, 1))
        return list(capture_pb2_grpc.CaptureServiceStub(self.channel).Upload(requests))


def conversation(stream: int = 1, capture_id: str = "c1") -> list[pb.CaptureEvent]:
    def event(**content: Any) -> pb.CaptureEvent:
        return pb.CaptureEvent(stream_id=stream, time_unix_nano=1_000, **content)

    return [
        pb.CaptureEvent(capture_started=pb.CaptureStarted(capture_id=capture_id, node="n")),
        event(opened=pb.StreamOpened(capture_id=capture_id, source=pb.SOURCE_TLS, start_known=True)),
        event(bound=pb.StreamBound(role=pb.ROLE_CLIENT, remote=pb.Endpoint(address="192.0.2.1", port=443))),
        event(chunk=pb.Chunk(direction=pb.DIRECTION_WRITE, offset=0, data=ASKED)),
        event(chunk=pb.Chunk(direction=pb.DIRECTION_READ, offset=0, data=ANSWERED)),
    ]


def refusal(call: Callable[[Any], object], request: object) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call(request)
    code: grpc.StatusCode = caught.value.code()
    return code


def test_a_snapshot_from_beginning_to_end(engine: Engine) -> None:
    assert engine.create().state == control_pb2.SNAPSHOT_STATE_RECORDING
    ended = pb.CaptureEvent(capture_ended=pb.CaptureEnded(capture_id="c1", ledger=pb.Ledger(seen=7, delivered=7)))
    closed = pb.CaptureEvent(stream_id=1, closed=pb.StreamClosed())
    first, second = engine.upload(conversation(), [closed, ended])
    assert first.received_sequence == 1
    assert [(p.stream_id, p.write_offset, p.read_offset, p.finished) for p in first.committed] == [
        (1, len(ASKED), len(ANSWERED), False)
    ]
    assert [p.finished for p in second.committed] == [True]
    request = control_pb2.GetSnapshotRequest(name="a.snapshot")
    recording = engine.control.GetSnapshot(request).snapshot
    assert (recording.pairs, recording.complete_pairs, recording.capture_ended) == (1, 1, True)
    assert recording.received_bytes == len(ASKED) + len(ANSWERED)
    engine.control.FinishSnapshot(control_pb2.FinishSnapshotRequest(name="a.snapshot"))
    ready = engine.control.GetSnapshot(request).snapshot
    assert (ready.state, ready.pairs, ready.ledger.seen) == (control_pb2.SNAPSHOT_STATE_READY, 1, 7)
    (answer,) = engine.control.ListPairs(control_pb2.ListPairsRequest(name="a.snapshot"))
    pair = answer.pair
    assert (pair.direction, pair.host, pair.port, pair.method, pair.path) == ("OUT", "api.example", 443, "GET", "/a")
    assert [(each.name, each.value) for each in pair.query] == [(b"b", b"c")]
    assert (pair.status, pair.response.body, pair.complete) == (200, b"ok", True)


@pytest.mark.parametrize("cut", [False, True])
def test_an_answer_that_was_read_on_unseen_is_not_one_that_its_client_turned_away_from(engine: Engine, cut: bool) -> None:
    engine.create()
    *begun, answer = conversation()
    answer.chunk.data = ANSWERED[:-1]
    engine.upload([*begun, answer, pb.CaptureEvent(stream_id=1, closed=pb.StreamClosed(cut=cut))])
    finish(engine)
    with Snapshot(engine.folder / "a.snapshot") as snapshot:
        (pair,) = snapshot.pairs()
    assert (pair.complete, pair.unread) == (False, not cut)


def test_what_is_sent_again_is_taken_once(engine: Engine) -> None:
    engine.create()
    engine.upload(conversation())
    engine.upload(conversation())
    engine.control.FinishSnapshot(control_pb2.FinishSnapshotRequest(name="a.snapshot"))
    assert len(list(engine.control.ListPairs(control_pb2.ListPairsRequest(name="a.snapshot")))) == 1


def test_what_comes_after_the_end_of_its_recording_is_given_up(engine: Engine) -> None:
    engine.create()
    finish(engine)
    (answer,) = engine.upload(conversation(stream=9))
    assert [(p.stream_id, p.finished) for p in answer.committed] == [(9, True)]


def test_what_comes_before_its_recording_is_not_acknowledged(engine: Engine) -> None:
    """An agent finds the engine that was started in the place of another sooner than its recordings are begun again."""
    engine.create("b.snapshot", "c2")
    with pytest.raises(grpc.RpcError, match="'c1' is not recorded here") as caught:
        engine.upload([*conversation(1, "c2"), *conversation(2)])
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    engine.create()
    (answer,) = engine.upload([*conversation(1, "c2"), *conversation(2)])
    assert {(p.stream_id, p.read_offset, p.finished) for p in answer.committed} == {(n, len(ANSWERED), False) for n in (1, 2)}
    assert finish(engine).snapshot.pairs == finish(engine, "b.snapshot").snapshot.pairs == 1


def test_an_engine_that_ends_acknowledges_nothing_that_another_may_record(engine: Engine) -> None:
    engine.create()
    engine.recordings.abandon()
    with pytest.raises(grpc.RpcError) as caught:
        engine.upload(conversation())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_batch_that_did_not_arrive_is_asked_for(engine: Engine) -> None:
    engine.create()
    requests = (pb.UploadRequest(agent_id="agent", sequence=sequence) for sequence in (4, 5, 7))
    answers = capture_pb2_grpc.CaptureServiceStub(engine.channel).Upload(requests)
    assert [next(answers).received_sequence, next(answers).received_sequence] == [4, 5]
    with pytest.raises(grpc.RpcError, match="batch 7 came after batch 5") as caught:
        next(answers)
    assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE


def test_pages_of_snapshots(engine: Engine) -> None:
    for n in range(3):
        engine.create(f"{n}.snapshot", f"c{n}")
    engine.control.FinishSnapshot(control_pb2.FinishSnapshotRequest(name="1.snapshot"))
    (engine.folder / "other.snapshot").write_bytes(b"not ours")
    first = engine.control.ListSnapshots(control_pb2.ListSnapshotsRequest(page_size=2))
    assert [snapshot.name for snapshot in first.snapshots] == ["0.snapshot", "1.snapshot"]
    rest = engine.control.ListSnapshots(control_pb2.ListSnapshotsRequest(page_size=2, page_token=first.next_page_token))
    assert [snapshot.name for snapshot in rest.snapshots] == ["2.snapshot"]
    assert rest.next_page_token == ""


def test_deleting(engine: Engine) -> None:
    engine.create()
    request = control_pb2.DeleteSnapshotRequest(name="a.snapshot")
    assert refusal(engine.control.DeleteSnapshot, request) is grpc.StatusCode.FAILED_PRECONDITION
    engine.control.FinishSnapshot(control_pb2.FinishSnapshotRequest(name="a.snapshot"))
    engine.control.DeleteSnapshot(request)
    assert refusal(engine.control.DeleteSnapshot, request) is grpc.StatusCode.NOT_FOUND


NOT_NAMES = ["", "..", "../a.snapshot", "a/../b.snapshot", "a/..", "a.snapshot/", "/../a", "/etc/passwd", ".hidden"]
NOT_NAMES += ["a\0b", "a\nb", "\x1b[2J", "x" * 201]


@pytest.mark.parametrize("name", NOT_NAMES)
def test_names_stay_in_the_store(engine: Engine, name: str) -> None:
    create = control_pb2.CreateSnapshotRequest(name=name, capture_id="c")
    assert refusal(engine.control.CreateSnapshot, create) is grpc.StatusCode.INVALID_ARGUMENT
    start = control_pb2.StartResponderRequest(snapshot=name)
    assert refusal(engine.control.StartResponder, start) is grpc.StatusCode.INVALID_ARGUMENT
    for call, request in (
        (engine.control.FinishSnapshot, control_pb2.FinishSnapshotRequest(name=name)),
        (engine.control.GetSnapshot, control_pb2.GetSnapshotRequest(name=name)),
        (engine.control.DeleteSnapshot, control_pb2.DeleteSnapshotRequest(name=name)),
        (lambda r: list(engine.control.ListPairs(r)), control_pb2.ListPairsRequest(name=name)),
    ):
        assert refusal(call, request) is grpc.StatusCode.INVALID_ARGUMENT
    assert engine.recordings.all() == []


OURS = ["a.snapshot.partial", "a.snapshot.partial-wal", "a.snapshot.partial-shm", "a.snapshot-journal"]


@pytest.mark.parametrize("name", OURS)
def test_what_is_being_written_cannot_be_deleted(engine: Engine, name: str) -> None:
    engine.create()
    engine.upload(conversation())
    (engine.folder / name).touch()
    request = control_pb2.DeleteSnapshotRequest(name=name)
    assert refusal(engine.control.DeleteSnapshot, request) is grpc.StatusCode.INVALID_ARGUMENT
    assert finish(engine).snapshot.pairs == 1


@pytest.mark.parametrize("name", [*OURS, "a.snapshot.old", "a.snapshot.empty"])
def test_what_the_engine_names_itself_is_not_recorded_to(engine: Engine, name: str) -> None:
    engine.create()
    create = control_pb2.CreateSnapshotRequest(name=name, capture_id="c")
    assert refusal(engine.control.CreateSnapshot, create) is grpc.StatusCode.INVALID_ARGUMENT
    add = control_pb2.StartResponderRequest(snapshot=name, on_miss=control_pb2.ON_MISS_RECORD)
    assert refusal(engine.control.StartResponder, add) is grpc.StatusCode.INVALID_ARGUMENT
    assert len(engine.recordings.all()) == 1


@pytest.mark.parametrize("kept", ["a.snapshot.old", "a.snapshot.empty"])
def test_what_was_kept_aside_can_be_read_and_deleted(engine: Engine, kept: str) -> None:
    write_snapshot(engine.folder / kept, Exchange("GET /a"))
    assert snapshot_of(engine, kept).pairs == 1
    stop(engine, engine.control.StartResponder(control_pb2.StartResponderRequest(snapshot=kept)).responder)
    engine.control.DeleteSnapshot(control_pb2.DeleteSnapshotRequest(name=kept))
    assert not (engine.folder / kept).exists()


@pytest.mark.parametrize("replaced", [False, True])
def test_nothing_is_acknowledged_that_went_to_a_file_without_a_name(engine: Engine, replaced: bool) -> None:
    engine.create()
    [before] = engine.upload(conversation())
    assert list(before.committed)
    partial = engine.folder / "a.snapshot.partial"
    partial.unlink()
    if replaced:
        partial.write_bytes(b"another")
    [after] = engine.upload(conversation(2))
    assert list(after.committed) == []
    assert "a.snapshot.partial was removed or replaced" in snapshot_of(engine).error
    with pytest.raises(grpc.RpcError, match="was removed or replaced"):
        finish(engine)
    engine.control.FinishSnapshot(control_pb2.FinishSnapshotRequest(name="a.snapshot", discard=True))
    assert partial.exists() == replaced, "it is another's"
    engine.create(capture_id="c2")
    engine.upload(conversation(3, "c2"))
    assert finish(engine).snapshot.pairs == 1


def test_what_cannot_be_made_twice(engine: Engine) -> None:
    engine.create()
    again = control_pb2.CreateSnapshotRequest(name="a.snapshot", capture_id="c2")
    assert refusal(engine.control.CreateSnapshot, again) is grpc.StatusCode.ALREADY_EXISTS
    same_capture = control_pb2.CreateSnapshotRequest(name="b.snapshot", capture_id="c1")
    assert refusal(engine.control.CreateSnapshot, same_capture) is grpc.StatusCode.ALREADY_EXISTS
    nothing = control_pb2.FinishSnapshotRequest(name="z.snapshot")
    assert refusal(engine.control.FinishSnapshot, nothing) is grpc.StatusCode.NOT_FOUND


# -- one recording does not know of another ----------------------------------------------------------------------------


def asking(request: bytes, stream: int = 1, capture_id: str = "c1", **changes: Any) -> list[pb.CaptureEvent]:
    events = conversation(stream, capture_id)
    events[3].chunk.data = request
    for name, value in changes.items():
        setattr(events[3], name, value)
    return events


def snapshot_of(engine: Engine, name: str = "a.snapshot") -> control_pb2.Snapshot:
    return engine.control.GetSnapshot(control_pb2.GetSnapshotRequest(name=name)).snapshot


def finish(engine: Engine, name: str = "a.snapshot", **options: Any) -> control_pb2.FinishSnapshotResponse:
    return engine.control.FinishSnapshot(control_pb2.FinishSnapshotRequest(name=name, **options))


SURROGATE = b'{"TableName":"\\ud83d"}'
DYNAMODB = (
    b"POST / HTTP/1.1\r\nHost: h\r\nX-Amz-Target: DynamoDB_20120810.GetItem\r\nContent-Length: %d\r\n\r\n" % len(SURROGATE)
) + SURROGATE


@pytest.mark.parametrize("events", [asking(DYNAMODB, 2), asking(ASKED, 2, time_unix_nano=2**63), asking(ASKED, 2, stream_id=2**63)])
def test_one_request_does_not_stop_a_recording(engine: Engine, events: list[pb.CaptureEvent]) -> None:
    engine.create()
    engine.create("b.snapshot", "c2")
    engine.upload(conversation(1), events, conversation(3, "c2"), conversation(4))
    assert finish(engine).snapshot.pairs >= 2
    assert finish(engine, "b.snapshot").snapshot.pairs == 1


BROKEN = [
    pb.CaptureEvent(stream_id=2, chunk=pb.Chunk(data=b"x")),
    pb.CaptureEvent(stream_id=2, chunk=pb.Chunk(direction=77, data=b"x")),  # type: ignore[arg-type]
    pb.CaptureEvent(stream_id=2, chunk=pb.Chunk(direction=pb.DIRECTION_READ, offset=2**64 - 1, data=b"x")),
    pb.CaptureEvent(stream_id=2, gap=pb.Gap(direction=pb.DIRECTION_READ, offset=2**63, length=2**63)),
    pb.CaptureEvent(stream_id=2, half_closed=pb.HalfClosed()),
]


@pytest.mark.parametrize("event", BROKEN)
def test_an_event_that_cannot_be_costs_its_stream(engine: Engine, event: pb.CaptureEvent) -> None:
    engine.create()
    engine.upload([*conversation(2)[:4], event, *conversation(2)[4:]], conversation(3))
    assert finish(engine).snapshot.pairs == 1
    assert engine.recordings.malformed_events == 1
    with Snapshot(engine.folder / "a.snapshot") as snapshot:
        assert [flow.reason[:31] for flow in snapshot.flows()] == ["understudy failed to read it (V"]


def test_an_agent_says_who_it_is(engine: Engine) -> None:
    for name in ("", "x" * 1000):
        with pytest.raises(grpc.RpcError) as caught:
            list(capture_pb2_grpc.CaptureServiceStub(engine.channel).Upload(iter([pb.UploadRequest(agent_id=name)])))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_disk_that_takes_nothing_stops_one_recording_only(engine: Engine) -> None:
    engine.create()
    full = engine.recordings.find("c1")
    assert full
    engine.create("b.snapshot", "c2")
    full.writer._store._database.execute("PRAGMA query_only = 1")  # type: ignore[attr-defined]
    first, second = engine.upload(conversation(1), conversation(2, "c2"))
    assert (first.received_sequence, list(first.committed)) == (1, [])
    assert [progress.stream_id for progress in second.committed] == [2]
    assert "cannot be written" in snapshot_of(engine).error
    assert snapshot_of(engine, "b.snapshot").error == ""
    assert refusal(engine.control.FinishSnapshot, control_pb2.FinishSnapshotRequest(name="a.snapshot")) is (
        grpc.StatusCode.FAILED_PRECONDITION
    )
    full.writer._store._database.execute("PRAGMA query_only = 0")  # type: ignore[attr-defined]
    assert finish(engine).snapshot.pairs == 1, "nothing of it was lost"
    assert finish(engine, "b.snapshot").snapshot.pairs == 1


def test_what_waits_for_a_disk_has_a_limit_and_is_counted(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.snapshot.HELD_ITEMS", 3)
    engine.create()
    break_disk(engine)
    for stream in range(1, 7):
        engine.upload(conversation(stream))
    assert snapshot_of(engine).lost_pairs == 4
    [recording] = engine.recordings.all()
    assert recording.writer._store.held == 2
    recording.writer._store._database.execute("PRAGMA query_only = 0")  # type: ignore[attr-defined]
    done = finish(engine).snapshot
    assert (done.pairs, done.lost_pairs) == (2, 4)


def mend_disk(engine: Engine) -> None:
    for recording in engine.recordings.all():
        recording.writer._store._database.execute("PRAGMA query_only = 0")  # type: ignore[attr-defined]


def test_what_comes_after_an_end_that_failed_is_recorded(engine: Engine) -> None:
    """Nothing is thrown away before the snapshot is there: not of a stream that was open, nor of one that is new."""
    engine.create()
    engine.upload(conversation(1))
    break_disk(engine)
    request = control_pb2.FinishSnapshotRequest(name="a.snapshot")
    assert refusal(engine.control.FinishSnapshot, request) is grpc.StatusCode.FAILED_PRECONDITION
    mend_disk(engine)
    answers = engine.upload(conversation(1) + more(1), conversation(2))
    assert [(p.stream_id, p.finished) for answer in answers for p in answer.committed] == [(1, False), (2, False)]
    assert finish(engine).snapshot.complete_pairs == 3


def test_a_stream_goes_on_though_a_snapshot_could_not_be_finished(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: SqliteStore) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    engine.create()
    engine.upload(conversation(1))
    with monkeypatch.context() as patched:
        patched.setattr(SqliteStore, "_index", full)
        request = control_pb2.FinishSnapshotRequest(name="a.snapshot")
        assert refusal(engine.control.FinishSnapshot, request) is grpc.StatusCode.FAILED_PRECONDITION
    engine.upload(conversation(1) + more(1))
    assert finish(engine).snapshot.pairs == 2


def more(stream: int) -> list[pb.CaptureEvent]:
    """A second exchange of the same connection."""
    *_, asked, answered = conversation(stream)
    asked.chunk.offset, answered.chunk.offset = len(ASKED), len(ANSWERED)
    asked.chunk.data = ASKED.replace(b"/a", b"/b")
    return [asked, answered]


def test_what_waits_for_a_disk_is_prepared_once_and_lost_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch tries again what waits: to redact and compress all of it again each time would be quadratic."""
    redacted: list[str] = []
    original = Redactor.pair

    def redact(redactor: Redactor, pair: RRPair) -> RRPair:
        redacted.append(pair.path)
        if len(redacted) == 1:
            raise RecursionError("as told")
        return original(redactor, pair)

    monkeypatch.setattr(Redactor, "pair", redact)
    engine.create()
    break_disk(engine)
    for stream in range(1, 6):
        engine.upload(conversation(stream))
    assert len(redacted) == 5
    mend_disk(engine)
    done = finish(engine).snapshot
    assert len(redacted) == 5
    assert (done.pairs, done.lost_pairs) == (4, 1)


def test_flows_that_no_disk_takes_are_counted(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.snapshot.HELD_ITEMS", 1)
    engine.create()
    break_disk(engine)
    for stream in (1, 2):
        opened = conversation(stream)[1]
        opened.opened.source = pb.SOURCE_OPAQUE
        engine.upload([opened, pb.CaptureEvent(stream_id=stream, closed=pb.StreamClosed())])
    assert snapshot_of(engine).lost_pairs == 2


def test_the_account_of_a_capture_outlives_the_engine(engine: Engine) -> None:
    engine.create()
    engine.upload([*conversation(), ended(7)])
    engine.recordings.abandon()
    with Snapshot(engine.folder / "a.snapshot.partial") as snapshot:
        assert snapshot.info.ledger["seen"] == 7


def test_streams_at_a_time_have_a_limit(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.ingest.recording.STREAMS_LIMIT", 2)
    engine.create()
    engine.upload([event for stream in range(1, 5) for event in conversation(stream)])
    assert finish(engine).snapshot.pairs == 2
    with Snapshot(engine.folder / "a.snapshot") as snapshot:
        assert [flow.reason for flow in snapshot.flows()] == ["more than 2 streams at a time"] * 2


def of_agent(engine: Engine, agent: str, *events: pb.CaptureEvent) -> None:
    list(
        capture_pb2_grpc.CaptureServiceStub(engine.channel).Upload(
            iter([pb.UploadRequest(agent_id=agent, sequence=1, events=events)])
        )
    )


def test_two_agents_of_one_capture(engine: Engine) -> None:
    """Their ids begin alike, and they number their streams alike."""
    engine.create()
    started = pb.CaptureEvent(capture_started=pb.CaptureStarted(capture_id="c1", node="n"))
    for agent, path in (("understudy-agent-1", b"/1"), ("understudy-agent-2", b"/2")):
        events = asking(ASKED.replace(b"/a", path))
        of_agent(engine, agent, *events, pb.CaptureEvent(stream_id=1, closed=pb.StreamClosed()))
    of_agent(engine, "understudy-agent-1", ended(100))
    assert not snapshot_of(engine).capture_ended, "one is still at it"
    of_agent(engine, "understudy-agent-2", ended(7), started)
    assert (snapshot_of(engine).capture_ended, snapshot_of(engine).ledger.seen) == (True, 107)
    done = finish(engine).snapshot
    assert (done.pairs, done.ledger.seen, done.ledger.delivered) == (2, 107, 107)
    with Snapshot(engine.folder / "a.snapshot") as snapshot:
        assert len({pair.connection.id for pair in snapshot.pairs()}) == 2


def ended(seen: int) -> pb.CaptureEvent:
    return pb.CaptureEvent(capture_ended=pb.CaptureEnded(capture_id="c1", ledger=pb.Ledger(seen=seen, delivered=seen)))


def test_a_file_that_is_being_copied_keeps_nobody_waiting(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    write_snapshot(engine.folder / "b.snapshot", Exchange("GET /a"))
    engine.create()
    copying, over = threading.Event(), threading.Event()

    def slowly(source: Path, target: Path) -> None:
        copying.set()
        assert over.wait(60)
        target.write_bytes(source.read_bytes())

    monkeypatch.setattr("engine.snapshot.shutil.copyfile", slowly)
    request = control_pb2.StartResponderRequest(snapshot="b.snapshot", on_miss=control_pb2.ON_MISS_RECORD)
    starting = engine.control.StartResponder.future(request)
    assert copying.wait(60)
    assert len(engine.upload(conversation())) == 1
    assert finish(engine).snapshot.pairs == 1
    with pytest.raises(grpc.RpcError, match="is being recorded already"):
        engine.create("b.snapshot", "c9")
    over.set()
    stop(engine, starting.result(60).responder)


def test_a_responder_waits_for_no_recording(engine: Engine, backend: int) -> None:
    write_snapshot(engine.folder / "a.snapshot", Exchange("GET /a", host="localhost", port=backend, tls=False))
    responder = start(engine, on_miss=control_pb2.ON_MISS_RECORD)
    [recording] = engine.recordings.all()
    with recording.lock:
        assert ask_by_name(responder, backend, "/b") == (200, b"real /b")
        assert ask_by_name(responder, backend, "/a") == (200, b"{}")
    assert stop(engine, responder).added_pairs == 1


def test_what_was_heard_and_waits_to_be_written_has_a_limit_of_bytes(
    engine: Engine, backend: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.control.responders.UNWRITTEN_BYTES", 10)
    write_snapshot(engine.folder / "a.snapshot", Exchange("GET /a", host="localhost", port=backend, tls=False))
    responder = start(engine, on_miss=control_pb2.ON_MISS_RECORD)
    [recording] = engine.recordings.all()
    with recording.lock:
        for path in ("/b", "/c"):
            assert ask_by_name(responder, backend, path) == (200, f"real {path}".encode())
        assert eventually(lambda: "sooner than they could be written" in str(run_of(engine, responder).troubles), 10)
    assert eventually(lambda: run_of(engine, responder).added_pairs == 1, 10)
    ask_by_name(responder, backend, "/d")
    assert stop(engine, responder).added_pairs == 2, "what was written waits no more"


# -- the end of a recording --------------------------------------------------------------------------------------------


def test_finishing_twice_is_finishing_once(engine: Engine) -> None:
    engine.create()
    engine.upload(conversation())
    assert finish(engine) == finish(engine)


def test_a_recording_without_pairs_replaces_none(engine: Engine) -> None:
    for pairs in (1, 0, 0):
        engine.create()
        if pairs:
            engine.upload(conversation())
        done = finish(engine)
    assert (done.snapshot.name, done.previous_name) == ("a.snapshot.empty", "")
    assert finish(engine) == done
    assert (snapshot_of(engine).pairs, (engine.folder / "a.snapshot.old").exists()) == (1, False)


def test_what_was_there_is_kept_and_named(engine: Engine) -> None:
    for _ in range(2):
        engine.create()
        engine.upload(conversation())
        done = finish(engine)
    assert (done.snapshot.name, done.previous_name) == ("a.snapshot", "a.snapshot.old")


def test_a_recording_is_thrown_away(engine: Engine) -> None:
    write_snapshot(engine.folder / "a.snapshot", Exchange("GET /a"))
    before = (engine.folder / "a.snapshot").read_bytes()
    engine.create()
    engine.upload(conversation())
    assert finish(engine, discard=True) == control_pb2.FinishSnapshotResponse()
    assert [each.name for each in engine.folder.glob("a.*")] == ["a.snapshot"]
    assert (engine.folder / "a.snapshot").read_bytes() == before
    discard = control_pb2.FinishSnapshotRequest(name="a.snapshot", discard=True)
    assert refusal(engine.control.FinishSnapshot, discard) is grpc.StatusCode.NOT_FOUND


def test_what_is_no_snapshot_is_not_recorded_to(engine: Engine) -> None:
    (engine.folder / "notes.txt").write_text("precious")
    request = control_pb2.CreateSnapshotRequest(name="notes.txt", capture_id="c1")
    assert refusal(engine.control.CreateSnapshot, request) is grpc.StatusCode.FAILED_PRECONDITION
    assert (engine.folder / "notes.txt").read_text() == "precious"


# -- what clients can take ---------------------------------------------------------------------------------------------


def test_a_damaged_snapshot_is_listed_and_hides_no_other(engine: Engine) -> None:
    for name in "abc":
        write_snapshot(engine.folder / f"{name}.snapshot", Exchange("GET /a"))
    with contextlib.closing(sqlite3.connect(engine.folder / "b.snapshot")) as database:
        database.execute("UPDATE meta SET value = 'zz' WHERE name = 'created'")
        database.commit()
    found = engine.control.ListSnapshots(control_pb2.ListSnapshotsRequest()).snapshots
    assert [(each.name, each.pairs, "is damaged" in each.error) for each in found] == [
        ("a.snapshot", 1, False), ("b.snapshot", 0, True), ("c.snapshot", 1, False)
    ]  # fmt: skip
    with pytest.raises(grpc.RpcError, match="is damaged") as caught:
        snapshot_of(engine, "b.snapshot")
    assert caught.value.code() is grpc.StatusCode.DATA_LOSS


def test_pairs_of_any_size_are_listed(engine: Engine) -> None:
    """By a client with gRPC's own limit of 4 MiB a message."""
    sent, got = random.Random(1).randbytes(5 << 20), random.Random(2).randbytes((9 << 20) + 1)
    write_snapshot(engine.folder / "a.snapshot", Exchange("POST /a", got, body=sent), Exchange("GET /b", b"small"))
    bodies: list[list[bytes]] = []
    for each in engine.control.ListPairs(control_pb2.ListPairsRequest(name="a.snapshot")):
        if each.WhichOneof("item") == "pair":
            assert each.pair.response.body_size in (len(got), 5)
            bodies.append([each.pair.request.body, each.pair.response.body])
        else:
            bodies[-1][each.body_part.of_response] += each.body_part.data
    assert bodies == [[sent, got], [b"", b"small"]]


def test_misses_of_any_number_and_size_are_told(engine: Engine) -> None:
    fields = {f"name-{n}": "x" * 190 for n in range(20)}
    write_snapshot(
        engine.folder / "a.snapshot", Exchange("POST /a", headers=JSON, body=json.dumps(fields).encode(), tls=False, port=80)
    )
    responder = start(engine)
    connection = http.client.HTTPConnection(responder.address, responder.port, timeout=60)
    with contextlib.closing(connection):
        for number in range(1100):
            other = dict.fromkeys(fields, f"{number:06}" + "y" * 184)
            connection.request("POST", "/a", json.dumps(other), {"Host": "api.example.com", **dict(JSON)})
            assert connection.getresponse().read()
    parts = list(engine.control.StopResponder(control_pb2.StopResponderRequest(responder_id=responder.id)))
    assert max(part.ByteSize() for part in parts) < 2 << 20
    run = merged(parts)
    assert run.ByteSize() > 4 << 20
    assert (len(run.misses), run.more_misses) == (1000, 100)
    assert all(len(miss.differences) == 20 for miss in run.misses)
    assert report_of(run).requests == 1100


def test_what_a_report_keeps_of_misses_has_a_limit(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.responder.run.MISSES_BYTES", 20_000)
    write_snapshot(engine.folder / "a.snapshot", Exchange("GET /a"))
    responder = start(engine)
    for number in range(10):
        ask(responder, f"/{number}" + "z" * 200_000)
    run = stop(engine, responder)
    assert len(run.misses) + run.more_misses == 10
    assert 0 < len(run.misses) < 10
    assert run.ByteSize() < 60_000


@pytest.mark.parametrize("body", [b'{"a":"\\ud83d"}', b'{"\\udfff":1}'])
def test_a_miss_with_half_a_character_ends_nothing(engine: Engine, body: bytes) -> None:
    write_snapshot(engine.folder / "a.snapshot", Exchange("POST /a", headers=JSON, body=b'{"a":"x"}', tls=False, port=80))
    responder = start(engine)
    with contextlib.closing(http.client.HTTPConnection(responder.address, responder.port, timeout=60)) as connection:
        connection.request("POST", "/a", body, {"Host": "api.example.com", **dict(JSON)})
        assert connection.getresponse().status == 418
    [miss] = run_of(engine, responder).misses
    assert any(half in d.field + d.live for d in miss.differences for half in (r"\ud83d", r"\udfff"))
    assert len(stop(engine, responder).misses) == 1


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "203.0.113.1", "mock.example"])
@pytest.mark.parametrize("on_miss", [control_pb2.ON_MISS_PASSTHROUGH, control_pb2.ON_MISS_RECORD])
def test_no_open_proxy(engine: Engine, address: str, on_miss: control_pb2.OnMiss.ValueType) -> None:
    write_snapshot(engine.folder / "a.snapshot", Exchange("GET /a"))
    with pytest.raises(grpc.RpcError, match="would be passed on for whoever connects") as caught:
        start(engine, address=address, on_miss=on_miss)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [each.name for each in engine.folder.glob("a.*")] == ["a.snapshot"]


def test_health_and_reflection(engine: Engine) -> None:
    health = health_pb2_grpc.HealthStub(engine.channel).Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    (answer,) = reflection_pb2_grpc.ServerReflectionStub(engine.channel).ServerReflectionInfo(asked)
    assert {"understudy.v1.CaptureService", "understudy.v1.ControlService"} <= {
        service.name for service in answer.list_services_response.service
    }


def test_metrics(engine: Engine) -> None:
    engine.create()
    engine.upload(conversation())
    registry = CollectorRegistry()
    registry.register(EngineCollector(engine.recordings))
    lines = generate_latest(registry).decode().splitlines()
    assert 'understudy_engine_recorded_pairs{complete="true",snapshot="a.snapshot"} 1.0' in lines
    assert "understudy_engine_batches_total 1.0" in lines
    assert f'understudy_engine_recorded_bytes{{snapshot="a.snapshot"}} {len(ASKED) + len(ANSWERED):.1f}' in lines


# -- responders --------------------------------------------------------------------------------------------------------


def start(engine: Engine, **options: Any) -> control_pb2.Responder:
    return engine.control.StartResponder(control_pb2.StartResponderRequest(snapshot="a.snapshot", **options)).responder


def ask(responder: control_pb2.Responder, path: str, host: str = "api.example.com") -> int:
    connection = http.client.HTTPConnection(responder.address, responder.port, timeout=10)
    connection.request("GET", path, headers={"Host": host, "Connection": "close"})
    with contextlib.closing(connection):
        return connection.getresponse().status


def test_a_responder_answers_and_tells_what_it_was_asked(engine: Engine) -> None:
    write_snapshot(engine.folder / "a.snapshot", Exchange("GET /a"), Exchange("GET /a", host="other.example"))
    responder = start(engine, only=["api.example.com"])
    assert [(b.host, b.port, list(b.addresses)) for b in responder.backends] == [("api.example.com", 443, ["192.0.2.1"])]
    assert [b.host for b in responder.left_out] == ["other.example"]
    assert Path(responder.ca_file).read_bytes() == responder.ca_certificate
    assert [ask(responder, path) for path in ("/a", "/b", "/b")] == [200, 418, 418]
    [got] = engine.control.GetResponder(control_pb2.GetResponderRequest(responder_id=responder.id))
    assert got.responder == responder
    run = stop(engine, responder)
    assert [(b.host, b.recorded, b.requests, b.matches) for b in run.backends] == [("api.example.com", True, 3, 1)]
    [miss] = run.misses
    assert (miss.times, miss.operation, miss.nearest_operation) == (2, "GET /b", "GET /a")
    assert [(d.field, d.recorded, d.live) for d in miss.differences] == [("path.1", "a", "b")]
    again = report_of(run)
    assert list(run_parts(again)) == [run]
    assert again.responder_rate == pytest.approx(1 / 3)
    with pytest.raises(ConnectionRefusedError):
        ask(responder, "/a")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"only": ["nobody"]}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"speed": -1.0}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"speed": float("nan")}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"address": "203.0.113.1"}, grpc.StatusCode.FAILED_PRECONDITION),
        ({"port": 70000}, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_a_responder_that_cannot_start(engine: Engine, options: dict[str, Any], code: grpc.StatusCode) -> None:
    write_snapshot(engine.folder / "a.snapshot", Exchange("GET /a"))
    with pytest.raises(grpc.RpcError) as caught:
        start(engine, **options)
    assert caught.value.code() is code


# -- what becomes of misses --------------------------------------------------------------------------------------------


class _Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b"real " + self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def backend() -> Iterator[int]:
    """Port of a real backend."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def ask_by_name(responder: control_pb2.Responder, port: int, path: str) -> tuple[int, bytes]:
    with contextlib.closing(http.client.HTTPConnection(responder.address, responder.port, timeout=10)) as connection:
        connection.request("GET", path, headers={"Host": f"localhost:{port}"})
        answer = connection.getresponse()
        return answer.status, answer.read()


def stop(engine: Engine, responder: control_pb2.Responder) -> control_pb2.ResponderRun:
    return merged(engine.control.StopResponder(control_pb2.StopResponderRequest(responder_id=responder.id)))


def run_of(engine: Engine, responder: control_pb2.Responder) -> control_pb2.ResponderRun:
    return merged(engine.control.GetResponder(control_pb2.GetResponderRequest(responder_id=responder.id)))


def paths(path: Path) -> list[str]:
    with Snapshot(path) as snapshot:
        return [pair.path for pair in snapshot.pairs() if pair.complete]


def test_a_miss_may_be_passed_on(engine: Engine, backend: int) -> None:
    path = write_snapshot(engine.folder / "a.snapshot", Exchange("GET /a", host="localhost", port=backend, tls=False))
    responder = start(engine, on_miss=control_pb2.ON_MISS_PASSTHROUGH)
    assert ask_by_name(responder, backend, "/a") == (200, b"{}")
    assert ask_by_name(responder, backend, "/b") == (200, b"real /b")
    run = stop(engine, responder)
    assert [(b.requests, b.matches, b.passed) for b in run.backends] == [(2, 1, 1)]
    assert [(miss.path, miss.times, miss.passed) for miss in run.misses] == [("/b", 1, 1)]
    assert list(run_parts(report_of(run))) == [run]
    assert paths(path) == ["/a"]


def test_a_miss_may_be_recorded(engine: Engine, backend: int) -> None:
    path = write_snapshot(engine.folder / "a.snapshot", Exchange("GET /a", host="localhost", port=backend, tls=False))
    uncheck(path, ["nobody:1"])
    responder = start(engine, on_miss=control_pb2.ON_MISS_RECORD)
    for asked in ("/b", "/a", "/b"):
        ask_by_name(responder, backend, asked)
    assert paths(path) == ["/a"]
    assert stop(engine, responder).added_pairs == 2
    assert paths(path) == ["/a", "/b", "/b"]
    assert paths(engine.folder / "a.snapshot.old") == ["/a"]
    with Snapshot(path) as snapshot:
        assert (snapshot.info.added_pairs, snapshot.unchecked) == (2, frozenset({"nobody:1"}))
    again = start(engine)
    assert ask_by_name(again, backend, "/b") == (200, b"real /b")
    assert stop(engine, again).backends[0].matches == 1


def test_nothing_added_leaves_the_snapshot_alone(engine: Engine, backend: int) -> None:
    path = write_snapshot(engine.folder / "a.snapshot", Exchange("GET /a", host="localhost", port=backend, tls=False))
    before = path.stat()
    responder = start(engine, on_miss=control_pb2.ON_MISS_RECORD)
    ask_by_name(responder, backend, "/a")
    assert stop(engine, responder).added_pairs == 0
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert sorted(each.name for each in engine.folder.glob("a.*")) == ["a.snapshot"]


def test_one_recording_at_a_time_and_none_where_it_cannot_start(engine: Engine) -> None:
    write_snapshot(engine.folder / "a.snapshot", Exchange("GET /a"))
    with pytest.raises(grpc.RpcError):
        start(engine, on_miss=control_pb2.ON_MISS_RECORD, address="203.0.113.1")
    responder = start(engine, on_miss=control_pb2.ON_MISS_RECORD)
    with pytest.raises(grpc.RpcError, match="is being recorded already"):
        start(engine, on_miss=control_pb2.ON_MISS_RECORD)
    stop(engine, responder)
    assert sorted(each.name for each in engine.folder.glob("a.*")) == ["a.snapshot"]


def break_disk(engine: Engine) -> None:
    """From now on, what is recorded cannot be written."""
    [recording] = engine.recordings.all()
    recording.writer._store._database.execute("PRAGMA query_only = 1")  # type: ignore[attr-defined]


def test_a_snapshot_that_cannot_be_written_is_told_of(engine: Engine, backend: int) -> None:
    write_snapshot(engine.folder / "a.snapshot", Exchange("GET /a", host="localhost", port=backend, tls=False))
    responder = start(engine, on_miss=control_pb2.ON_MISS_RECORD)
    break_disk(engine)
    assert ask_by_name(responder, backend, "/b") == (200, b"real /b")
    assert eventually(lambda: "cannot be written" in str(run_of(engine, responder).troubles), 10)


def test_a_snapshot_that_cannot_be_finished_is_told_of(engine: Engine, backend: int) -> None:
    path = write_snapshot(engine.folder / "a.snapshot", Exchange("GET /a", host="localhost", port=backend, tls=False))
    responder = start(engine, on_miss=control_pb2.ON_MISS_RECORD)
    ask_by_name(responder, backend, "/b")
    assert eventually(lambda: run_of(engine, responder).added_pairs == 1, 10)  # the client has its answer sooner
    break_disk(engine)
    with pytest.raises(grpc.RpcError, match="cannot be written") as caught:
        stop(engine, responder)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert paths(path) == ["/a"]
    assert paths(engine.folder / "a.snapshot.partial") == ["/a", "/b"]


CALLS = ((1, "192.0.2.1", 443, "api.example"), (2, "127.0.0.1", 0, "stood.in"), (3, "192.0.2.9", 443, "left.out"))
"""Stream, address, port (0: the responder's) and host of what a capture saw beside a responder."""


def test_what_a_capture_saw_beside_the_responder_is_added(engine: Engine) -> None:
    """Not what went to the responder itself, nor to who was left out on purpose, nor what others asked of the service."""
    path = write_snapshot(engine.folder / "a.snapshot", Exchange("GET /x"), Exchange("GET /x", host="left.out"))
    responder = start(engine, on_miss=control_pb2.ON_MISS_RECORD, capture_id="c1", excluded=["left.out"])
    events = []
    for stream, address, port, host in CALLS:
        opened, *rest = conversation(stream)[1:]
        rest[0].bound.remote.CopyFrom(pb.Endpoint(address=address, port=port or responder.port))
        rest[1].chunk.data = ASKED.replace(b"api.example", host.encode())
        events += [opened, *rest]
    opened, bound, *chunks = conversation(4)[1:]
    bound.bound.role = pb.ROLE_SERVER
    chunks[0].chunk.direction, chunks[1].chunk.direction = pb.DIRECTION_READ, pb.DIRECTION_WRITE
    engine.upload([*events, opened, bound, *chunks])
    assert stop(engine, responder).added_pairs == 1
    with Snapshot(path) as snapshot:
        assert sorted((pair.host, pair.path) for pair in snapshot.pairs()) == [
            ("api.example", "/a"),
            ("api.example.com", "/x"),
            ("left.out", "/x"),
        ]


def test_what_the_recorded_program_answered_itself_is_told_and_neither_answered_nor_added(engine: Engine) -> None:
    write_own_service(engine.folder / "a.snapshot", "10.66.7.2", asked_at="10.66.7.2", host="api.example")
    responder = start(engine, on_miss=control_pb2.ON_MISS_RECORD, capture_id="c1")
    assert [(b.host, b.port, list(b.addresses)) for b in responder.itself] == [("api.example", 8099, ["10.66.7.2"])]
    assert ([b.host for b in responder.backends], list(responder.left_out)) == (["a.example"], [])
    _, opened, bound, *chunks = conversation(1)
    bound.bound.remote.CopyFrom(pb.Endpoint(address="10.66.7.2", port=8099))
    engine.upload([opened, bound, *chunks])
    assert stop(engine, responder).added_pairs == 0
    responder = start(engine)
    assert ask(responder, "/own", "api.example:8099") == 418
    [miss] = stop(engine, responder).misses
    assert miss.reason == "the recorded program itself answered at api.example:8099, so that is not stood in for"


def test_unknown_snapshots_and_responders(engine: Engine) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        start(engine)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as caught:
        list(engine.control.GetResponder(control_pb2.GetResponderRequest(responder_id="x")))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as caught:
        list(engine.control.StopResponder(control_pb2.StopResponderRequest(responder_id="x")))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.timeout(30)
def test_a_fifo_in_the_store_keeps_nobody_waiting(engine: Engine) -> None:
    os.mkfifo(engine.folder / "pipe.snapshot")
    request = control_pb2.GetSnapshotRequest(name="pipe.snapshot")
    with pytest.raises(grpc.RpcError, match="not a regular file"):
        engine.control.GetSnapshot(request, timeout=10)


@pytest.mark.timeout(30)
def test_what_a_capture_sees_while_the_responder_starts_is_taken(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_snapshot(engine.folder / "a.snapshot", Exchange("GET /x"))
    original = Responder.start
    with ThreadPoolExecutor(1) as uploading:
        uploads: list[Future[list[pb.UploadResponse]]] = []

        def slow(responder: Responder, address: str, port: int) -> None:
            uploads.append(uploading.submit(engine.upload, conversation()[1:]))
            assert eventually(lambda: engine.recordings.all()[0].received_bytes == len(ASKED + ANSWERED), 10)
            wait(uploads, timeout=0.2)  # it may fail now, or wait
            original(responder, address, port)

        monkeypatch.setattr(Responder, "start", slow)
        responder = start(engine, on_miss=control_pb2.ON_MISS_RECORD, capture_id="c1")
        [answer] = uploads[0].result(10)
    assert [progress.stream_id for progress in answer.committed] == [1]
    assert stop(engine, responder).added_pairs == 1
    assert sorted(paths(path)) == ["/a", "/x"]
