"""The least HTTP/1.1 that a server needs to read a request to the byte, and nothing that hides a byte.

Only for well-behaved clients: anything else is a ValueError and ends the connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BufferedIOBase

from tests.e2e.truth.log import Headers


@dataclass(frozen=True, slots=True)
class Head:
    """Start line and header fields."""

    line: str
    headers: Headers

    def get(self, name: str) -> str:
        """Value of the first field of that name, "" where there is none."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")


def read_head(stream: BufferedIOBase) -> Head | None:
    """The next head; None where the peer has ended the connection (RFC 9112, sections 2 and 5)."""
    line = stream.readline()
    if not line:
        return None
    return Head(line.decode("latin-1").rstrip("\r\n"), read_fields(stream))


def read_fields(stream: BufferedIOBase) -> Headers:
    """Header or trailer fields up to and with the empty line."""
    fields = []
    while (line := stream.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        fields.append((name, value.strip(" \t\r\n")))
    return tuple(fields)


def read_body(stream: BufferedIOBase, head: Head) -> bytes:
    """A request's body without its transfer coding (RFC 9112, section 6.3)."""
    if head.get("Transfer-Encoding").lower() == "chunked":
        return _read_chunked(stream)
    return _read_exactly(stream, int(head.get("Content-Length") or 0))


def _read_chunked(stream: BufferedIOBase) -> bytes:
    parts = []
    while size := int(stream.readline().split(b";")[0], 16):
        parts.append(_read_exactly(stream, size))
        stream.readline()
    read_fields(stream)
    return b"".join(parts)


def _read_exactly(stream: BufferedIOBase, size: int) -> bytes:
    body = stream.read(size)
    if len(body) != size:
        raise ValueError(f"connection ended {size - len(body)} bytes short of a body")
    return body


def render_head(line: str, headers: Headers) -> bytes:
    """A head as bytes."""
    return "".join([f"{line}\r\n", *(f"{name}: {value}\r\n" for name, value in headers), "\r\n"]).encode("latin-1")


def render_chunked(body: bytes, sizes: tuple[int, ...] = (1, 7, 1_000, 16_384)) -> bytes:
    """A body in chunks whose sizes go round, so that chunks and TLS records do not fall together."""
    parts, at, turn = [], 0, 0
    while at < len(body):
        chunk = body[at : at + sizes[turn % len(sizes)]]
        parts.append(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        at, turn = at + len(chunk), turn + 1
    return b"".join([*parts, b"0\r\n\r\n"])
