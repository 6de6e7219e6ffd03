"""CaptureService: batches become calls of a recording; protobuf ends here."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

import grpc
from understudy.v1 import capture_pb2 as pb
from understudy.v1 import capture_pb2_grpc

from engine.ingest.recording import Recording, StreamKey, Wanted
from engine.ingest.unfinished import Unfinished
from engine.reassembly import LOST, UNKNOWN
from engine.rrpair import Connection, Role, Way
from engine.snapshot import Finished, Snapshot, SnapshotWriter
from engine.store.encoding import well_formed
from engine.store.rows import INTEGER_LIMIT

AGENT_ID_LIMIT = 128
"""Characters of an agent's id: a name and a random number."""

ENDED_LIMIT = 10_000
"""Captures that are known to have ended, the latest: what is still on its way from their agents is of the last seconds."""

_WAYS = {pb.DIRECTION_READ: Way.READ, pb.DIRECTION_WRITE: Way.WRITE}
_ROLES = {pb.ROLE_UNSPECIFIED: Role.UNKNOWN, pb.ROLE_CLIENT: Role.CLIENT, pb.ROLE_SERVER: Role.SERVER}
_METHODS = {
    pb.BIND_METHOD_UNSPECIFIED: "",
    pb.BIND_METHOD_SOCKET: "socket",
    pb.BIND_METHOD_NESTED_SYSCALL: "nested syscall",
    pb.BIND_METHOD_CIPHERTEXT: "ciphertext",
}


class NotRecordedError(Exception):
    """A batch has something of a capture that is not recorded, and has not ended here: whose recording may be begun yet."""


