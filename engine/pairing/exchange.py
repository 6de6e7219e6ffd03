"""The requests and responses of one HTTP/1.1 connection, put together.

Bytes of the two ways may be delivered in an order that differs from the one they passed in: a write is reported when
the call returns, when its answer may already have been read. So a response waits, within bounds, for its request.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from engine.pairing.order import No, Order
from engine.protocols import HTTP1, TUNNEL, Part
from engine.protocols.http1 import Broken, Parser, Received, RequestParser, ResponseParser, request_line
from engine.reassembly import Gap, Segment

HELD_LIMIT = 8 * 1024 * 1024
"""Bytes of one way that may wait for the other: what socket buffers can hold while a call is under way."""

EVENT_BYTES = 256
"""What a waiting event counts besides its data: about what it takes in memory, so that many small ones have a bound, too."""

INTERIM_LIMIT = 64
"""Interim responses of a request that are kept: servers send one, or a few early hints; 16 MiB at most."""


@dataclass(slots=True)
class Exchange:
    """A request and its response; one of them may be missing. Not frozen for the reason that `Received` is not."""

    request: Received | None
    response: Received | None = None
    interim: tuple[Received, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """From these offsets on the connection is no HTTP/1.1 that can be followed."""

    protocol: str
    reason: str
    request_offset: int
    response_offset: int
    target: str = ""
    """Of a CONNECT: where the tunnel leads."""


class End:
    """The end of one way."""


class Left(End):
    """The end of a way whose reader turned away: more may have been said."""


class _Side:
    """One way: its parser, and what waits to go into it."""

    def __init__(self, parser: Parser) -> None:
        self.parser = parser
        self.queue: deque[Segment | Gap | End] = deque()
        self.held = 0

    def put(self, event: Segment | Gap | End) -> None:
        self.queue.append(event)
        self.held += _cost(event)

    def step(self) -> None:
        """Give the next event to the parser."""
        event = self.queue.popleft()
        self.held -= _cost(event)
        if type(event) is Segment:
            self.parser.receive(event.data, event.time)
        elif type(event) is Gap:
            self.parser.skip(event.length)
        elif type(event) is Left:
            self.parser.leave()
        else:
            self.parser.end()


def _cost(event: Segment | Gap | End) -> int:
    return EVENT_BYTES + (len(event.data) if type(event) is Segment else 0)


class Start(NamedTuple):
    """Where a way begins to be parsed: its offset, and the time of the byte before as in `Received`."""

    offset: int
    after: int = 0


class Exchanges:
    """Pairs the messages of a connection. `turn` is set once it speaks something else; it takes nothing after that."""

    def __init__(self, requests: Start, responses: Start, *, synchronised: bool, by_turns_since: int | None = None) -> None:
        self.turn: Turn | None = None
        self._order = Order(in_step=synchronised, by_turns_since=by_turns_since)
        self._requests = _Side(RequestParser(*requests, synchronised=synchronised))
        self._responses = _Side(ResponseParser(self._method_of, *responses, synchronised=synchronised))
        self._sides = {Part.REQUEST: self._requests, Part.RESPONSE: self._responses}
        self._current: Received | None = None
        self._certain = True
        self._interim: list[Received] = []
        self._upgrade: Received | None = None
        self._finished: list[Exchange] = []

    def take(self, part: Part, event: Segment | Gap | End) -> list[Exchange]:
        """Take what happened to one way; return what is finished by it."""
        side = self._sides[part]
        if type(event) is Segment and not side.queue and not side.parser.waiting and not self._upgrade:
            side.parser.receive(event.data, event.time)  # the common case goes past the queue
        else:
            side.put(event)
            if side.held > HELD_LIMIT:
                self._stop_waiting(side)
        self._run(side)
        return self._take_finished()

    def end_requests(self) -> list[Exchange]:
        """Take that no request follows which a response waits for; others may."""
        self._run(self._requests)
        self._stop_waiting(self._responses)
        return self._take_finished()

    def close(self) -> list[Exchange]:
        """Take the end of both ways."""
        self._upgrade = None
        for side in (self._requests, self._responses):
            side.put(End())
        self._run(self._requests)
        self._order.complete = True
        self._run(self._responses)
        if not self.turn:
            self._give_up_rest()
        return self._take_finished()

    @property
    def needed(self) -> tuple[int, int]:
        """Offsets of the first bytes that are still needed: of the requests' way, of the responses' way."""
        oldest, responses = self._oldest, self._responses.parser
        return (
            oldest.offset if oldest else self._requests.parser.needed,
            responses.needed if responses.overlong else self.begun[1],
        )

    @property
    def held(self) -> int:
        """Bytes that are kept of what is not finished."""
        requests, responses, current = self._requests, self._responses, self._current
        held = requests.held + requests.parser.size + responses.held + responses.parser.size + self._order.held
        if current:
            held += current.size
        if self._interim:
            held += sum([response.size for response in self._interim])
        return held

    def let_go(self) -> list[Exchange]:
        """Keep as little as can be of what is not finished; return what is finished by it."""
        sides = (self._requests, self._responses)
        for side in sides:
            self._stop_waiting(side)
            self._run(side)
        self._order.let_go()
        self._take_unanswered()
        if self._current:
            self._current.let_go()
        for side in sides:
            side.parser.let_go()
            self._run(side)
        return self._take_finished()

    @property
    def begun(self) -> tuple[int, int]:
        """Offsets of the first bytes that are in no exchange that was returned: of the requests' way, of the responses' way."""
        oldest = self._oldest
        return (
            oldest.offset if oldest else self._requests.parser.begun,
            self._interim[0].offset if self._interim else self._responses.parser.begun,
        )

    @property
    def overlong(self) -> bool:
        """Whether a body is under way of which nothing is needed again."""
        return self._requests.parser.overlong or self._responses.parser.overlong

    @property
    def _oldest(self) -> Received | None:
        """The request that waits for its response the longest."""
        return self._current or (self._order.pending[0] if self._order.pending else None)

    @property
    def in_step(self) -> bool:
        """Whether it is proven which of the responses that follow answers which request."""
        return self._order.counted

    @property
    def by_turns_since(self) -> int | None:
        """When the first request began of those whose responses are told by a client's turns."""
        return self._order.by_turns_since

    @property
    def refuted_since(self) -> int | None:
        """The same, once that has proved wrong: no pair since then is certain."""
        return self._order.refuted_since

    # -- driving the parsers -------------------------------------------------------------------------------------------

    def _run(self, first: _Side) -> None:
        """Go on with a way, then with the other where that waited for it, for as long as either moves."""
        second = self._responses if first is self._requests else self._requests
        self._advance(first)
        while (second.queue or second.parser.waiting) and self._advance(second) and self._advance(first):
            pass

    def _advance(self, side: _Side) -> bool:
        """Go on with one way as far as it goes; return whether it moved."""
        moved = False
        while not self.turn:
            if side is self._requests and self._upgrade:
                break
            message = side.parser.next()
            if message is not None:
                self._handle(side, message)
            if side.parser.lost_count:  # behind the message: it is what there was before the loss
                side.parser.lost_count = False
                self._order.lost(side.parser.part)
            if message is None:
                if not side.queue or side.parser.waiting:
                    break
                side.step()
            moved = True
        return moved

    def _handle(self, side: _Side, message: Received | Broken) -> None:
        if isinstance(message, Broken):
            self._broken(side, message)
        elif side is self._requests:
            self._asked(message)
        else:
            self._answered(message)

    def _method_of(self, time: int, after: int) -> bytes | None:
        if self._interim:
            time, after = self._interim[0].time, self._interim[0].after
        found = self._order.answered(time, after)
        if found is No.NOT_YET:
            return None
        if found is No.NEVER:
            self._order.doubt()
            self._current, self._certain = None, True
            return b""
        self._current, self._certain = found
        return self._current.method

    def _asked(self, request: Received) -> None:
        self._order.asked(request)
        if b"upgrade" in request.index or is_connect(request):
            self._upgrade = request  # what follows may be no HTTP: its answer decides
        self._take_unanswered()

    def _answered(self, response: Received) -> None:
        if 100 <= response.status < 200 and response.status != 101:
            self._interim.append(response)
            if len(self._interim) > INTERIM_LIMIT:
                self._broken(self._responses, Broken(f"response: more than {INTERIM_LIMIT} interim responses", response.offset))
            return
        request, interim = self._current, tuple(self._interim)
        self._current = None
        self._interim = []
        self._order.ended(response)
        certain = self._certain and self._order.refuted_since is None
        self._take_unanswered()
        missing = (*(request.missing if request else ("request",)), *response.missing)
        missing += tuple(name for part in interim for name in part.missing)
        self._finished.append(Exchange(request, response, interim, missing if certain else (*missing, "pairing")))
        if request is None or request is self._upgrade or self._responses.parser.stopped:
            self._decide_upgrade(request, response)

    def _decide_upgrade(self, request: Received | None, response: Received) -> None:
        """RFC 9110 sections 7.8 and 9.3.6: 101, or success of a CONNECT, changes the protocol; else HTTP goes on."""
        if request is self._upgrade:
            self._upgrade = None
        tunnel = request is not None and is_connect(request) and response.status < 300
        if response.status != 101 and not tunnel:
            return
        name = TUNNEL if tunnel else response.index.get(b"upgrade", b"unknown").decode("latin-1").lower()
        offset = request.until if request else self._requests.parser.needed
        target = request_line(request.message.start_line)[1] if request and tunnel else ""
        self.turn = Turn(name, "tunnel opened" if tunnel else f"upgraded to {name}", offset, response.until, target)
        self._order.finish()
        self._take_unanswered()

    # -- giving up -----------------------------------------------------------------------------------------------------

    def _stop_waiting(self, side: _Side) -> None:
        if side is self._requests:
            self._upgrade = None
        elif side.parser.waiting:
            self._order.hurry = True
            self._advance(side)
            self._order.hurry = False

    def _broken(self, side: _Side, broken: Broken) -> None:
        requests, responses = self.needed
        if side is self._requests:
            requests = self._requests.parser.needed
        self._give_up_rest()
        self.turn = Turn(HTTP1, f"{broken.reason} at byte {broken.offset}", requests, responses)

    def _give_up_rest(self) -> None:
        if self._current:
            self._finished.append(Exchange(self._current, None, (), (*self._current.missing, "response")))
            self._current = None
        self._order.finish()
        self._take_unanswered()

    def _take_unanswered(self) -> None:
        for request in self._order.unanswered:
            if request is self._upgrade:
                self._upgrade = None
            self._finished.append(Exchange(request, None, (), (*request.missing, "response")))
        self._order.unanswered.clear()

    def _take_finished(self) -> list[Exchange]:
        finished, self._finished = self._finished, []
        return finished


def is_connect(request: Received) -> bool:
    """Whether a request is for a tunnel."""
    return request.method == b"CONNECT"
