"""A responder: one port, one event loop in a thread of its own, the answers of one snapshot."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import uvloop

from engine.report import MockReport
from engine.responder.answering import Answering, Plan
from engine.responder.authority import Authority, Contexts
from engine.responder.backends import Backends
from engine.responder.connection import HELD_LIMIT, Connection
from engine.responder.destination import Destination, OriginalDestination, original_destination
from engine.responder.passing import Keep, Passing
from engine.responder.replies import Replies, Reply
from engine.responder.run import Run
from engine.responder.tls import choosing_context
from engine.snapshot import Snapshot

LOOPBACK = "127.0.0.1"
_LOCALHOST = (LOOPBACK, "::1")
"""RFC 6761 section 6.3; a client of that name may try either."""
LISTEN_TRIES = 10
"""A port that is free on one address of the loopback need not be on the other."""
CONNECTIONS_LIMIT = 4096
"""Clients at a time: some 200 MiB with TLS."""
IDLE_SECONDS = 150.0
"""A connection of which nothing is heard for so long, or at most twice as long, is closed: load balancers wait 60 s."""
KNOWN_LIMIT = 200_000
"""Requests that are known by their bytes; some 30 MiB. Where more come, it begins anew."""
BACKLOG = 1024
STOP_SECONDS = 5.0
"""How long its end, and then that of its thread, may take: cutting off all clients takes milliseconds."""
STUCK = (
    f"the responder did not stop within {2 * STOP_SECONDS:g} s, and what it still answers is not in this report: "
    "if the snapshot lies on a slow or hanging disk, copy it to a local one"
)


def is_loopback(address: str) -> bool:
    """Whether only this machine can connect to it."""
    try:
        return address == "localhost" or ip_address(address).is_loopback
    except ValueError:
        return False


class Clock:
    """The Date of answers, made once a second (RFC 9110 section 5.6.7)."""

    def __init__(self) -> None:
        self._second = 0
        self._date = b""

    def date(self) -> bytes:
        """Now."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._date = email.utils.formatdate(second, usegmt=True).encode()
        return self._date


