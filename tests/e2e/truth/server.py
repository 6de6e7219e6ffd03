"""A server that answers what its plan says and remembers every exchange: the truth to compare a capture with."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from io import BufferedIOBase
from types import TracebackType
from typing import Self

from tests.e2e.truth.log import Digest, Exchange, Headers
from tests.e2e.truth.plan import EMPTY, GZIPPED, MARKER, Form, answer_body
from tests.e2e.truth.wire import Head, read_body, read_head, render_chunked, render_head

REASONS = {200: "OK", 204: "No Content", 304: "Not Modified"}


class TruthServer:
    """Listens on 127.0.0.1 (a free port), one thread a connection. Use it as a context manager.

    With `context` it speaks TLS. `exchanges` may be read at any time; it holds what was answered in full.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._answered = threading.Condition(self._lock)
        self.exchanges: list[Exchange] = []
        self.failures: list[str] = []
        self.port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        """Base URL, without a slash at its end."""
        return f"{'https' if self._context else 'http'}://localhost:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._shut(self._listener)
        with self._lock:
            still_open = list(self._open)
        for connection in still_open:
            self._shut(connection)

    def wait_for(self, count: int, seconds: float) -> bool:
        """Waits until `count` exchanges have been answered; False when the time is over."""
        with self._answered:
            return self._answered.wait_for(lambda: len(self.exchanges) >= count, seconds)

    @staticmethod
    def _shut(sock: socket.socket) -> None:
        # shutdown, not close alone: only that wakes a thread which is blocked in accept or recv.
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, address = self._listener.accept()
            except OSError:
                return
            peer = f"{address[0]}:{address[1]}"
            threading.Thread(target=self._serve, args=(connection, peer), daemon=True).start()

    def _serve(self, plain: socket.socket, peer: str) -> None:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = self._wrap(plain)
        with self._lock:
            self._open.add(connection)
        try:
            if isinstance(connection, ssl.SSLSocket):
                connection.do_handshake()
            self._talk(connection, peer)
            self._say_goodbye(connection)
        except (OSError, ValueError) as error:
            with self._lock:
                self.failures.append(f"{peer}: {error!r}")
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _wrap(self, plain: socket.socket) -> socket.socket:
        if self._context is None:
            return plain
        return self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)

    @staticmethod
    def _say_goodbye(connection: socket.socket) -> None:
        """Sends close_notify: without it a client must take a response that ends with the connection for a cut one."""
        if isinstance(connection, ssl.SSLSocket):
            connection.settimeout(5)
            with contextlib.suppress(OSError, ValueError):
                connection.unwrap()

    def _talk(self, connection: socket.socket, peer: str) -> None:
        stream = connection.makefile("rwb")
        with stream:
            index = 0
            while head := read_head(stream):
                exchange, raw, keep = respond(stream, head, peer, index)
                # Written down before the last byte leaves: who has the answer finds it in the log.
                with self._answered:
                    self.exchanges.append(exchange)
                    self._answered.notify_all()
                stream.write(raw)
                stream.flush()
                index += 1
                if not keep:
                    return


def respond(stream: BufferedIOBase, head: Head, peer: str, index: int) -> tuple[Exchange, bytes, bool]:
    """Reads the rest of a request; what to write down, what to send and whether the connection goes on."""
    if head.get("Expect").lower() == "100-continue":
        stream.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        stream.flush()
    request = read_body(stream, head)
    method, target, _ = head.line.split(" ")
    _, form_name, size, marker = target.split("/")
    form = Form(form_name)
    whole = answer_body(form, marker, int(size))
    status = EMPTY.get(form, 200)
    headers = answer_headers(form, marker, len(whole))
    sent = b"" if method == "HEAD" else whole
    coded = render_chunked(sent) if form in (Form.CHUNKED, Form.GZIP_CHUNKED) and method != "HEAD" else sent
    raw = render_head(f"HTTP/1.1 {status} {REASONS[status]}", headers) + coded
    exchange = Exchange(
        head.get(MARKER), peer, index, head.line, head.headers, Digest.of(request), status, headers, Digest.of(sent)
    )
    keep = form is not Form.EOF and head.get("Connection").lower() != "close"
    return exchange, raw, keep


def answer_headers(form: Form, marker: str, length: int) -> Headers:
    """Header fields of the response, framing included."""
    headers = [("Server", "truth"), (MARKER, marker), ("Content-Type", "application/octet-stream")]
    if form in GZIPPED:
        headers.append(("Content-Encoding", "gzip"))
    if form in (Form.LENGTH, Form.GZIP):
        headers.append(("Content-Length", str(length)))
    elif form in (Form.CHUNKED, Form.GZIP_CHUNKED):
        headers.append(("Transfer-Encoding", "chunked"))
    elif form is Form.EOF:
        headers.append(("Connection", "close"))
    return tuple(headers)
