"""A responder: one port, one event loop in a thread of its own, the answers of one snapshot."""

from __future__ import annotations

import asyncio
import email.utils
import threading
import time
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

import uvloop

from engine.report import MockReport
from engine.responder.answering import Answering, Plan
from engine.responder.authority import Authority, Contexts
from engine.responder.backends import Backends, Scope
from engine.responder.connection import Connection, Known
from engine.responder.destination import Destination, OriginalDestination, original_destination
from engine.responder.passing import Keep, Passing
from engine.responder.replies import Replies
from engine.responder.run import Run
from engine.responder.tls import choosing_context
from engine.snapshot import Snapshot

CONNECTIONS_LIMIT = 4096
"""Clients at a time: some 200 MiB with TLS."""
KNOWN_LIMIT = 200_000
"""Requests that are known by their bytes; some 30 MiB. Where more come, it begins anew."""
SCOPES_LIMIT = 1000
"""Names and destinations whose requests are known by their bytes."""
BACKLOG = 1024
STOP_SECONDS = 5.0


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
        original_destination: OriginalDestination = original_destination,
    ) -> None:
        """Read the snapshot.

        `only` and `excluded` name backends by HOST or HOST:PORT. `speed`: of recorded delays, 2 halves them; 0 leaves them out.
        With `pass_on` real backends answer what was not recorded; they are trusted by `real_authorities` (PEM) and the machine's,
        and `keep` takes what they said, on the responder's thread.

        Raises SnapshotError, and ValueError where a name is no backend's, or an authority none.
        """
        self._snapshot = Snapshot(path)
        try:
            self.backends = Backends(self._snapshot, only, excluded)
            service = self._snapshot.info.service
            self.passing = Passing(service, real_authorities, self._is_own, keep) if pass_on else None
        except BaseException:
            self._snapshot.close()
            raise
        self.run = Run(service, self.backends.indexes)
        replies = Replies(self._snapshot.answer)
        self.answering = Answering(self.backends, self._snapshot.redactor(), replies, self.run)
        self.speed = speed
        self.original_destination = original_destination
        self.clock = Clock()
        self.authority = authority
        self.context = choosing_context(Contexts(authority))
        self.address = ""
        self.port = 0
        self._known: dict[Scope, Known] = {}
        self._known_count = 0
        self._connections: set[Connection] = set()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="responder", daemon=True)
        self._server: asyncio.Server | None = None

    # -- its life ------------------------------------------------------------------------------------------------------

    def start(self, address: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes a free one. Raises OSError."""
        try:
            self._loop.run_until_complete(self._listen(address, port))
        except BaseException:
            self._let_go()
            raise
        self._thread.start()

    async def _listen(self, address: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), address, port, backlog=BACKLOG, start_serving=False)
        self.address, self.port = self._server.sockets[0].getsockname()[:2]
        await self._server.start_serving()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def stop(self) -> MockReport:
        """End it: clients are cut off. Gives what happened."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(STOP_SECONDS)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(STOP_SECONDS)
            self._let_go()
        return self.run.report()

    async def _end(self) -> None:
        if self._server:
            self._server.close()
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
        return far[1] == self.port and (far[0] == self.address or (ip_address(self.address).is_unspecified and far[0] == near[0]))

    # -- for its connections -------------------------------------------------------------------------------------------

    def admit(self, connection: Connection) -> bool:
        """Take a connection in, unless there are too many."""
        if len(self._connections) >= CONNECTIONS_LIMIT:
            self.run.trouble("too many connections at a time")
            return False
        self._connections.add(connection)
        return True

    def dismiss(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)

    def known(self, scope: Scope) -> Known:
        """Requests that are known by their bytes, of connections that were meant for the same."""
        if scope not in self._known and len(self._known) >= SCOPES_LIMIT:
            self._forget_known()
            self._known.clear()
        return self._known.setdefault(scope, {})

    def remember(self, known: Known, digest: bytes, plan: Plan) -> None:
        """Know a request the next time."""
        if self._known_count >= KNOWN_LIMIT:
            self._forget_known()
        known[digest] = plan
        self._known_count += 1

    def _forget_known(self) -> None:
        for each in self._known.values():
            each.clear()
        self._known_count = 0
