"""Which response answers which request on one HTTP/1.1 connection.

1. Responses come in the order of their requests (RFC 9112 section 9.3.2): first in, first out.
2. A response that began before a request began does not answer it.
3. After messages may have passed unseen (a gap, a start in the middle of things) the order is *in doubt*. A response
   then answers the latest request that began before it: without pipelining that is the one. It waits until a request
   that began after it, or the end, shows that none from before is still to be delivered. Where several requests could
   be meant, both ways lost something, or the client is known to pipeline, the pair says so (missing "pairing") and is
   never whole.
4. Doubt ends with a response for which only one request could be meant, unless the client is known to pipeline.
"""

from __future__ import annotations

import enum
from collections import deque

from engine.protocols import Part
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
        """Set where no request follows any more."""
        self.hurry = False
        """Set where a response has waited long enough: what it is given then is a guess."""
        self._lost: set[Part] = set()
        self._pipelines = False
        self._bytes = 0

    def doubt(self, part: Part) -> None:
        """Messages of this part may have passed unseen."""
        self._lost.add(part)

    def asked(self, request: Received) -> None:
        """Add a request."""
        if self.pending and not self._lost:
            self._pipelines = True
        self.pending.append(request)
        self._bytes += len(request.message.body)
        while len(self.pending) > 1 and (len(self.pending) > PENDING_LIMIT or self._bytes > PENDING_BYTES):
            self._give_up()
            self._lost.update(Part)

    def answered(self, time: int) -> tuple[Received, bool] | No:
        """Find the request of a response that began then, and say whether there is no doubt about it."""
        if not self.pending:
            return No.NEVER if self.complete or self.hurry else No.NOT_YET
        if self.pending[0].time > time:
            return No.NEVER
        if not self._lost:
            return self._pop(), True
        if self.pending[-1].time <= time and not self.complete and not self.hurry:
            return No.NOT_YET
        return self._answered_in_doubt(time)

    def _answered_in_doubt(self, time: int) -> tuple[Received, bool]:
        certain = len(self._lost) == 1 and not self._pipelines and not self.hurry
        while len(self.pending) > 1 and self.pending[1].time <= time:
            self._give_up()
            certain = False
        if certain:
            self._lost.clear()
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
