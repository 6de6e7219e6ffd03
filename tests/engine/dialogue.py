"""Conversations of HTTP/1.1 of which the truth is known: made of bytes, so that Hypothesis and a fuzzer can choose them.

A client asks one request at a time, or asks some before it has the answers to others: at random, or always the same number. What
of it is seen, how it was cut into calls, in which order the two ways are delivered and what is lost is chosen, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from engine.pairing import Conversation
from engine.reassembly import LOST
from engine.rrpair import Connection, Flow, Role, RRPair, Way

FAKE_REQUEST = b"GET /666 HTTP/1.1\r\nHost: x\r\n\r\n"
FAKE_RESPONSE = b"HTTP/1.1 200 OK\r\nX-N: 666\r\nContent-Length: 0\r\n\r\n"
SWALLOWING_REQUEST = b"POST /666 HTTP/1.1\r\nContent-Length: 60\r\n\r\n"
SWALLOWING_RESPONSE = b"HTTP/1.1 200 OK\r\nX-N: 666\r\nContent-Length: 60\r\n\r\n"
FAKES = (FAKE_REQUEST, FAKE_RESPONSE, SWALLOWING_REQUEST, SWALLOWING_RESPONSE, FAKE_RESPONSE * 2, FAKE_REQUEST * 2)


class Choices:
    """Numbers out of bytes; 0 once they are used up, which stands for the simplest choice."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def below(self, limit: int) -> int:
        """A number below the limit."""
        self._at += 1
        return self._data[self._at - 1] % limit if self._at <= len(self._data) else 0

    def once_in(self, times: int) -> bool:
        """True about once in so many times, and never when there is nothing left to choose from."""
        return self.below(times) == times - 1


@dataclass
class Truth:
    """An exchange as it was."""

    head: bool = False
    request_body: bytes = b""
    response_body: bytes = b""
    interim: int = 0


@dataclass(frozen=True)
class Call:
    """Bytes that passed at once, of an exchange; `first` where it begins."""

    way: Way
    data: bytes
    exchange: int
    first: bool


@dataclass
class Dialogue:
    """What was said. `plain`: no body looks like a message. `pipelined`: some requests came before the answer to the last.

    `depth`: of a client that always has so many requests under way, until it has no more; 0 of others.
    """

    role: Role
    plain: bool
    pipelined: bool
    truths: list[Truth] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    depth: int = 0

    @property
    def headless(self) -> bool:
        """Whether no request is a HEAD: the length of an answer is known without its request."""
        return not any(truth.head for truth in self.truths)


def dialogue(choices: Choices) -> Dialogue:
    """Make one up."""
    role = (Role.CLIENT, Role.SERVER, Role.UNKNOWN)[choices.below(3)]
    made = Dialogue(role, plain=not choices.once_in(2), pipelined=choices.once_in(6))
    if made.pipelined:
        made.depth = (0, 2, 3)[choices.below(3)]
    count = 2 + choices.below(5)
    asking, answering = (Way.READ, Way.WRITE) if role is Role.SERVER else (Way.WRITE, Way.READ)
    for n in range(count):
        truth = Truth(head=choices.once_in(5))
        made.truths.append(truth)
        turns = [(asking, piece) for piece in _request(n, truth, made.plain, choices)]
        if not made.depth and choices.once_in(5):  # an interim response, perhaps before the body of the request is sent
            at = 1 + choices.below(len(turns))
            turns.insert(at, (answering, b"HTTP/1.1 100 Continue\r\n\r\n"))
            truth.interim = 1
        turns += [(answering, piece) for piece in _response(n, truth, made.plain, choices)]
        _append(made, n, asking, turns, choices)
    return made


