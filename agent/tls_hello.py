"""What the hellos of a TLS connection tell: server name, application protocol, version. Pure; RFC 8446 section 4.1."""

from __future__ import annotations

from dataclasses import dataclass, field

_HANDSHAKE = 22
_CLIENT_HELLO, _SERVER_HELLO = 1, 2
_SERVER_NAME, _ALPN, _SUPPORTED_VERSIONS = 0, 16, 43
_VERSIONS = {0x0301: "TLS 1.0", 0x0302: "TLS 1.1", 0x0303: "TLS 1.2", 0x0304: "TLS 1.3"}
# The random of a HelloRetryRequest, which is not the server's last word (RFC 8446 section 4.1.3).
_RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")


@dataclass(frozen=True, slots=True)
class Hello:
    """What one side said; "" for what it did not."""

    server_name: str = ""
    application_protocol: str = ""
    version: str = ""


HELLO_BYTES = 4096
"""What the probes carry of a direction (HELLO_MAX in probes/streams.h)."""


@dataclass(slots=True)
class HelloReader:
    """Collects the first bytes of one direction until its hello is whole. Bytes out of order end the reading."""

    data: bytearray = field(default_factory=bytearray)
    done: bool = False

    def feed(self, offset: int, data: bytes) -> Hello | None:
        """Take bytes; the hello when it is whole, once."""
        if self.done:
            return None
        if offset != len(self.data) or offset + len(data) > HELLO_BYTES:
            self.done = True
            self.data.clear()
            return None
        self.data += data
        message = handshake_message(self.data)
        if message is None:
            return None
        self.done = True
        self.data.clear()
        return read_hello(message)


def handshake_message(data: bytes | bytearray) -> bytes | None:
    """The first handshake message, its records joined; None while it is not whole."""
    payload, position = bytearray(), 0
    while position + 5 <= len(data) and data[position] == _HANDSHAKE:
        length = int.from_bytes(data[position + 3 : position + 5])
        payload += data[position + 5 : position + 5 + length]
        position += 5 + length
        if len(payload) >= 4 and len(payload) >= 4 + int.from_bytes(payload[1:4]):
            return bytes(payload[: 4 + int.from_bytes(payload[1:4])])
    return None


def read_hello(message: bytes) -> Hello:
    """Read a ClientHello or ServerHello; whatever is broken or missing is ""."""
    try:
        if message[0] == _CLIENT_HELLO:
            return _client_hello(message)
        if message[0] == _SERVER_HELLO and message[6:38] != _RETRY:
            return _server_hello(message)
    except (IndexError, UnicodeDecodeError):
        pass
    return Hello()


def _client_hello(message: bytes) -> Hello:
    position = 38
    position += 1 + message[position]
    position += 2 + int.from_bytes(message[position : position + 2])
    position += 1 + message[position]
    name = protocol = ""
    for kind, value in _extensions(message, position):
        if kind == _SERVER_NAME and value[2] == 0:
            name = value[5 : 5 + int.from_bytes(value[3:5])].decode("ascii")
        elif kind == _ALPN:
            offered = _alpn(value)
            protocol = offered[0] if len(offered) == 1 else ""
    return Hello(server_name=name, application_protocol=protocol)


def _server_hello(message: bytes) -> Hello:
    version = int.from_bytes(message[4:6])
    position = 38
    position += 1 + message[position] + 3
    protocol = ""
    for kind, value in _extensions(message, position):
        if kind == _SUPPORTED_VERSIONS:
            version = int.from_bytes(value[:2])
        elif kind == _ALPN:
            protocol = (_alpn(value) or [""])[0]
    return Hello(application_protocol=protocol, version=_VERSIONS.get(version, ""))


def _alpn(value: bytes) -> list[str]:
    names, position = [], 2
    while position < len(value):
        names.append(value[position + 1 : position + 1 + value[position]].decode("ascii"))
        position += 1 + value[position]
    return names


def _extensions(message: bytes, position: int) -> list[tuple[int, bytes]]:
    found, end = [], position + 2 + int.from_bytes(message[position : position + 2])
    position += 2
    while position + 4 <= min(end, len(message)):
        length = int.from_bytes(message[position + 2 : position + 4])
        found.append((int.from_bytes(message[position : position + 2]), message[position + 4 : position + 4 + length]))
        position += 4 + length
    return found
