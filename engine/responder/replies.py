"""Recorded answers, encoded once: status line and headers as they were, in order and case; the body as on the wire.

Only what a live answer cannot keep is made anew: the Date, whether the connection is kept, a coding that the client does not take,
and what depends on the body.
"""

from __future__ import annotations

import enum
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from engine.matching.codings import chosen, takes, without
from engine.protocols.heads import is_chunked
from engine.rrpair import Fields, Message
from engine.store import Answer

CACHE_BYTES = 256 * 1024 * 1024
"""Encoded answers that are kept, the latest loaded: those of 100,000 pairs of ordinary size."""
REPLY_OVERHEAD = 400
"""Bytes that an encoded answer takes besides its texts."""
JOINED_BELOW = 64 * 1024
"""Shorter answers are sent in one piece; longer ones are not copied for it."""


class Way(enum.IntEnum):
    """How an answer has to be written."""

    KEEP = 0
    CLOSE = 1
    OLD = 2
    """To a client of HTTP/1.0: no chunks, no interim responses, and the end of the connection ends it."""


@dataclass(slots=True)
class Reply:
    """An answer as bytes; between `head` and `rest` goes the date, which may have no place in it. `delay`: recorded, in seconds.

    `unread`: where it stops, its client had read enough; it does not end there. `codings`: those of the body that the server chose.
    """

    head: bytes
    rest: bytes
    dated: bool
    body: bytes
    close: bool
    delay: float
    unread: bool = False
    codings: tuple[bytes, ...] = ()

    def parts(self, date: bytes) -> tuple[bytes, ...]:
        """What to send, one after the other."""
        if self.dated:
            return (b"".join((self.head, date, self.rest)), self.body) if self.body else (b"".join((self.head, date, self.rest)),)
        return (self.head, self.body) if self.body else (self.head,)

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return len(self.head) + len(self.rest) + len(self.body) + REPLY_OVERHEAD


class Replies:
    """Encoded answers by row; what is evicted is read again."""

    def __init__(self, load: Callable[[int], Answer], limit: int = CACHE_BYTES) -> None:
        self._load = load
        self._limit = limit
        self._size = 0
        self._made: OrderedDict[int, Reply] = OrderedDict()

    def get(self, row: int, way: Way, accept: bytes) -> Reply:
        """Give the answer of a pair to a client; `accept`: its Accept-Encoding."""
        key = (row * len(Way) + way) * 2
        reply = self._made.get(key) or self._make(key, encode(self._load(row), way))
        if reply.codings and not takes(accept, reply.codings):
            return self._made.get(key + 1) or self._make(key + 1, encode(_plain(self._load(row)), way))
        return reply

    def _make(self, key: int, reply: Reply) -> Reply:
        self._made[key] = reply
        self._size += reply.size
        while self._size > self._limit and len(self._made) > 1:
            self._size -= self._made.popitem(last=False)[1].size
        return reply


def _plain(answer: Answer) -> Answer:
    return replace(answer, response=without(answer.response))


def encode(answer: Answer, way: Way) -> Reply:
    """Write an answer."""
    response = answer.response
    bodiless = answer.method == "HEAD" or answer.status in (204, 304)
    coded = response.header(b"transfer-encoding") is not None
    chunked = not bodiless and coded and is_chunked(response.headers)
    until_end = not bodiless and not chunked and (coded or response.header(b"content-length") is None)
    close = way is not Way.KEEP or until_end or _ended_by_server(response)
    headers = _framed(_connection(response.headers, close), answer, bodiless, coded, way)
    interim = b"" if way is Way.OLD else b"".join([_head(m.start_line, m.headers) for m in answer.interim if not _is_continue(m)])
    body = b"" if bodiless else _chunked(answer) if chunked and way is not Way.OLD else response.body
    head, rest, dated = _around_date(response.start_line, headers)
    if len(body) < JOINED_BELOW:
        head, rest, body = (head, rest + body, b"") if dated else (head + body, b"", b"")
    codings = () if bodiless or answer.unread else chosen(answer.asked, response)
    return Reply(interim + head, rest, dated, body, close and not answer.unread, answer.delay / 1e9, answer.unread, codings)


def _is_continue(interim: Message) -> bool:
    """100 is said when a live client asks for it."""
    return interim.start_line[9:12] == b"100"


def _ended_by_server(response: Message) -> bool:
    """A server of HTTP/1.0 keeps no connection unless it says so."""
    kept = (response.header(b"connection") or b"").lower() == b"keep-alive"
    return response.start_line.startswith(b"HTTP/1.0") and not kept


def _connection(headers: Fields, close: bool) -> Fields:
    """RFC 9112 section 9.6: what the recorded server said of its connection need not hold for this one."""
    kept = [(name, value) for name, value in headers if name.lower() not in (b"connection", b"keep-alive")]
    if close:
        return (*kept, (b"Connection", b"close"))
    return tuple([(n, v) for n, v in headers if n.lower() != b"connection" or v.lower() != b"close"])


def _framed(headers: Fields, answer: Answer, bodiless: bool, transfer_coded: bool, way: Way) -> Fields:
    """Make the headers that depend on the body fit it. A transfer coding overrides the length (RFC 9112 section 6.3, rule 3)."""
    if bodiless:
        return headers
    body = answer.response.body
    coded = answer.unread or any(name.lower() == b"content-encoding" for name, _ in headers)
    framed = []
    for name, value in headers:
        lower = name.lower()
        if lower == b"content-length":
            if not transfer_coded:
                framed.append((name, _longer(value, len(body)) if answer.unread else b"%d" % len(body)))
        elif lower == b"x-amz-crc32" and not coded:
            framed.append((name, b"%d" % zlib.crc32(body)))
        elif lower not in (b"transfer-encoding", b"trailer") or way is not Way.OLD:
            framed.append((name, value))
    return tuple(framed)


def _longer(length: bytes, than: int) -> bytes:
    """The recorded length of an answer of which this much was read, or more if redaction has made that longer."""
    return b"%d" % max(int(length) if length.isdigit() and len(length) < 20 else 0, than + 1)


def _head(line: bytes, headers: Fields) -> bytes:
    return b"".join([line, b"\r\n", *[b"%b: %b\r\n" % field for field in headers], b"\r\n"])


def _around_date(line: bytes, headers: Fields) -> tuple[bytes, bytes, bool]:
    for at, (name, _) in enumerate(headers):
        if len(name) == 4 and name.lower() == b"date":
            return _head(line, headers[:at])[:-2] + name + b": ", b"\r\n" + _head(b"", headers[at + 1 :])[2:], True
    return _head(line, headers), b"", False


def _chunked(answer: Answer) -> bytes:
    """RFC 9112 section 7.1, in one chunk: how it was cut says nothing."""
    response = answer.response
    chunk = b"%x\r\n%b\r\n" % (len(response.body), response.body) if response.body else b""
    if answer.unread:
        return chunk
    return b"%b0\r\n%b\r\n" % (chunk, b"".join([b"%b: %b\r\n" % field for field in response.trailers]))
