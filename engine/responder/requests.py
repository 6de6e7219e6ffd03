"""Live requests out of the bytes of a connection, by llhttp. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

import httptools

from engine.protocols.http1 import split_target
from engine.rrpair import Fields

HEAD_LIMIT = 256 * 1024
"""Longest request head: what was recorded must be heard again, and the recorder takes as much."""
BODY_LIMIT = 64 * 1024 * 1024
"""Longest body, for the same reason."""
FIELD_OVERHEAD = 32
"""What a trailer field counts for besides its texts: thousands without any would be memory, too."""
REQUEST_OVERHEAD = 1024
"""Bytes that a request takes besides its texts."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came. `continue_asked`: its client waits to be told to send the body (RFC 9110 section 10.1.1)."""

    method: str
    target: str
    version: str
    headers: Fields
    body: bytes
    trailers: Fields
    keep_alive: bool
    continue_asked: bool

    @property
    def size(self) -> int:
        """Bytes of memory that it takes, about."""
        fields = (*self.headers, *self.trailers)
        return REQUEST_OVERHEAD + len(self.target) + len(self.body) + sum(len(name) + len(value) for name, value in fields)


_NOT_PASSED_ON = frozenset({b"expect", b"proxy-connection", b"proxy-authorization", b"upgrade", b"http2-settings"})
"""Fields that are between the client and us (RFC 9110 sections 7.6.1, 7.8, 10.1.1 and 11.7.2)."""


def encode(asked: Asked) -> bytes:
    """Write a request as it came, for the server itself: what was between the client and a proxy is left out."""
    fields = [(name, value) for name, value in asked.headers if name.lower() not in _NOT_PASSED_ON]
    fields = [(name, value) for name, value in fields if name.lower() != b"connection" or b"upgrade" not in value.lower()]
    target = asked.target
    authority, path, query = split_target(asked.method, target)
    if authority:  # absolute form, which also counts where it contradicts Host (RFC 9112 section 3.2.2)
        target = f"{path}?{query}" if query else path
        fields = [(b"Host", authority.encode("latin-1")), *[field for field in fields if field[0].lower() != b"host"]]
    line = f"{asked.method} {target} HTTP/{asked.version}".encode("latin-1")
    head = b"\r\n".join((line, *[b"%b: %b" % field for field in fields], b"", b""))
    if not any(name.lower() == b"transfer-encoding" for name, _ in fields):
        return head + asked.body
    chunk = b"%x\r\n%b\r\n" % (len(asked.body), asked.body) if asked.body else b""
    return b"".join((head, chunk, b"0\r\n", *[b"%b: %b\r\n" % field for field in asked.trailers], b"\r\n"))


class RequestError(Exception):
    """The client's bytes cannot be taken. `status` is what to answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class RequestReader:
    """Requests of one connection. `rest` is what follows a CONNECT: it is no HTTP of ours."""

    def __init__(self) -> None:
        self.rest = b""
        self._parser = httptools.HttpRequestParser(self)
        self._finished: list[Asked] = []
        self._size = 0
        self._forget()

    def _forget(self) -> None:
        self.idle = True
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._trailers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._body_size = 0
        self._trailers_size = 0
        self._in_body = False
        self._expects = False
        self._version = ""
        self._keep_alive = False

    def feed(self, data: bytes) -> list[Asked]:
        """Give the requests that these bytes end. Raises RequestError."""
        while data:
            data = self._feed(data)
        self._size = 0 if self.idle or self._in_body else self._size
        if not self._in_body:
            if self._size > HEAD_LIMIT:
                raise RequestError(431, f"a request head longer than {HEAD_LIMIT // 1024} KiB")
        elif self._body_size > BODY_LIMIT:
            raise RequestError(413, f"a request body longer than {BODY_LIMIT // 1024**2} MiB")
        elif self._trailers_size > HEAD_LIMIT:
            raise RequestError(431, f"request trailers longer than {HEAD_LIMIT // 1024} KiB")
        finished, self._finished = self._finished, []
        return finished

    def _feed(self, data: bytes) -> bytes:
        """Give what is left when a request asked for another protocol, which only CONNECT is given."""
        self._size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            if self._finished and self._finished[-1].method == "CONNECT":
                self.rest = rest
                return b""
            self._parser = httptools.HttpRequestParser(self)
            return rest
        except httptools.HttpParserError as error:
            raise RequestError(400, str(error) or "not HTTP/1.1") from error
        return b""

    @property
    def size(self) -> int:
        """Bytes of the request that is not whole yet."""
        return 0 if self.idle else self._size + min(self._body_size, BODY_LIMIT) + min(self._trailers_size, HEAD_LIMIT)

    @property
    def waits_for_continue(self) -> bool:
        """Whether a request whose body is still to come asks whether to send it. True once."""
        waits, self._expects = self._in_body and self._expects, False
        return waits

    # -- what llhttp calls ---------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        self.idle = False

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field, or a trailer field."""
        field = (name, value.strip(b" \t"))
        if not self._in_body:
            self._headers.append(field)
            return
        self._trailers_size += len(name) + len(value) + FIELD_OVERHEAD
        if self._trailers_size <= HEAD_LIMIT:
            self._trailers.append(field)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._in_body = True
        self._size = 0
        self._version = self._parser.get_http_version()
        self._keep_alive = self._parser.should_keep_alive()
        self._expects = self._version == "1.1" and any(
            len(name) == 6 and name.lower() == b"expect" and value.lower() == b"100-continue" for name, value in self._headers
        )
        self._continue_asked = self._expects

    def on_body(self, part: bytes) -> None:
        """A piece of the body."""
        self._body_size += len(part)
        if self._body_size <= BODY_LIMIT:
            self._body.append(part)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._finished.append(
            Asked(
                self._parser.get_method().decode("latin-1"),
                self._url.decode("latin-1"),
                self._version,
                tuple(self._headers),
                b"".join(self._body),
                tuple(self._trailers),
                self._keep_alive,
                self._continue_asked,
            )
        )
        self._forget()
