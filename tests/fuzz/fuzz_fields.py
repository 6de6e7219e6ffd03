"""The fields of a request: what matching makes of JSON, forms, multipart bodies and compressed ones.

`one` runs one input: its first two bytes choose media type and coding, the rest is the body.
"""

from __future__ import annotations

import gzip
import json
import zlib
from urllib.parse import parse_qsl

from engine.matching.fields import LEAVES_LIMIT, PLACE_LENGTH, Canonical, canonical, leaves
from engine.rrpair import Message

JSON, FORM = b"application/json", b"application/x-www-form-urlencoded"
MEDIA = (JSON, FORM, b"multipart/form-data; boundary=x", b"text/plain", b"")
CODINGS = (b"", b"gzip", b"deflate", b"br")


def one(data: bytes) -> None:
    """Run one input. Raises AssertionError where something does not hold."""
    if len(data) < 2:
        return
    media, coding, body = MEDIA[data[0] % len(MEDIA)], CODINGS[data[1] % len(CODINGS)], data[2:]
    found = _canonical(body, media, coding)
    assert found.digest == _canonical(body, media, coding).digest
    _check_leaves(found)
    if coding:
        return
    for packed, name in ((gzip.compress(body), b"gzip"), (zlib.compress(body), b"deflate")):
        assert _canonical(packed, media, name).digest == found.digest or found.kind == "bytes" or not body
    if media == JSON and found.kind == "json":
        _check_json(body, found)
    elif media == FORM and found.kind == "form":
        _check_form(body, found)


def _canonical(body: bytes, media: bytes, coding: bytes) -> Canonical:
    headers = [(b"Content-Type", media)] * bool(media) + [(b"Content-Encoding", coding)] * bool(coding)
    return canonical("POST", "/p", (), Message(b"POST /p HTTP/1.1", tuple(headers), body))


def _check_leaves(found: Canonical) -> None:
    """Every field has a name of its own, short enough to be shown, and is text that can be sent."""
    named = list(leaves(found))
    assert len({place for place, _ in named}) == len(named) <= LEAVES_LIMIT + 10
    for place, lexeme in named:
        assert len(place) <= PLACE_LENGTH * 7  # a character that is no text is shown as six, and there is a number
        f"{place}{lexeme}".encode()


def _check_json(body: bytes, found: Canonical) -> None:
    """What another parser and writer make of a document is the same document."""
    try:
        document = json.loads(body, parse_float=_refuse, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return
    if b"-0" not in body:
        assert _canonical(json.dumps(document, indent=1).encode(), JSON, b"").digest == found.digest


def _refuse(_: str) -> float:
    raise ValueError("floats are not written as they were read")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("names that come again are lost")
    return dict(pairs)


def _check_form(body: bytes, found: Canonical) -> None:
    expected = parse_qsl(body.decode("latin-1"), keep_blank_values=True, encoding="latin-1", max_num_fields=None)
    assert sorted(expected) == sorted(found.body) or any(name.startswith("X-Amz-") for name, _ in expected)
