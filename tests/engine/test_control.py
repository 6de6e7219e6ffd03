"""The engine's services over gRPC, as a program meets them."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import tempfile
import threading
from collections.abc import Callable, Iterator
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
from engine.cli.reports import report_of
from engine.control.responders import run_message
from engine.metrics import EngineCollector
from engine.snapshot import Snapshot, uncheck
from tests.e2e.machine import eventually
from tests.engine.making import Exchange, write_snapshot

ASKED = b"GET /a?b=c HTTP/1.1\r\nHost: api.example\r\n\r\n"
ANSWERED = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Engine:
    """An engine on a unix socket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server, self.recordings = build(f"unix:{folder}/e.sock", folder, folder / "state")
        self.server.start()
        self.channel = grpc.insecure_channel(f"unix:{folder}/e.sock")
        self.control = control_pb2_grpc.ControlServiceStub(self.channel)

    def create(self, name: str = "a.snapshot", capture_id: str = "c1") -> control_pb2.Snapshot:
        request = control_pb2.CreateSnapshotRequest(name=name, service="shop", capture_id=capture_id)
        return self.control.CreateSnapshot(request).snapshot

    def upload(self, *batches: list[pb.CaptureEvent]) -> list[pb.UploadResponse]:
        requests = (pb.UploadRequest(agent_id="agent", sequence=n, events=batch) for n, batch in enumerate(batches, 1))
        return list(capture_pb2_grpc.CaptureServiceStub(self.channel).Upload(requests))


@pytest.fixture
def engine() -> Iterator[Engine]:
    with tempfile.TemporaryDirectory(prefix="us-") as folder:
        made = Engine(Path(folder))
        yield made
        made.channel.close()
        made.server.stop(0).wait()


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


def test_what_is_sent_again_is_taken_once(engine: Engine) -> None:
    engine.create()
    engine.upload(conversation())
    engine.upload(conversation())
    engine.control.FinishSnapshot(control_pb2.FinishSnapshotRequest(name="a.snapshot"))
    assert len(list(engine.control.ListPairs(control_pb2.ListPairsRequest(name="a.snapshot")))) == 1


def test_what_nobody_records_is_given_up(engine: Engine) -> None:
    (answer,) = engine.upload(conversation(stream=9, capture_id="unknown"))
    assert [(p.stream_id, p.finished) for p in answer.committed] == [(9, True)]


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


@pytest.mark.parametrize("name", ["", "../a.snapshot", "/etc/passwd", ".hidden"])
def test_names_stay_in_the_store(engine: Engine, name: str) -> None:
    request = control_pb2.CreateSnapshotRequest(name=name, capture_id="c")
    assert refusal(engine.control.CreateSnapshot, request) is grpc.StatusCode.INVALID_ARGUMENT


def test_what_cannot_be_made_twice(engine: Engine) -> None:
    engine.create()
    again = control_pb2.CreateSnapshotRequest(name="a.snapshot", capture_id="c2")
    assert refusal(engine.control.CreateSnapshot, again) is grpc.StatusCode.ALREADY_EXISTS
    same_capture = control_pb2.CreateSnapshotRequest(name="b.snapshot", capture_id="c1")
    assert refusal(engine.control.CreateSnapshot, same_capture) is grpc.StatusCode.ALREADY_EXISTS
    nothing = control_pb2.FinishSnapshotRequest(name="z.snapshot")
    assert refusal(engine.control.FinishSnapshot, nothing) is grpc.StatusCode.NOT_FOUND


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


def ask(responder: control_pb2.Responder, path: str) -> int:
    connection = http.client.HTTPConnection(responder.address, responder.port, timeout=10)
    connection.request("GET", path, headers={"Host": "api.example.com", "Connection": "close"})
    with contextlib.closing(connection):
        return connection.getresponse().status


def test_a_responder_answers_and_tells_what_it_was_asked(engine: Engine) -> None:
    write_snapshot(engine.folder / "a.snapshot", Exchange("GET /a"), Exchange("GET /a", host="other.example"))
    responder = start(engine, only=["api.example.com"])
    assert [(b.host, b.port, list(b.addresses)) for b in responder.backends] == [("api.example.com", 443, ["192.0.2.1"])]
    assert [b.host for b in responder.left_out] == ["other.example"]
    assert Path(responder.ca_file).read_bytes() == responder.ca_certificate
    assert [ask(responder, path) for path in ("/a", "/b", "/b")] == [200, 404, 404]
    got = engine.control.GetResponder(control_pb2.GetResponderRequest(responder_id=responder.id))
    assert got.responder == responder
    run = engine.control.StopResponder(control_pb2.StopResponderRequest(responder_id=responder.id)).run
    assert [(b.host, b.recorded, b.requests, b.matches) for b in run.backends] == [("api.example.com", True, 3, 1)]
    [miss] = run.misses
    assert (miss.times, miss.operation, miss.nearest_operation) == (2, "GET /b", "GET /a")
    assert [(d.field, d.recorded, d.live) for d in miss.differences] == [("path.1", "a", "b")]
    again = report_of(run)
    assert run_message(again) == run
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
    return engine.control.StopResponder(control_pb2.StopResponderRequest(responder_id=responder.id)).run


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
    assert run_message(report_of(run)) == run
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
    got = control_pb2.GetResponderRequest(responder_id=responder.id)
    assert eventually(lambda: "cannot be written" in str(engine.control.GetResponder(got).run.troubles), 10)


def test_a_snapshot_that_cannot_be_finished_is_told_of(engine: Engine, backend: int) -> None:
    path = write_snapshot(engine.folder / "a.snapshot", Exchange("GET /a", host="localhost", port=backend, tls=False))
    responder = start(engine, on_miss=control_pb2.ON_MISS_RECORD)
    ask_by_name(responder, backend, "/b")
    got = control_pb2.GetResponderRequest(responder_id=responder.id)
    assert eventually(lambda: engine.control.GetResponder(got).run.added_pairs == 1, 10)  # the client has its answer sooner
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


def test_unknown_snapshots_and_responders(engine: Engine) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        start(engine)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as caught:
        engine.control.GetResponder(control_pb2.GetResponderRequest(responder_id="x"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as caught:
        engine.control.StopResponder(control_pb2.StopResponderRequest(responder_id="x"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
