"""The domain model: a request and its response, as they went over the wire.

Plain values only. Nothing here knows how they were captured, stored, matched or shown.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace

Fields = tuple[tuple[bytes, bytes], ...]
"""Header fields as on the wire: order kept, case kept, repeated names kept."""


def storable(text: str) -> str:
    """Give a text that can be stored and sent: of captured JSON half a surrogate pair may be left, which is no character."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


UNREAD = "unread rest of the response"
"""What a pair lacks where the client turned away from an answer: what it had read by then is all there."""


class Way(enum.IntEnum):
    """Which way bytes went, seen from the workload."""

    READ = 1
    WRITE = 2


class Role(enum.IntEnum):
    """The workload's part in a connection."""

    UNKNOWN = 0
    CLIENT = 1
    SERVER = 2


class Direction(enum.StrEnum):
    """Of a pair, seen from the service: what it was asked, and what it asked of others."""

    IN = "IN"
    OUT = "OUT"


@dataclass(frozen=True, slots=True)
class Connection:
    """What is known of the stream that a pair went over. Addresses are "" and ports 0 while the stream is not bound.

    `proxy` is the address and port of an HTTP proxy between: the remote end is then the server behind it, whose address only
    the proxy knows.
    """

    id: str
    tls: bool = False
    role: Role = Role.UNKNOWN
    local_address: str = ""
    local_port: int = 0
    remote_address: str = ""
    remote_port: int = 0
    server_name: str = ""
    application_protocol: str = ""
    tls_version: str = ""
    bound_by: str = ""
    pid: int = 0
    command: str = ""
    proxy: str = ""

    def behind_proxy(self, port: int) -> Connection:
        """Give what is known of the way to a server that this connection leads to through a proxy."""
        return replace(self, remote_address="", remote_port=port, proxy=f"{self.remote_address}:{self.remote_port}")


@dataclass(frozen=True, slots=True)
class Message:
    """One half of a pair.

    The body is what remains when the transfer coding is taken off; content codings (gzip) stay on.
    """

    start_line: bytes
    headers: Fields = ()
    body: bytes = b""
    trailers: Fields = ()

    def header(self, name: bytes) -> bytes | None:
        """Value of the first header field of that name (given in lower case)."""
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return None


@dataclass(frozen=True, slots=True)
class RRPair:
    """A request/response pair. Times are nanoseconds: `time` since the Unix epoch, the others from there on."""

    id: str
    time: int
    direction: Direction
    service: str
    protocol: str
    host: str
    port: int
    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    operation: str
    request: Message
    connection: Connection
    status: int = 0
    response: Message | None = None
    interim: tuple[Message, ...] = ()
    request_ended: int = 0
    response_started: int = 0
    duration: int = 0
    technology: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    redacted: tuple[str, ...] = ()
    signature: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every byte of it was seen."""
        return not self.missing

    @property
    def unread(self) -> bool:
        """Whether all of it was seen but what its client did not read either: it may be served as far as that."""
        return self.missing == (UNREAD,)

    @property
    def body_bytes(self) -> int:
        """Of its request and its response."""
        return len(self.request.body) + (len(self.response.body) if self.response else 0)


@dataclass(frozen=True, slots=True)
class Flow:
    """A stream, or the rest of one, that could not be turned into pairs, and why. Sizes are bytes."""

    connection: Connection
    time: int
    protocol: str
    reason: str
    read: int = 0
    written: int = 0
