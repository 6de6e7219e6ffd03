"""TLS of one connection, as a layer: ciphertext in, plaintext out. Sans-I/O, so that one port can take TLS and plain text, and TLS
may begin in the middle of a connection (after CONNECT). It also needs a fifth of the memory of asyncio's own.
"""

from __future__ import annotations

import contextlib
import ssl

from engine.responder.authority import Contexts, bare_context

HANDSHAKE_BYTE = 0x16
"""First byte of a ClientHello's record (RFC 8446 section 5.1); no text protocol begins with it."""
READ_BYTES = 16 * 1024
"""Plaintext of the longest record. With more the buffer is mapped and unmapped for each read, which costs 150 µs."""


class _Server(ssl.SSLObject):
    """The server's end. `name`: whom the client asks for, if it says so. `address`: what it connected to."""

    name: str = ""
    address: str


class Layer:
    """Decrypts and encrypts. `output` is to be sent after each call."""

    def __init__(self, context: ssl.SSLContext, address: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        found = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        assert isinstance(found, _Server)
        self._tls = found
        self._tls.address = address
        self.established = False
        self.ended = False
        """Whether the client has said that nothing follows (close_notify)."""

    @property
    def server_name(self) -> str:
        """The name that the client asked for; "" where it named none."""
        return self._tls.name

    def receive(self, data: bytes) -> bytes:
        """Take ciphertext, give plaintext. Raises ssl.SSLError where the client breaks off or breaks the protocol."""
        self._incoming.write(data)
        try:
            if not self.established:
                self._tls.do_handshake()
                self.established = True
            return self._read()
        except ssl.SSLWantReadError:
            return b""
        except ssl.SSLZeroReturnError:
            self.ended = True
            return b""

    def _read(self) -> bytes:
        tls, incoming = self._tls, self._incoming
        plain = tls.read(READ_BYTES)
        self.ended |= not plain
        if not incoming.pending and not tls.pending():  # one record, as most requests are: spare an exception
            return plain
        parts = [plain]
        try:
            while plain:
                plain = tls.read(READ_BYTES)
                parts.append(plain)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        return b"".join(parts)

    def send(self, data: bytes) -> None:
        """Encrypt."""
        self._tls.write(data)

    def close(self) -> None:
        """Say that nothing follows (close_notify, RFC 8446 section 6.1)."""
        if self.established:
            with contextlib.suppress(ssl.SSLError):  # ours is written before the client's is waited for
                self._tls.unwrap()

    @property
    def output(self) -> bytes:
        """Ciphertext to send."""
        return self._outgoing.read()


def choosing_context(contexts: Contexts) -> ssl.SSLContext:
    """Make the context that a connection begins with: it takes the leaf of the name that is asked for."""

    def choose(tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        assert isinstance(tls, _Server)
        tls.name = name.lower() if name else ""
        try:
            tls.context = contexts.named(tls.name or tls.address)
        except ValueError:
            return ssl.AlertDescription.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        return None

    context = bare_context()
    context.sslobject_class = _Server
    context.sni_callback = choose
    return context
