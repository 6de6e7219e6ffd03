"""What is written is read back by another parser: llhttp."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.responder.replies import Replies, Way, encode
from engine.rrpair import Message
from engine.store import Answer
from tests.engine.making import Exchange, pairs_of

DATE = b"Sun, 22 Nov 2026 10:00:00 GMT"


@dataclass
class Read:
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    status: int = 0
    messages: int = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.messages += 1


def read(answer: Answer, way: Way = Way.KEEP) -> Read:
    found = Read()
    parser = httptools.HttpResponseParser(found)
    parser.feed_data(b"".join(encode(answer, way).parts(DATE)))
    found.status = parser.get_status_code()
    return found


def recorded(head: str, body: bytes = b"", request: str = "GET /") -> Answer:
    [pair] = pairs_of(Exchange(request, raw_answer=head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body))
    assert pair.response
    return Answer(pair.method, pair.status, pair.response, pair.interim, pair.response_started - pair.request_ended)


def test_headers_stay_as_they_were() -> None:
    head = "HTTP/1.1 201 Very Created\nserver: x\nDate: long ago\nSet-Cookie: a=1\nX-ODD: \xe9\nSet-Cookie: b=2\nContent-Length: 2"
    answer = recorded(head, b"ok")
    sent = b"".join(encode(answer, Way.KEEP).parts(DATE))
    assert sent == head.replace("long ago", DATE.decode()).replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\nok"


def test_no_date_is_invented() -> None:
    assert b"date" not in b"".join(encode(recorded("HTTP/1.1 204 No Content"), Way.KEEP).parts(DATE)).lower()


@pytest.mark.parametrize("size", [0, 1, 100_000])
@pytest.mark.parametrize("way", list(Way))
def test_chunked_stays_chunked_but_for_old_clients(size: int, way: Way) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    chunks = b"%x\r\n%b\r\n0\r\nX-Sum: 7\r\n\r\n" % (len(body), body)
    found = read(recorded("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: X-Sum", chunks), way)
    assert found.body == body
    assert ((b"Transfer-Encoding", b"chunked") in found.headers) == (way is not Way.OLD)
    assert ((b"X-Sum", b"7") in found.headers) == (way is not Way.OLD)


@pytest.mark.parametrize(
    ("head", "request_line"),
    [
        ("HTTP/1.1 204 No Content", "DELETE /x"),
        ("HTTP/1.1 304 Not Modified\nContent-Length: 999\nETag: x", "GET /x"),
        ("HTTP/1.1 200 OK\nContent-Length: 999", "HEAD /x"),
        ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", "HEAD /x"),
    ],
)
def test_answers_without_a_body(head: str, request_line: str) -> None:
    answer = recorded(head, request=request_line)
    reply = encode(answer, Way.KEEP)
    assert b"".join(reply.parts(DATE)) == head.replace("\n", "\r\n").encode() + b"\r\n\r\n"
    assert not reply.close


@pytest.mark.parametrize(
    ("head", "way", "close"),
    [
        ("HTTP/1.1 200 OK\nContent-Length: 0", Way.KEEP, False),
        ("HTTP/1.1 200 OK\nContent-Length: 0\nConnection: keep-alive", Way.KEEP, False),
        ("HTTP/1.1 200 OK\nContent-Length: 0\nConnection: close", Way.KEEP, False),
        ("HTTP/1.1 200 OK\nContent-Length: 0\nConnection: keep-alive\nKeep-Alive: timeout=5", Way.CLOSE, True),
        ("HTTP/1.1 200 OK", Way.KEEP, True),
        ("HTTP/1.0 200 OK\nContent-Length: 0", Way.KEEP, True),
        ("HTTP/1.0 200 OK\nContent-Length: 0\nConnection: keep-alive", Way.KEEP, False),
    ],
)
def test_the_connection_is_this_ones(head: str, way: Way, close: bool) -> None:
    reply = encode(recorded(head), way)
    sent = b"".join(reply.parts(DATE)).lower()
    assert reply.close == close
    assert (b"connection: close" in sent) == close
    assert b"connection: keep-alive" not in sent or not close
    assert b"keep-alive: " not in sent or not close


def test_interim_responses_come_first_and_100_only_on_demand() -> None:
    early = "HTTP/1.1 100 Continue\n\nHTTP/1.1 103 Early Hints\nLink: </x>\n\nHTTP/1.1 200 OK\nContent-Length: 0"
    answer = recorded(early)
    assert b"".join(encode(answer, Way.KEEP).parts(DATE)).count(b"HTTP/1.1") == 2
    assert b"".join(encode(answer, Way.OLD).parts(DATE)).count(b"HTTP/1.1") == 1


def test_what_depends_on_the_body_fits_it() -> None:
    answer = recorded("HTTP/1.1 200 OK\nContent-Length: 2\nx-amz-crc32: 1", b"ok")
    found = read(answer)
    assert (b"x-amz-crc32", b"%d" % zlib.crc32(b"ok")) in found.headers


bodies = st.binary(max_size=300) | st.binary(min_size=70_000, max_size=70_001)


@given(bodies, st.booleans(), st.sampled_from(list(Way)), st.booleans())
def test_every_body_arrives(body: bytes, chunked: bool, way: Way, dated: bool) -> None:
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    wire = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n" if chunked else body
    found = read(recorded(f"HTTP/1.1 200 OK\n{'Date: x' if dated else 'A: b'}\n{framing}", wire), way)
    assert (found.status, found.body) == (200, body)
    assert found.messages == 1 or (chunked and way is Way.OLD)


def test_delay_is_from_the_requests_end_to_the_answers_beginning() -> None:
    assert encode(recorded("HTTP/1.1 204 No Content"), Way.KEEP).delay == pytest.approx(0.004)


def test_what_is_kept_is_bounded() -> None:
    loaded: list[int] = []

    def load(row: int) -> Answer:
        loaded.append(row)
        return recorded("HTTP/1.1 200 OK\nContent-Length: 1000", b"x" * 1000)

    replies = Replies(load, limit=4500)
    for row in (1, 2, 3, 3, 2, 4, 4, 1):
        assert isinstance(replies.get(row, Way.KEEP, b"").head, bytes)
    assert loaded == [1, 2, 3, 4, 1]


@pytest.mark.parametrize(
    "fields", ["Transfer-Encoding: identity", "Transfer-Encoding: gzip", "Transfer-Encoding: identity\nContent-Length: 1"]
)
@pytest.mark.parametrize("way", list(Way))
def test_a_transfer_coding_without_chunks_ends_with_the_connection(fields: str, way: Way) -> None:
    """RFC 9112 section 6.3, rule 4: as it was recorded. It is not sent in chunks, which nobody would take for chunks."""
    reply = encode(recorded(f"HTTP/1.1 200 OK\n{fields}", b"all of it"), way)
    sent = b"".join(reply.parts(DATE))
    head, _, body = sent.partition(b"\r\n\r\n")
    assert body == b"all of it"
    assert reply.close
    assert b"content-length" not in head.lower()


@pytest.mark.parametrize(
    ("recorded_length", "sent"),
    [
        *[(sent, sent) for sent in (b"100", b"41", b"1" * 19)],
        *[(wrong, b"41") for wrong in (b"40", b"7", b"soon", b"", b"-9", b"9" * 20)],
    ],
)
def test_an_answer_that_was_not_read_to_its_end_does_not_end_whatever_its_length_said(recorded_length: bytes, sent: bytes) -> None:
    """Redaction may have made longer what was read of it, and the length may be none."""
    headers = ((b"Content-Length", recorded_length), (b"X", b"y"))
    answer = Answer("GET", 200, Message(b"HTTP/1.1 200 OK", headers, b"x" * 40), (), 0, unread=True)
    found = read(answer)
    assert (found.headers, found.body, found.messages) == ([(b"Content-Length", sent), (b"X", b"y")], b"x" * 40, 0)
