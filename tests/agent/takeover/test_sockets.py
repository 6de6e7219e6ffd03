"""Who takes calls at a port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from agent.takeover.sockets import listening


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_process_that_listens(family: socket.AddressFamily, host: str, kind: socket.SocketKind) -> None:
    with socket.socket(family, kind) as listener:
        listener.bind((host, 0))
        if kind is socket.SOCK_STREAM:
            listener.listen()
        port = listener.getsockname()[1]
        assert list(listening(os.getpid(), port)) == [listener.fileno()]
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
            assert list(listening(other.pid, port)) == []
            other.communicate(b"\n")
    assert list(listening(os.getpid(), port)) == []


def test_a_connection_is_no_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        assert list(listening(os.getpid(), client.getsockname()[1])) == []


def test_a_process_that_is_gone() -> None:
    assert list(listening(1 << 30, 80)) == []
