"""HTTP/1.1 as it is captured: the parsers, and what is paired of their messages.

`one` runs one input. Its first byte chooses what the others are: a dialogue of which the truth is known, or the bytes of a way.
"""

from __future__ import annotations

import httptools

from engine.pairing import Conversation
from engine.protocols.http1 import Broken, Parser, Received, RequestParser, ResponseParser, request_line
from engine.reassembly import LOST
from engine.rrpair import Connection, Role, RRPair, Way
from tests.engine.dialogue import Choices, check, watch

Heard = list[Received | Broken]


def one(data: bytes) -> None:
    """Run one input. Raises AssertionError where something does not hold."""
    kinds = (_dialogue, _requests, _responses, _conversation)
    if data:
        kinds[data[0] % len(kinds)](data[1:])


def _dialogue(data: bytes) -> None:
    """No complete pair is a wrong one."""
    check(watch(Choices(data)))


def _requests(data: bytes) -> None:
    """The same messages however they are cut; and the same ones as llhttp's, where it takes them."""
    whole, pieces = data[1:], max(data[:1], default=0) + 1
    found = _hear(RequestParser(), [whole])
    cut = _hear(RequestParser(), [whole[at : at + pieces] for at in range(0, len(whole), pieces)])
    assert [_said(each) for each in found] == [_said(each) for each in cut]
    oracle = _Oracle()
    try:
        oracle.parser.feed_data(whole)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return
    if not any(isinstance(each, Broken) for each in found):
        ours = [(*request_line(each.message.start_line), each.message.body) for each in found if isinstance(each, Received)]
        assert ours == oracle.found


def _responses(data: bytes) -> None:
    """The same messages however they are cut, to whatever request, and nothing raises."""
    method = (b"GET", b"HEAD", b"CONNECT", b"")[max(data[:1], default=0) % 4]
    whole, pieces = data[2:], max(data[1:2], default=0) + 1
    found = _hear(ResponseParser(lambda *_: method), [whole])
    cut = _hear(ResponseParser(lambda *_: method), [whole[at : at + pieces] for at in range(0, len(whole), pieces)])
    assert [_said(each) for each in found] == [_said(each) for each in cut]


def _conversation(data: bytes) -> None:
    """Any bytes and gaps in any order: nothing raises, offsets only grow, and what is found can be stored."""
    choices = Choices(data[:64])
    rest = data[64:]
    conversation = Conversation(Connection("a:1", role=Role(choices.below(3))), "shop", not choices.once_in(2))
    offsets = {Way.READ: 0, Way.WRITE: 0}
    found, time = [], 0
    while rest:
        way, length = Way(1 + choices.below(2)), 1 + choices.below(100)
        piece, rest = rest[:length], rest[length:]
        time += choices.below(3)
        if choices.once_in(8):
            found += conversation.gap(way, offsets[way], len(piece), LOST)
        else:
            found += conversation.data(way, offsets[way], piece, time)
        offsets[way] += len(piece)
        read, written = conversation.progress
        assert 0 <= read <= offsets[Way.READ]
        assert 0 <= written <= offsets[Way.WRITE]
    found += conversation.close(time)
    pairs = [item for item in found if isinstance(item, RRPair)]
    assert len({pair.id for pair in pairs}) == len(pairs)
    for pair in pairs:
        f"{pair.host}{pair.path}{pair.query}{pair.operation}{pair.technology}".encode()


def _hear(parser: Parser, pieces: list[bytes]) -> Heard:
    heard: Heard = []
    for time, piece in enumerate(pieces, 1):
        parser.receive(piece, time)
        while (message := parser.next()) is not None:
            heard.append(message)
            if isinstance(message, Broken):
                return heard
    return heard


def _said(heard: Received | Broken) -> object:
    """What of a message does not depend on how it was cut."""
    return (heard.message, heard.offset, heard.until, heard.status) if isinstance(heard, Received) else "broken"


class _Oracle:
    def __init__(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.found: list[tuple[str, str, bytes]] = []
        self._url = self._body = b""

    def on_message_begin(self) -> None:
        self._url = self._body = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self.found.append((self.parser.get_method().decode(), self._url.decode("latin-1"), self._body))
