"""The responders of an engine, and what came of them as messages."""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

from understudy.v1 import backend_pb2
from understudy.v1 import control_pb2 as pb

from engine.ingest.recording import Recording
from engine.ingest.service import Recordings
from engine.report import Miss, MockReport
from engine.responder.authority import Authority
from engine.responder.backends import Place
from engine.responder.server import Responder
from engine.rrpair import Direction, Flow, Role, RRPair
from engine.snapshot import SnapshotError

RESPONDERS_LIMIT = 64
"""Responders at a time: each has a thread and an index."""
ID_BYTES = 8


@dataclass(frozen=True, slots=True)
class _On:
    """A responder, and the recording that is added to the snapshot, if there is one."""

    responder: Responder
    recording: Recording | None

    @property
    def report(self) -> MockReport:
        return replace(self.responder.run.report(), added_pairs=self.recording.added_pairs if self.recording else 0)


class Responders:
    """Those that are on, by id."""

    def __init__(self, state: Path, recordings: Recordings) -> None:
        self._state = state
        self._recordings = recordings
        self._lock = threading.Lock()
        self._on: dict[str, _On] = {}

    def start(self, path: Path, request: pb.StartResponderRequest) -> pb.Responder:
        """Start one. Raises SnapshotError, ValueError or OSError."""
        if not math.isfinite(request.speed) or request.speed < 0:
            raise ValueError("a speed is 0 or more")
        if request.port > 65535:
            raise ValueError(f"{request.port} is no port")
        if len(self._on) >= RESPONDERS_LIMIT:
            raise ValueError(f"there are {RESPONDERS_LIMIT} responders: stop one first")
        identity = secrets.token_hex(ID_BYTES)
        recording = None
        if request.on_miss == pb.ON_MISS_RECORD:
            recording = self._recordings.extend(path, request.capture_id or identity, lambda item: _is_new(item, responder))
        try:
            responder = self._started(path, request, recording)
        except BaseException:
            if recording:
                self._conclude(recording)
            raise
        self._on[identity] = _On(responder, recording)
        return _message(identity, responder)

    def _started(self, path: Path, request: pb.StartResponderRequest, recording: Recording | None) -> Responder:
        with self._lock:
            authority = Authority(self._state)

        def keep(finished: Iterable[RRPair | Flow]) -> None:
            assert recording
            try:
                with self._recordings.lock:
                    recording.writer.add(finished)
            except SnapshotError as error:
                responder.run.trouble(str(error))

        responder = Responder(
            path,
            authority,
            only=request.only,
            excluded=request.excluded,
            speed=request.speed,
            pass_on=request.on_miss in (pb.ON_MISS_PASSTHROUGH, pb.ON_MISS_RECORD),
            real_authorities=request.real_authorities,
            keep=keep if recording else None,
        )
        responder.start(request.address or "127.0.0.1", request.port)
        return responder

    def _conclude(self, recording: Recording) -> None:
        """Make the snapshot of it, or leave the old one where there is nothing new."""
        with self._recordings.lock:
            self._recordings.remove(recording)
            recording.finish(time.time_ns())

    def get(self, identity: str) -> pb.GetResponderResponse | None:
        """What one was asked so far; None where there is none."""
        found = self._on.get(identity)
        if found is None:
            return None
        return pb.GetResponderResponse(responder=_message(identity, found.responder), run=run_message(found.report))

    def stop(self, identity: str) -> pb.ResponderRun | None:
        """End one; what it was asked. None where there is none.

        Raises SnapshotError and OSError where what was recorded cannot be made a snapshot.
        """
        found = self._on.pop(identity, None)
        if found is None:
            return None
        found.responder.stop()
        if found.recording:
            self._conclude(found.recording)
        return run_message(found.report)


def _is_new(item: RRPair | Flow, responder: Responder) -> bool:
    """Whether a captured call went to somebody who was neither stood in for nor left out."""
    connection = item.connection
    if isinstance(item, RRPair):
        is_call, place = item.direction is Direction.OUT, (item.host, item.port)
    else:
        is_call = connection.role is Role.CLIENT
        place = (connection.server_name or connection.remote_address, connection.remote_port)
    if not is_call or not connection.remote_address or place in responder.backends.off:
        return False
    return connection.remote_port != responder.port or not ip_address(connection.remote_address).is_loopback


def _message(identity: str, responder: Responder) -> pb.Responder:
    backends = responder.backends
    return pb.Responder(
        id=identity,
        address=responder.address,
        port=responder.port,
        ca_certificate=responder.authority.certificate_file.read_bytes(),
        ca_file=str(responder.authority.certificate_file),
        backends=[_backend(place, backends.addresses[place]) for place in backends.indexes],
        left_out=[_backend(place, backends.addresses[place]) for place in sorted(backends.off)],
    )


def _backend(place: Place, addresses: set[str]) -> backend_pb2.Backend:
    return backend_pb2.Backend(host=place[0], port=place[1], addresses=sorted(addresses))


def run_message(report: MockReport) -> pb.ResponderRun:
    """A report as a message."""
    return pb.ResponderRun(
        service=report.service,
        started_unix_nano=report.started,
        ended_unix_nano=report.ended,
        backends=[
            pb.BackendCount(host=b.host, port=b.port, recorded=b.recorded, requests=b.requests, matches=b.matches, passed=b.passed)
            for b in report.backends
        ],
        misses=[_miss_message(miss) for miss in report.misses],
        more_misses=report.more_misses,
        troubles=dict(report.troubles),
        added_pairs=report.added_pairs,
    )


def _miss_message(miss: Miss) -> pb.Miss:
    return pb.Miss(
        time_unix_nano=miss.time,
        times=miss.times,
        passed=miss.passed,
        host=miss.host,
        port=miss.port,
        operation=miss.operation,
        method=miss.method,
        path=miss.path,
        reason=miss.reason,
        nearest_id=miss.nearest,
        nearest_operation=miss.nearest_operation,
        differences=[pb.Difference(field=d.field, recorded=d.recorded, live=d.live) for d in miss.differences],
    )
