"""A proxy of HTTP for tests."""

from __future__ import annotations

import contextlib
import socket
import threading


class Proxy:
    """A proxy for CONNECT and, one request a connection, for the absolute form. `asked`: for whom."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                threading.Thread(target=self._connect, args=(self._listener.accept()[0],), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head and (data := near.recv(4096)):
            head += data
        method, target = head.split()[:2] if head else (b"", b"")
        self.asked.append(target.decode())
        authority, _, path = target.removeprefix(b"http://").partition(b"/")
        host, _, port = authority.decode().rpartition(":")
        far = socket.create_connection((host, int(port)))
        if method == b"CONNECT":
            near.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        else:  # in the absolute form (RFC 9112 section 3.2.2); one request a connection
            far.sendall(head.replace(target, b"/" + path, 1))
        back = threading.Thread(target=_pump, args=(far, near), daemon=True)
        back.start()
        _pump(near, far)
        back.join()
        near.close()
        far.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
