from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import pairwise

import h11
import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.protocols import heads, http1
from engine.protocols.http1 import Broken, Parser, Received, RequestParser, ResponseParser
from engine.rrpair import Fields, Message

Events = list[Received | Broken]


def drain(parser: Parser) -> Events:
    events: Events = []
    while (event := parser.next()) is not None:
        events.append(event)
    return events


def feed(parser: Parser, pieces: Iterable[bytes], *, end: bool = False) -> Events:
    events: Events = []
    for time, piece in enumerate(pieces, 1):
        parser.receive(piece, time)
        events += drain(parser)
    if end:
        parser.end()
        events += drain(parser)
    return events


def response_parser(*methods: bytes) -> ResponseParser:
    queue = list(methods)
    return ResponseParser(lambda *_: queue.pop(0) if queue else b"GET")


def messages(events: Events) -> list[Message]:
    assert not any(isinstance(event, Broken) for event in events), events
    return [event.message for event in events if isinstance(event, Received)]


def three_ways(make: Callable[[], Parser], data: bytes, *, end: bool = False) -> list[Message]:
    """Whole, byte by byte, and with trailing bytes: as h11 tests its readers."""
    whole = messages(feed(make(), [data], end=end))
    assert messages(feed(make(), [data[i : i + 1] for i in range(len(data))], end=end)) == whole
    if not end:
        parser = make()
        trailing = feed(parser, [data + data[:7]])
        assert messages(trailing) == whole
        assert parser.needed == len(data) + 7 - len(data[:7].lstrip(b"\r\n"))  # empty lines are passed over
        assert messages(feed(parser, [data[7:]])) == whole
    return whole


REQUEST = b"POST /a?b=c HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nX:  y \r\n\r\nhello"


def test_request_with_a_body() -> None:
    fields = ((b"Host", b"x"), (b"Content-Length", b"5"), (b"X", b"y"))
    assert three_ways(RequestParser, REQUEST) == [Message(b"POST /a?b=c HTTP/1.1", fields, b"hello")]


def test_requests_in_a_pipeline() -> None:
    one = b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n"
    found = three_ways(RequestParser, one % 1 + REQUEST + one % 2)
    assert [message.start_line.split()[1] for message in found] == [b"/1", b"/a?b=c", b"/2"]


def test_chunked_with_extensions_and_trailers() -> None:
    data = (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
        b"5;a=b\r\nhello\r\n6 ; c\r\n world\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\n"
    )
    [message] = three_ways(RequestParser, data)
    assert message.body == b"hello world"
    assert message.trailers == ((b"X-Sum", b"1"), (b"Y", b"2"))


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_no_body_by_status(status: bytes) -> None:
    data = b"HTTP/1.1 %b\r\nContent-Length: 9\r\n\r\n" % status
    assert [m.body for m in three_ways(response_parser, data + data)] == [b"", b""]


def test_no_body_in_the_answer_to_head() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    found = feed(response_parser(b"HEAD", b"GET"), [head + head + b"hello"])
    assert [m.body for m in messages(found)] == [b"", b"hello"]


