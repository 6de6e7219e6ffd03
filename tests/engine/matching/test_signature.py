"""What makes another answer of a response, and what does not: the table of headers, pinned."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.matching.signature import signature
from engine.rrpair import Fields, Message
from tests.engine.making import Exchange, pairs_of


def answer(headers: Fields = (), body: bytes = b"ok", trailers: Fields = (), status: int = 200) -> str:
    [pair] = pairs_of(Exchange("GET /"))
    pair = replace(pair, status=status, response=Message(b"HTTP/1.1 200 OK", headers, body, trailers))
    return signature(pair)["answer"]


@pytest.mark.parametrize(
    "name",
    [
        *[
            "Date",
            "Age",
            "Expires",
            "X-Runtime",
            "Server-Timing",
            "Connection",
            "Keep-Alive",
            "Transfer-Encoding",
            "Trailer",
            "Via",
        ],
        *["X-Request-Id", "Request-Id", "X-Correlation-Id", "traceparent", "X-Amzn-Trace-Id", "x-amzn-RequestId", "x-amz-id-2"],
        *["CF-Ray", "X-Cache", "X-RateLimit-Remaining", "RateLimit-Reset", "Server", "Via", "x-ms-request-id", "PayPal-Debug-Id"],
    ],
)
def test_what_is_new_in_each_answer_makes_no_other(name: str) -> None:
    assert answer(((name.encode(), b"1"),)) == answer(((name.encode(), b"2"),)) == answer()


@pytest.mark.parametrize(
    "name",
    [
        *["Content-Type", "Content-Encoding", "Content-Range", "Location", "Set-Cookie", "WWW-Authenticate", "ETag", "Retry-After"],
        *["Link", "Last-Modified", "Allow", "Vary", "Cache-Control", "X-Copy-Status", "X-Job-State", "x-ms-copy-status"],
        *["x-amz-version-id", "x-amz-delete-marker", "Content-Disposition", "X-Total-Count", "Preference-Applied"],
    ],
)
def test_every_other_header_makes_another_answer(name: str) -> None:
    one, other = (((name.encode(), value),) for value in (b"1", b"2"))
    assert len({answer(one), answer(other), answer()}) == 3
    assert answer(((name.upper().encode(), b"1"),)) == answer(one)


def test_the_length_counts_where_there_is_no_body() -> None:
    """Of what a HEAD asks about."""
    short, long = (((b"Content-Length", value),) for value in (b"1", b"2"))
    assert answer(short, b"") != answer(long, b"")
    assert answer(short) == answer(long) == answer()


def test_headers_count_in_the_order_of_their_names() -> None:
    a, b, c = (b"A", b"1"), (b"B", b"1"), (b"b", b"2")
    assert answer((a, b, c)) == answer((b, c, a))
    assert answer((b, c)) != answer((c, b))


def test_trailers_and_the_status_count() -> None:
    assert answer(trailers=((b"Grpc-Status", b"0"),)) != answer(trailers=((b"Grpc-Status", b"5"),))
    assert answer(status=200) != answer(status=201)


def test_where_parts_end_counts() -> None:
    """What is joined without lengths looks alike."""
    alike = [
        answer(((b"a", b"b\0c\0d"),), b""),
        answer(((b"a", b"b"), (b"c", b"d")), b""),
        answer(((b"a", b"b"),), b"c\0d"),
        answer(((b"a", b"b"),), b"", ((b"c", b"d"),)),
        answer((), b"a\0b\0c\0d"),
    ]
    assert len(set(alike)) == len(alike)
