"""Content codings that a client takes (RFC 9110 section 12.5.3), and answers without those that it does not. Pure.

A server that was asked chose the coding for the client that was recorded. Another one may not know it: the same program where
`brotli` is not installed, say. It gets the content as it is. Where the server gave a coding that nobody had asked for, as object
stores do, that is how the content is.
"""

from __future__ import annotations

from functools import lru_cache

from engine.redaction import codings_of, decode_content
from engine.rrpair import Fields, Message

CODINGS_LIMIT = 20
"""Codings of a field that are looked at: browsers name four."""
KNOWN = 1024
"""Fields whose codings are remembered: a service has few."""
KNOWN_LENGTH = 256
"""Longest of these: none in use is longer."""

_NOT_TAKEN = frozenset((b"q=0", b"q=0.", b"q=0.0", b"q=0.00", b"q=0.000"))
_OF_THE_CODED = frozenset(b"content-encoding content-md5 digest content-digest repr-digest".split())
"""What does not hold of the content any more when its codings are off."""


def accepted(headers: Fields) -> bytes:
    """The Accept-Encoding of a request, as one field; empty where there is none."""
    values = [value for name, value in headers if len(name) == 15 and name.lower() == b"accept-encoding"]
    return b",".join(values) if values else b""


def chosen(asked: Fields, response: Message) -> tuple[bytes, ...]:
    """The codings that a server chose among those that its client had named."""
    codings = codings_of(b",".join([value for name, value in response.headers if name.lower() == b"content-encoding"]))
    return codings if codings and takes(accepted(asked), codings) else ()


def takes(accept: bytes, codings: tuple[bytes, ...]) -> bool:
    """Whether an Accept-Encoding names all of these. One that is empty names none: who did not ask gets no coding by choice."""
    named, others = _known(accept) if len(accept) <= KNOWN_LENGTH else _parsed(accept)
    return all(named.get(coding.removeprefix(b"x-"), others) for coding in codings)


def without(response: Message) -> Message:
    """Take the codings of a response off; where they cannot be, it is as it was."""
    value = b",".join([value for name, value in response.headers if name.lower() == b"content-encoding"])
    content = decode_content(response.body, value)
    if content is None:
        return response
    kept = tuple([(name, value) for name, value in response.headers if name.lower() not in _OF_THE_CODED])
    return Message(response.start_line, kept, content, response.trailers)


def _parsed(accept: bytes) -> tuple[dict[bytes, bool], bool]:
    """Which codings are named and whether they are taken, and whether others are."""
    named = {}
    for piece in accept.lower().split(b",", CODINGS_LIMIT)[:CODINGS_LIMIT]:
        coding, *parameters = piece.translate(None, b" \t").split(b";")
        named[coding.removeprefix(b"x-")] = _NOT_TAKEN.isdisjoint(parameters)
    return named, named.pop(b"*", False)


_known = lru_cache(KNOWN)(_parsed)