def test_body_until_the_end() -> None:
    [message] = three_ways(response_parser, b"HTTP/1.0 200 OK\r\n\r\nall of this", end=True)
    assert message.body == b"all of this"
    [message] = three_ways(response_parser, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nthis", end=True)
    assert message.body == b"this"


def test_interim_responses_come_by_themselves() -> None:
    data = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
    data += b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    events = feed(response_parser(), [data])
    assert [event.status for event in events if isinstance(event, Received)] == [100, 103, 200]


@pytest.mark.parametrize(("method", "status"), [(b"GET", b"101 Switching Protocols"), (b"CONNECT", b"200 OK")])
def test_nothing_is_parsed_after_a_change_of_protocol(method: bytes, status: bytes) -> None:
    head = b"HTTP/1.1 %b\r\nUpgrade: websocket\r\n\r\n" % status
    parser = response_parser(method)
    [received] = feed(parser, [head + b"\x81\x05HTTP/1.1 200 OK\r\n\r\n"])
    assert isinstance(received, Received)
    assert received.until == len(head)


def test_a_response_waits_for_its_request() -> None:
    known: list[bytes] = []
    parser = ResponseParser(lambda *_: known[0] if known else None)
    assert feed(parser, [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"]) == []
    assert parser.waiting
    known.append(b"HEAD")
    [received] = drain(parser)
    assert isinstance(received, Received)
    assert received.message.body == b""


def test_lenient_where_llhttp_is_lenient() -> None:
    data = b"\r\n\nGET  /a b  HTTP/1.1 \nHost: x\n folded\r\n\tagain\nEmpty:\nName : v\n\n"
    [message] = three_ways(RequestParser, data)
    assert message.headers == ((b"Host", b"x folded again"), (b"Empty", b""), (b"Name", b"v"))


def test_times_and_offsets() -> None:
    parser = RequestParser(100)
    events = feed(parser, [b"GET / HTTP/1.1\r\n", b"\r", b"\nGET /", b" HTTP/1.1\r\n\r\n"])
    assert [(e.offset, e.until, e.time, e.ended) for e in events if isinstance(e, Received)] == [
        (100, 118, 1, 3),
        (118, 136, 3, 4),
    ]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"hello world\r\n\r\n", "malformed request line"),
        (b"GET / HTTP/2.0\r\n\r\n", "malformed request line"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", "malformed header line"),
        (b"GET / HTTP/1.1\r\nbad name: x\r\n\r\n", "malformed header line"),
        (b"GET / HTTP/1.1\r\nA: \0\r\n\r\n", "NUL"),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "invalid Content-Length"),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "invalid Content-Length"),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", "transfer coding"),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "chunk size"),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", "chunk longer"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * (257 * 1024), "256 KiB"),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"a" * 17000, "16 KiB"),
    ],
)
def test_malformed(data: bytes, reason: str) -> None:
    for pieces in ([data], [data[i : i + 1000] for i in range(0, len(data), 1000)]):
        parser = RequestParser()
        [broken] = feed(parser, pieces)
        assert isinstance(broken, Broken)
        assert reason in broken.reason
        assert feed(parser, [b"GET / HTTP/1.1\r\n\r\n"]) == []


def test_equal_content_lengths_are_one() -> None:
    data = b"POST / HTTP/1.1\r\nContent-Length: 2, 2\r\ncontent-length: 2\r\n\r\nok"
    assert [m.body for m in three_ways(RequestParser, data)] == [b"ok"]


def test_a_body_over_the_limit_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "BODY_LIMIT", 10)
    parser = RequestParser()
    assert feed(parser, [b"POST / HTTP/1.1\r\nContent-Length: 26\r\n\r\n", b"abcdefgh", b"ijklmnop"]) == []
    assert parser.needed == 39 + 16  # nothing of a cut body is needed again
    [received] = feed(parser, [b"qrstuvwxyz"])
    assert isinstance(received, Received)
    assert received.message.body == b"abcdefghij"
    assert received.missing == ("request body", "what is beyond 64 MiB")


def test_a_gap_in_a_body_over_the_limit_is_not_what_is_missing_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "BODY_LIMIT", 10)
    parser = RequestParser()
    feed(parser, [b"POST / HTTP/1.1\r\nContent-Length: 26\r\n\r\n", b"ab"])
    parser.skip(4)
    [received] = feed(parser, [b"x" * 20])
    assert isinstance(received, Received)
    assert received.missing == ("request body",)


def test_many_chunks_in_one_segment() -> None:
    data = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 20000 + b"0\r\n\r\n"
    [message] = messages(feed(RequestParser(), [data]))
    assert message.body == b"x" * 20000


# -- gaps and joining in the middle ------------------------------------------------------------------------------------


