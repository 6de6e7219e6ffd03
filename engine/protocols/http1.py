"""A passive HTTP/1.1 parser: bytes in, whole messages out (RFC 9112).

It listens to one way of a connection, so it takes what real peers take (bare LF, obs-fold) and never answers. It does
no I/O, knows no clock and never raises on captured bytes: what cannot be parsed becomes `Broken`. A byte is searched
once: the buffer remembers how far.

How a `Parser` is driven: `receive` or `skip` (a gap) or `end`, then `next` until it returns None. A response parser
stops and sets `waiting` where the framing depends on a request that has not been seen yet.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from engine.protocols import Part, may_start_message, starts_message
from engine.protocols.heads import (
    NAMES,
    VERSIONS,
    Index,
    Malformed,
    content_length,
    is_chunked,
    parse_block,
    parse_trailer,
    request_words,
)
from engine.rrpair import UNREAD, Fields, Message

HEAD_LIMIT = 256 * 1024
"""Longest header block or trailer section, as in the most generous servers (Node takes 16 KiB, nginx 32 KiB)."""
LINE_LIMIT = 16 * 1024
"""Longest line of a chunk header, with its extensions (llhttp and h11 take 16 KiB)."""
BODY_LIMIT = 64 * 1024 * 1024
"""Most bytes of a body that are kept: one message must not take the memory of the engine."""
TOO_LONG = f"what is beyond {BODY_LIMIT // 1024**2} MiB"
"""What is missing of a longer one."""

MISSING = -1
"""The time of a byte that was lost."""

NO_ROOM = "room for it in memory"
"""What is missing besides where more bytes waited for the ends of their messages than an engine keeps."""


_BLANK_LINE = re.compile(rb"\n\r?\n")
_VERSION = re.compile(rb"HTTP/1\.[0-9]")
_STATUS_LINE = re.compile(rb"HTTP/1\.[0-9][ \t]+([1-9][0-9][0-9])(?:[ \t].*)?", re.DOTALL)
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;.*)?", re.DOTALL)
_ABSOLUTE = re.compile(r"(?i)https?://([^/?#]*)")
_FIRST_BYTES = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
"""What a start line begins with: so what is no HTTP is refused at its first byte, and not at the longest head."""


@dataclass(slots=True)
class Received:
    """A message that has ended. Built for every message, so not frozen: that would double its cost.

    `offset` and `time` are those of its first byte, `ended` is the time of the last. `index` are its header values by
    lower-case name. `missing` names its parts that were not seen whole. `status` is 0 for requests. `until` is the
    offset behind it. `after` is the time of the byte before its first one: 0 where there was none, MISSING where it was lost.
    `head` are the bytes of its header block and trailers.
    `method` is that of the parsed request line, b"" for responses: whatever frames a message by its method has to take this one.
    """

    message: Message
    index: Index
    offset: int
    until: int
    time: int
    ended: int
    status: int = 0
    missing: tuple[str, ...] = ()
    after: int = 0
    method: bytes = b""
    head: int = 0

    @property
    def size(self) -> int:
        """Bytes that it has, as they are on the wire but for framing."""
        return self.head + len(self.message.body)

    def let_go(self) -> None:
        """Drop the body."""
        if self.message.body:
            self.message = replace(self.message, body=b"")
            self.missing = (*self.missing, f"{'response' if self.status else 'request'} body", NO_ROOM)


@dataclass(frozen=True, slots=True)
class Broken:
    """From `offset` on the bytes are not HTTP/1.1, for this reason."""

    reason: str
    offset: int


MethodOf = Callable[[int, int], bytes | None]


class _Go(enum.Enum):
    """What a state returns when the next one has work to do at once.

    States never call each other: a segment may hold thousands of chunks.
    """

    ON = enum.auto()


_Outcome = Received | Broken | _Go | None


_START_LINES = {Part.REQUEST: "request line", Part.RESPONSE: "status line"}


class Parser:
    """One way of an HTTP/1.1 connection. Subclasses know the start line and the framing of their half."""

    part: Part

    def __init__(self, offset: int = 0, after: int = 0, *, synchronised: bool = True) -> None:
        """`after` is the time of the byte before `offset`, as in `Received`; without `synchronised` a start line is sought."""
        self.waiting = False
        self.lost_count = False
        """Set where messages may have passed unseen; whoever reads it clears it."""
        self.stopped = False
        """Set where the connection speaks something else from here on."""
        self._previous = 0
        """Time of the segment before the latest one, or MISSING."""
        self._before = after
        """The same of the segment before the next one."""
        self._forgiving = not synchronised
        self._data: bytes | bytearray = b""
        self._at = 0
        self._latest = 0
        """Where in the data the latest segment begins."""
        self._base = offset
        self._searched = 0
        self._time = 0
        self._ready: list[Received] = []
        self._step: Callable[[], _Outcome] = self._head if synchronised else self._seek
        self._forget()

    def _forget(self) -> None:
        self._offset = -1
        self._begun = self._after = 0
        self._line = self._method = b""
        self._fields: Fields = ()
        self._index: Index = {}
        self._status = 0
        self._body: bytes | bytearray = b""
        self._body_limit = BODY_LIMIT
        self._remaining = 0
        self._trailers: list[tuple[bytes, bytes]] | None = None
        self._head_size = self._trailer_size = 0
        self._missing: tuple[str, ...] = ()

    # -- what the owner calls ------------------------------------------------------------------------------------------

    @property
    def begun(self) -> int:
        """Offset of the first byte that no message has: where the one under way began."""
        return self._base + self._at if self._offset < 0 else self._offset

    @property
    def needed(self) -> int:
        """Offset of the first byte that an unfinished message still needs."""
        return self._base + self._at if self.overlong else self.begun

    @property
    def overlong(self) -> bool:
        """Whether the body under way is longer than is kept: nothing of it is needed again."""
        return bool(self._missing) and len(self._body) >= self._body_limit

    @property
    def size(self) -> int:
        """Bytes that are kept of a message that is not whole."""
        return len(self._data) - self._at + len(self._body) + self._head_size + self._trailer_size

    @property
    def idle(self) -> bool:
        """Whether no message is under way."""
        return self._offset < 0 and self._at >= len(self._data)

    @property
    def awaited(self) -> Index | None:
        """Header values of the message whose body is still to come, if there is one."""
        return None if self._offset < 0 or self._step in (self._head, self._seek) else self._index

    @property
    def cut(self) -> bool:
        """Whether bytes of the message under way are missing, or were more than are kept."""
        return bool(self._missing)

    def let_go(self) -> None:
        """Drop what is kept of a message that is not whole. Of its body nothing more is kept, but its end is still found."""
        if self._body:
            self._body, self._body_limit = b"", 0
            self._missing = (f"{self.part.value} body", NO_ROOM)
        elif self.size and self.awaited is None:
            self.skip(0)

    def rest(self) -> bytes:
        """Take the bytes that are not parsed yet: they are no HTTP/1.1 of this connection."""
        rest = bytes(memoryview(self._data)[self._at :])
        self._at = len(self._data)
        return rest

    def receive(self, data: bytes, time: int) -> None:
        """Take the bytes that follow."""
        self._previous = self._before
        self._before = self._time = time
        left = len(self._data) - self._at
        if not left:
            self._base += self._at
            self._data, self._at, self._searched, self._latest = data, 0, 0, 0
            return
        if type(self._data) is not bytearray or self._at:
            self._base += self._at
            self._searched = max(self._searched - self._at, 0)
            self._data, self._at = bytearray(memoryview(self._data)[self._at :]), 0
        self._latest = left
        self._data += data

    def next(self) -> Received | Broken | None:
        """Return what has ended, or None where more bytes are needed (or the request: see `waiting`)."""
        if self._ready:
            return self._ready.pop(0)
        try:
            while (outcome := self._step()) is _Go.ON:
                pass
            if outcome is None and self._at and self._at == len(self._data):  # nothing of it is needed any more
                self._base += self._at
                self._data, self._at, self._searched, self._latest = b"", 0, 0, 0
            return outcome
        except Malformed as error:
            return self._malformed(str(error))

    def skip(self, length: int) -> None:
        """Take a gap: within a body of known length the parser stays in step, elsewhere it seeks a start line."""
        self._forgiving = True
        step = self._step
        if step in (self._counted, self._chunk_data) and length <= self._remaining:
            self._missing = self._missing or (f"{self.part.value} body",)
            self._remaining -= length
            self._pass(length)
        elif step == self._until_end:
            self._missing = self._missing or (f"{self.part.value} body",)
            self._pass(length)
        else:
            self._break_off()
            self._pass(length)

    def end(self) -> None:
        """Take the end of the stream: a body that lasts until then is whole (section 6.3 rule 8), others are not."""
        if self._step == self._until_end:
            self._ready.append(self._finish())
        elif self._offset >= 0 and self._step != self._stopped:
            self._break_off()

    def leave(self) -> None:
        """Take that the reader turned away: of the message under way it read what there is, and wanted no more."""
        under_way = self._offset >= 0 and self._step not in (self._head, self._seek, self._stopped)
        if self.part is Part.RESPONSE and under_way and not self._missing:
            self._missing = (UNREAD,)
            self._ready.append(self._finish())
        self.skip(1)

    # -- the parts that the halves differ in ---------------------------------------------------------------------------

    def _frame(self) -> _Outcome:
        """Choose the framing of the body of a message whose header block is read. Raises ValueError."""
        raise NotImplementedError

    def _check_line(self, line: bytes) -> int:
        """Check a start line and return the status, 0 for requests. Raises ValueError."""
        raise NotImplementedError

    # -- states --------------------------------------------------------------------------------------------------------

    def _seek(self) -> _Outcome:
        """Drop segments until one begins with a start line, or with what may become one."""
        data, at = self._data, self._at
        if at >= len(data):
            return None
        for start in dict.fromkeys((at, max(at, self._latest))):
            begin = bytes(memoryview(data)[start : start + LINE_LIMIT])
            if starts_message(begin) is self.part or may_start_message(begin, self.part):
                self._drop(start - at)
                if self._offset < 0:
                    self._offset, self._begun = self._base + start, self._time
                    self._after = self._previous if start == self._latest else self._time
                return None if starts_message(begin) is not self.part else self._enter(self._head)
        self._drop(len(data) - at)
        return None

    def _drop(self, length: int) -> None:
        """Pass over bytes that are not understood."""
        if length:
            self._at += length
            self._offset = -1

    def _head(self) -> _Outcome:
        data, at = self._data, self._at
        if at >= len(data):
            return None
        if self._offset < 0:
            while data[at] in b"\r\n":  # section 2.2: empty lines before a start line
                at = self._at = at + 1
                if at >= len(data):
                    return None
            self._offset, self._begun = self._base + at, self._time
            self._after = self._previous if at == self._latest else self._time
            if data[at] not in _FIRST_BYTES:
                raise Malformed(f"malformed {_START_LINES[self.part]}")
        found = _BLANK_LINE.search(data, self._searched if self._searched > at else at)
        start, end = found.span() if found else (len(data), len(data))
        if start - at > HEAD_LIMIT:
            raise Malformed(f"header block longer than {HEAD_LIMIT // 1024} KiB")
        if not found:
            self._searched = max(at, end - 2)
            return None
        if data[start - 1] == 13:  # the CR of the last line
            start -= 1
        line, fields, index = parse_block(bytes(data[at:start]))
        self._status = self._check_line(line)
        self._line, self._fields, self._index = line, fields, index
        self._at = self._searched = end
        self._head_size = end - at
        return self._frame()

    def _begin_counted(self) -> _Outcome:
        """Section 6.2. Most bodies are there as soon as their header block is: they need no more states."""
        length = self._remaining = content_length(self._fields, self._index)
        data, start = self._data, self._at
        if length > len(data) - start or length > BODY_LIMIT:
            return self._enter(self._counted)
        self._at = start + length
        self._body = bytes(data[start : self._at])
        return self._finish()

    def _counted(self) -> _Outcome:
        """Section 6.2."""
        return None if self._take() else self._finish()

    def _until_end(self) -> _Outcome:
        """Section 6.3, rule 8."""
        self._keep(len(self._data) - self._at)
        return None

    def _chunk_line(self) -> _Outcome:
        """Section 7.1: a size in hexadecimal digits, perhaps extensions."""
        line = self._next_line(LINE_LIMIT)
        if line is None:
            return None
        size = _CHUNK_LINE.fullmatch(line)
        if size is None:
            raise Malformed("malformed chunk size")
        self._remaining = int(size[1], 16)
        return self._enter(self._chunk_data if self._remaining else self._trailer_line)

    def _chunk_data(self) -> _Outcome:
        return None if self._take() else self._enter(self._chunk_end)

    def _chunk_end(self) -> _Outcome:
        line = self._next_line(LINE_LIMIT)
        if line:
            raise Malformed("chunk longer than its size")
        return None if line is None else self._enter(self._chunk_line)

    def _trailer_line(self) -> _Outcome:
        """Section 7.1.2."""
        line = self._next_line(HEAD_LIMIT)
        if not line:
            return None if line is None else self._finish()
        self._trailer_size += len(line) + 1
        if self._trailer_size > HEAD_LIMIT:
            raise Malformed(f"trailers longer than {HEAD_LIMIT // 1024} KiB")
        if self._trailers is None:
            self._trailers = []
        self._trailers += parse_trailer(line)
        return _Go.ON

    def _stopped(self) -> _Outcome:
        """The connection speaks something else from here on: its owner looks no further."""
        return None

    # -- what the states share -----------------------------------------------------------------------------------------

    def _next_line(self, limit: int) -> bytes | None:
        data, at = self._data, self._at
        end = data.find(b"\n", max(at, self._searched))
        if end < 0:
            self._searched = len(data)
            if len(data) - at > limit:
                raise Malformed(f"line longer than {limit // 1024} KiB")
            return None
        self._at = self._searched = end + 1
        return bytes(data[at:end]).removesuffix(b"\r")

    def _take(self) -> int:
        """Take what is there of a run of known length; return how many bytes are still to come."""
        length = min(self._remaining, len(self._data) - self._at)
        if length:
            self._keep(length)
            self._remaining -= length
        return self._remaining

    def _keep(self, length: int) -> None:
        """Take bytes into the body; beyond the limit they are dropped, which cuts the body."""
        data, start = self._data, self._at
        self._at = start + length
        if len(self._body) + length > self._body_limit:
            self._missing = self._missing or (f"{self.part.value} body", TOO_LONG)
            length = self._body_limit - len(self._body)
        if not self._body:
            self._body = bytes(data) if length == len(data) else bytes(memoryview(data)[start : start + length])
            return
        if type(self._body) is not bytearray:
            self._body = bytearray(self._body)
        self._body += memoryview(data)[start : start + length]

    def _enter(self, step: Callable[[], _Outcome]) -> _Outcome:
        self._step = step
        return _Go.ON

    def _finish(self) -> Received:
        """Hand the message over and begin the next."""
        body = self._body
        trailers = tuple(self._trailers) if self._trailers else ()
        received = Received(
            Message(self._line, self._fields, body if type(body) is bytes else bytes(body), trailers),
            self._index,
            self._offset,
            self._base + self._at,
            self._begun,
            self._time,
            self._status,
            self._missing,
            self._after,
            self._method,
            self._head_size + self._trailer_size,
        )
        self._forget()
        self._step = self._head
        return received

    def _break_off(self) -> None:
        """Hand over what there is of a message that cannot be followed to its end, and seek the next."""
        self.lost_count = True
        part = self.part.value
        if self._offset >= 0 and self._step != self._seek:
            if self._step != self._head:
                self._missing = self._missing or (f"{part} body",)
                self._ready.append(self._finish())
            elif (received := self._broken_head()) is not None:
                self._ready.append(received)
        self._forget()
        self._at = len(self._data)
        self._step = self._seek

    def _broken_head(self) -> Received | None:
        """What is known of a header block that has no end: nothing where not even the start line is whole."""
        block, newline, _ = bytes(memoryview(self._data)[self._at :]).rpartition(b"\n")
        try:
            self._line, self._fields, self._index = parse_block(block.removesuffix(b"\r"))
            self._status = self._check_line(self._line)
        except ValueError:
            return None
        if not newline:
            return None
        self._missing = (f"{self.part.value} headers",)
        return self._finish()

    def _pass(self, length: int) -> None:
        """Step over bytes that are missing; nothing unread lies before them."""
        self._base += len(self._data) + length
        self._data, self._at, self._searched, self._latest = b"", 0, 0, 0
        self._before = MISSING

    def _malformed(self, reason: str) -> Received | Broken | None:
        """Give up; or seek the next start line where it may be that only the place was wrong."""
        if not self._forgiving:
            self._step = self._stopped
            offset = self._offset if self._offset >= 0 else self._base + self._at
            self._pass(0)
            return Broken(f"{self.part.value}: {reason}", offset)
        self._step = self._counted if self._index else self._head
        self._break_off()
        return self._ready.pop(0) if self._ready else None


class RequestParser(Parser):
    """The requests of a connection."""

    part = Part.REQUEST

    def _check_line(self, line: bytes) -> int:
        words = line.split(b" ", 3)
        if len(words) == 3 and words[2] in VERSIONS and words[1] and words[0] in NAMES:
            self._method = words[0]
            return 0
        method, target, version = request_words(line)
        if not target or (version not in VERSIONS and not _VERSION.fullmatch(version)):
            raise Malformed("malformed request line")
        try:
            NAMES[method]
        except Malformed:
            raise Malformed("malformed request line") from None
        self._method = method
        return 0

    def _frame(self) -> _Outcome:
        """Section 6.3, rules 3 to 7; section 3.2: of two hosts one may be the recorder's and the other the responder's."""
        if len(self._fields) != len(self._index) and sum(name.lower() == b"host" for name, _ in self._fields) > 1:
            raise Malformed("more than one Host")
        if b"transfer-encoding" in self._index:
            if not is_chunked(self._fields):
                raise Malformed("a transfer coding that does not tell the length")
            return self._enter(self._chunk_line)
        if b"content-length" in self._index:
            return self._begin_counted()
        return self._finish()


class ResponseParser(Parser):
    """The responses of a connection.

    `method_of` is given the time of a response's first byte and that of the byte before (see `Received`), and returns the method
    of the request that it answers, b"" where that will never be known, None where it is not known yet.
    """

    part = Part.RESPONSE

    def __init__(self, method_of: MethodOf, offset: int = 0, after: int = 0, *, synchronised: bool = True) -> None:
        super().__init__(offset, after, synchronised=synchronised)
        self._method_of = method_of

    def _check_line(self, line: bytes) -> int:
        if line[:9] in (b"HTTP/1.1 ", b"HTTP/1.0 ") and line[9:12].isdigit() and line[12:13] in (b"", b" "):
            return int(line[9:12])
        found = _STATUS_LINE.fullmatch(line)
        if found is None:
            raise Malformed("malformed status line")
        return int(found[1])

    def _frame(self) -> _Outcome:
        """Section 6.3, rules 1 to 8."""
        if 100 <= self._status < 200 and self._status != 101:
            return self._finish()
        self._step = self._final
        return self._final()

    def _final(self) -> _Outcome:
        method = self._method_of(self._begun, self._after)
        self.waiting = method is None
        if method is None:
            return None
        status, index = self._status, self._index
        if method == b"HEAD" or status in (204, 304):
            return self._finish()
        if status == 101 or (method == b"CONNECT" and 200 <= status < 300):
            received = self._finish()
            self._step, self.stopped = self._stopped, True
            return received
        if b"transfer-encoding" in index:
            return self._enter(self._chunk_line if is_chunked(self._fields) else self._until_end)
        if b"content-length" in index:
            return self._begin_counted()
        return self._enter(self._until_end)


def request_line(line: bytes) -> tuple[str, str]:
    """Method and target of a request line that was parsed (RFC 9112 section 3)."""
    words = line.decode("latin-1").split(" ")
    if len(words) == 3 and words[2] in ("HTTP/1.1", "HTTP/1.0") and b"\t" not in line:
        return words[0], words[1]
    method, target, _ = request_words(line)
    return method.decode("latin-1"), target.decode("latin-1")


def split_target(method: str, target: str) -> tuple[str, str, str]:
    """Authority (of absolute and authority form only), path and query of a target (RFC 9112 section 3.2)."""
    if target.startswith("/"):
        path, _, query = target.partition("?")
        return "", path, query
    if method == "CONNECT":
        return target, "", ""
    authority = _ABSOLUTE.match(target)
    path, _, query = (target[authority.end() :] if authority else target).partition("?")
    return (authority[1] if authority else ""), path or "/", query


def split_query(query: str) -> tuple[tuple[str, str], ...]:
    """Query parameters in order, undecoded."""
    pairs = [parameter.partition("=") for parameter in query.split("&") if parameter]
    return tuple([(name, value) for name, _, value in pairs])


def query_of(line: bytes) -> tuple[tuple[str, str], ...]:
    """Query parameters of a request line."""
    method, target = request_line(line)
    return split_query(split_target(method, target)[2])
