"""A request as a set of fields, in one canonical form: what does not count is gone, so equal requests have equal digests.

Gone are the order of headers, of JSON keys and of parameters of different names (but of one list: `i[][id]`), white space of
JSON, percent-encoding, the multipart boundary, chunking, content codings. Kept are lexemes: 1 and "1" differ, so do
18446744073709551616 and …617, 1.0 and 1, and repeated keys stay.

The host is not in it: an index is asked within a backend, and what a backend is called may become known late.
"""

from __future__ import annotations

import json
import marshal
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from operator import itemgetter
from typing import Any
from urllib.parse import unquote, unquote_plus

from engine.matching.headers import COUNTS
from engine.protocols.http1 import split_query
from engine.redaction import decode_content
from engine.rrpair import Message, storable

DIGEST_BYTES = 16
"""128 bits: two different requests never get the same digest by accident."""
DECODED_LIMIT = 16 * 1024 * 1024
"""Longest content that is looked into: the longest request of DynamoDB. A longer body is compared as the bytes that it came in."""
LEAVES_LIMIT = 50_000
"""Most fields of a body, for the same: a few hundred bytes of gzip hold millions. Some 0.1 s of work, 20 MB of memory."""
PLACE_LENGTH = 200
"""Characters of a field's name: of nested ones each holds those around it, so names would grow with the square of a body."""

Query = tuple[tuple[str, str], ...]
Leaf = tuple[str, str]
"""Where a field is, such as `query.limit`, `body/Key/id/S`, `form.amount`; and its lexeme."""

_PRESIGNED = frozenset(
    ("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-Security-Token", "X-Amz-Signature")
)
"""Query parameters of a presigned URL (SigV4): transport, as the headers of the same meaning are."""

_BOUNDARY = re.compile(rb'(?i);\s*boundary=(?:"([^"]+)"|([^\s;]+))')
_PIECES = re.compile(rb'(?:[^;"]|"[^"]*"?)+')
"""The parameters of a media type: what semicolons outside of quotes part."""
_QUOTED_TOKEN = re.compile(rb'"[^";\\]+"')
_FORM = b"application/x-www-form-urlencoded"
_UTF8 = (b"utf-8", b"utf8")
"""What JSON (RFC 8259 section 8.1) and forms are in where nothing is said."""
_PART_NAME = re.compile(rb'(?i)\bname="([^"]*)"')
_ESCAPED = re.compile("[%+]")


@dataclass(frozen=True, slots=True)
class Canonical:
    """A request in canonical form. `body` is of a kind (json, form, multipart, bytes) that `leaves` knows."""

    method: str
    path: str | tuple[str, ...]
    query: Query
    fields: tuple[tuple[bytes, bytes], ...]
    """Headers that count, by name."""
    media: bytes
    """Media type with its parameters."""
    kind: str
    body: Any
    digest: bytes


def canonical(method: str, path: str, query: Query, message: Message) -> Canonical:
    """Bring a request into canonical form. `path` and `query` are undecoded, those of `message`'s start line."""
    content_type = coding = b""
    fields: list[tuple[bytes, bytes]] = []
    counts = COUNTS
    for name, value in message.headers:
        lower = counts[name]
        if not lower:
            continue
        if lower == b"content-type":
            content_type = value
        elif lower == b"content-encoding":
            coding = value.strip().lower()
        else:
            fields.append((lower, value))
    fields.sort(key=_NAME)
    media = content_type.partition(b";")[0].strip().lower()
    kind, body = _body(message.body, media, content_type, coding) if message.body else ("", None)
    way = path if "%" not in path else _decoded_path(path)
    asked = _ordered(query) if query else ()
    counted, full = tuple(fields), _with_parameters(media, content_type) if b";" in content_type else media
    packed = _packed((method, way, asked, counted, full, kind, body))
    if packed is None:  # nested deeper than can be walked
        kind, body = "bytes", message.body
        packed = _packed((method, way, asked, counted, full, kind, body)) or b""
    digest = blake2b(packed, digest_size=DIGEST_BYTES).digest()
    return Canonical(method, way, asked, counted, full, kind, body, digest)


def _with_parameters(media: bytes, content_type: bytes) -> bytes:
    """Write a media type with those of its parameters that count, in the order of their names (RFC 9110 section 8.3.1)."""
    parameters = [_parameter(piece) for piece in _PIECES.findall(content_type.partition(b";")[2])]
    parameters.sort(key=_NAME)
    text = _is_json(media) or media == _FORM
    kept = [
        name + equals + value
        for name, equals, value in parameters
        if name not in (b"", b"boundary") and not (text and name == b"charset" and value in _UTF8)
    ]
    return b";".join((media, *kept))


def _parameter(piece: bytes) -> tuple[bytes, bytes, bytes]:
    name, equals, value = piece.partition(b"=")
    name, value = name.strip().lower(), value.strip()
    if _QUOTED_TOKEN.fullmatch(value):
        value = value[1:-1]
    return name, equals, value.lower() if name == b"charset" else value


def _is_json(media: bytes) -> bool:
    return media.endswith(b"json") or b"json-" in media


def _decoded_path(path: str) -> str | tuple[str, ...]:
    """Decode; in segments where one of them holds what parts them."""
    segments = tuple([unquote(segment, "latin-1") for segment in path.split("/")])
    return segments if any("/" in segment for segment in segments) else "/".join(segments)


def _packed(value: Any) -> bytes | None:
    """One text for equal values. Version 2 of marshal knows no references, so it depends on nothing but the value."""
    try:
        return marshal.dumps(value, 2)
    except ValueError:
        return None


# -- names and values --------------------------------------------------------------------------------------------------

_NAME = itemgetter(0)


