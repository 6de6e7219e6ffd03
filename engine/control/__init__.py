"""ControlService: snapshots and responders by gRPC. A snapshot is named by its file in the engine's store, a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
from understudy.v1 import control_pb2 as pb
from understudy.v1 import control_pb2_grpc

from engine.control.messages import pair_messages, recording_message, run_parts, snapshot_message
from engine.control.responders import Responders
from engine.ingest.recording import Recording
from engine.ingest.service import Recordings
from engine.snapshot import Finished, NotASnapshotError, Snapshot, SnapshotError
from engine.store.encoding import well_formed

PAGE, PAGE_LIMIT = 100, 1000
"""Snapshots in a page, unless asked for otherwise and at most: each is opened, and its pairs are counted."""
NAME_LIMIT = 200
"""Bytes of a name: file systems take 255, of which .partial.old-journal needs some."""
FINISHED_LIMIT = 1000
"""Snapshots of which is known what came of them, for a client that asks again; the latest."""

_WRITTEN = (".partial", "-wal", "-shm", "-journal")
"""Ends of the names of files that an engine, or SQLite for it, writes: nobody else deletes one."""
_OURS = (*_WRITTEN, ".old", ".empty")
"""And of those that it keeps aside: a recording of that name would be replaced by another one's end."""


class ControlService(control_pb2_grpc.ControlServiceServicer):
    """Serves the snapshots of one store. `state`: folder of what belongs to the installation, such as its authority."""

    def __init__(self, store: Path, recordings: Recordings, state: Path) -> None:
        self._store = store
        self._recordings = recordings
        self._responders = Responders(state, recordings)
        self._recorded: dict[str, Recording] = {}
        self._finished: dict[str, Finished] = {}

    def CreateSnapshot(self, request: pb.CreateSnapshotRequest, context: grpc.ServicerContext) -> pb.CreateSnapshotResponse:  # noqa: D102
        path = self._path(request.name, context, _OURS)
        if not request.capture_id:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a snapshot takes in a capture: its id is missing")
        if request.name in self._recorded:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, f"{request.name} is being recorded")
        try:
            recording = self._recordings.start(path, request.service, request.capture_id, resume=request.resume)
        except ValueError as error:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, well_formed(str(error)))
        except (OSError, SnapshotError) as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, well_formed(str(error)))
        self._recorded[request.name] = recording
        self._finished.pop(request.name, None)
        return pb.CreateSnapshotResponse(snapshot=recording_message(request.name, recording))

    def FinishSnapshot(self, request: pb.FinishSnapshotRequest, context: grpc.ServicerContext) -> pb.FinishSnapshotResponse:  # noqa: D102
        path = self._path(request.name, context)
        recording = self._recorded.get(request.name)
        try:
            if recording is None:
                return self._finished_before(request, context)
            if request.discard:
                self._recordings.discard(recording)
            else:
                self._note(request.name, self._recordings.finish(recording) or Finished(path, None))
        except (SnapshotError, OSError) as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, well_formed(str(error)))
        self._recorded.pop(request.name, None)
        return pb.FinishSnapshotResponse() if request.discard else self._finished_before(request, context)

    def _note(self, name: str, finished: Finished) -> None:
        self._finished[name] = finished
        while len(self._finished) > FINISHED_LIMIT:
            del self._finished[next(iter(self._finished))]

    def _finished_before(self, request: pb.FinishSnapshotRequest, context: grpc.ServicerContext) -> pb.FinishSnapshotResponse:
        if request.discard:
            context.abort(grpc.StatusCode.NOT_FOUND, f"{request.name} is not being recorded")
        finished = self._finished.get(request.name)
        snapshot = self._read(finished.path.name if finished else request.name, context)
        kept = finished.kept.name if finished and finished.kept else ""
        return pb.FinishSnapshotResponse(snapshot=snapshot, previous_name=kept)

    def GetSnapshot(self, request: pb.GetSnapshotRequest, context: grpc.ServicerContext) -> pb.GetSnapshotResponse:  # noqa: D102
        recording = self._recorded.get(request.name)
        if recording:
            return pb.GetSnapshotResponse(snapshot=recording_message(request.name, recording))
        return pb.GetSnapshotResponse(snapshot=self._read(request.name, context))

    def ListSnapshots(self, request: pb.ListSnapshotsRequest, context: grpc.ServicerContext) -> pb.ListSnapshotsResponse:  # noqa: ARG002, D102
        finished = {path.name for path in self._store.glob("*.snapshot") if path.is_file()}
        names = sorted(name for name in finished | set(self._recorded) if name > request.page_token)
        size = min(request.page_size or PAGE, PAGE_LIMIT)
        response = pb.ListSnapshotsResponse()
        for name in names[:size]:
            recording = self._recorded.get(name)
            try:
                found = recording_message(name, recording) if recording else snapshot_message(self._store / name)
            except NotASnapshotError:
                continue  # another program's file
            except SnapshotError as error:
                found = pb.Snapshot(name=well_formed(name), error=well_formed(str(error)))
            response.snapshots.append(found)
        response.next_page_token = well_formed(names[size - 1]) if len(names) > size else ""
        return response

    def DeleteSnapshot(self, request: pb.DeleteSnapshotRequest, context: grpc.ServicerContext) -> pb.DeleteSnapshotResponse:  # noqa: D102
        if request.name in self._recorded:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"{request.name} is being recorded: finish it first")
        path = self._path(request.name, context, _WRITTEN)
        self._read(request.name, context)
        path.unlink()
        return pb.DeleteSnapshotResponse()

    def ListPairs(self, request: pb.ListPairsRequest, context: grpc.ServicerContext) -> Iterator[pb.ListPairsResponse]:  # noqa: D102
        path = self._path(request.name, context)
        try:
            with Snapshot(path) as snapshot:
                for pair in snapshot.pairs():
                    yield from pair_messages(pair)
        except SnapshotError as error:
            code = grpc.StatusCode.DATA_LOSS if path.exists() else grpc.StatusCode.NOT_FOUND
            context.abort(code, well_formed(str(error)))

    def StartResponder(self, request: pb.StartResponderRequest, context: grpc.ServicerContext) -> pb.StartResponderResponse:  # noqa: D102
        path = self._path(request.snapshot, context, _OURS if request.on_miss == pb.ON_MISS_RECORD else ())
        try:
            return pb.StartResponderResponse(responder=self._responders.start(path, request))
        except SnapshotError as error:
            context.abort(grpc.StatusCode.NOT_FOUND, well_formed(str(error)))
        except ValueError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, well_formed(str(error)))
        except OSError as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, well_formed(str(error)))
        raise AssertionError("abort raises")

    def GetResponder(self, request: pb.GetResponderRequest, context: grpc.ServicerContext) -> Iterator[pb.GetResponderResponse]:  # noqa: D102
        found = self._responders.get(request.responder_id)
        if found is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no responder {request.responder_id!r}")
            return
        responder, report = found
        first, *others = run_parts(report)
        yield pb.GetResponderResponse(responder=responder, run=first)
        for run in others:
            yield pb.GetResponderResponse(run=run)

    def StopResponder(self, request: pb.StopResponderRequest, context: grpc.ServicerContext) -> Iterator[pb.StopResponderResponse]:  # noqa: D102
        try:
            report = self._responders.stop(request.responder_id)
        except (SnapshotError, OSError) as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, well_formed(str(error)))
            return
        if report is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no responder {request.responder_id!r}")
            return
        for run in run_parts(report):
            yield pb.StopResponderResponse(run=run)

    def _path(self, name: str, context: grpc.ServicerContext, refused: tuple[str, ...] = ()) -> Path:
        """The file of a name; one with such an end is refused."""
        if not _is_name(name):
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"{name!r} is no name of a snapshot: give a file name of printable characters, without a folder, that does not"
                f" begin with a dot and is not longer than {NAME_LIMIT} bytes",
            )
        if name.endswith(refused):
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"{name!r} has an end that the engine gives its own files ({', '.join(refused)}): give another name",
            )
        return self._store / name

    def _read(self, name: str, context: grpc.ServicerContext) -> pb.Snapshot:
        path = self._path(name, context)
        try:
            return snapshot_message(path)
        except SnapshotError as error:
            code = grpc.StatusCode.DATA_LOSS if path.is_file() else grpc.StatusCode.NOT_FOUND
            context.abort(code, well_formed(str(error)))
            raise


def _is_name(name: str) -> bool:
    return name.isprintable() and "/" not in name and not name.startswith(".") and 0 < len(name.encode()) <= NAME_LIMIT
