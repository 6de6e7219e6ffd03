"""Live requests out of the bytes of a connection. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from engine.protocols.http1 import BODY_LIMIT, Broken, Received, RequestParser, request_line, split_target
from engine.rrpair import Fields, Message

CONTINUE = b"100-continue"
REQUEST_OVERHEAD = 1024
"""Bytes that a request takes besides its texts."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came."""

    method: str
    target: str
    version: str
    headers: Fields
    body: bytes
    trailers: Fields
    keep_alive: bool

    @property
    def message(self) -> Message:
        """With a start line as it was recorded."""
        line = f"{self.method} {self.target} HTTP/1.1".encode("latin-1")
        return Message(line, self.headers, self.body, self.trailers)

    @property
    def size(self) -> int:
        """Bytes of memory that it takes, about."""
        fields = (*self.headers, *self.trailers)
        return REQUEST_OVERHEAD + len(self.target) + len(self.body) + sum(len(name) + len(value) for name, value in fields)


_OF_THE_CONNECTION = frozenset(
    b"connection keep-alive te expect proxy-connection proxy-authorization upgrade http2-settings".split()
)
"""Fields that are between the client and us (RFC 9110 sections 7.6.1, 7.8, 10.1.1 and 11.7.2)."""
_FRAMING = frozenset((b"host", b"content-length", b"transfer-encoding"))
"""What no Connection field can take away: the server would read another request."""


def encode(asked: Asked) -> bytes:
    """Write a request as it came, for the server itself: what was between the client and a proxy is left out."""
    dropped = _OF_THE_CONNECTION | (_options(asked.headers) - _FRAMING)
    coded = any(name.lower() == b"transfer-encoding" for name, _ in asked.headers)
    fields = [(name, value) for name, value in asked.headers if name.lower() not in dropped]
    fields = _one_length(fields, None if coded else len(asked.body))
    target = asked.target
    authority, path, query = split_target(asked.method, target)
    if authority:  # absolute form, which also counts where it contradicts Host (RFC 9112 section 3.2.2)
        target = f"{path}?{query}" if query else path
        fields = [(b"Host", authority.encode("latin-1")), *[field for field in fields if field[0].lower() != b"host"]]
    line = f"{asked.method} {target} HTTP/{asked.version}".encode("latin-1")
    head = b"\r\n".join((line, *[b"%b: %b" % field for field in fields], b"", b""))
    if not coded:
        return head + asked.body
    chunk = b"%x\r\n%b\r\n" % (len(asked.body), asked.body) if asked.body else b""
    return b"".join((head, chunk, b"0\r\n", *[b"%b: %b\r\n" % field for field in asked.trailers], b"\r\n"))


def _options(headers: Fields) -> frozenset[bytes]:
    """What the Connection fields name: options, and fields that go no further than to us (RFC 9110 section 7.6.1)."""
    values = b",".join(value for name, value in headers if name.lower() == b"connection")
    return frozenset(option.strip(b" \t").lower() for option in values.split(b","))


def _one_length(fields: list[tuple[bytes, bytes]], length: int | None) -> list[tuple[bytes, bytes]]:
    """Leave one Content-Length of those that were sent, none beside a transfer coding (RFC 9112 sections 6.1 and 6.3)."""
    kept: list[tuple[bytes, bytes]] = []
    for name, value in fields:
        if name.lower() != b"content-length":
            kept.append((name, value))
        elif length is not None:
            kept.append((name, b"%d" % length))
            length = None
    return kept


class RequestError(Exception):
    """The client's bytes cannot be taken. `status` is what to answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class RequestReader:
    """Requests of one connection, read as the recorder reads them: what could be recorded can be asked.

    `rest` is what follows a CONNECT: it is no HTTP of ours.
    """

    def __init__(self) -> None:
        self.rest = b""
        self._parser = RequestParser()
        self._continued = False

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return self._parser.idle

    @property
    def size(self) -> int:
        """Bytes of the request that is not whole yet."""
        return self._parser.size

    def feed(self, data: bytes) -> list[Asked]:
        """Give the requests that these bytes end. Raises RequestError."""
        self._parser.receive(data, 0)
        found: list[Asked] = []
        while (request := self._parser.next()) is not None:
            if isinstance(request, Broken):
                raise RequestError(431 if "longer than" in request.reason else 400, request.reason)
            if request.missing:
                raise _TOO_LONG
            self._continued = False
            found.append(_asked(request))
            if found[-1].method == "CONNECT":
                self.rest = self._parser.rest()
                break
        if self._parser.cut:
            raise _TOO_LONG
        return found

    @property
    def waits_for_continue(self) -> bool:
        """Whether a request whose body is still to come asks whether to send it. True once."""
        awaited = self._parser.awaited
        if self._continued or awaited is None:
            return False
        self._continued = awaited.get(b"expect", b"").lower() == CONTINUE
        return self._continued


_TOO_LONG = RequestError(413, f"a request body longer than {BODY_LIMIT // 1024**2} MiB")


def _asked(request: Received) -> Asked:
    message, index = request.message, request.index
    method, target = request_line(message.start_line)
    old = message.start_line.rstrip(b" \t").endswith(b"HTTP/1.0")
    options = _options(message.headers) if b"connection" in index else frozenset()
    return Asked(
        method,
        target,
        "1.0" if old else "1.1",
        message.headers,
        message.body,
        message.trailers,
        b"keep-alive" in options if old else b"close" not in options,
    )
