"""The engine's services over gRPC, as a program meets them."""

from __future__ import annotations

import tempfile
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
from engine.metrics import EngineCollector

ASKED = b"GET /a?b=c HTTP/1.1\r\nHost: api.example\r\n\r\n"
ANSWERED = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Engine:
    """An engine on a unix socket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server, self.recordings = build(f"unix:{folder}/e.sock", folder)
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
