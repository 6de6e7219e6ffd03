"""CaptureService: batches become calls of a recording; protobuf ends here."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import grpc
from understudy.v1 import capture_pb2 as pb
from understudy.v1 import capture_pb2_grpc

from engine.ingest.recording import Recording, StreamKey, Wanted
from engine.reassembly import LOST, UNKNOWN
from engine.rrpair import Connection, Role, Way
from engine.snapshot import Snapshot, SnapshotWriter

_WAYS = {pb.DIRECTION_READ: Way.READ, pb.DIRECTION_WRITE: Way.WRITE}
_ROLES = {pb.ROLE_UNSPECIFIED: Role.UNKNOWN, pb.ROLE_CLIENT: Role.CLIENT, pb.ROLE_SERVER: Role.SERVER}
_METHODS = {
    pb.BIND_METHOD_UNSPECIFIED: "",
    pb.BIND_METHOD_SOCKET: "socket",
    pb.BIND_METHOD_NESTED_SYSCALL: "nested syscall",
    pb.BIND_METHOD_CIPHERTEXT: "ciphertext",
}


class Recordings:
    """The recordings that are on, by capture. Its lock is held over a batch, so that a finished snapshot is whole."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._by_capture: dict[str, Recording] = {}
        self.batches = self.events = 0

    def start(self, path: Path, service: str, capture_id: str, *, resume: bool) -> Recording:
        """Begin. Raises SnapshotError, OSError, and ValueError where the capture is recorded already."""
        with self.lock:
            self._check(path, capture_id)
            writer = SnapshotWriter.create(
                path,
                service=service,
                capture_id=capture_id,
                created=time.time_ns(),
                tool_version=version("understudy"),
                resume=resume,
            )
            return self._keep(Recording(writer, service, capture_id))

    def extend(self, path: Path, capture_id: str, wanted: Wanted) -> Recording:
        """Begin to add to a snapshot. Raises SnapshotError, OSError, and ValueError where the capture is recorded already."""
        with self.lock:
            self._check(path, capture_id)
            with Snapshot(path) as snapshot:
                service = snapshot.info.service
            return self._keep(Recording(SnapshotWriter.extend(path), service, capture_id, wanted))

    def _check(self, path: Path, capture_id: str) -> None:
        if capture_id in self._by_capture:
            raise ValueError(f"capture {capture_id!r} is being recorded already")
        if any(recording.writer.path == path for recording in self._by_capture.values()):
            raise ValueError(f"{path.name} is being recorded already")

    def _keep(self, recording: Recording) -> Recording:
        self._by_capture[recording.capture_id] = recording
        return recording

    def find(self, capture_id: str) -> Recording | None:
        """The recording of a capture."""
        return self._by_capture.get(capture_id)

    def remove(self, recording: Recording) -> None:
        """It takes in nothing more."""
        with self.lock:
            self._by_capture.pop(recording.capture_id, None)

    def all(self) -> list[Recording]:
        """All that are on."""
        return list(self._by_capture.values())


class CaptureService(capture_pb2_grpc.CaptureServiceServicer):
    """Takes in what agents upload."""

    def __init__(self, recordings: Recordings) -> None:
        self._recordings = recordings

    def Upload(self, request_iterator: Iterator[pb.UploadRequest], context: grpc.ServicerContext) -> Iterator[pb.UploadResponse]:  # noqa: ARG002, D102
        streams: dict[StreamKey, Recording] = {}
        for request in request_iterator:
            response = pb.UploadResponse(received_sequence=request.sequence)
            with self._recordings.lock:
                self._recordings.batches += 1
                self._recordings.events += len(request.events)
                unwanted = self._take(request, streams)
                for recording in self._recordings.all():
                    _commit(recording, request.agent_id, response)
            for stream in unwanted:
                response.committed.add(stream_id=stream, finished=True)
            yield response

    def _take(self, request: pb.UploadRequest, streams: dict[StreamKey, Recording]) -> set[int]:
        """Feed the recordings; returns the streams that no recording wants."""
        unwanted: set[int] = set()
        agent = request.agent_id
        for event in request.events:
            kind = event.WhichOneof("event")
            key = (agent, event.stream_id)
            if kind == "opened":
                wanted = self._recordings.find(event.opened.capture_id)
                if wanted:
                    streams[key] = wanted
            elif kind == "capture_ended":
                ended = self._recordings.find(event.capture_ended.capture_id)
                if ended:
                    ended.ledger = _ledger(event.capture_ended.ledger)
            recording = streams.get(key)
            if recording and not recording.over:
                _feed(recording, key, kind, event)
                if kind == "closed":
                    del streams[key]
            elif event.stream_id:
                unwanted.add(event.stream_id)
        return unwanted


def _commit(recording: Recording, agent: str, response: pb.UploadResponse) -> None:
    for progress in recording.commit():
        if progress.agent == agent:
            response.committed.add(
                stream_id=progress.stream,
                read_offset=progress.read_offset,
                write_offset=progress.write_offset,
                finished=progress.finished,
            )


def _feed(recording: Recording, key: StreamKey, kind: str | None, event: pb.CaptureEvent) -> None:
    now = event.time_unix_nano
    if kind == "chunk":
        chunk = event.chunk
        recording.data(key, _WAYS[chunk.direction], chunk.offset, chunk.data, now)
    elif kind == "opened":
        opened = event.opened
        opaque = opened.source == pb.SOURCE_OPAQUE
        recording.opened(key, _connection(key, opened), now, start_known=opened.start_known, opaque=opaque)
    elif kind == "bound":
        recording.located(key, _facts(event.bound))
    elif kind == "gap":
        reason = LOST if event.gap.reason == pb.GAP_REASON_LOST else UNKNOWN
        recording.gap(key, _WAYS[event.gap.direction], event.gap.offset, event.gap.length, reason)
    elif kind == "half_closed":
        recording.half_closed(key, _WAYS[event.half_closed.direction], now)
    elif kind == "closed":
        recording.closed(key, now, (event.closed.read.opaque, event.closed.write.opaque))


def _connection(key: StreamKey, opened: pb.StreamOpened) -> Connection:
    return Connection(
        id=f"{key[0][:8]}-{key[1]}",
        tls=opened.source != pb.SOURCE_SOCKET,
        pid=opened.workload.pid,
        command=opened.workload.command,
    )


def _facts(bound: pb.StreamBound) -> Connection:
    return Connection(
        id="",
        role=_ROLES.get(bound.role, Role.UNKNOWN),
        local_address=bound.local.address,
        local_port=bound.local.port,
        remote_address=bound.remote.address,
        remote_port=bound.remote.port,
        server_name=bound.server_name,
        application_protocol=bound.application_protocol,
        tls_version=bound.tls_version,
        bound_by=_METHODS.get(bound.method, ""),
    )


def _ledger(ledger: pb.Ledger) -> dict[str, int]:
    return {field.name: getattr(ledger, field.name) for field in ledger.DESCRIPTOR.fields}