def _append(made: Dialogue, n: int, asking: Way, turns: list[tuple[Way, bytes]], choices: Choices) -> None:
    """Add an exchange; in a pipeline its request may begin while answers are still to come."""
    calls = [Call(way, piece, n, position == 0) for position, (way, piece) in enumerate(turns)]
    early = 0
    while made.pipelined and early < len(calls) and calls[early].way is asking:
        early += 1
    at = len(made.calls)
    if made.depth:
        answered = [position for position, call in enumerate(made.calls, 1) if call.exchange == n - made.depth]
        asked = [position for position, call in enumerate(made.calls, 1) if call.way is asking]
        at = max(answered[-1:] + asked[-1:], default=0)
    while early and at and not made.depth and made.calls[at - 1].way is not asking and choices.once_in(2):
        at -= 1
    made.calls[at:] = [*calls[:early], *made.calls[at:], *calls[early:]]


def _request(n: int, truth: Truth, plain: bool, choices: Choices) -> list[bytes]:
    if truth.head:
        return _cut(b"HEAD /%d HTTP/1.1\r\nHost: x\r\n\r\n" % n, [], choices)
    pieces = _body(plain, choices)
    truth.request_body = b"".join(pieces)
    return _message(b"POST /%d HTTP/1.1\r\nHost: x\r\n" % n, pieces, choices)


def _response(n: int, truth: Truth, plain: bool, choices: Choices) -> list[bytes]:
    head = b"HTTP/1.1 200 OK\r\nX-N: %d\r\n" % n
    pieces = _body(plain, choices)
    if truth.head:
        return _cut(head + b"Content-Length: %d\r\n\r\n" % (50 * choices.below(4)), [], choices)
    truth.response_body = b"".join(pieces)
    return _message(head, pieces, choices)


def _body(plain: bool, choices: Choices) -> list[bytes]:
    return [b"x" * choices.below(20) if plain or choices.once_in(3) else FAKES[choices.below(6)] for _ in range(choices.below(4))]


def _message(head: bytes, pieces: list[bytes], choices: Choices) -> list[bytes]:
    """With Content-Length or chunked; a piece of the body begins a call of its own, or does not."""
    size = sum(map(len, pieces))
    if choices.once_in(3):
        head += b"Transfer-Encoding: chunked\r\n\r\n"
        parts = [part for piece in pieces if piece for part in (b"%x\r\n" % len(piece), piece, b"\r\n")]
        return _cut(head, [*parts, b"0\r\n\r\n"], choices)
    return _cut(head + b"Content-Length: %d\r\n\r\n" % size, pieces, choices)


def _cut(head: bytes, parts: list[bytes], choices: Choices) -> list[bytes]:
    calls = [head]
    for part in parts:
        if part and choices.once_in(2):
            calls.append(part)
        else:
            calls[-1] += part
    cut: list[bytes] = []
    for call in calls:
        at = choices.below(len(call)) if choices.once_in(3) else 0
        cut += [piece for piece in (call[:at], call[at:]) if piece]
    return cut


@dataclass
class Seen:
    """What came of a dialogue: what was found, and what must be whole."""

    dialogue: Dialogue
    found: list[RRPair | Flow]
    whole: range
    """Exchanges that must have a complete pair."""

    @property
    def pairs(self) -> list[RRPair]:
        """The pairs."""
        return [item for item in self.found if isinstance(item, RRPair)]


