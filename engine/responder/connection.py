"""One connection of a client: TLS or not, a proxy's or not, told by what it says.

A request that came before, to the byte, is answered by its plan without being parsed, redacted or matched again.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections import deque
from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING, cast

from engine.pairing.description import host_and_port
from engine.redaction.handed_out import handed_out
from engine.report import FailedHandshake
from engine.responder.backends import Scope
from engine.responder.destination import calling_program, is_taken_over
from engine.responder.misses import Missed, error_reply, kept_back, miss_reply
from engine.responder.passing import PassError, Passing
from engine.responder.replies import Reply
from engine.responder.requests import Asked, RequestError, RequestReader
from engine.responder.tls import HANDSHAKE_BYTE, Layer
from engine.store import SnapshotError

if TYPE_CHECKING:
    from engine.responder.server import Responder

HELD_LIMIT = 256 * 1024 * 1024
"""Bytes that a responder keeps of requests that are not whole or wait, of answers that are not read, and of what it hears of real
backends, of all its connections together: four of the longest bodies, or thousands of ordinary ones."""
PIPELINE_LIMIT = 64
"""Requests of a connection that wait for their answers before it is read no further."""
WAITING_LIMIT = 1024
"""Requests that may wait all the same, for one read brings many: beyond, the connection is closed."""
TOO_MUCH = f"more than {HELD_LIMIT // 1024**2} MiB of requests and answers that clients did not end or read"
NOT_TAKEN_OVER = (
    "a connection that is none of the command's was reset: somebody else on this machine made it, or the kernel does not say whose"
)
READ_ON_SECONDS = 5.0
"""How long a client has to turn away where the recorded one did; one that goes on reading is told so by a reset."""
DIGEST_BYTES = 16
LINGER_NOT = struct.pack("ii", 1, 0)
"""struct linger of socket(7): closing resets the connection."""


class Connection(asyncio.Protocol):
    """Reads requests and writes answers, one after the other."""

    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self._layer: Layer | None = None
        self._reader = RequestReader()
        self._waiting: deque[Asked] = deque()
        self._waiting_size = self._in_hand = self._unsent = self._held = 0
        """Bytes of what waits, of the request that is passed on, of answers that the client does not read; of all, as counted."""
        self.heard = True
        """Whether anything came since the responder looked last."""
        self._timer: asyncio.TimerHandle | None = None
        self._passing: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._ended = False
        self._undecided = True
        """Set while the first byte is awaited, which tells whether it is TLS."""

    # -- what the loop calls -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a client, unless it is none of ours or there are too many."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        if self._responder.taken_over_only and not is_taken_over(transport):
            self._responder.run.trouble(NOT_TAKEN_OVER)
            self._reset()
            return
        if not self._responder.admit(self):
            self._transport.abort()
            return
        destination = self._responder.original_destination(transport)
        self._enter(Scope(False, "", destination, self._responder.port))

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        if self._undecided:
            self._undecided = False
            if data[0] == HANDSHAKE_BYTE and self._layer is None:
                address = self._scope.destination[0] if self._scope.destination else self._transport.get_extra_info("sockname")[0]
                self._layer = Layer(self._responder.context, address)
        self.heard = True
        layer = self._layer
        if layer:
            data = self._decrypt(layer, data)
        if data:
            try:
                self._take(data)
            except SnapshotError as error:
                self._refuse(RequestError(500, str(error)))
        if layer and layer.ended:
            self._end()

    def _end(self) -> None:
        """Take the client's close_notify: what it asked before is still answered, then it gets ours (RFC 8446 section 6.1)."""
        self._ended = True
        if not self._waiting and not self._busy:
            self._close()

    def eof_received(self) -> bool:
        """Take the end of the client's way: what it asked before is still answered."""
        self._ended = True
        return bool(self._waiting or self._busy) and self._layer is None

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self._writable.clear()
        self._transport.pause_reading()
        self._unsent = self._transport.get_write_buffer_size()
        if not self._account():
            self._responder.run.trouble(TOO_MUCH)
            self._transport.abort()

    def resume_writing(self) -> None:
        """It has caught up."""
        self.heard = True
        self._unsent = 0
        self._account()
        self._writable.set()
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Forget the client."""
        if self._layer and not self._layer.established:
            self._no_handshake(self._layer, "the client ended in the handshake")
        for under_way in (self._timer, self._passing):
            if under_way:
                under_way.cancel()
        self._writable.set()
        self._forget()
        self._responder.dismiss(self)

    # -- TLS -----------------------------------------------------------------------------------------------------------

    def _decrypt(self, layer: Layer, data: bytes) -> bytes:
        was_established = layer.established
        try:
            plain = layer.receive(data)
        except ssl.SSLError as error:
            self._no_handshake(layer, error.reason or str(error))
            self._transport.write(layer.output)
            self._transport.close()
            return b""
        if output := layer.output:
            self._transport.write(output)
        if layer.established and not was_established:
            self._enter(replace(self._scope, tls=True, server_name=layer.server_name))
        return plain

    def _no_handshake(self, layer: Layer, reason: str) -> None:
        """Tell of a client that does not go on: most likely it does not trust the authority."""
        host, port = self._scope.destination or ("", self._responder.port)
        who = calling_program(self._transport)
        self._responder.run.handshake_failed(FailedHandshake(layer.server_name or host, port, who, reason))
        self._layer = None

    def _enter(self, scope: Scope) -> None:
        self._scope = scope
        self._digest = blake2b(repr(scope).encode(), digest_size=DIGEST_BYTES)
        """Of whom requests are for; what is known of a request is kept under that and its bytes."""

    # -- what it costs -------------------------------------------------------------------------------------------------

    def _account(self) -> bool:
        """Have counted what is kept for the client; whether there is room for it."""
        held = self._reader.size + self._waiting_size + self._in_hand + self._unsent
        more, self._held = held - self._held, held
        return self._responder.hold(more)

    def _forget(self) -> None:
        """Let go of what waits."""
        self._waiting.clear()
        self._reader = RequestReader()
        self._waiting_size = self._in_hand = self._unsent = 0
        self._account()

    @property
    def idle(self) -> bool:
        """Whether nothing is under way: neither an answer that takes its time, nor one of a real backend."""
        return not (self._timer or self._passing)

    @property
    def _busy(self) -> bool:
        """Whether an answer is under way, or cannot be sent."""
        return bool(self._timer or self._passing) or not self._writable.is_set()

    # -- requests ------------------------------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        if not self._reader.idle or self._waiting or self._busy:
            self._read(data, b"")
            return
        known = self._digest.copy()
        known.update(data)
        digest = known.digest()
        plan = self._responder.known.get(digest)
        if plan:
            self._deliver(plan.take())
        else:
            self._read(data, digest)

    def _read(self, data: bytes, digest: bytes) -> None:
        """Parse. `digest`: of the data, where a request may begin with it."""
        try:
            asked = self._reader.feed(data)
        except RequestError as error:
            self._refuse(error)
            return
        self._waiting += asked
        self._waiting_size += sum([each.size for each in asked])
        if len(self._waiting) > PIPELINE_LIMIT:
            self._transport.pause_reading()
        whole = len(asked) == 1 == len(self._waiting) and self._reader.idle
        if asked:
            self._go_on(digest if whole else b"")
        else:
            self._continue()
        if not self._account():
            self._refuse(RequestError(503, TOO_MUCH))
        elif len(self._waiting) > WAITING_LIMIT:
            self._refuse(RequestError(503, f"more than {WAITING_LIMIT:,} requests at a time on one connection"))

    def _go_on(self, digest: bytes = b"") -> None:
        """Answer what waits, until one has to wait longer."""
        while self._waiting and not self._busy:
            if self._transport.is_closing():
                return
            asked = self._waiting.popleft()
            self._waiting_size -= asked.size
            self._answer(asked, digest)
        if not self._waiting and not self._busy:
            if self._ended:
                self._close()
            elif not self._transport.is_closing():
                self._continue()
                self._transport.resume_reading()

    def _continue(self) -> None:
        """Have a body sent whose client asks whether to, once what it asked before is answered (RFC 9110 section 10.1.1)."""
        if not self._waiting and not self._busy and self._reader.waits_for_continue:
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _answer(self, asked: Asked, digest: bytes) -> None:
        if asked.method == "CONNECT":
            self._tunnel(asked)
            return
        found = self._responder.answering.answer(self._scope, asked)
        if isinstance(found, Missed):
            self._miss(asked, found)
            return
        if digest:
            self._responder.remember(digest, found)
        self._deliver(found.take())

    def _miss(self, asked: Asked, missed: Missed) -> None:
        token = handed_out(asked.message) if self._responder.passing else ""
        if self._responder.passing and not token:
            self._in_hand = asked.size
            self._passing = asyncio.get_running_loop().create_task(self._pass_on(self._responder.passing, asked, missed))
        else:
            missed = kept_back(missed, token) if token else missed
            self._responder.run.missed(missed, passed=False)
            self._send(miss_reply(missed, not asked.keep_alive))

    async def _pass_on(self, passing: Passing, asked: Asked, missed: Missed) -> None:
        """Have the real backend answer."""
        began = keep_alive = False
        try:
            async with passing.ask(missed, self._scope, asked) as passage, contextlib.aclosing(passage.answer()) as answer:
                async for piece in answer:
                    self._in_hand = asked.size + passage.held
                    if not self._account():
                        passage.let_go()
                        self._in_hand = asked.size + passage.held
                        self._account()
                    if not began:
                        began = True
                        self._responder.run.missed(missed, passed=True)
                    self._write(piece)
                    await self._writable.wait()
            keep_alive = asked.keep_alive and passage.keep_alive
        except PassError as error:
            if began:
                self._responder.run.trouble(f"{missed.place[0]}:{missed.place[1]}: {error}")
                self._reset()
                return
            self._write(b"".join(miss_reply(missed, not asked.keep_alive, str(error)).parts(b"")))
            keep_alive = asked.keep_alive
        finally:
            self._passing, self._in_hand = None, 0
            self._account()
            if not began:
                self._responder.run.missed(missed, passed=False)
        if keep_alive:
            self._go_on()
        else:
            self._close()

    def _tunnel(self, asked: Asked) -> None:
        """RFC 9110 section 9.3.6: from here on it is as if the client had connected to the target."""
        host, port = host_and_port(asked.target)
        self._write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        rest, self._reader = self._reader.rest, RequestReader()
        if port != self._responder.port:  # a client that means the responder itself names nobody
            self._enter(replace(self._scope, destination=(host, port or 443)))
        self._undecided = True
        if rest:
            self.data_received(rest)

    # -- answers -------------------------------------------------------------------------------------------------------

    def _deliver(self, reply: Reply) -> None:
        speed = self._responder.speed
        if speed and reply.delay:
            self._timer = self._responder.later(reply.delay / speed, self._deliver_late, reply)
        else:
            self._send(reply)

    def _deliver_late(self, reply: Reply) -> None:
        self._timer = None
        self._send(reply)
        self._go_on()

    def _send(self, reply: Reply) -> None:
        for part in reply.parts(self._responder.clock.date()):
            self._write(part)
        if reply.close:
            self._close()
        elif reply.unread:
            self._wait_for_end()

    def _wait_for_end(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(READ_ON_SECONDS, self._read_on)

    def _read_on(self) -> None:
        """Break off where a client waits for more: what comes next of this answer nobody has recorded."""
        if self._transport.get_write_buffer_size():
            self._wait_for_end()
        elif self._ended:
            self._close()
        else:
            self._responder.run.trouble("a client read on where the recorded one had stopped reading the answer")
            self._reset()

    def _write(self, data: bytes) -> None:
        if self._layer:
            self._layer.send(data)
            data = self._layer.output
        self._transport.write(data)

    def _refuse(self, error: RequestError) -> None:
        self._responder.run.trouble(str(error))
        self._forget()
        if not self._transport.is_closing():
            self._send(error_reply(error.status, str(error)))

    def _close(self) -> None:
        if self._transport.is_closing():
            return
        if self._layer:
            self._layer.close()
            self._transport.write(self._layer.output)
        self._transport.close()

    def _reset(self) -> None:
        """Break off so that it shows: an ordinary end would end an answer of unknown length as it should."""
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        self._transport.abort()

    def close_idle(self) -> None:
        """End a connection of which nothing was heard for long."""
        if not self._reader.idle or not self._writable.is_set():
            self._responder.run.trouble("a client that stopped in the middle")
            self._transport.abort()
        else:
            self._close()

    def abort(self) -> None:
        """Break off."""
        self._transport.abort()
