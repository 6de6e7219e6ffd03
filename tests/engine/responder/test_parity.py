"""What was recorded of an unusual client is answered when the client comes again."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from engine.pairing import Conversation
from engine.responder.authority import Authority
from engine.responder.server import Responder
from engine.rrpair import Connection, Role, Way
from engine.snapshot import SnapshotWriter

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nrecorded"


@pytest.mark.parametrize(
    "request_bytes",
    [
        "GET /caf\u00e9?q=\u20ac HTTP/1.1\r\nHost: api.example\r\n\r\n".encode(),
        b"GET /a b HTTP/1.1\r\nHost: api.example\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: api.example\r\nX: a\r\n  b\r\n\r\n",
        b"GET /a HTTP/1.1\nHost: api.example\n\n",
        b"POST /a HTTP/1.1\r\nHost: api.example\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        b"POST /a HTTP/1.1\r\nHost: api.example\r\nTransfer-Encoding: chunked\r\n\r\n2 ; a=b\r\nok\r\n0 \r\n\r\n",
    ],
    ids=["utf-8", "blank in target", "folded", "bare LF", "equal lengths", "chunk extension"],
)
def test_a_recorded_request_is_answered(tmp_path: Path, authority: Authority, request_bytes: bytes) -> None:
    conversation = Conversation(Connection("c:1", role=Role.CLIENT, remote_port=80), "test", True)
    found = conversation.data(Way.WRITE, 0, request_bytes, 1) + conversation.data(Way.READ, 0, ANSWER, 2)
    writer = SnapshotWriter.create(tmp_path / "s", service="test", capture_id="c", created=0, tool_version="0")
    writer.add(found)
    writer.finish()
    responder = Responder(tmp_path / "s", authority)
    responder.start()
    try:
        assert ask(responder.port, request_bytes).endswith(b"recorded")
    finally:
        responder.stop()


def ask(port: int, request_bytes: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(request_bytes)
        client.shutdown(socket.SHUT_WR)
        received = b""
        while piece := client.recv(65536):
            received += piece
    return received