class Recordings:
    """The recordings that are on, by capture. Its lock is held for a moment only; each recording has one of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._unfinished = Unfinished()
        self._by_capture: dict[str, Recording] = {}
        self._starting: dict[str, Path] = {}
        self._ended: dict[str, None] = {}
        self.batches = self.events = self.malformed_events = 0

    def start(self, path: Path, service: str, capture_id: str, *, resume: bool) -> Recording:
        """Begin. Raises SnapshotError, OSError, and ValueError where the capture is recorded already."""
        with self._reserved(path, capture_id):
            writer = SnapshotWriter.create(
                path,
                service=service,
                capture_id=capture_id,
                created=time.time_ns(),
                tool_version=version("understudy"),
                resume=resume,
            )
            return self._keep(Recording(writer, service, capture_id, unfinished=self._unfinished))

    def extend(self, path: Path, capture_id: str, wanted: Wanted) -> Recording:
        """Begin to add to a snapshot. Raises SnapshotError, OSError, and ValueError where the capture is recorded already."""
        with self._reserved(path, capture_id):
            with Snapshot(path) as snapshot:
                service = snapshot.info.service
            return self._keep(Recording(SnapshotWriter.extend(path), service, capture_id, wanted, self._unfinished))

    @contextmanager
    def _reserved(self, path: Path, capture_id: str) -> Iterator[None]:
        """Keep others from the capture and the file while they are begun: files are copied without the lock."""
        with self._lock:
            if capture_id in self._by_capture or capture_id in self._starting:
                raise ValueError(f"capture {capture_id!r} is being recorded already")
            if path in self._starting.values() or any(each.writer.path == path for each in self._by_capture.values()):
                raise ValueError(f"{path.name} is being recorded already")
            self._starting[capture_id] = path
        try:
            yield
        finally:
            with self._lock:
                del self._starting[capture_id]

    def _keep(self, recording: Recording) -> Recording:
        with self._lock:
            self._by_capture[recording.capture_id] = recording
            self._ended.pop(recording.capture_id, None)
        return recording

    def find(self, capture_id: str) -> Recording | None:
        """The recording of a capture."""
        return self._by_capture.get(capture_id)

    def wanting(self, capture_id: str) -> Recording | None:
        """The recording of a capture; None where it has ended, or can be none. Raises NotRecordedError.

        After a restart of the engine its agents may come sooner than those who have it go on with their recordings.
        """
        recording = self.find(capture_id)
        if recording and not recording.over:
            return recording
        if capture_id and capture_id not in self._ended:
            raise NotRecordedError(f"capture {capture_id!r:.200} is not recorded here: create its snapshot, or end the capture")
        return None

    def named(self, name: str) -> Recording | None:
        """The recording of a file."""
        return next((each for each in self.all() if each.writer.path.name == name), None)

    def finish(self, recording: Recording) -> Finished | None:
        """End one. Where that raises SnapshotError or OSError, it can be tried again."""
        with recording.lock:
            result = recording.finish(time.time_ns())
        self._remove(recording)
        return result

    def discard(self, recording: Recording) -> None:
        """End one and throw away what it took in."""
        self._remove(recording)
        with recording.lock:
            recording.discard()

    def abandon(self) -> None:
        """Leave all as they are: another engine may go on with them."""
        for recording in self.all():
            with recording.lock:
                recording.abandon()

    def _remove(self, recording: Recording) -> None:
        with self._lock:
            if self._by_capture.get(recording.capture_id) is recording:
                self._ended[recording.capture_id] = None
                del self._by_capture[recording.capture_id]
            if len(self._ended) > ENDED_LIMIT:
                del self._ended[next(iter(self._ended))]

    def all(self) -> list[Recording]:
        """All that are on."""
        return list(self._by_capture.values())

    def count(self, events: int, malformed: int) -> None:
        """Count a batch."""
        with self._lock:
            self.batches += 1
            self.events += events
            self.malformed_events += malformed


_Event = tuple[StreamKey, str | None, pb.CaptureEvent]
_Streams = dict[StreamKey, Recording]


class CaptureService(capture_pb2_grpc.CaptureServiceServicer):
    """Takes in what agents upload."""

    def __init__(self, recordings: Recordings) -> None:
        self._recordings = recordings

    def Upload(self, request_iterator: Iterator[pb.UploadRequest], context: grpc.ServicerContext) -> Iterator[pb.UploadResponse]:  # noqa: D102
        streams: _Streams = {}
        before = 0
        for request in request_iterator:
            if not 0 < len(request.agent_id) <= AGENT_ID_LIMIT:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"an agent's id has 1 to {AGENT_ID_LIMIT} characters")
            if before and request.sequence != before + 1:
                missing = f"batch {request.sequence} came after batch {before}: connect again, and send what is not committed"
                context.abort(grpc.StatusCode.OUT_OF_RANGE, missing)
            before = request.sequence
            try:
                response = self.take(request, streams)
            except NotRecordedError as error:
                context.abort(grpc.StatusCode.UNAVAILABLE, well_formed(str(error)))
            yield response

    def take(self, request: pb.UploadRequest, streams: _Streams) -> pb.UploadResponse:
        """Take in a batch. `streams`: those of the same connection that were opened before.

        Raises NotRecordedError, where nothing of it is acknowledged: it comes again, and what was taken is not taken twice.
        """
        response = pb.UploadResponse(received_sequence=request.sequence)
        unwanted: set[int] = set()
        malformed = 0
        for recording, events in self._by_recording(request, streams, unwanted).items():
            with recording.lock:
                if recording.over:
                    self._recordings.wanting(recording.capture_id)  # left for another engine, unless it has ended
                    unwanted.update(key[1] for key, _, _ in events if key[1])
                    continue
                malformed += sum([not _taken(recording, *event) for event in events])
                _commit(recording, request.agent_id, response)
        for stream in unwanted:
            response.committed.add(stream_id=stream, finished=True)
        self._recordings.count(len(request.events), malformed)
        return response

    def _by_recording(self, request: pb.UploadRequest, streams: _Streams, unwanted: set[int]) -> dict[Recording, list[_Event]]:
        """The events of each recording, in order; `unwanted` gets the streams that none wants."""
        found: dict[Recording, list[_Event]] = {}
        for event in request.events:
            kind = event.WhichOneof("event")
            key = (request.agent_id, event.stream_id)
            recording = self._recording_of(key, kind, event, streams)
            if recording:
                found.setdefault(recording, []).append((key, kind, event))
            elif event.stream_id:
                unwanted.add(event.stream_id)
            if kind == "closed":
                streams.pop(key, None)
        return found

    def _recording_of(self, key: StreamKey, kind: str | None, event: pb.CaptureEvent, streams: _Streams) -> Recording | None:
        if kind == "capture_started":
            return self._recordings.wanting(event.capture_started.capture_id)
        if kind == "capture_ended":
            return self._recordings.wanting(event.capture_ended.capture_id)
        if kind == "opened":
            wanted = self._recordings.wanting(event.opened.capture_id)
            if wanted:
                streams[key] = wanted
        return streams.get(key)


def _commit(recording: Recording, agent: str, response: pb.UploadResponse) -> None:
    for progress in recording.commit():
        if progress.agent == agent:
            response.committed.add(
                stream_id=progress.stream,
                read_offset=progress.read_offset,
                write_offset=progress.write_offset,
                finished=progress.finished,
            )


def _taken(recording: Recording, key: StreamKey, kind: str | None, event: pb.CaptureEvent) -> bool:
    """Feed a recording; whether the event could be taken. What cannot costs its stream only."""
    try:
        _check(kind, event)
        _feed(recording, key, kind, event)
        return True
    except Exception as error:
        recording.fail(key, min(event.time_unix_nano, INTEGER_LIMIT), error)
        return False


def _check(kind: str | None, event: pb.CaptureEvent) -> None:
    """Raise ValueError where an event cannot be: numbers that no store holds, or no direction."""
    largest = max(event.time_unix_nano, event.stream_id)
    if kind == "chunk":
        largest = max(largest, event.chunk.offset + len(event.chunk.data))
    elif kind == "gap":
        largest = max(largest, event.gap.offset + event.gap.length)
    elif kind == "closed":
        largest = max(largest, event.closed.read.opaque, event.closed.write.opaque)
    if largest > INTEGER_LIMIT:
        raise ValueError("its agent sent a number that is none of a stream")
    if kind in ("chunk", "gap", "half_closed") and getattr(event, kind).direction not in _WAYS:
        raise ValueError("its agent sent no direction")


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
        left_out = event.closed.read.opaque, event.closed.write.opaque
        recording.closed(key, now, left_out, ended=not event.closed.cut)
    elif kind == "capture_started":
        recording.capture_started(key[0])
    elif kind == "capture_ended":
        recording.capture_over(key[0], _ledger(event.capture_ended.ledger))


def _connection(key: StreamKey, opened: pb.StreamOpened) -> Connection:
    return Connection(
        id=f"{blake2b(key[0].encode(), digest_size=8).hexdigest()}-{key[1]}",
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
