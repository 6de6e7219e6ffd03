"""Requests that were not recorded, passed on to the real backends: over a connection each, answered as the answer comes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from ipaddress import ip_address, ip_network

import httptools

from engine.pairing import Conversation
from engine.protocols import HTTP1
from engine.responder.backends import Place, Scope
from engine.responder.destination import Destination
from engine.responder.misses import Missed
from engine.responder.requests import Asked, encode
from engine.rrpair import Connection, Flow, Role, RRPair, Way

CONNECT_SECONDS = 10.0
"""How long a backend may take to be reached: clients wait longer than that for an answer."""
PIECE_BYTES = 64 * 1024
"""Most that is read before it is passed on."""

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_NAMES_ADDRESSES = (ip_network("198.18.0.0/15"), ip_network("2001:2::/48"))
"""Ranges of the addresses that stand for recorded names: see RedirectReady in proto/understudy/v1/agent.proto."""
_TLS_VERSIONS = {"TLSv1": "TLS 1.0", "TLSv1.1": "TLS 1.1", "TLSv1.2": "TLS 1.2", "TLSv1.3": "TLS 1.3"}

Keep = Callable[[Iterable[RRPair | Flow]], None]
"""Takes what was heard of a real backend."""


class PassError(Exception):
    """A real backend cannot be asked. The message says why, and how to mend it."""


Own = Callable[[Destination, Destination], bool]
"""Whether a connection leads to the responder itself, by its far and its near end."""


class Passing:
    """The way to the real backends."""

    def __init__(self, service: str, authorities: bytes, own: Own, keep: Keep | None = None) -> None:
        """`authorities`: PEM, perhaps with text between, trusted besides the machine's. With `keep` the exchanges are kept.

        Raises ValueError.
        """
        self._service, self._own, self._keep = service, own, keep
        self._context = ssl.create_default_context()
        self._context.set_alpn_protocols([HTTP1])
        if found := _CERTIFICATE.findall(authorities):
            try:
                self._context.load_verify_locations(cadata=b"\n".join(found).decode("latin-1"))
            except (ssl.SSLError, ValueError) as error:
                raise ValueError(f"an authority of real backends is no certificate: {error}") from error
        self._run = f"{time.time_ns():x}"
        self._numbers = itertools.count(1)

    @contextlib.asynccontextmanager
    async def ask(self, missed: Missed, scope: Scope, asked: Asked) -> AsyncIterator[Passage]:
        """Send a request to whom it is for. Raises PassError."""
        server_name = (scope.server_name or missed.place[0]) if missed.tls else ""
        reader, writer = await self._connect(_target(missed.place, scope), server_name)
        passage = Passage(reader, writer, asked, self._conversation(server_name, writer), self._keep)
        try:
            yield passage
        finally:
            if passage.keep_alive:
                writer.close()
            else:
                writer.transport.abort()

    async def _connect(self, target: Destination, server_name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """By TLS where there is a server name."""
        name = f"{target[0]}:{target[1]}"
        if not target[0]:
            raise PassError("the request does not say for whom it is")
        secured = {"ssl": self._context, "server_hostname": server_name} if server_name else {}
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                reader, writer = await asyncio.open_connection(*target, **secured, limit=PIECE_BYTES)  # type: ignore[arg-type]
        except ssl.SSLCertVerificationError as error:
            why = f"{error.verify_message}; if it should be trusted, name its authority's file in SSL_CERT_FILE"
            raise PassError(f"{name} is not trusted: {why}") from error
        except TimeoutError:
            raise PassError(f"{name} was not reached within {CONNECT_SECONDS:g} s") from None
        except (OSError, ValueError, OverflowError) as error:
            raise PassError(f"{name} cannot be reached: {getattr(error, 'strerror', None) or error}") from error
        if self._own(*(writer.get_extra_info(end)[:2] for end in ("peername", "sockname"))):
            writer.transport.abort()
            raise PassError(f"{name} is this responder itself")
        return reader, writer

    def _conversation(self, server_name: str, writer: asyncio.StreamWriter) -> Conversation:
        local, remote = (writer.get_extra_info(name) for name in ("sockname", "peername"))
        tls: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
        connection = Connection(
            f"{self._run}-{next(self._numbers)}",
            tls=bool(server_name),
            role=Role.CLIENT,
            local_address=local[0],
            local_port=local[1],
            remote_address=remote[0],
            remote_port=remote[1],
            server_name=server_name,
            tls_version=_TLS_VERSIONS.get(tls.version() or "", "") if tls else "",
            bound_by="socket",
        )
        return Conversation(connection, self._service, True)


class Passage:
    """One request and its answer. `keep_alive`, once the answer is through: whether its end shows without the connection's."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        asked: Asked,
        conversation: Conversation,
        keep: Keep | None,
    ) -> None:
        self._reader, self._writer, self._asked, self._conversation = reader, writer, asked, conversation
        self._keep = keep
        self._end = _End(asked.method == "HEAD")
        self._read = 0
        self._heard: list[RRPair | Flow] = []

    @property
    def keep_alive(self) -> bool:
        """Whether the client may ask again on its connection."""
        return self._end.shown and self._end.keep_alive

    @property
    def held(self) -> int:
        """Bytes that are kept of what was heard."""
        return self._conversation.held + sum(item.body_bytes for item in self._heard if isinstance(item, RRPair))

    def let_go(self) -> None:
        """Keep no more of it than what it was about: the pair is incomplete, and the answer still comes."""
        self._heard += self._conversation.let_go()

    async def answer(self) -> AsyncGenerator[bytes, None]:
        """Give the answer's bytes. PassError where it breaks off, or never begins."""
        try:
            async for piece in self._pieces():
                yield piece
        except (OSError, httptools.HttpParserError) as error:
            raise PassError(f"the answer broke off: {error or type(error).__name__}") from error
        finally:
            self._settle()

    async def _pieces(self) -> AsyncIterator[bytes]:
        request = encode(self._asked)
        self._note(Way.WRITE, 0, request)
        self._writer.write(request)
        while not self._end.shown:
            piece = await self._reader.read(PIECE_BYTES)
            if not piece:
                self._heard += self._conversation.half_close(Way.READ, time.time_ns()) if self._keep else ()
                if not self._end.at_close:
                    raise PassError("the connection was closed before the answer was whole")
                return
            piece = piece[: self._end.feed(piece)]
            self._note(Way.READ, self._read, piece)
            self._read += len(piece)
            yield piece

    def _note(self, way: Way, offset: int, data: bytes) -> None:
        if self._keep:
            self._heard += self._conversation.data(way, offset, data, time.time_ns())

    def _settle(self) -> None:
        """Keep what was heard; what broke off is kept as what it is."""
        if self._keep:
            self._keep([*self._heard, *self._conversation.close(time.time_ns())])


