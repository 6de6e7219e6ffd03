"""ControlService: snapshots and responders by gRPC. A snapshot is named by its file in the engine's store, a folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
from understudy.v1 import capture_pb2, control_pb2_grpc, rrpair_pb2
from understudy.v1 import control_pb2 as pb

from engine.control.responders import Responders
from engine.ingest.recording import Recording
from engine.ingest.service import Recordings
from engine.rrpair import Message, RRPair
from engine.snapshot import Snapshot, SnapshotError

PAGE = 100
"""Snapshots in a page unless asked for otherwise."""


class ControlService(control_pb2_grpc.ControlServiceServicer):
    """Serves the snapshots of one store. `state`: folder of what belongs to the installation, such as its authority."""

    def __init__(self, store: Path, recordings: Recordings, state: Path) -> None:
        self._store = store
        self._recordings = recordings
        self._responders = Responders(state, recordings)
        self._recorded: dict[str, Recording] = {}

    def CreateSnapshot(self, request: pb.CreateSnapshotRequest, context: grpc.ServicerContext) -> pb.CreateSnapshotResponse:  # noqa: D102
        path = self._path(request.name, context)
        if not request.capture_id:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a snapshot takes in a capture: its id is missing")
        if request.name in self._recorded:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, f"{request.name} is being recorded")
        try:
            recording = self._recordings.start(path, request.service, request.capture_id, resume=request.resume)
        except ValueError as error:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, str(error))
        except (OSError, SnapshotError) as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        self._recorded[request.name] = recording
        return pb.CreateSnapshotResponse(snapshot=_recording_message(request.name, recording))

    def FinishSnapshot(self, request: pb.FinishSnapshotRequest, context: grpc.ServicerContext) -> pb.FinishSnapshotResponse:  # noqa: D102
        recording = self._recorded.pop(request.name, None)
        if recording is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"{request.name} is not being recorded")
        try:
            with self._recordings.lock:
                self._recordings.remove(recording)
                recording.finish(time.time_ns())
        except (SnapshotError, OSError) as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        return pb.FinishSnapshotResponse(snapshot=_snapshot_message(recording.writer.path))

    def GetSnapshot(self, request: pb.GetSnapshotRequest, context: grpc.ServicerContext) -> pb.GetSnapshotResponse:  # noqa: D102
        recording = self._recorded.get(request.name)
        if recording:
            return pb.GetSnapshotResponse(snapshot=_recording_message(request.name, recording))
        return pb.GetSnapshotResponse(snapshot=self._read(request.name, context))

    def ListSnapshots(self, request: pb.ListSnapshotsRequest, context: grpc.ServicerContext) -> pb.ListSnapshotsResponse:  # noqa: ARG002, D102
        finished = {path.name for path in self._store.glob("*.snapshot")}
        names = sorted(name for name in finished | set(self._recorded) if name > request.page_token)
        size = request.page_size or PAGE
        response = pb.ListSnapshotsResponse()
        for name in names[:size]:
            recording = self._recorded.get(name)
            try:
                found = _recording_message(name, recording) if recording else _snapshot_message(self._store / name)
            except SnapshotError:
                continue  # another program's file, or one of another version
            response.snapshots.append(found)
        response.next_page_token = names[size - 1] if len(names) > size else ""
        return response

    def DeleteSnapshot(self, request: pb.DeleteSnapshotRequest, context: grpc.ServicerContext) -> pb.DeleteSnapshotResponse:  # noqa: D102
        if request.name in self._recorded:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"{request.name} is being recorded: finish it first")
        self._read(request.name, context)
        self._path(request.name, context).unlink()
        return pb.DeleteSnapshotResponse()

    def ListPairs(self, request: pb.ListPairsRequest, context: grpc.ServicerContext) -> Iterator[pb.ListPairsResponse]:  # noqa: D102
        self._read(request.name, context)
        with Snapshot(self._path(request.name, context)) as snapshot:
            for pair in snapshot.pairs():
                yield pb.ListPairsResponse(pair=pair_message(pair))

    def StartResponder(self, request: pb.StartResponderRequest, context: grpc.ServicerContext) -> pb.StartResponderResponse:  # noqa: D102
        path = self._path(request.snapshot, context)
        try:
            return pb.StartResponderResponse(responder=self._responders.start(path, request))
        except SnapshotError as error:
            context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        except ValueError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except OSError as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        raise AssertionError("abort raises")

    def GetResponder(self, request: pb.GetResponderRequest, context: grpc.ServicerContext) -> pb.GetResponderResponse:  # noqa: D102
        found = self._responders.get(request.responder_id)
        if found is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no responder {request.responder_id!r}")
        return found

    def StopResponder(self, request: pb.StopResponderRequest, context: grpc.ServicerContext) -> pb.StopResponderResponse:  # noqa: D102
        try:
            run = self._responders.stop(request.responder_id)
        except (SnapshotError, OSError) as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        if run is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no responder {request.responder_id!r}")
        return pb.StopResponderResponse(run=run)

    def _path(self, name: str, context: grpc.ServicerContext) -> Path:
        if not name or Path(name).name != name or name.startswith("."):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{name!r} is no name of a snapshot: give a file name without a folder")
        return self._store / name

    def _read(self, name: str, context: grpc.ServicerContext) -> pb.Snapshot:
        try:
            return _snapshot_message(self._path(name, context))
        except SnapshotError as error:
            context.abort(grpc.StatusCode.NOT_FOUND, str(error))
            raise


def _recording_message(name: str, recording: Recording) -> pb.Snapshot:
    return pb.Snapshot(
        name=name,
        state=pb.SNAPSHOT_STATE_RECORDING,
        service=recording.service,
        capture_id=recording.capture_id,
        pairs=recording.writer.pairs,
        complete_pairs=recording.writer.complete_pairs,
        received_bytes=recording.received_bytes,
        capture_ended=recording.ledger is not None,
        ledger=capture_pb2.Ledger(**recording.ledger) if recording.ledger else None,
    )


def _snapshot_message(path: Path) -> pb.Snapshot:
    with Snapshot(path) as snapshot:
        info = snapshot.info
        pairs, complete = snapshot.counts()
    return pb.Snapshot(
        name=path.name,
        state=pb.SNAPSHOT_STATE_READY,
        service=info.service,
        capture_id=info.capture_id,
        created_unix_nano=info.created,
        pairs=pairs,
        complete_pairs=complete,
        capture_ended=bool(info.ledger),
        ledger=capture_pb2.Ledger(**info.ledger) if info.ledger else None,
    )


def pair_message(pair: RRPair) -> rrpair_pb2.RRPair:
    """A pair as a message."""
    return rrpair_pb2.RRPair(
        id=pair.id,
        time_unix_nano=pair.time,
        duration_nano=pair.duration,
        direction=pair.direction,
        service=pair.service,
        protocol=pair.protocol,
        technology=pair.technology,
        tls=pair.connection.tls,
        host=pair.host,
        port=pair.port,
        method=pair.method,
        path=pair.path,
        query=[rrpair_pb2.Field(name=k.encode("latin-1"), value=v.encode("latin-1")) for k, v in pair.query],
        operation=pair.operation,
        status=pair.status,
        request=_message(pair.request),
        response=_message(pair.response) if pair.response else None,
        complete=pair.complete,
        missing=pair.missing,
        signature=pair.signature,
    )


def _message(message: Message) -> rrpair_pb2.Message:
    return rrpair_pb2.Message(
        headers=[rrpair_pb2.Field(name=k, value=v) for k, v in message.headers],
        trailers=[rrpair_pb2.Field(name=k, value=v) for k, v in message.trailers],
        body=message.body,
    )
