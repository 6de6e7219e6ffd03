"""The first bytes of a TLS connection: nothing raises, nothing is kept past the end, and how they come makes no difference."""

from __future__ import annotations

from agent import tls_hello
from agent.tls_hello import HELLO_BYTES, Hello, HelloReader


def one(data: bytes) -> None:
    """The first byte says where to cut what follows: whole, and in two pieces."""
    # No more than the probes carry: past that the reader gives up, where handshake_message() knows no limit.
    cut, stream = (data[0] if data else 0), data[1 : 1 + HELLO_BYTES]
    whole = _fed(stream)
    assert _fed(stream[:cut], stream[cut:]) == whole
    message = tls_hello.handshake_message(stream)
    assert (message is None) == (whole is None)
    if message is not None:
        assert tls_hello.read_hello(message) == whole
        assert len(message) <= len(stream)
    tls_hello.read_hello(stream or b"\1")
    for text in (whole.server_name, whole.application_protocol, whole.version) if whole else ():
        assert text.isascii()


def _fed(*pieces: bytes) -> Hello | None:
    reader, offset, found = HelloReader(), 0, None
    for piece in pieces:
        told = reader.feed(offset, piece)
        assert told is None or found is None, "told twice"
        found, offset = told or found, offset + len(piece)
    assert not reader.done or not reader.data, "kept after the end"
    return found