def test_a_gap_in_a_body_of_known_length() -> None:
    parser = RequestParser()
    feed(parser, [b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nab"])
    parser.skip(5)
    [first, second] = feed(parser, [b"hijGET / HTTP/1.1\r\n\r\n"])
    assert isinstance(first, Received)
    assert (first.message.body, first.missing) == (b"abhij", ("request body",))
    assert isinstance(second, Received)
    assert second.missing == ()
    assert not parser.lost_count


def test_a_gap_to_the_very_end_of_a_body() -> None:
    parser = RequestParser()
    feed(parser, [b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nab"])
    parser.skip(8)
    [first] = drain(parser)
    assert isinstance(first, Received)
    assert first.missing == ("request body",)
    assert not parser.lost_count


def test_a_gap_over_the_end_of_a_body() -> None:
    parser = RequestParser()
    feed(parser, [b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nab"])
    parser.skip(9)
    [first] = drain(parser)
    assert isinstance(first, Received)
    assert first.missing == ("request body",)
    assert parser.lost_count
    [second] = feed(parser, [b"ET / HTTP/1.1\r\n\r\n", b"GET /2 HTTP/1.1\r\n\r\n"])
    assert isinstance(second, Received)
    assert second.message.start_line == b"GET /2 HTTP/1.1"


def test_a_gap_in_chunk_data_and_in_chunk_framing() -> None:
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    parser = RequestParser()
    feed(parser, [head + b"a\r\n12"])
    parser.skip(8)
    [first] = feed(parser, [b"\r\n0\r\n\r\n"])
    assert isinstance(first, Received)
    assert first.missing == ("request body",)
    feed(parser, [head + b"a\r\n12"])
    parser.skip(10)
    [second] = drain(parser)
    assert isinstance(second, Received)
    assert second.missing == ("request body",)
    assert parser.lost_count


def test_a_gap_in_a_header_block() -> None:
    parser = response_parser()
    feed(parser, [b"HTTP/1.1 200 OK\r\nA: b\r\nC"])
    parser.skip(3)
    [received] = drain(parser)
    assert isinstance(received, Received)
    assert (received.status, received.message.headers) == (200, ((b"A", b"b"),))
    assert received.missing == ("response headers",)
    [following] = feed(parser, [b"HTTP/1.1 204 No Content\r\n\r\n"])
    assert isinstance(following, Received)
    assert following.missing == ()


def test_joining_in_the_middle() -> None:
    parser = RequestParser(synchronised=False)
    [received] = feed(parser, [b"tail of a body\r\n\r\n", b"GET it\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"])
    assert isinstance(received, Received)
    assert received.offset == 28


def test_an_end_in_the_middle() -> None:
    for data, missing in (
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab", "body"),
        (b"HTTP/1.1 200 OK\r\nA", "headers"),
    ):
        [received] = feed(response_parser(), [data], end=True)
        assert isinstance(received, Received)
        assert received.missing == (f"response {missing}",)


# -- against others ----------------------------------------------------------------------------------------------------

_token = st.from_regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}", fullmatch=True).map(str.encode)
_value = st.from_regex(r"([!-~]([ -~]{0,20}[!-~])?)?", fullmatch=True).map(str.encode)
_target = st.from_regex(r"/[!-~]{0,30}", fullmatch=True).map(str.encode)
_framing = {b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"host", b"expect", b"trailer", b"te"}
_headers = st.lists(st.tuples(_token, _value).filter(lambda f: f[0].lower() not in _framing), max_size=8)
_bodies = st.lists(st.binary(min_size=1, max_size=40), max_size=4)


def generated(method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], parts: list[bytes], chunked: bool) -> bytes:
    """A request as h11 writes it."""
    connection = h11.Connection(h11.CLIENT)
    framing = (b"Transfer-Encoding", b"chunked") if chunked else (b"Content-Length", b"%d" % sum(map(len, parts)))
    request = h11.Request(method=method, target=target, headers=[(b"Host", b"x"), framing, *headers])
    data = connection.send(request) or b""
    for part in parts:
        data += connection.send(h11.Data(data=part)) or b""
    trailers = [(b"X-Trailer", b"1")] if chunked else []
    return data + (connection.send(h11.EndOfMessage(headers=trailers)) or b"")


_requests = st.builds(
    generated,
    st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE", b"PATCH"]),
    _target,
    _headers,
    _bodies,
    st.booleans(),
)


class Oracle:
    """What httptools says of a stream of requests."""

    def __init__(self) -> None:
        self.found: list[tuple[bytes, list[tuple[bytes, bytes]], bytes]] = []

    def on_message_begin(self) -> None:
        self.url, self.fields, self.body = b"", list[tuple[bytes, bytes]](), b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.found.append((self.url, self.fields, self.body))


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({c % (len(data) + 1) for c in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(at)]


@given(st.lists(_requests, min_size=1, max_size=4), st.lists(st.integers(0, 10**6), max_size=20))
def test_the_same_requests_as_httptools_whatever_the_cuts(requests: list[bytes], cuts: list[int]) -> None:
    data = b"".join(requests)
    oracle = Oracle()
    httptools.HttpRequestParser(oracle).feed_data(data)
    found = messages(feed(RequestParser(), cut(data, cuts)))
    assert [(m.start_line.split(b" ")[1], [*m.headers, *m.trailers], m.body) for m in found] == oracle.found


def from_h11(data: bytes) -> list[tuple[int, Fields, bytes]]:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    client.receive_data(b"")
    status, fields, body = 0, list[tuple[bytes, bytes]](), b""
    found: list[tuple[int, Fields, bytes]] = []
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.InformationalResponse):
            found.append((event.status_code, tuple(event.headers), b""))
        elif isinstance(event, h11.Response):
            status, fields = event.status_code, list(event.headers)
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
    return [*found, (status, (*fields, *event.headers), body)]


def generated_response(status: int, headers: list[tuple[bytes, bytes]], parts: list[bytes], kind: str) -> bytes:
    server = h11.Connection(h11.SERVER)
    server.receive_data(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    while not isinstance(server.next_event(), h11.EndOfMessage):
        pass
    framing = {
        "length": [(b"Content-Length", b"%d" % sum(map(len, parts)))],
        "chunked": [(b"Transfer-Encoding", b"chunked")],
    }
    interim = server.send(h11.InformationalResponse(status_code=103, headers=[("Link", "x")])) or b""
    data = interim + (server.send(h11.Response(status_code=status, headers=[*headers, *framing[kind]], reason="Fine")) or b"")
    for part in parts:
        data += server.send(h11.Data(data=part)) or b""
    return data + (server.send(h11.EndOfMessage()) or b"")


@given(
    st.builds(
        generated_response,
        st.sampled_from([200, 201, 404, 500]),
        _headers,
        _bodies,
        st.sampled_from(["length", "chunked"]),
    ),
    st.lists(st.integers(0, 10**6), max_size=20),
)
def test_the_same_responses_as_h11_whatever_the_cuts(data: bytes, cuts: list[int]) -> None:
    events = feed(response_parser(), cut(data, cuts), end=True)
    assert [
        (e.status, tuple((n.lower(), v) for n, v in (*e.message.headers, *e.message.trailers)), e.message.body)
        for e in events
        if isinstance(e, Received)
    ] == from_h11(data)


# -- whatever the bytes ------------------------------------------------------------------------------------------------

_mutations = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6)
_events = st.lists(st.one_of(st.integers(1, 60), st.integers(-40, -1)), max_size=30)


@settings(max_examples=300)
@given(st.lists(_requests, min_size=1, max_size=3), _mutations, _events, st.booleans())
@example([b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"], [(0, 0)], [1], False)
def test_nothing_is_raised_and_offsets_only_grow(
    requests: list[bytes], mutations: list[tuple[int, int]], steps: list[int], synchronised: bool
) -> None:
    data = bytearray(b"".join(requests))
    for at, byte in mutations:
        data[at % len(data)] = byte
    parser = RequestParser(synchronised=synchronised)
    at = needed = 0
    for step in [*steps, len(data)]:
        if step > 0:
            parser.receive(bytes(data[at : at + step]), at)
            at = min(at + step, len(data))
        else:
            parser.skip(-step)
            at = min(at - step, len(data))
            parser_end = parser.needed
            assert parser_end >= needed
        events = drain(parser)
        for event in events:
            assert not isinstance(event, Received) or re.match(rb"\S+\s", event.message.start_line)
        if any(isinstance(event, Broken) for event in events):
            return
        assert parser.needed >= needed
        needed = parser.needed
    parser.end()
    drain(parser)


@settings(max_examples=300)
@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_the_same_from_any_bytes_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    start = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"

    def shape(events: Events) -> list[object]:
        return [(e.message, e.offset, e.until) if isinstance(e, Received) else e for e in events]

    for prefix in (b"", start):
        whole = feed(RequestParser(), [prefix + data], end=True)
        assert shape(feed(RequestParser(), cut(prefix + data, cuts), end=True)) == shape(whole)


# -- bounds ------------------------------------------------------------------------------------------------------------

BLANKS = b" " * (http1.HEAD_LIMIT - 1000)


# Work that grows with the square of these lengths takes minutes.
@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\nA: b" + BLANKS + b"c\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: b\n" + b" \n" * (len(BLANKS) // 2) + b" c\r\n\r\n",
        b"GET / HTTP/1.1\nA" + BLANKS + b": c\r\n\r\n",
        b"GET" + BLANKS + b"x HTTP/1.1\r\n\r\n",
        b"GET " + b"x " * (len(BLANKS) // 2) + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a:\r\n" * (len(BLANKS) // 4) + b"\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"a:\r\n" * (len(BLANKS) // 8) + b"\r\n",
    ],
)
def test_the_longest_head_is_parsed_in_linear_time(head: bytes) -> None:
    [message] = messages(feed(RequestParser(), [head]))
    assert message.start_line.startswith((b"GET", b"POST"))


@pytest.mark.timeout(30)
@pytest.mark.parametrize("line", [b"GET" + BLANKS + b"x " * 100, b"GET " + b"x " * (len(BLANKS) // 2)])
def test_the_longest_malformed_request_line_is_refused_in_linear_time(line: bytes) -> None:
    [broken] = feed(RequestParser(), [line + b"\r\n\r\n"])
    assert isinstance(broken, Broken)
    assert "malformed request line" in broken.reason


def test_long_lines_and_names_are_not_remembered() -> None:
    """The caches hold a few thousand entries: what they take is bounded only if each is short."""
    name, value = b"N" * (heads.REMEMBERED_LENGTH + 1), b"v" * 100_000
    before = heads._field.cache_info().currsize
    names = len(heads.NAMES)
    feed(RequestParser(), [b"GET / HTTP/1.1\r\n%b: x\r\nA: %b\r\n\r\n" % (name, value)])
    assert heads._field.cache_info().currsize == before
    assert len(heads.NAMES) <= names + 1
    assert name not in heads.NAMES


@pytest.mark.parametrize(
    ("line", "target"),
    [
        (b"GET /a HTTP/1.1", "/a"),
        (b"GET  /a  HTTP/1.1 ", "/a"),
        (b"GET\t/a HTTP/1.1 ", "/a"),
        (b"GET /a b HTTP/1.1", "/a b"),
        (b"GET /a HTTP/1.5", "/a"),
    ],
)
def test_a_request_line_is_split_as_it_was_checked(line: bytes, target: str) -> None:
    [message] = messages(feed(RequestParser(), [line + b"\r\n\r\n"]))
    assert http1.request_line(message.start_line) == ("GET", target)
