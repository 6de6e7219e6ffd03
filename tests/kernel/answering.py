"""A responder for tests, as trivial as can be: TLS by SNI or none, HTTP/1.1, one request a connection.

    python -m tests.kernel.answering CA_FILE

prints its ports on 127.0.0.1 and ::1, and then a line for each request: JSON with the original destination by SO_ORIGINAL_DST, the
peer, the SNI and the request line.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import sys
import threading
from pathlib import Path

import trustme

SO_ORIGINAL_DST = 80
BODY = b'{"object": "customer", "id": "cus_1", "from": "responder"}'


TELLING = threading.Lock()


def tell(said: object) -> None:
    """A line, whole: each connection has a thread."""
    with TELLING:
        print(json.dumps(said), flush=True)


def original_destination(connection: socket.socket, level: int = socket.SOL_IP) -> tuple[str, int] | None:
    """Whom the peer called, as netfilter would say it; None where it called us."""
    try:
        answer = connection.getsockopt(level, SO_ORIGINAL_DST, 28)
    except OSError:
        return None
    family, port = struct.unpack("=H", answer[:2])[0], int.from_bytes(answer[2:4], "big")
    packed = answer[4:8] if family == socket.AF_INET else answer[8:24]
    return socket.inet_ntop(family, packed), port


class Certificates:
    """Contexts for names, each made once."""

    def __init__(self, ca: trustme.CA) -> None:
        self._ca = ca
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._lock = threading.Lock()

    def context(self, name: str) -> ssl.SSLContext:
        with self._lock:
            if name not in self._contexts:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                self._ca.issue_cert(name).configure_cert(context)
                self._contexts[name] = context
            return self._contexts[name]


def answer(connection: socket.socket, certificates: Certificates) -> None:
    """Answer one connection's first request, and say what it was."""
    original = original_destination(connection)
    again = original_destination(connection, socket.IPPROTO_IPV6)
    said: dict[str, object] = {"original": original, "again": again, "sni": None}
    stream = connection
    if connection.recv(1, socket.MSG_PEEK) == b"\x16":

        def choose(stream: ssl.SSLSocket | ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
            said["sni"] = name
            if name:
                stream.context = certificates.context(name)

        context = certificates.context(original[0] if original else "localhost")
        context.sni_callback = choose
        stream = context.wrap_socket(connection, server_side=True)
    with stream:
        reader = stream.makefile("rb")
        line = reader.readline().decode().strip()
        length, host = 0, ""
        while header := reader.readline().strip():
            name, _, value = header.decode("latin-1").partition(":")
            length = int(value) if name.lower() == "content-length" else length
            host = value.strip() if name.lower() == "host" else host
        reader.read(length)
        tell(said | {"line": line, "host": host})
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\nConnection: close\r\n\r\n"
        stream.sendall(head.encode() + (b"" if line.startswith("HEAD") else BODY))


def serve(listener: socket.socket, certificates: Certificates) -> None:
    def one(connection: socket.socket) -> None:
        try:
            answer(connection, certificates)
        except (OSError, ValueError) as error:
            tell({"error": str(error)})
        finally:
            connection.close()

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=one, args=(connection,), daemon=True).start()


def main() -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(Path(sys.argv[1])))
    certificates = Certificates(ca)
    listeners = [socket.create_server(("127.0.0.1", 0)), socket.create_server(("::1", 0), family=socket.AF_INET6)]
    print(json.dumps([listener.getsockname()[1] for listener in listeners]), flush=True)
    for listener in listeners:
        threading.Thread(target=serve, args=(listener, certificates), daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
