"""Makes the seeds of fuzz_snapshot, fuzz_batches and fuzz_requests: `python -m tests.fuzz.make_services_seeds`."""

from __future__ import annotations

import struct
from pathlib import Path

from understudy.v1 import capture_pb2 as pb

from tests.fuzz.fuzz_batches import packed

CORPUS = Path(__file__).parent / "corpus"
ASKED = b'POST /a?b=c HTTP/1.1\r\nHost: api.example\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{"a":1}'
ANSWERED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"


def batches() -> dict[str, bytes]:
    """A conversation, one with gaps and late facts, an opaque stream, a capture's ledger, and numbers at their ends."""

    def event(stream: int = 1, **content: object) -> pb.CaptureEvent:
        return pb.CaptureEvent(stream_id=stream, time_unix_nano=1_000, **content)  # type: ignore[arg-type]

    opened = pb.StreamOpened(capture_id="c1", source=pb.SOURCE_TLS, start_known=True, workload=pb.Workload(pid=7, command="shop"))
    bound = pb.StreamBound(
        local=pb.Endpoint(address="10.0.0.1", port=40000),
        remote=pb.Endpoint(address="192.0.2.1", port=443),
        role=pb.ROLE_CLIENT,
        method=pb.BIND_METHOD_NESTED_SYSCALL,
        server_name="api.example",
        tls_version="TLS 1.3",
    )
    write = pb.Chunk(direction=pb.DIRECTION_WRITE, data=ASKED)
    read = pb.Chunk(direction=pb.DIRECTION_READ, data=ANSWERED)
    whole = [event(opened=opened), event(bound=bound), event(chunk=write), event(chunk=read), event(closed=pb.StreamClosed())]
    gap = pb.Gap(direction=pb.DIRECTION_READ, offset=10, length=20, reason=pb.GAP_REASON_LOST)
    half = pb.HalfClosed(direction=pb.DIRECTION_READ)
    opaque = pb.StreamOpened(capture_id="c1", source=pb.SOURCE_OPAQUE)
    tally = pb.StreamClosed(read=pb.Tally(seen=9, opaque=2**63 - 1), write=pb.Tally(seen=1, lost=1))
    ends = [
        pb.CaptureEvent(capture_started=pb.CaptureStarted(capture_id="c1", node="n")),
        pb.CaptureEvent(capture_ended=pb.CaptureEnded(capture_id="c1", ledger=pb.Ledger(seen=2**64 - 1, delivered=3))),
    ]
    beyond = pb.CaptureEvent(stream_id=2**64 - 1, time_unix_nano=2**64 - 1, opened=opened)
    largest = pb.Chunk(direction=pb.DIRECTION_READ, offset=2**64 - 1, data=b"x")
    surrogate = pb.Chunk(
        direction=pb.DIRECTION_WRITE,
        data=b"POST / HTTP/1.1\r\nHost: h\r\nX-Amz-Target: DynamoDB_20120810.GetItem\r\nContent-Length: 22\r\n\r\n"
        b'{"TableName":"\\ud83d"}',
    )
    found = {
        "whole": [whole, whole],
        "gap": [whole[:3], [event(gap=gap), event(half_closed=half)], whole[3:]],
        "opaque": [[event(2, opened=opaque), event(2, bound=bound), event(2, closed=tally)], ends],
        "numbers": [
            [*whole[:3], event(chunk=largest)],
            [beyond],
        ],
        "surrogate": [[whole[0], whole[1], event(chunk=surrogate), event(chunk=read)]],
        "no-direction": [[*whole[:2], event(chunk=pb.Chunk(data=b"x"))]],
    }
    return {
        name: packed(*[pb.UploadRequest(agent_id="agent", sequence=n, events=events) for n, events in enumerate(parts, 1)])
        for name, parts in found.items()
    }


def snapshots() -> dict[str, bytes]:
    """Changes to a good file: none, the first pages, and one far in."""
    places = {"nothing": 0, "schema": 200, "page-2": 4096, "page-4": 3 * 4096, "far": 40_000}
    return {name: struct.pack("<IB", at, 4) + b"\xff\x00\x7f\x01" if at else b"" for name, at in places.items()}


def requests() -> dict[str, bytes]:
    """The forms of requests."""
    chunked = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n3\r\nabc\r\n0\r\nT: 1\r\n\r\n"
    return {
        "get": b"\x03GET /a?b=c HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.0\r\n\r\n",
        "length": b"\x05" + ASKED + ASKED,
        "chunked": b"\x01" + chunked,
        "connect": b"\x07CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n\x16\x03\x01",
        "upgrade": b"\x07GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
        "continue": b"\x09POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab",
        "absolute": b"\x00GET http://h/a HTTP/1.1\r\nHost: x\r\n\r\n",
        "preface": b"\x02PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    }


def main() -> None:
    """Write them."""
    for folder, seeds in (("batches", batches()), ("snapshot", snapshots()), ("requests", requests())):
        (CORPUS / folder).mkdir(parents=True, exist_ok=True)
        for name, seed in seeds.items():
            (CORPUS / folder / name).write_bytes(seed)


if __name__ == "__main__":
    main()
