"""Which protocol a stream speaks, told from the first bytes of either way.

Only HTTP/1.1 is parsed so far. To add a protocol: recognise it here, give it a parser module beside this one, and let
`engine.pairing` build conversations of it.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

HTTP1 = "http/1.1"
HTTP2 = "h2"
TLS = "tls"
POSTGRES = "postgres"
TUNNEL = "tunnel"
UNKNOWN = "unknown"

LONGEST_PREFACE = 24
"""Bytes that settle the question at the latest: those of the HTTP/2 preface."""

_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Methods of the IANA registry that are seen outside of version control, and the ones of caches and UPnP.
_METHODS = (
    b"GET POST PUT DELETE HEAD OPTIONS PATCH CONNECT TRACE PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK REPORT SEARCH"
    b" QUERY PURGE LINK UNLINK BIND ACL MKCALENDAR SUBSCRIBE UNSUBSCRIBE NOTIFY M-SEARCH"
).split()
_REQUEST_STARTS = tuple(method + b" " for method in _METHODS)
_RESPONSE_STARTS = (b"HTTP/1.0 ", b"HTTP/1.1 ")
_ANY_METHOD = b"|".join(map(re.escape, _METHODS))
_REQUEST = re.compile(rb"\r?\n?(?:" + _ANY_METHOD + rb") [!-~\x80-\xff]+(?: HTTP/1\.[01]\r?\n|$)")


def _begun(*parts: bytes) -> bytes:
    """A pattern of any beginning of these parts, the empty one included."""
    pattern = b""
    for part in reversed(parts):
        pattern = b"(?:" + part + pattern + b")?"
    return pattern


_VERSION_BEGUN = (b"H", b"T", b"T", b"P", b"/", b"1", rb"\.", b"[01]")
_REQUEST_BEGUN = re.compile(rb"\r?\n?(?:" + _ANY_METHOD + rb") [!-~\x80-\xff]+" + _begun(b" ", *_VERSION_BEGUN, rb"\r"))
_RESPONSE_BEGUN = re.compile(_begun(*_VERSION_BEGUN, b" ", b"[1-9]", b"[0-9]", b"[0-9]"))
_RESPONSE = re.compile(rb"HTTP/1\.[01] [1-9][0-9][0-9][ \r\n]")
# PostgreSQL, "Message Formats": SSLRequest, GSSENCRequest, and StartupMessage of protocol 3.
_POSTGRES_REQUESTS = (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b"\x00\x00\x00\x08\x04\xd2\x16\x30")
_POSTGRES_STARTUP = re.compile(rb"\x00\x00..\x00\x03\x00[\x00-\x02]", re.DOTALL)
_TLS_RECORD = re.compile(rb"[\x14-\x17]\x03[\x00-\x04]", re.DOTALL)


class Part(enum.Enum):
    """Which half of an exchange some bytes belong to."""

    REQUEST = "request"
    RESPONSE = "response"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a stream speaks, and whose words its first bytes are where they tell."""

    protocol: str
    part: Part | None = None


def detect(data: bytes) -> Verdict | None:
    """Name the protocol that begins with these bytes; None while more are needed."""
    start = data.lstrip(b"\r\n")[:LONGEST_PREFACE]
    if start == _HTTP2_PREFACE:
        return Verdict(HTTP2, Part.REQUEST)
    words = start.replace(b"\t", b" ")  # RFC 9112 section 3: a start line with any blanks, which the parsers take
    if words.startswith(_REQUEST_STARTS):
        return Verdict(HTTP1, Part.REQUEST)
    if words.startswith(_RESPONSE_STARTS):
        return Verdict(HTTP1, Part.RESPONSE)
    if _TLS_RECORD.match(data):
        return Verdict(TLS)
    if data.startswith(_POSTGRES_REQUESTS) or _POSTGRES_STARTUP.match(data):
        return Verdict(POSTGRES, Part.REQUEST)
    return None if _may_become_known(data, start) else Verdict(UNKNOWN)


def _may_become_known(data: bytes, start: bytes) -> bool:
    """Whether bytes are a proper prefix of something `detect` knows."""
    texts = (_HTTP2_PREFACE, *_RESPONSE_STARTS, *_REQUEST_STARTS)
    if any(text.startswith(start) for text in texts):
        return True
    return (len(data) < 3 and data[0] in range(0x14, 0x18)) or (len(data) < 8 and b"\0\0".startswith(data[:2]))


def starts_message(data: bytes) -> Part | None:
    """Tell whether bytes begin with a start line of HTTP/1.1: stricter than `detect`, for joining in the middle."""
    if _RESPONSE.match(data):
        return Part.RESPONSE
    return Part.REQUEST if _REQUEST.match(data) else None


def may_start_message(data: bytes, part: Part) -> bool:
    """Whether bytes that are no whole start line may become one with those that follow."""
    if part is Part.RESPONSE:
        return bool(_RESPONSE_BEGUN.fullmatch(data))
    start = data.removeprefix(b"\r").removeprefix(b"\n")
    return any(method.startswith(start) for method in _REQUEST_STARTS) or bool(_REQUEST_BEGUN.fullmatch(data))
