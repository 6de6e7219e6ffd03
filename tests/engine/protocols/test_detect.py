from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocols import HTTP1, HTTP2, POSTGRES, TLS, UNKNOWN, Part, Verdict, detect, may_start_message, starts_message
from engine.protocols.http1 import Received, RequestParser, ResponseParser

KNOWN = [
    (b"GET / HTTP/1.1\r\n", Verdict(HTTP1, Part.REQUEST)),
    (b"\r\nM-SEARCH * HTTP/1.1\r\n", Verdict(HTTP1, Part.REQUEST)),
    (b"HTTP/1.1 200 OK\r\n", Verdict(HTTP1, Part.RESPONSE)),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00", Verdict(HTTP2, Part.REQUEST)),
    (b"\x16\x03\x01\x02\x00\x01", Verdict(TLS)),
    (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Verdict(POSTGRES, Part.REQUEST)),
    (b"\x00\x00\x00\x54\x00\x03\x00\x00user\x00", Verdict(POSTGRES, Part.REQUEST)),
    (b"SSH-2.0-OpenSSH_9.2\r\n", Verdict(UNKNOWN)),
    (b"*1\r\n$4\r\nPING\r\n", Verdict(UNKNOWN)),
    (b"\x00\x00\x00\x08\x00\x00\x00\x00", Verdict(UNKNOWN)),
]


@pytest.mark.parametrize(("data", "verdict"), KNOWN)
def test_known_beginnings(data: bytes, verdict: Verdict) -> None:
    assert detect(data) == verdict


@pytest.mark.parametrize(("data", "verdict"), KNOWN)
def test_the_verdict_does_not_depend_on_how_bytes_are_cut(data: bytes, verdict: Verdict) -> None:
    verdicts = [detect(data[:n]) for n in range(len(data) + 1)]
    first = next(i for i, found in enumerate(verdicts) if found)
    assert verdicts[first] == verdict
    assert detect(b"") is None


@pytest.mark.parametrize("line", [b"GET%b/1 HTTP/1.1\r\n\r\n", b"HTTP/1.1%b204%bNo Content\r\n\r\n"])
@pytest.mark.parametrize("blanks", [b" ", b"\t", b"  ", b"\t ", b" \t", b"\t\t"])
def test_what_the_parsers_read_is_recognised(line: bytes, blanks: bytes) -> None:
    """RFC 9112 section 3: a recipient may take any blanks between the words of a start line."""
    data = line.replace(b"%b", blanks)
    verdict = detect(data)
    parser = ResponseParser(lambda *_: b"GET") if line.startswith(b"HTTP") else RequestParser()
    parser.receive(data, 1)
    assert isinstance(parser.next(), Received)
    assert verdict == Verdict(HTTP1, parser.part)
    assert [detect(data[:n]) for n in range(1, len(data))].count(Verdict(UNKNOWN)) == 0


@given(st.binary(min_size=24, max_size=64))
def test_24_bytes_are_enough(data: bytes) -> None:
    stripped = data.lstrip(b"\r\n")
    assert detect(data) is not None or len(stripped) < 24


def test_start_lines_only() -> None:
    assert starts_message(b"GET /x HTTP/1.1\r\nHost: a\r\n") is Part.REQUEST
    assert starts_message(b"HTTP/1.1 204 \r\n") is Part.RESPONSE
    assert starts_message(b"GET ready for the party\r\n") is None
    assert starts_message(b'{"GET": 1}') is None


@pytest.mark.parametrize("line", [b"GET /a?b=c HTTP/1.1\r\n", b"\r\nM-SEARCH * HTTP/1.0\r\n", b"HTTP/1.1 200 OK\r\n"])
def test_the_beginning_of_a_start_line_may_become_one(line: bytes) -> None:
    part = Part.RESPONSE if line.startswith(b"HTTP") else Part.REQUEST
    for length in range(1, len(line) + 1):
        assert starts_message(line[:length]) is part or may_start_message(line[:length], part), line[:length]


@pytest.mark.parametrize(
    "data", [b"\r\n" * 2, b"\r\n" * 100_000, b"GOT", b"GET /a XTTP", b"HTTP/2", b"HTTP/1.1 0", b"x", b"GET /a HTTP/1.1 \r"]
)
@pytest.mark.parametrize("part", list(Part))
def test_what_cannot_become_a_start_line_is_not_kept(data: bytes, part: Part) -> None:
    assert not may_start_message(data, part)
