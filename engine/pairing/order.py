"""Which response answers which request on one HTTP/1.1 connection.

1. Responses come in the order of their requests (RFC 9112 section 9.3.2): first in, first out.
2. A response that began before a request began does not answer it.
3. After messages may have passed unseen (a gap, a start in the middle of things) the order is *in doubt*. A response
   then answers the latest request that began before it: without pipelining that is the one. Where several requests
   could be meant, or the client is known to pipeline, the pair says so (missing "pairing") and is never whole.
4. Doubt ends with a response that only one request can be meant by, unless the client is known to pipeline.
"""

from __future__ import annotations

import enum
from collections import deque

from engine.protocols.http1 import Received

PENDING_LIMIT = 1024
"""Requests of a connection that may wait for their responses: no known client pipelines more."""
PENDING_BYTES = 64 * 1024 * 1024
"""Bytes of their bodies; a single request may have that much by itself."""


class No(enum.Enum):
    """Why a response is not given a request."""

    NOT_YET = enum.auto()
    NEVER = enum.auto()


class Order:
    """The requests of a connection that have no response yet, oldest first."""

    def __init__(self) -> None:
        self.pending: deque[Received] = deque()
        self.unanswered: list[Received] = []
        """Requests given up, for the owner to take."""
        self.complete = False
        """Set where no request follows any more: responses do not wait."""
        self._in_doubt = False
        self._pipelines = False
        self._bytes = 0

    def doubt(self) -> None:
        """Messages may have passed unseen."""
        self._in_doubt = True

    def asked(self, request: Received) -> None:
        """Add a request."""
        if self.pending and not self._in_doubt:
            self._pipelines = True
        self.pending.append(request)
        self._bytes += len(request.message.body)
        while len(self.pending) > 1 and (len(self.pending) > PENDING_LIMIT or self._bytes > PENDING_BYTES):
            self._give_up()
            self._in_doubt = True

    def answered(self, time: int) -> tuple[Received, bool] | No:
        """Find the request of a response that began then, and say whether there is no doubt about it."""
        if not self.pending:
            return No.NEVER if self.complete else No.NOT_YET
        if self.pending[0].time > time:
            return No.NEVER
        if not self._in_doubt:
            return self._pop(), True
        return self._answered_in_doubt(time)

    def _answered_in_doubt(self, time: int) -> tuple[Received, bool]:
        certain = not self._pipelines
        while len(self.pending) > 1 and self.pending[1].time <= time:
            self._give_up()
            certain = False
        self._in_doubt = self._pipelines or not certain
        return self._pop(), certain

    def finish(self) -> None:
        """Give up what is left."""
        while self.pending:
            self._give_up()

    def _pop(self) -> Received:
        request = self.pending.popleft()
        self._bytes -= len(request.message.body)
        return request

    def _give_up(self) -> None:
        self.unanswered.append(self._pop())