class _End:
    """Where an answer ends (RFC 9112 section 6.3), by llhttp."""

    def __init__(self, bodiless: bool) -> None:
        self._bodiless = bodiless
        self._parser = httptools.HttpResponseParser(self)
        self.shown = False
        self.keep_alive = False
        self._headers = False
        self._chunked = False
        self._length: int | None = None
        """Content-Length; of a body that has begun, what is left of it."""

    def feed(self, data: bytes) -> int:
        """Take bytes, and tell how many of them are the answer's. Raises httptools.HttpParserError.

        The parser does not say where in its input a message ended, so it gets no more than a message can end with at a time.
        """
        at = 0
        while at < len(data) and not self.shown:
            end = self._next_end(data, at)
            try:
                self._parser.feed_data(data[at:end])
            except httptools.HttpParserUpgrade:
                self.shown, self.keep_alive = True, False
            at = end
        return at

    def _next_end(self, data: bytes, at: int) -> int:
        """Where the answer may end: with its length, with the connection, else with a line."""
        if self._headers and not self._chunked:
            return len(data) if self._length is None else min(len(data), at + self._length)
        return data.find(b"\n", at) + 1 or len(data)

    @property
    def at_close(self) -> bool:
        """Whether the end of the connection ends the answer as it should."""
        return self._headers and not self._chunked and self._length is None

    def on_message_begin(self) -> None:
        """A message begins; what was said of an interim answer does not hold for it."""
        self._chunked, self._length = False, None

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field."""
        name = name.lower()
        if name == b"content-length":
            self._length = int(value)
        elif name == b"transfer-encoding":
            self._chunked = value.lower().endswith(b"chunked")

    def on_headers_complete(self) -> None:
        """A head is whole; that of an interim answer, too."""
        if self._parser.get_status_code() < 200:
            return
        self._headers = True
        self.keep_alive = bool(self._parser.should_keep_alive())
        self.shown |= self._bodiless

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if self._length is not None:
            self._length -= len(body)

    def on_message_complete(self) -> None:
        """A message is whole."""
        self.shown |= self._headers


def _target(place: Place, scope: Scope) -> Destination:
    """Where the client wanted to go: to an address of its own choice, else to a name."""
    if scope.destination is None:
        return place
    try:
        address = ip_address(scope.destination[0])
    except ValueError:
        return scope.destination
    return place if any(address in network for network in _NAMES_ADDRESSES) else scope.destination
