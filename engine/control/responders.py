"""The responders of an engine, and what came of them as messages."""

from __future__ import annotations

import math
import secrets
import threading
from pathlib import Path

from understudy.v1 import backend_pb2
from understudy.v1 import control_pb2 as pb

from engine.report import Miss, MockReport
from engine.responder.authority import Authority
from engine.responder.backends import Place
from engine.responder.server import Responder

RESPONDERS_LIMIT = 64
"""Responders at a time: each has a thread and an index."""
ID_BYTES = 8


class Responders:
    """Those that are on, by id."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._lock = threading.Lock()
        self._on: dict[str, Responder] = {}

    def start(self, path: Path, request: pb.StartResponderRequest) -> pb.Responder:
        """Start one. Raises SnapshotError, ValueError or OSError."""
        if not math.isfinite(request.speed) or request.speed < 0:
            raise ValueError("a speed is 0 or more")
        if request.port > 65535:
            raise ValueError(f"{request.port} is no port")
        if len(self._on) >= RESPONDERS_LIMIT:
            raise ValueError(f"there are {RESPONDERS_LIMIT} responders: stop one first")
        with self._lock:
            authority = Authority(self._state)
        responder = Responder(path, authority, only=request.only, excluded=request.excluded, speed=request.speed)
        responder.start(request.address or "127.0.0.1", request.port)
        identity = secrets.token_hex(ID_BYTES)
        self._on[identity] = responder
        return _message(identity, responder)

    def get(self, identity: str) -> pb.GetResponderResponse | None:
        """What one was asked so far; None where there is none."""
        responder = self._on.get(identity)
        if responder is None:
            return None
        return pb.GetResponderResponse(responder=_message(identity, responder), run=run_message(responder.run.report()))

    def stop(self, identity: str) -> pb.ResponderRun | None:
        """End one; what it was asked. None where there is none."""
        responder = self._on.pop(identity, None)
        return run_message(responder.stop()) if responder else None


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
            pb.BackendCount(host=b.host, port=b.port, recorded=b.recorded, requests=b.requests, matches=b.matches)
            for b in report.backends
        ],
        misses=[_miss_message(miss) for miss in report.misses],
        more_misses=report.more_misses,
        troubles=dict(report.troubles),
    )


def _miss_message(miss: Miss) -> pb.Miss:
    return pb.Miss(
        time_unix_nano=miss.time,
        times=miss.times,
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
