"""Pairs for the tests of redaction, and what is left in them."""

from __future__ import annotations

from engine.redaction import Redactor
from engine.rrpair import Connection, Direction, Fields, Message, RRPair

REDACTOR = Redactor(b"k" * 32)


def pair(
    body: bytes = b"", media: bytes = b"", headers: Fields = (), target: bytes = b"/x", response: Message | None = None
) -> RRPair:
    kind = ((b"Content-Type", media),) if media else ()
    fields = (*headers, *kind, (b"Content-Length", b"%d" % len(body)))
    request = Message(b"POST " + target + b" HTTP/1.1", fields, body)
    path = target.decode("latin-1").partition("?")[0]
    way = Direction.OUT
    return RRPair(
        "0" * 16, 0, way, "s", "http/1.1", "h", 443, "POST", path, (), f"POST {path}", request, Connection("c"), response=response
    )  # fmt: skip


def body_of(text: bytes, media: bytes = b"", headers: Fields = ()) -> bytes:
    redacted = REDACTOR.pair(pair(text, media, headers))
    assert not redacted.missing
    assert redacted.request.header(b"content-length") == b"%d" % len(redacted.request.body)
    return redacted.request.body


def header_of(name: bytes, value: bytes) -> bytes:
    return REDACTOR.pair(pair(headers=((name, value),))).request.headers[0][1]


def all_bytes(message: Message) -> bytes:
    fields = (*message.headers, *message.trailers)
    return b"\n".join([message.start_line, *[name + b": " + value for name, value in fields], message.body])
