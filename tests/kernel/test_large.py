"""The largest body that the engine keeps, as programs write it: in one call."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from understudy.v1 import agent_pb2

from agent.events import Counter
from engine.protocols.http1 import BODY_LIMIT
from tests.e2e.conftest import Authority
from tests.kernel.conftest import Capturing
from tests.kernel.probing import probing, serving

pytestmark = pytest.mark.kernel

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"

CLIENTS = {
    "http.client": """
import http.client, ssl
scheme, port, ca, path = sys.argv[1:]
connection = http.client.HTTPConnection("localhost", port)
if scheme == "https":
    connection = http.client.HTTPSConnection("localhost", port, context=ssl.create_default_context(cafile=ca))
connection.request("POST", "/", open(path, "rb").read())
assert connection.getresponse().read() == b"ok"
""",
    "requests": """
import requests
scheme, port, ca, path = sys.argv[1:]
assert requests.post(f"{scheme}://localhost:{port}/", open(path, "rb").read(), verify=ca).text == "ok"
""",
    "curl": """
import os
scheme, port, ca, path = sys.argv[1:]
os.execlp("curl", "curl", "-sS", "--fail", "--cacert", ca, "-H", "Expect:", "-H", "Content-Type: application/octet-stream",
          "--data-binary", f"@{path}", f"{scheme}://localhost:{port}/")
""",
}


def take_upload(connection: socket.socket) -> None:
    """Reads a request with a Content-Length, and answers."""
    with connection.makefile("rb") as reader:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += reader.readline()
        left = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        while left:
            left -= len(reader.read(min(left, 1 << 20)))
    connection.sendall(ANSWER)


@pytest.mark.parametrize(("client", "scheme"), [("http.client", "https"), ("requests", "http"), ("curl", "https")])
def test_the_largest_body_is_complete(
    capturing: Callable[..., Capturing], authority: Authority, tmp_path: Path, client: str, scheme: str
) -> None:
    body = b"".join(b"x" * 4092 + bytes([128 + number // 128, 128 + number % 128]) * 2 for number in range(BODY_LIMIT // 4096))
    path = tmp_path / "body"
    path.write_bytes(body)

    def over_tls(connection: socket.socket) -> None:
        with authority.context.wrap_socket(connection, server_side=True) as stream:
            take_upload(stream)

    with serving(over_tls if scheme == "https" else take_upload) as port:
        command = [sys.executable, "-c", "import sys; sys.stdin.readline()\n" + CLIENTS[client]]
        program = subprocess.Popen([*command, scheme, str(port), str(authority.ca), str(path)], stdin=subprocess.PIPE)
        capture = capturing()
        capture.start(agent_pb2.Target(launched_pid=program.pid))
        program.communicate(b"\n", timeout=60)
        assert program.returncode == 0
    ledger = capture.stop()
    assert (ledger.lost, ledger.seen - ledger.delivered) == (0, 0)
    with capture.snapshot() as snapshot:
        (pair,) = snapshot.pairs()
        assert pair.complete
        assert hashlib.sha256(pair.request.body).digest() == hashlib.sha256(body).digest()


def test_a_call_of_more_than_the_ring_holds_is_counted() -> None:
    """Nobody reads while it is told: what has room is delivered, the rest is lost, to the byte."""
    size = 96 << 20
    program = f"""
connection = connect()
connection.sendall(bytes({size}))
"""

    def swallow(connection: socket.socket) -> None:
        buffer = bytearray(1 << 20)
        while connection.recv_into(buffer):
            pass

    with serving(swallow) as port, probing(ring_bytes=1 << 20) as probes:
        probes.run(program, port)
        probes.only()
        assert probes.passed(1) == size
        assert 0 < len(probes.said(1)) < 1 << 20
        probes.check_ledger()


def test_a_full_ring_has_room_for_how_streams_begin_and_end() -> None:
    """Nobody reads while small writes fill it, and then connections come and go."""
    program = """
connection = connect()
for _ in range(4000):
    connection.sendall(bytes(200))
for _ in range(50):
    connect().sendall(b"lost")
"""

    def swallow(connection: socket.socket) -> None:
        while connection.recv(65536):
            pass

    with serving(swallow) as port, probing(ring_bytes=1 << 18) as probes:
        probes.run(program, port)
        probes.wait_for_ends()
        assert len(probes.opened()) == 51
        assert probes.probes.counter(Counter.EVENTS_LOST) == 0
        assert probes.passed(1) == 4000 * 200 + 50 * 4
        probes.check_ledger()