def watch(choices: Choices) -> Seen:
    """Make up a dialogue, and watch it with losses."""
    said = dialogue(choices)
    calls = said.calls
    joined = said.plain and said.headless if said.pipelined else True  # a pipeline proves itself by its number of answers
    start_known = not joined or not choices.once_in(2)
    first = 0
    missed = lossy = False
    if not start_known:
        first = (choices.below(256) * 3) % len(calls)
        missed = calls[first].way is Way.READ and choices.once_in(2)  # a read that was under way when the watching began
    loss = 0 if said.pipelined else (0, 0, 0, 12, 5)[choices.below(5)]
    ways: dict[Way, list[tuple[bytes | None, bytes, int]]] = {Way.READ: [], Way.WRITE: []}
    for time, call in enumerate(calls[first + missed :], 1):
        for lost, piece in _losses(call.data, loss, choices):
            lossy |= lost
            ways[call.way].append((None if lost else piece, piece, time))
    found = _deliver(said, start_known, ways, choices)
    last = len(said.truths)
    client = next((call.way for call in calls if call.first), None)
    # Where the role is not known, the rest of a request line that was cut there looks like an answer, its sender like the server.
    misleading = said.role is Role.UNKNOWN and any(call.way is client and call.data.startswith(b"HTTP/") for call in calls[first:])
    if lossy or missed or (not start_known and (said.pipelined or not said.plain or misleading)):
        return Seen(said, found, range(last, last))
    if start_known:
        return Seen(said, found, range(last))
    if not said.headless:
        return Seen(said, found, range(last, last))
    begins = [call.exchange for call in calls[first:] if call.first]
    return Seen(said, found, range((begins[0] + 2) if begins else last, last))


def _losses(data: bytes, loss: int, choices: Choices) -> list[tuple[bool, bytes]]:
    if not loss or not choices.once_in(loss):
        return [(False, data)]
    start, end = sorted((choices.below(len(data) + 1), choices.below(len(data) + 1)))
    if start == end:
        start, end = 0, len(data)
    return [(lost, piece) for lost, piece in ((False, data[:start]), (True, data[start:end]), (False, data[end:])) if piece]


def _deliver(
    said: Dialogue, start_known: bool, ways: dict[Way, list[tuple[bytes | None, bytes, int]]], choices: Choices
) -> list[RRPair | Flow]:
    """The ways in any order: as it was, one way first, or at random."""
    conversation = Conversation(Connection("a:1", role=said.role), "shop", start_known)
    offsets = {Way.READ: 0, Way.WRITE: 0}
    found: list[RRPair | Flow] = []
    order = choices.below(4)
    end = max((time for events in ways.values() for *_, time in events), default=0) + 1
    while any(ways.values()):
        way = min((each for each in ways if ways[each]), key=lambda each: ways[each][0][2])
        if order == 3:
            way = Way(1 + choices.below(2))
        elif order:
            way = Way(order)
        way = way if ways[way] else Way(3 - way)
        data, piece, time = ways[way].pop(0)
        if data is None:
            found += conversation.gap(way, offsets[way], len(piece), LOST)
        else:
            found += conversation.data(way, offsets[way], piece, time)
        offsets[way] += len(piece)
        read, written = conversation.progress
        assert read <= offsets[Way.READ]
        assert written <= offsets[Way.WRITE]
    found += conversation.close(end, ended=not choices.once_in(2))
    return settled(found, conversation.take_refuted())


def settled(found: list[RRPair | Flow], refuted: int | None) -> list[RRPair | Flow]:
    """What a store has in the end."""
    if refuted is None:
        return found
    return [replace(each, missing=("pairing",)) if isinstance(each, RRPair) and each.time >= refuted else each for each in found]


def check(seen: Seen) -> None:
    """A complete pair is a true one, no pair is there twice, and what can be whole is."""
    truths = seen.dialogue.truths
    whole = set()
    for pair in seen.pairs:
        if not pair.complete:
            continue
        assert pair.response is not None
        number = int(pair.path[1:])
        assert number < len(truths), "a part of a body was taken for a request"
        assert pair.response.header(b"x-n") == b"%d" % number
        truth = truths[number]
        assert (pair.method == "HEAD") is truth.head
        assert (pair.request.body, pair.response.body) == (truth.request_body, truth.response_body)
        assert len(pair.interim) == truth.interim
        assert number not in whole
        whole.add(number)
    assert whole >= set(seen.whole), [(pair.path, pair.missing) for pair in seen.pairs]
    assert len({pair.id for pair in seen.pairs}) == len(seen.pairs)
