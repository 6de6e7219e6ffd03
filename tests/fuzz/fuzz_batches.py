"""Batches of an agent that sends anything: nothing is raised, the recording can be finished, and another one is not touched.

An input is messages one after the other, each an UploadRequest after its length (2 bytes, little-endian).
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError
from understudy.v1 import capture_pb2 as pb

from engine.ingest.service import CaptureService, Recordings
from engine.snapshot import Snapshot

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where files are written without waiting for a disk."""
ASKED = b"GET /other HTTP/1.1\r\nHost: api.example\r\n\r\n"
ANSWERED = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def one(data: bytes) -> None:
    """Take in the batches between those of another capture; finish both; read both."""
    with tempfile.TemporaryDirectory(prefix="understudy-fuzz-", dir=MEMORY) as folder:
        recordings = Recordings()
        fuzzed = recordings.start(Path(folder) / "a.snapshot", "shop", "c1", resume=False)
        other = recordings.start(Path(folder) / "b.snapshot", "shop", "other", resume=False)
        service = CaptureService(recordings)
        streams: dict[tuple[str, int], object] = {}
        before, after = _conversation()
        service.take(before, streams)  # type: ignore[arg-type]
        for request in _requests(data):
            response = service.take(request, streams)  # type: ignore[arg-type]
            assert response.received_sequence == request.sequence
            sent = {event.stream_id for event in request.events}
            assert {progress.stream_id for progress in response.committed} <= sent
        service.take(after, streams)  # type: ignore[arg-type]
        for recording in (fuzzed, other):
            assert recording.error == ""
            assert recordings.finish(recording)
        with Snapshot(Path(folder) / "a.snapshot") as snapshot:
            assert len(list(snapshot.pairs())) == snapshot.counts()[0]
            assert len(list(snapshot.flows())) >= 0
            snapshot.service_map()
        with Snapshot(Path(folder) / "b.snapshot") as snapshot:
            assert [(pair.path, pair.complete) for pair in snapshot.pairs()] == [("/other", True)]


def packed(*requests: pb.UploadRequest) -> bytes:
    """An input of these."""
    texts = [request.SerializeToString() for request in requests]
    return b"".join(struct.pack("<H", len(text)) + text for text in texts)


def _requests(data: bytes) -> Iterator[pb.UploadRequest]:
    at = 0
    while at + 2 <= len(data):
        (length,) = struct.unpack_from("<H", data, at)
        request = pb.UploadRequest()
        try:
            request.ParseFromString(data[at + 2 : at + 2 + length])
        except DecodeError:
            return
        if request.agent_id != "the other agent":
            yield request
        at += 2 + length


def _conversation() -> tuple[pb.UploadRequest, pb.UploadRequest]:
    opened = pb.StreamOpened(capture_id="other", source=pb.SOURCE_TLS, start_known=True)
    bound = pb.StreamBound(role=pb.ROLE_CLIENT, remote=pb.Endpoint(address="192.0.2.1", port=443))
    first = [
        pb.CaptureEvent(stream_id=1, opened=opened),
        pb.CaptureEvent(stream_id=1, bound=bound),
        pb.CaptureEvent(stream_id=1, chunk=pb.Chunk(direction=pb.DIRECTION_WRITE, data=ASKED)),
    ]
    second = [pb.CaptureEvent(stream_id=1, chunk=pb.Chunk(direction=pb.DIRECTION_READ, data=ANSWERED))]
    return tuple([pb.UploadRequest(agent_id="the other agent", events=events) for events in (first, second)])  # type: ignore[return-value]
