"""One stream as a conversation: captured bytes in, pairs and flows out. Pure: time comes with the bytes."""

from __future__ import annotations

from engine.pairing.description import describe
from engine.pairing.exchange import End, Exchange, Exchanges, Left, Start, Turn
from engine.protocols import HTTP1, UNKNOWN, Part, Verdict, detect, may_start_message, starts_message
from engine.protocols.http1 import MISSING
from engine.reassembly import END, Gap, Reassembler, Segment
from engine.reassembly import UNKNOWN as UNKNOWN_BYTES
from engine.rrpair import Connection, Direction, Flow, Role, RRPair, Way

__all__ = ["Conversation"]

START_LIMIT = 1024
"""Bytes of a start line that was cut into pieces, as some clients write it, of which one waits for the next."""

Finished = list[RRPair | Flow]
_CLIENT_WAYS = {Role.CLIENT: Way.WRITE, Role.SERVER: Way.READ}


class Conversation:
    """What one stream says. Every method returns what is finished by it.

    `start_known` is False where bytes may have passed before the stream was followed. The offsets are not 0 where an engine
    goes on with a stream whose earlier bytes are committed: they are `progress` as it was then, as `start_known` is `in_step`.
    """

    def __init__(
        self,
        connection: Connection,
        service: str,
        start_known: bool,
        read_offset: int = 0,
        write_offset: int = 0,
        by_turns_since: int | None = None,
    ) -> None:
        self.connection = connection
        self._service = service
        self._start_known = start_known
        self._start_missing = not start_known and not (read_offset or write_offset)
        self._after = {Way.READ: 0, Way.WRITE: 0}
        """Of each way, the time of its last byte before a message was found, as in `http1.Received`."""
        self._ways = {Way.READ: Reassembler(read_offset), Way.WRITE: Reassembler(write_offset)}
        self._waiting: list[tuple[Way, Segment]] = []
        """What came before the protocol is known: few bytes, for `detect` needs no more than 24 of them, and see START_LIMIT."""
        self._exchanges: Exchanges | None = None
        self._by_turns_since = by_turns_since
        self._refuted_since: int | None = None
        self._refuted_told = False
        self._client: Way = _CLIENT_WAYS.get(connection.role, Way.WRITE)
        self._flow: tuple[str, str] | None = None
        self._flow_from = (read_offset, write_offset)
        self._flow_time = 0
        self.tunnel = ""
        """Where a tunnel leads that was opened through a proxy, as the client named it."""
        self._ended: set[Way] = set()
        self._closed = False

    def data(self, way: Way, offset: int, data: bytes, time: int) -> Finished:
        """Take bytes that went this way; those seen before are dropped."""
        if offset > END - len(data) or time > END:
            return self._refuse()
        events = self._ways[way].data(offset, data, time)
        if len(events) == 1:  # all but always
            return self._take(way, events[0])
        finished: Finished = []
        for event in events:
            finished += self._take(way, event)
        return finished

    def gap(self, way: Way, offset: int, length: int, reason: str) -> Finished:
        """Take a gap; `reason` is `reassembly.LOST` or `reassembly.UNKNOWN`."""
        if offset > END - length:
            return self._refuse()
        finished: Finished = []
        for event in self._ways[way].gap(offset, length, reason):
            finished += self._take(way, event)
        return finished

    def half_close(self, way: Way, time: int) -> Finished:
        """Take the end of one way."""
        time = min(time, END)
        if self._exchanges is None or self._flow:
            return []
        self._ended.add(way)
        return self._pairs(self._exchanges.take(self._part(way), End()), time)

    def close(self, time: int, ended: bool = True) -> Finished:
        """Take the end of the stream: everything is finished by it.

        What the peer says ends where `half_close` told so; without it, the workload has turned away, and more may have been
        said. `ended` is False where it is not the stream that ended but the watching: then that holds for both ways.
        """
        if self._closed:
            return []
        time = min(time, END)
        finished: Finished = []
        if self._exchanges and not self._flow:
            finished += self._pairs(self._exchanges.end_requests(), time)
        for way in Way:
            if self._exchanges and not self._flow and way not in self._ended and (way is Way.READ or not ended):
                unseen = Left() if ended else Gap(self._ways[way].next_offset, 1, UNKNOWN_BYTES)
                finished += self._pairs(self._exchanges.take(self._part(way), unseen), time)
        self._closed = True
        if self._exchanges and not self._flow:
            finished += self._pairs(self._exchanges.close(), time)
        elif not self._flow:
            reason = "ended before its protocol was recognised" if self._start_known else "start not seen"
            self._become_flow(self.connection.application_protocol or UNKNOWN, reason, self._flow_from, time)
        return finished + self._end_flow()

    def update(self, connection: Connection) -> None:
        """Take what became known of the stream. Pairs made before keep what was known then (a store mends them)."""
        self.connection = connection
        client = _CLIENT_WAYS.get(connection.role, self._client)
        if self._exchanges and client is not self._client:  # a body looked like a message, and who is the client was told by it
            self._become_flow(HTTP1, "what looked like requests came from the server", self.progress, self._flow_time)
        self._client = client

    @property
    def progress(self) -> tuple[int, int]:
        """Offsets of the first bytes still needed: read way, write way. What lies before is in what was returned."""
        if self._exchanges and not self._flow:
            return self._by_way(*self._exchanges.needed)
        read, write = (self._ways[way].next_offset for way in (Way.READ, Way.WRITE))
        for way, segment in reversed(self._waiting):
            read, write = (segment.offset, write) if way is Way.READ else (read, segment.offset)
        return read, write

    @property
    def seen(self) -> tuple[int, int]:
        """Offsets of the first bytes that did not come yet: read way, write way."""
        return self._ways[Way.READ].next_offset, self._ways[Way.WRITE].next_offset

    @property
    def began(self) -> int:
        """Time of the first bytes; 0 before there are any."""
        return self._flow_time

    @property
    def held(self) -> int:
        """Bytes that are kept of what is not finished."""
        return self._exchanges.held if self._exchanges else 0

    def let_go(self) -> Finished:
        """Keep as little as can be of what is not finished: it is incomplete, and the stream is followed on."""
        return self._pairs(self._exchanges.let_go(), self._flow_time) if self._exchanges else []

    @property
    def unreturned(self) -> tuple[int, int]:
        """How many bytes right before `progress` are in nothing that was returned: of the read way, of the write way.

        They are those of a flow, or of a body that is longer than is kept. What goes on from `progress` has to take them for lost.
        """
        exchanges = None if self._start_missing else self._exchanges
        if self._closed or (exchanges and not exchanges.overlong):
            return 0, 0
        begun = self._by_way(*exchanges.begun) if exchanges else self._flow_from
        read, write = self.progress
        return read - begun[0], write - begun[1]

    @property
    def in_step(self) -> bool:
        """Whether another conversation that goes on from `progress` may take both ways for followed from their start."""
        return self._exchanges.in_step if self._exchanges else self._start_known and not self._flow

    @property
    def by_turns_since(self) -> int | None:
        """Time of the first pair of which a client's turns told that its response belongs to its request; None without one."""
        return self._exchanges.by_turns_since if self._exchanges else self._by_turns_since

    def take_refuted(self) -> int | None:
        """Tell once where that has proved wrong: pairs from this time on that were returned are in doubt, whatever they say."""
        since = self._exchanges.refuted_since if self._exchanges else self._refuted_since
        if since is None or self._refuted_told:
            return None
        self._refuted_told = True
        return since

    # -- events --------------------------------------------------------------------------------------------------------

    def _take(self, way: Way, event: Segment | Gap) -> Finished:
        if self._flow or self._closed:
            return []
        if self._exchanges:
            part = Part.REQUEST if way is self._client else Part.RESPONSE
            return self._pairs(self._exchanges.take(part, event), event.time if type(event) is Segment else 0)
        if type(event) is Gap:
            self._lose_start(way)
            return []
        assert type(event) is Segment
        self._flow_time = self._flow_time or event.time
        return self._recognise(way, event) if self._start_known else self._seek(way, event)

    def _lose_start(self, way: Way) -> None:
        """A gap before the protocol is known: no better than a start that was not seen."""
        self._start_known = False
        self._start_missing = True
        for its_way, segment in self._waiting:
            self._after[its_way] = segment.time
        self._waiting.clear()
        self._after[way] = MISSING

    def _recognise(self, way: Way, segment: Segment) -> Finished:
        begun = any(its_way is way for its_way, _ in self._waiting)
        if not begun and not segment.data.strip(
            b"\r\n"
        ):  # RFC 9112 section 2.2: empty lines before a message say nothing, however many
            return []
        self._waiting.append((way, segment))
        start = b"".join(waiting.data for its_way, waiting in self._waiting if its_way is way)
        verdict = detect(start)
        if verdict is None:
            return []
        waiting, self._waiting = self._waiting, []
        if verdict.protocol != HTTP1:
            self._become_other(verdict)
            return []
        return self._begin(way, verdict.part, waiting)

    def _seek(self, way: Way, segment: Segment) -> Finished:
        """Joining in the middle: wait for a start line; a protocol that is not parsed ends the search."""
        begun = b"".join(waiting.data for its_way, waiting in self._waiting if its_way is way)
        self._waiting.append((way, segment))
        for text in dict.fromkeys((begun + segment.data, segment.data)):
            part = starts_message(text)
            if part:
                waiting, self._waiting = self._waiting, []
                return self._begin(way, part, waiting)
            if len(text) < START_LIMIT and any(may_start_message(text, part) for part in Part):
                return []
            self._pass_over(way, but=segment)
        self._pass_over(way)
        verdict = detect(segment.data)
        if verdict and verdict.protocol not in (HTTP1, UNKNOWN):
            self._become_other(verdict)
        return []

    def _pass_over(self, way: Way, but: Segment | None = None) -> None:
        """Forget what waited of a way: no message begins with it."""
        for its_way, segment in self._waiting:
            if its_way is way and segment is not but:
                self._after[way] = segment.time
        self._waiting = [each for each in self._waiting if each[0] is not way or each[1] is but]

    def _begin(self, way: Way, part: Part | None, waiting: list[tuple[Way, Segment]]) -> Finished:
        """Start to parse: the role says who is the client, else the start line does."""
        if self.connection.role is Role.UNKNOWN:
            self._client = way if part is Part.REQUEST else _other(way)
        starts = {each: self._ways[each].next_offset for each in Way}
        for its_way, segment in reversed(waiting):
            starts[its_way] = segment.offset
        requests, responses = (Start(starts[each], self._after[each]) for each in (self._client, _other(self._client)))
        self._exchanges = Exchanges(requests, responses, synchronised=self._start_known, by_turns_since=self._by_turns_since)
        finished: Finished = []
        for its_way, segment in waiting:
            finished += self._take(its_way, segment)
        return finished

    def _by_way(self, requests: int, responses: int) -> tuple[int, int]:
        """Of the read way, of the write way."""
        return (responses, requests) if self._client is Way.WRITE else (requests, responses)

    def _part(self, way: Way) -> Part:
        return Part.REQUEST if way is self._client else Part.RESPONSE

    def _refuse(self) -> Finished:
        """Take offsets or times that are out of range: whoever sent them is not to be believed, so nothing more becomes a pair."""
        if self._closed:
            return []
        if not self._flow:
            protocol = HTTP1 if self._exchanges else UNKNOWN
            self._become_flow(protocol, "offsets or times out of range", self.progress, self._flow_time)
        self._closed = True
        return self._end_flow(even_empty=True)

    # -- results -------------------------------------------------------------------------------------------------------

    def _pairs(self, exchanges: list[Exchange], time: int) -> Finished:
        assert self._exchanges is not None
        turn = self._exchanges.turn
        if not exchanges and not turn:
            return []
        pairs: Finished = [self._pair(exchange) for exchange in exchanges]
        if turn:
            self._turn(turn, time)
        return pairs

    def _pair(self, exchange: Exchange) -> RRPair:
        missing = exchange.missing
        if self._start_missing:
            missing = ("start", *missing)
            self._start_missing = False
        direction = Direction.OUT if self._client is Way.WRITE else Direction.IN
        return describe(self.connection, self._service, direction, exchange, missing)

    def _turn(self, turn: Turn, time: int) -> None:
        if self._client is Way.WRITE:
            self.tunnel = turn.target
        offsets = (turn.response_offset, turn.request_offset)
        self._become_flow(turn.protocol, turn.reason, offsets if self._client is Way.WRITE else offsets[::-1], time)

    def _become_other(self, verdict: Verdict) -> None:
        name = self.connection.application_protocol if verdict.protocol == UNKNOWN else verdict.protocol
        reason = "protocol not recognised" if verdict.protocol == UNKNOWN else f"{verdict.protocol} is not parsed yet"
        self._become_flow(name or UNKNOWN, reason, self._flow_from, self._flow_time)

    def _become_flow(self, protocol: str, reason: str, offsets: tuple[int, int], time: int) -> None:
        if self._exchanges:
            self._by_turns_since, self._refuted_since = self._exchanges.by_turns_since, self._exchanges.refuted_since
        self._flow, self._flow_from = (protocol, reason), offsets
        self._flow_time = time
        self._exchanges = None

    def _end_flow(self, *, even_empty: bool = False) -> Finished:
        """The flow that the stream, or the rest of it, was; none where it carried nothing."""
        if not self._flow:
            return []
        read, written = (self._ways[way].next_offset - self._flow_from[way - Way.READ] for way in (Way.READ, Way.WRITE))
        if not (read or written or even_empty):
            return []
        return [Flow(self.connection, self._flow_time, *self._flow, read, written)]


def _other(way: Way) -> Way:
    return Way.READ if way is Way.WRITE else Way.WRITE
