"""Answers that their clients do not read to the end, as SDKs do with streams of events: they stop at the last event."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import Authority
from tests.e2e.recording import pairs, record, understudy

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENTS = (b'data: {"delta":"Hel"}\n\n', b'data: {"delta":"lo"}\n\n', b"data: [DONE]\n\n")

CLIENT = """
import ssl, sys, httpx
url, ca = sys.argv[1:]
with httpx.Client(verify=ssl.create_default_context(cafile=ca)) as client:
    for _ in range(3):
        with client.stream("POST", url, json={"stream": True}, timeout=30) as answer:
            for line in answer.iter_lines():
                if line:
                    print(line)
                if line == "data: [DONE]":
                    break
"""


@contextmanager
def events(context: ssl.SSLContext) -> Iterator[int]:
    """A server whose stream ends only when its client has gone; its port."""
    listening = socket.create_server(("127.0.0.1", 0))

    def answer(plain: socket.socket) -> None:
        with context.wrap_socket(plain, server_side=True, suppress_ragged_eofs=True) as client:
            while not client.recv(65536).endswith(b'{"stream":true}'):
                pass
            client.sendall(HEAD)
            for event in EVENTS:
                client.sendall(b"%x\r\n%b\r\n" % (len(event), event))
            assert client.recv(1) == b""

    def serve() -> None:
        for _ in range(3):
            answer(listening.accept()[0])

    with closing(listening):
        serving = threading.Thread(target=serve)
        serving.start()
        yield listening.getsockname()[1]
        serving.join()


def test_a_stream_of_which_the_end_is_not_read_is_mocked(authority: Authority, tmp_path: Path) -> None:
    snapshot, program = tmp_path / "snapshot", (sys.executable, "-c", CLIENT)
    with events(authority.context) as port:
        arguments = (f"https://localhost:{port}/v1/chat/completions", str(authority.ca))
        recorded = record(snapshot, *program, *arguments)
    assert recorded.stdout == b"".join(EVENTS).replace(b"\n\n", b"\n") * 3
    assert [pair["missing"] for pair in pairs(snapshot)] == [["unread rest of the response"]] * 3
    mocked = understudy("mock", snapshot, "--fail-on-miss", "--", *program, *arguments)
    assert (mocked.status, mocked.stdout) == (0, recorded.stdout), mocked.stderr
    assert "Responder rate 100 %: 3 of 3 requests" in mocked.stderr
