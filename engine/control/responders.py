"""The responders of an engine."""

from __future__ import annotations

import math
import queue
import secrets
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

from understudy.v1 import backend_pb2
from understudy.v1 import control_pb2 as pb

from engine.ingest.recording import Recording
from engine.ingest.service import Recordings
from engine.report import MockReport
from engine.responder.authority import Authority
from engine.responder.backends import Place
from engine.responder.server import LOOPBACK, Responder, is_loopback
from engine.rrpair import Direction, Flow, Role, RRPair
from engine.store.encoding import well_formed

RESPONDERS_LIMIT = 64
"""Responders at a time: each has a thread and an index."""
ID_BYTES = 8
UNWRITTEN_LIMIT = 1000
"""What was heard of real backends and waits to be written, a message of the responder each: a disk that is slower loses them."""
UNWRITTEN_BYTES = 256 * 1024 * 1024
"""Of their bodies: two of the longest exchanges."""
_PASSING = (pb.ON_MISS_PASSTHROUGH, pb.ON_MISS_RECORD)


class _Adder:
    """Writes what a responder heard, on a thread of its own: the responder's loop waits for no disk and no lock."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self._lost = 0
        self._size_lock = threading.Lock()
        self._size = 0
        self._queue: queue.Queue[list[RRPair | Flow] | None] = queue.Queue(UNWRITTEN_LIMIT)
        self._thread = threading.Thread(target=self._run, name="adder", daemon=True)
        self._thread.start()

    def put(self, items: Iterable[RRPair | Flow]) -> None:
        """Take these, or count them where too much waits already."""
        items = list(items)
        size = _body_bytes(items)
        with self._size_lock:
            if self._size + size > UNWRITTEN_BYTES or self._queue.full():
                self._lost += 1
                return
            self._size += size
        self._queue.put(items)

    def _run(self) -> None:
        while (items := self._queue.get()) is not None:
            with self.recording.lock:
                self.recording.heard(items)
            with self._size_lock:
                self._size -= _body_bytes(items)

    def settle(self) -> None:
        """Write what waits. Nothing may be put any more."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    @property
    def troubles(self) -> tuple[tuple[str, int], ...]:
        """What could not be kept, and how often."""
        found = [(self.recording.error, 1), ("answers of real backends came sooner than they could be written", self._lost)]
        return tuple((reason, times) for reason, times in found if reason and times)


def _body_bytes(items: Iterable[RRPair | Flow]) -> int:
    return sum(item.body_bytes for item in items if isinstance(item, RRPair))


@dataclass(frozen=True, slots=True)
class _On:
    """A responder, and who adds to the snapshot what it heard, if that is wanted."""

    responder: Responder
    adder: _Adder | None

    @property
    def report(self) -> MockReport:
        report = self.responder.run.report()
        if self.adder is None:
            return report
        troubles = (*report.troubles, *self.adder.troubles)
        return replace(report, added_pairs=self.adder.recording.added_pairs, troubles=troubles)


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
        if request.on_miss in _PASSING and not is_loopback(request.address or LOOPBACK):
            raise ValueError(
                f"on {request.address}, requests that were not recorded would be passed on for whoever connects: listen on"
                " 127.0.0.1, or let misses fail"
            )
        if len(self._on) >= RESPONDERS_LIMIT:
            raise ValueError(f"there are {RESPONDERS_LIMIT} responders: stop one first")
        identity = secrets.token_hex(ID_BYTES)
        adder = None
        starting: Future[Responder | None] = Future()
        if request.on_miss == pb.ON_MISS_RECORD:
            capture = request.capture_id or identity
            adder = _Adder(self._recordings.extend(path, capture, lambda item: _is_new(item, starting.result())))
        try:
            responder = self._started(path, request, adder)
            starting.set_result(responder)
        except BaseException:
            starting.set_result(None)
            if adder:
                adder.settle()
                self._recordings.discard(adder.recording)
            raise
        self._on[identity] = _On(responder, adder)
        return _message(identity, responder)

    def _started(self, path: Path, request: pb.StartResponderRequest, adder: _Adder | None) -> Responder:
        with self._lock:
            authority = Authority(self._state)
        responder = Responder(
            path,
            authority,
            only=request.only,
            excluded=request.excluded,
            speed=request.speed,
            pass_on=request.on_miss in _PASSING,
            real_authorities=request.real_authorities,
            keep=adder.put if adder else None,
            taken_over_only=request.taken_over_only,
        )
        responder.start(request.address or LOOPBACK, request.port)
        return responder

    def get(self, identity: str) -> tuple[pb.Responder, MockReport] | None:
        """One, and what it was asked so far; None where there is none."""
        found = self._on.get(identity)
        return (_message(identity, found.responder), found.report) if found else None

    def stop(self, identity: str) -> MockReport | None:
        """End one; what it was asked. None where there is none.

        Raises SnapshotError and OSError where what was recorded cannot be made a snapshot: it can be stopped again.
        """
        found = self._on.get(identity)
        if found is None:
            return None
        found.responder.stop()
        if found.adder:
            found.adder.settle()
            self._recordings.finish(found.adder.recording)
        self._on.pop(identity, None)
        return found.report


def _is_new(item: RRPair | Flow, responder: Responder | None) -> bool:
    """Whether a captured call went to somebody who was neither stood in for nor left out, nor to the program itself; none where no
    responder started."""
    if responder is None:
        return False
    connection = item.connection
    if isinstance(item, RRPair):
        is_call, place = item.direction is Direction.OUT, (item.host, item.port)
    else:
        is_call = connection.role is Role.CLIENT
        place = (connection.server_name or connection.remote_address, connection.remote_port)
    known = responder.backends
    if not is_call or not connection.remote_address or place in known.off | known.unservable | known.own.keys():
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
        unservable=[_backend(place, backends.addresses[place]) for place in sorted(backends.unservable)],
        itself=[_backend(place, addresses) for place, addresses in sorted(backends.own.items())],
    )


def _backend(place: Place, addresses: set[str]) -> backend_pb2.Backend:
    return backend_pb2.Backend(host=well_formed(place[0]), port=place[1], addresses=sorted(map(well_formed, addresses)))