class Responder:
    """Stands in for the backends of a snapshot. It is started and stopped once."""

    def __init__(
        self,
        path: Path,
        authority: Authority,
        *,
        only: Iterable[str] = (),
        excluded: Iterable[str] = (),
        speed: float = 0.0,
        pass_on: bool = False,
        real_authorities: bytes = b"",
        keep: Keep | None = None,
        taken_over_only: bool = False,
        original_destination: OriginalDestination = original_destination,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        """Read the snapshot.

        `only` and `excluded` name backends by HOST or HOST:PORT. `speed`: of recorded delays, 2 halves them; 0 leaves them out.
        With `pass_on` real backends answer what was not recorded; they are trusted by `real_authorities` (PEM) and the machine's,
        and `keep` takes what they said, on the responder's thread. With `taken_over_only`, only what a takeover vouches for is
        answered; other connections are reset.

        Raises SnapshotError, and ValueError where a name is no backend's, or an authority none.
        """
        self._snapshot = Snapshot(path)
        try:
            self.backends = Backends(self._snapshot, only, excluded)
            redactor = self._snapshot.redactor()
            service = self._snapshot.info.service
            self.passing = Passing(service, real_authorities, self._is_own, keep) if pass_on else None
        except BaseException:
            self._snapshot.close()
            raise
        self.run = Run(service, self.backends.indexes)
        replies = Replies(self._snapshot.answer)
        self.answering = Answering(self.backends, redactor, replies, self.run)
        self.speed = speed
        self._idle_seconds = idle_seconds
        self._held = 0
        self.taken_over_only = taken_over_only
        self.original_destination = original_destination
        self.clock = Clock()
        self.authority = authority
        self.context = choosing_context(Contexts(authority))
        self.address = ""
        self.addresses: tuple[str, ...] = ()
        self.port = 0
        self.known: dict[bytes, Plan] = {}
        """Requests that are known by their bytes and by whom they are for, of all connections: digests, see `Connection`."""
        self._connections: set[Connection] = set()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="responder", daemon=True)
        self._servers: list[asyncio.Server] = []

    # -- its life ------------------------------------------------------------------------------------------------------

    def start(self, address: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes a free one. Raises OSError."""
        try:
            self._loop.run_until_complete(self._listen(address, port))
        except OSError as error:
            self._let_go()
            # What asyncio says has the number of the error and more; what getaddrinfo(3) says has no errno.
            reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
            raise OSError(f"cannot listen on {address}:{port}: {reason}") from error
        except BaseException:
            self._let_go()
            raise
        self._thread.start()

    async def _listen(self, address: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._unexpected)
        found = await loop.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        addresses = _LOCALHOST if address == "localhost" else tuple(dict.fromkeys(str(each[4][0]) for each in found))
        for tries_left in reversed(range(LISTEN_TRIES)):
            try:
                await self._bind(addresses, port)
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE or port or not tries_left:
                    raise
        self.addresses = tuple(server.sockets[0].getsockname()[0] for server in self._servers)
        self.address, self.port = self._servers[0].sockets[0].getsockname()[:2]
        for server in self._servers:
            await server.start_serving()
        loop.call_later(self._idle_seconds, self._sweep)

    async def _bind(self, addresses: tuple[str, ...], port: int) -> None:
        """Take one port on all of these that the machine has; one at least."""
        loop = asyncio.get_running_loop()
        self._close_servers()
        for address in addresses:
            try:
                server = await loop.create_server(lambda: Connection(self), address, port, backlog=BACKLOG, start_serving=False)
            except OSError as error:
                if self._servers and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    continue
                raise
            self._servers.append(server)
            port = server.sockets[0].getsockname()[1]

    def _close_servers(self) -> None:
        while self._servers:
            self._servers.pop().close()

    def _unexpected(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A fault of ours costs the connection that met it, and is told of."""
        self.run.trouble(f"understudy failed: {context.get('exception') or context.get('message')!r}")
        loop.default_exception_handler(context)

    def _sweep(self) -> None:
        """Close the connections of which nothing was heard since the last time."""
        for connection in list(self._connections):
            if not connection.heard and connection.idle:
                connection.close_idle()
            connection.heard = False
        self._loop.call_later(self._idle_seconds, self._sweep)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def stop(self) -> MockReport:
        """End it: clients are cut off. Gives what happened, also where it does not end: then its thread is left behind."""
        if self._thread.is_alive():
            with contextlib.suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(STOP_SECONDS)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(STOP_SECONDS)
            if self._thread.is_alive():
                self.run.trouble(STUCK)
            else:
                self._let_go()
        return self.run.report()

    async def _end(self) -> None:
        self._close_servers()
        for connection in list(self._connections):
            connection.abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for passage in others:
            passage.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)

    def _let_go(self) -> None:
        self._loop.close()
        self._snapshot.close()

    def _is_own(self, far: Destination, near: Destination) -> bool:
        """Whether a connection with these ends leads here; an unspecified address is every one of the machine's."""
        everywhere = any(ip_address(address).is_unspecified for address in self.addresses)
        return far[1] == self.port and (far[0] in self.addresses or (everywhere and far[0] == near[0]))

    # -- for its connections -------------------------------------------------------------------------------------------

    def admit(self, connection: Connection) -> bool:
        """Take a connection in, unless there are too many."""
        if len(self._connections) >= CONNECTIONS_LIMIT:
            self.run.trouble("too many connections at a time")
            return False
        self._connections.add(connection)
        return True

    def later(self, seconds: float, act: Callable[[Reply], None], reply: Reply) -> asyncio.TimerHandle:
        """Have something done with an answer after some time."""
        return self._loop.call_later(seconds, act, reply)

    def hold(self, more: int) -> bool:
        """Count bytes that are kept for clients, or (negative) no longer are; whether there is room for more."""
        self._held += more
        return more <= 0 or self._held <= HELD_LIMIT

    def dismiss(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)

    def remember(self, digest: bytes, plan: Plan) -> None:
        """Know a request the next time."""
        if len(self.known) >= KNOWN_LIMIT:
            self.known.clear()
        self.known[digest] = plan
