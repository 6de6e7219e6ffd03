"""Calls that last leave room for the others."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from understudy.v1 import capture_pb2 as pb
from understudy.v1 import capture_pb2_grpc, control_pb2

import engine.__main__ as process
from tests.e2e.machine import eventually
from tests.engine.making import Exchange, write_snapshot
from tests.engine.test_control import Engine


class Held:
    """An upload that stays open until `end`."""

    def __init__(self, engine: Engine) -> None:
        self._over = threading.Event()
        self.answers = capture_pb2_grpc.CaptureServiceStub(engine.channel).Upload(self._batches())

    def _batches(self) -> Iterator[pb.UploadRequest]:
        yield pb.UploadRequest(agent_id="agent", sequence=1)
        self._over.wait()

    def end(self) -> None:
        self._over.set()
        assert list(self.answers) == []


def test_agents_that_stay_connected_do_not_keep_others_out(engine: Engine) -> None:
    held = [Held(engine) for _ in range(process.UPLOADS_LIMIT)]
    for each in held:
        next(each.answers)
    assert list(engine.control.ListSnapshots(control_pb2.ListSnapshotsRequest(), timeout=60).snapshots) == []
    with pytest.raises(grpc.RpcError, match=f"{process.UPLOADS_LIMIT} calls of .*Upload are open") as caught:
        next(Held(engine).answers)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    held.pop().end()
    for each in held:
        each.end()
    again = Held(engine)
    assert next(again.answers).received_sequence == 1
    again.end()


def test_whoever_watches_health_does_not_keep_others_out(engine: Engine) -> None:
    """There is no limit, for a watcher holds no thread."""
    stub = health_pb2_grpc.HealthStub(engine.channel)
    watching = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(process.CALLS_AT_ONCE + 1)]
    for each in watching:
        next(each)
    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=60).status == health_pb2.HealthCheckResponse.SERVING
    for each in watching:
        each.cancel()


def test_whoever_reads_pairs_slowly_does_not_keep_others_out(engine: Engine) -> None:
    body = bytes(16 << 20)  # more than gRPC sends ahead
    write_snapshot(engine.folder / "a.snapshot", Exchange("GET /a", body))
    request = control_pb2.ListPairsRequest(name="a.snapshot")
    reading = [engine.control.ListPairs(request) for _ in range(process.STREAMS_LIMIT)]
    for each in reading:
        next(each)
    with pytest.raises(grpc.RpcError) as caught:
        next(engine.control.ListPairs(request))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(engine.control.ListSnapshots(control_pb2.ListSnapshotsRequest(), timeout=60).snapshots) == 1
    for each in reading:
        each.cancel()

    def can_be_read() -> bool:
        with contextlib.suppress(grpc.RpcError):
            return len(list(engine.control.ListPairs(request))) == 16
        return False

    assert eventually(can_be_read, 30)
