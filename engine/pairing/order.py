"""Which response answers which request on one HTTP/1.1 connection, and whether that is proven.

The evidence: the bytes of each way in their order, and the time of each call. A write bears the time at which its call
began, a read that at which it returned, so a cause never bears a later time than its effect. What was delivered first
says nothing: the two ways come in any order.

1. Responses come in the order of their requests (RFC 9112 section 9.3.2).
2. A response that began before a request began does not answer it.
3. *In step*: where both ways were followed from the start of the connection, the n-th final response answers the n-th
   request. A loss in the requests' way leaves that true for the requests before it; a loss in the responses' way ends it.
4. Out of step nothing is proven until a response is found whose request can be no other, given that the client asks one
   request at a time, so has read the whole of an answer before it asks again. That is so where
   a. the response (or the first of its interim responses) follows another final response with no byte missing between them;
   b. exactly one request began after that other response had ended and before this one began;
   c. it is the first that passed in its way since then: the byte before it was seen, and passed before.
   By c the client had turned from reading to asking, so that is where a request begins and not a part of a body that looks
   like one; by a and b nothing but its answer begins where this response does. Both hold whatever was made of the bytes
   before. From there on the connection is in step again.
5. A client that asks again before it has read an answer pipelines, and one that gets a response which it did not ask for
   (by what was seen of it) had asked before it was watched. For such a client rule 4 proves nothing: whatever rested on it
   is taken back (`refuted_since`), and there is doubt for good.
6. Out of step a response is given the latest request that began before it, once a later request, or the end, shows that
   no other such request is still to be delivered. That is a guess: the pair says so (missing "pairing") and is never whole.

What rule 4 cannot tell: a client that pipelines at a constant depth, joined in the middle, looks like one that does not
until it has read all its answers (rule 5), and for ever where its connection is followed no longer than that, or a response is
lost before; and one that is answered before its request has ended, and goes on with it, might be taken for one that asks anew.
"""

from __future__ import annotations

import enum
from collections import deque

from engine.protocols import Part
from engine.protocols.http1 import HEAD_LIMIT, MISSING, Received

PENDING_LIMIT = 1024
"""Requests of a connection that may wait for their responses: no known client pipelines more."""
PENDING_BYTES = 64 * 1024 * 1024
"""Bytes of these; a single request may have that much by itself."""


class No(enum.Enum):
    """Why a response is not given a request."""

    NOT_YET = enum.auto()
    NEVER = enum.auto()


class Order:
    """The requests of a connection that have no response yet, oldest first.

    `in_step`: both ways are followed from their start, or with `by_turns_since` from where another was in step.
    """

    def __init__(self, *, in_step: bool, by_turns_since: int | None = None) -> None:
        self.pending: deque[Received] = deque()
        self.unanswered: list[Received] = []
        """Requests given up, for the owner to take."""
        self.complete = False
        """Set where no request follows any more."""
        self.hurry = False
        """Set where a response has waited long enough."""
        self.in_step = in_step
        self.by_turns_since = by_turns_since
        """When the first request began whose response was proven by rule 4."""
        self.refuted_since: int | None = None
        """The same, once rule 5 has it that nothing was proven."""
        self._proven_by_turns = in_step and by_turns_since is not None
        """Whether being in step rests on rule 4."""
        self._pipelines = False
        self._request_lost = False
        """Whether requests may have passed unseen since the last one."""
        self._behind_loss: deque[Received] = deque()
        """Pending requests before which others may have passed unseen."""
        self._last: Received | None = None
        """The last final response; None where responses may have passed unseen since."""
        self.held = 0
        """Bytes of the pending requests."""

    def lost(self, part: Part) -> None:
        """Messages of this part may have passed unseen."""
        if part is Part.RESPONSE:
            self.doubt()
            self._last = None
        else:
            self._request_lost = True

    def doubt(self) -> None:
        """Be in step no longer."""
        self.in_step = self._proven_by_turns = False

    def asked(self, request: Received) -> None:
        """Add a request."""
        if not self.pending and self.in_step and self._last and request.time < self._last.ended:
            self._refuted()
        self.pending.append(request)
        if self._request_lost:
            self._request_lost = False
            self._behind_loss.append(request)
        self.held += request.size
        self._give_up_beyond(PENDING_BYTES)

    def answered(self, time: int, after: int) -> tuple[Received, bool] | No:
        """Find the request of a response, and say whether that is proven. `time` and `after` are those of its first byte."""
        if (self._request_lost or self._behind_loss) and self._loss_is_next:
            self.doubt()
        if not self.pending and not (self.complete or self.hurry):
            return No.NOT_YET
        if not self.pending or self.pending[0].time > time:
            if self._proven_by_turns:
                self._refuted()
            return No.NEVER
        if self.in_step:
            return self._pop(), True
        if self._turn_proves(time, after):
            self.in_step = self._proven_by_turns = True
        elif self.pending[-1].time <= time and not self.complete and not self.hurry:
            return No.NOT_YET
        while len(self.pending) > 1 and self.pending[1].time <= time:
            self._give_up()
        request = self._pop()
        if self.in_step and self.by_turns_since is None:
            self.by_turns_since = request.time
        return request, self.in_step

    def ended(self, response: Received) -> None:
        """Take the end of a final response."""
        self._last = response
        if self.pending and self.in_step and self.pending[0].time < response.ended and not response.missing:
            self._refuted()

    def let_go(self) -> None:
        """Keep the bodies of requests no longer, and of their heads no more than one may have."""
        for request in self.pending:
            request.let_go()
        self.held = sum([request.size for request in self.pending])
        self._give_up_beyond(HEAD_LIMIT)

    def _give_up_beyond(self, size: int) -> None:
        while len(self.pending) > 1 and (len(self.pending) > PENDING_LIMIT or self.held > size):
            self._give_up()
            self.doubt()

    def finish(self) -> None:
        """Give up what is left."""
        while self.pending:
            self._give_up()

    @property
    def counted(self) -> bool:
        """Whether what follows needs only to be counted."""
        return self.in_step and not (self._request_lost or self._behind_loss)

    @property
    def _loss_is_next(self) -> bool:
        """Whether the oldest request without a response may be one that was not seen."""
        if self.pending:
            return bool(self._behind_loss) and self._behind_loss[0] is self.pending[0]
        return self._request_lost

    def _turn_proves(self, time: int, after: int) -> bool:
        """Rule 4."""
        last = self._last
        if self._pipelines or last is None or after == MISSING:
            return False
        asked = [request for request in self.pending if last.ended < request.time <= time]
        if len(asked) > 1:
            self._refuted()
        return len(asked) == 1 and asked[0].after != MISSING and asked[0].after <= last.ended

    def _refuted(self) -> None:
        """Rule 5."""
        self._pipelines = True
        if self._proven_by_turns:
            self.doubt()
        self.refuted_since = self.by_turns_since

    def _pop(self) -> Received:
        request = self.pending.popleft()
        self.held -= request.size
        if self._behind_loss and self._behind_loss[0] is request:
            self._behind_loss.popleft()
        return request

    def _give_up(self) -> None:
        self.unanswered.append(self._pop())
