"""Reads the parts of multipart bodies (RFC 2046 section 5.1, RFC 7578)."""

from __future__ import annotations

import quopri
import re
from base64 import b64decode, encodebytes
from collections.abc import Iterator
from dataclasses import dataclass

from engine.redaction.content import NotInspected, Reason
from engine.redaction.fields import PLAIN, Budget, Codec
from engine.rrpair import Fields

_BOUNDARY = re.compile(rb'(?i)\s*+multipart/[^;]*+;(?:.*?[\s;])??boundary[ \t]*+=[ \t]*+(?:"([^"]{1,200})"|([^\s;",]{1,200}))')
_NAME = re.compile(rb"(?i)[\s;]name\*?=(?:\"((?:[^\"\\]|\\.){0,256})\"|([^\s;\"]{1,256}))")
_LINE_END = re.compile(rb"\r?\n")
_HEAD_END = re.compile(rb"\r?\n\r?\n")


@dataclass(frozen=True, slots=True)
class Part:
    """One part: where its head and its content are, its header fields, and how the content is written."""

    head: int
    start: int
    end: int
    headers: Fields
    name: bytes
    media: bytes
    codec: Codec


def boundary_of(media: bytes) -> bytes:
    """The boundary that a Content-Type names; empty where it is not multipart or names none."""
    found = _BOUNDARY.match(media[:2048])
    return found[1] or found[2] if found else b""


def parts(text: bytes, boundary: bytes, budget: Budget) -> Iterator[Part]:
    """Every part. What the last boundary is missing for ends with the text. Its codec raises NotInspected."""
    mark = b"--" + boundary
    at = text.find(mark)
    while at >= 0 and not text.startswith(b"--", at + len(mark)):
        budget.spend()
        begin = text.find(b"\n", at + len(mark)) + 1
        at = text.find(mark, at + len(mark))
        if begin:
            end = len(text) if at < 0 else max(begin, at - 2 if text[at - 2 : at] == b"\r\n" else at - 1)
            yield _part(text, begin, end)


def _part(text: bytes, begin: int, end: int) -> Part:
    headless = _LINE_END.match(text, begin, end)
    found = headless or _HEAD_END.search(text, begin, end)
    start = found.end() if found else end
    fields = []
    for line in text[begin : found.start() if found else end].replace(b"\r", b"").replace(b"\n ", b" ").split(b"\n"):
        name, colon, value = line.partition(b":")
        if colon:
            fields.append((name, value.strip()))
    headers = {name.lower(): value for name, value in fields}
    named = _NAME.search(headers.get(b"content-disposition", b"")[:1024])
    coding = headers.get(b"content-transfer-encoding", b"").lower()
    name = (named[1] or named[2] or b"") if named else b""
    return Part(begin, start, end, tuple(fields), name, headers.get(b"content-type", b""), _CODECS.get(coding, PLAIN))


def _from_base64(text: bytes) -> bytes:
    coded = b"".join(text.split()).rstrip(b"=")  # some leave the padding out
    try:
        return b64decode(coded + b"=" * (-len(coded) % 4), validate=True)
    except ValueError:
        raise NotInspected(Reason.DAMAGED) from None


_CODECS = {
    b"base64": Codec(_from_base64, lambda text, _: encodebytes(text).replace(b"\n", b"\r\n").rstrip()),
    b"quoted-printable": Codec(quopri.decodestring, lambda text, _: quopri.encodestring(text)),
}
"""RFC 2045 section 6."""
