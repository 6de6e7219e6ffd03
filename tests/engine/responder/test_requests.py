from __future__ import annotations

import contextlib
from itertools import pairwise

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.protocols.http1 import BODY_LIMIT, HEAD_LIMIT, Received, RequestParser, request_line
from engine.responder.requests import Asked, RequestError, RequestReader

POST = b"POST /a?b=c HTTP/1.1\r\nHost: h\r\nX-A:  1 \r\nx-a: 2\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"PUT /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: 1\r\n\r\n"
GET = b"GET http://h/x HTTP/1.0\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n"


def read(reader: RequestReader, *parts: bytes) -> list[Asked]:
    return [asked for part in parts for asked in reader.feed(part)]


@given(st.lists(st.integers(0, len(POST + CHUNKED + POST)), max_size=8))
@example([1, 2, 3])
def test_cuts_do_not_matter(cuts: list[int]) -> None:
    data = POST + CHUNKED + POST
    places = sorted({0, *cuts, len(data)})
    reader = RequestReader()
    found = read(reader, *[data[a:b] for a, b in pairwise(places)])
    assert found == read(RequestReader(), data)
    assert [(a.method, a.target, a.body, a.trailers) for a in found] == [
        ("POST", "/a?b=c", b"hello", ()), ("PUT", "/c", b"abcde", ((b"T", b"1"),)), ("POST", "/a?b=c", b"hello", ()),
    ]  # fmt: skip
    assert reader.idle


def test_as_h11_reads_it() -> None:
    oracle = h11.Connection(h11.SERVER)
    oracle.receive_data(POST)
    request, data = oracle.next_event(), oracle.next_event()
    assert isinstance(request, h11.Request)
    assert isinstance(data, h11.Data)
    [found] = read(RequestReader(), POST)
    assert found.headers == tuple(request.headers.raw_items())
    assert (found.method.encode(), found.target.encode(), found.body) == (request.method, request.target, bytes(data.data))


def test_versions_and_what_becomes_of_the_connection() -> None:
    [old] = read(RequestReader(), GET)
    assert (old.version, old.keep_alive, old.target) == ("1.0", False, "http://h/x")
    [kept] = read(RequestReader(), POST)
    assert (kept.version, kept.keep_alive) == ("1.1", True)


def test_a_wish_to_upgrade_is_ignored() -> None:
    found = read(RequestReader(), UPGRADE + POST)
    assert [asked.method for asked in found] == ["GET", "POST"]


def test_what_follows_connect_is_not_ours() -> None:
    reader = RequestReader()
    [asked] = read(reader, b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n\x16\x03\x01")
    assert (asked.method, asked.target, reader.rest) == ("CONNECT", "h:443", b"\x16\x03\x01")


def test_continue_is_asked_for_once() -> None:
    reader = RequestReader()
    head, body = POST.replace(b"Host: h", b"Expect: 100-Continue")[:-5], b"hello"
    assert read(reader, head) == []
    assert (reader.waits_for_continue, reader.waits_for_continue) == (True, False)
    assert len(read(reader, body)) == 1
    assert not reader.waits_for_continue


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x00\x01\x02", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * HEAD_LIMIT, 431),
        (b"GET /" + b"b" * HEAD_LIMIT, 431),
    ],
)
def test_what_cannot_be_taken(data: bytes, status: int) -> None:
    reader = RequestReader()
    with pytest.raises(RequestError) as caught:
        read(reader, *[data[at : at + 60_000] for at in range(0, len(data), 60_000)])
    assert caught.value.status == status


def test_a_body_is_bounded() -> None:
    reader = RequestReader()
    reader.feed(b"PUT / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (BODY_LIMIT * 2))
    part = bytes(1024 * 1024)
    with pytest.raises(RequestError, match="64 MiB"):
        read(reader, *[part] * (BODY_LIMIT // len(part) + 1))


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_any_bytes_are_requests_or_an_error(parts: list[bytes]) -> None:
    with contextlib.suppress(RequestError):
        read(RequestReader(), *parts)


def test_trailers_are_bounded() -> None:
    reader = RequestReader()
    read(reader, b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
    many = b"".join(b"a%d: %b\r\n" % (n, b"x" * 50) for n in range(10_000))
    with pytest.raises(RequestError) as caught:
        read(reader, many)
    assert caught.value.status == 431
    assert reader.size <= 2 * HEAD_LIMIT


@pytest.mark.parametrize(
    ("request_bytes", "target"),
    [
        ("GET /caf\u00e9?q=\u20ac HTTP/1.1\r\nHost: h\r\n\r\n".encode(), "/caf\u00e9?q=\u20ac".encode().decode("latin-1")),
        (b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", "/a b"),
        (b"GET /a HTTP/1.1\r\nHost: h\r\nX: a\r\n  b\r\n\r\n", "/a"),
        (b"GET /a HTTP/1.1\nHost: h\n\n", "/a"),
        (b"GET /a HTTP/1.1\r\nHost : h\r\n\r\n", "/a"),
        (b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", "/a"),
        (b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 2, 2\r\n\r\nok", "/a"),
        (b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2 ; a=b\r\nok\r\n0 \r\n\r\n", "/a"),
        (b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\nok\n0\n\n", "/a"),
        (b"BREW /a HTTP/1.1\r\nHost: h\r\n\r\n", "/a"),
        (b"GET  /a  HTTP/1.1 \r\nHost: h\r\n\r\n", "/a"),
        (b"GET /a HTTP/1.5\r\nHost: h\r\n\r\n", "/a"),
    ],
    ids=[
        *["utf-8", "blank", "folded", "bare LF", "blank before colon", "equal lengths", "listed lengths", "chunk extension"],
        *["chunks by bare LF", "unknown method", "blanks", "version"],
    ],
)
def test_what_the_recorder_takes_can_be_asked(request_bytes: bytes, target: str) -> None:
    parser = RequestParser()
    parser.receive(request_bytes, 1)
    recorded = parser.next()
    assert isinstance(recorded, Received)
    [asked] = read(RequestReader(), request_bytes)
    assert (asked.method, asked.target) == request_line(recorded.message.start_line)
    assert asked.target == target
    assert (asked.headers, asked.body) == (recorded.message.headers, recorded.message.body)


@pytest.mark.parametrize(
    ("connection", "version", "keep_alive"),
    [
        (b"", b"1.1", True),
        (b"Connection: close\r\n", b"1.1", False),
        (b"Connection: x, Close\r\n", b"1.1", False),
        (b"Connection: close\r\nConnection: x\r\n", b"1.1", False),
        (b"", b"1.0", False),
        (b"Connection: Keep-Alive\r\n", b"1.0", True),
    ],
)
def test_what_a_request_says_of_its_connection(connection: bytes, version: bytes, keep_alive: bool) -> None:
    [asked] = read(RequestReader(), b"GET / HTTP/%b\r\nHost: h\r\n%b\r\n" % (version, connection))
    assert asked.keep_alive is keep_alive