def _list_name(parameter: tuple[str, str]) -> str:
    """The list that a parameter belongs to, else its own name: `i[][id]=1&i[][n]=2&i[][id]=3` are two things to Rack, by order."""
    start, brackets, _ = parameter[0].partition("[]")
    return start + brackets


def _ordered(parameters: Query) -> Query:
    """Decode; order by name, where equal names keep their order, and so do those of the fields of one list."""
    decoded = [
        (unquote_plus(name, "latin-1"), unquote_plus(value, "latin-1"))
        if _ESCAPED.search(name) or _ESCAPED.search(value)
        else (name, value)
        for name, value in parameters
    ]
    decoded.sort(key=_list_name if any("[]" in name for name, _ in decoded) else _NAME)
    if any(name == "X-Amz-Signature" for name, _ in decoded):
        decoded = [parameter for parameter in decoded if parameter[0] not in _PRESIGNED]
    return tuple(decoded)


# -- bodies ------------------------------------------------------------------------------------------------------------


def _body(body: bytes, media: bytes, content_type: bytes, coding: bytes) -> tuple[str, Any]:
    if coding and coding != b"identity":
        decoded = decode_content(body, coding)
        if decoded is None or len(decoded) > DECODED_LIMIT:
            return "bytes", body
        return _structure(decoded, media, content_type) or ("bytes", body)
    return _structure(body, media, content_type) or ("bytes", body)


def _structure(body: bytes, media: bytes, content_type: bytes) -> tuple[str, Any] | None:
    """Part a body into its fields; None where there are too many of them, as far as that shows before it is parsed."""
    if len(body) > DECODED_LIMIT:
        return None
    if _is_json(media) or (not media and body[:1] in b"{["):
        return None if sum(map(body.count, (b",", b":", b"[", b"{"))) > LEAVES_LIMIT else _json(body)
    if media == _FORM:
        return None if body.count(b"&") > LEAVES_LIMIT else ("form", _ordered(split_query(body.decode("latin-1"))))
    if media.startswith(b"multipart/"):
        return _multipart(body, content_type)
    return "bytes", body


def _json(body: bytes) -> tuple[str, Any]:
    """Parse with lexemes kept: an object is a tuple of pairs, a number a tuple of its lexeme, an array a list."""
    try:
        return "json", _decode(body.decode("utf-8"))
    except (ValueError, RecursionError):
        return "bytes", body


def _object(pairs: list[tuple[str, Any]]) -> tuple[tuple[str, Any], ...]:
    pairs.sort(key=_NAME)
    return tuple(pairs)


def _number(lexeme: str) -> tuple[str]:
    return (lexeme,)


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_decode = json.JSONDecoder(object_pairs_hook=_object, parse_int=_number, parse_float=_number, parse_constant=_constant).decode


def _multipart(body: bytes, content_type: bytes) -> tuple[str, Any]:
    """RFC 2046 section 5.1: the parts, without what parts them."""
    found = _BOUNDARY.search(content_type)
    if not found:
        return "bytes", body
    parts = (b"\r\n" + body).split(b"\r\n--" + (found[1] or found[2]), LEAVES_LIMIT)
    return "multipart", tuple(part.removeprefix(b"\r\n") for part in parts)


# -- leaves ------------------------------------------------------------------------------------------------------------


def leaves(request: Canonical) -> Iterator[Leaf]:
    """Every field of a request with its lexeme, for people. The n-th of equal places is marked #n, from the second on."""
    seen: dict[str, int] = {}
    for place, lexeme in _leaves(request):
        place = storable(place[:PLACE_LENGTH])
        seen[place] = count = seen.get(place, 0) + 1
        yield (place if count == 1 else f"{place}#{count}", lexeme)


def _leaves(request: Canonical) -> Iterator[Leaf]:
    yield "method", request.method
    segments = request.path.split("/") if isinstance(request.path, str) else request.path
    for number, segment in enumerate(segments[1:], 1):
        yield f"path.{number}", segment
    for name, value in request.query:
        yield f"query.{name}", value
    for header, text in request.fields:
        yield f"header.{header.decode('latin-1')}", text.decode("latin-1")
    if request.media:
        yield "header.content-type", request.media.decode("latin-1")
    yield from _body_leaves(request.kind, request.body)


def _body_leaves(kind: str, body: Any) -> Iterator[Leaf]:
    if kind == "json":
        yield from _json_leaves(body)
    elif kind == "form":
        for name, value in body:
            yield f"form.{name}", value
    elif kind == "multipart":
        for part in body[1:-1]:
            head, _, content = part.partition(b"\r\n\r\n")
            name = _PART_NAME.search(head)
            yield f"part.{name[1].decode('latin-1') if name else ''}", content.decode("latin-1")
    elif kind == "bytes":
        yield "body", body.decode("latin-1")


def _json_leaves(body: Any) -> Iterator[Leaf]:
    """By JSON pointer (RFC 6901). With a stack of its own: captured nesting must not become ours."""
    waiting: list[tuple[str, Any]] = [("body", body)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, list) and value:
            place = place[:PLACE_LENGTH]
            waiting += [(f"{place}/{n}", each) for n, each in reversed(list(enumerate(value)))]
        elif isinstance(value, tuple) and value and isinstance(value[0], tuple):
            place = place[:PLACE_LENGTH]
            waiting += [(f"{place}/{_pointer(name)}", each) for name, each in reversed(value)]
        else:
            yield place, _lexeme(value)


def _pointer(name: str) -> str:
    return name[:PLACE_LENGTH].replace("~", "~0").replace("/", "~1")


def _lexeme(value: Any) -> str:
    if isinstance(value, tuple):
        return str(value[0]) if value else "{}"
    return storable(json.dumps(value, ensure_ascii=False))
