"""Reads the fields of JSON, and of what is JSON but for a cut, several documents, or a hole in it (RFC 8259)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from engine.redaction.fields import Budget, Codec, Field, Group

_TOKEN = re.compile(rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"?(\s*+:)?|([{\[])|([}\]])|(-?[0-9][0-9.eE+\-]*+)|[^\s"{}\[\]:,]++', re.DOTALL)
_PART = re.compile(rb"(?:[^\\]++|\\(?:u[0-9a-fA-F]{4}|.)){1,4096}(?:\\u[dD][c-fC-F][0-9a-fA-F]{2})?|\\", re.DOTALL)
"""Some text with its escapes whole, and both halves of a surrogate pair: no more than what `re` can be let remember."""
_NO_ESCAPE = re.compile(rb'\\(?!["/bfnrt]|u[0-9a-fA-F]{4})')
_decode = json.JSONDecoder(strict=False).decode
_encode = json.JSONEncoder(ensure_ascii=False).encode


def json_fields(text: bytes, budget: Budget, start: int = 0, group: Group | None = None) -> Iterator[Field]:
    """Every string and number with its name. From a `start` on, one value only, which stands in `group`."""
    root = top = group or Group(b"")
    key: bytes | None = None
    for token in _TOKEN.finditer(text, start):
        budget.spend()
        kind = token.lastindex
        if kind == 2:
            key = unescape(token[1])
            continue
        if kind == 3:
            top = Group.below(top, top.name if key is None else key)
        elif kind == 4:
            top = (top.parent if top is not root else None) or root
        elif kind:
            yield Field(*token.span(kind), top.name if key is None else key, top, STRING, kind == 5)
        key = None
        if group and top is root:
            return


def unescape(text: bytes) -> bytes:
    """Take the escapes off what is between the quotes of a string, whatever bytes it has.

    Of what JSON does not know as an escape the backslash goes.
    """
    if b"\\" not in text:
        return text
    try:
        return str(_decode(f'"{text.decode()}"')).encode("utf-8", "surrogatepass")
    except ValueError:
        return b"".join([_unescaped(part[0]) for part in _PART.finditer(text)])


def _unescaped(part: bytes) -> bytes:
    """Made into JSON and read as such: there may be millions of escapes, too many for a call each."""
    if part == b"\\":
        return part  # cut off
    escaped = _NO_ESCAPE.sub(b"", part.replace(rb"\\", rb"\u005c"))
    quoted = escaped.replace(rb"\"", b'"').replace(b'"', rb"\"")
    value = str(_decode('"' + quoted.decode("utf-8", "surrogateescape") + '"'))
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")


def escape(text: bytes, before: bytes) -> bytes:
    """Put escapes on again, as many as there were: all of ASCII, and slashes that were escaped."""
    if before.isascii() and not text.isascii():
        try:
            return json.dumps(text.decode("utf-8", "surrogatepass"))[1:-1].encode()
        except UnicodeDecodeError:
            pass
    text = _encode(text.decode("latin-1"))[1:-1].encode("latin-1")  # whatever bytes it has, those above ASCII stay
    return text.replace(b"/", b"\\/") if b"\\/" in before else text


STRING = Codec(unescape, escape)
