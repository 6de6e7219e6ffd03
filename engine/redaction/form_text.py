"""Reads the fields of forms, queries and URLs (WHATWG URL, sections 4 and 5)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote_plus, unquote_to_bytes

from engine.redaction.fields import Budget, Codec, Field, Group
from engine.redaction.plain import is_padding

_PAIR = re.compile(rb"(?:\A|&)([^&=]*+)=?+([^&]*+)")
_LOOKS = re.compile(rb"[^\s=&<>{}\"?#;]{1,256}=[^\s<>{}\"]*+")
_URL = re.compile(rb"[^\s=&<>{}\"?#()]*+(?:\?([^\s<>{}\"#]*+))?+(?:#([^\s<>{}\"]*+))?+")
_OTHER_PAIRS = re.compile(rb"[,;][A-Za-z_][A-Za-z0-9_.\-]{0,63}=")
"""In a text with these it is not `&` that separates pairs, as in connection strings."""
_ESCAPE = re.compile(rb"%[0-9A-Fa-f]{2}")
_QUOTED = tuple(quote_plus(bytes([byte])).encode() for byte in range(256))


def form_fields(text: bytes, budget: Budget) -> Iterator[Field]:
    """Every field: of `card[number]` and `Attribute.1.Name` the last part is its name, the others what it stands in."""
    groups: dict[bytes, Group] = {}
    for pair in _PAIR.finditer(text):
        budget.spend()
        if is_padding(text, pair.end(1)):
            continue
        name = unquote(pair[1]).rstrip(b"]")
        cut = max(name.rfind(b"["), name.rfind(b".")) + 1
        before = name[:cut].rstrip(b"[.]")
        group = groups.get(before) or groups.setdefault(before, Group(before))
        yield Field(*pair.span(2), name[cut:], group, FORM)


def url_fields(text: bytes, budget: Budget) -> Iterator[Field]:
    """Every field of a URL's query, and of its fragment, which may have some as well: `#access_token=…`."""
    url = _URL.fullmatch(text)
    for part in (1, 2):
        if url and url[part]:
            for field in form_fields(url[part], budget):
                field.start += url.start(part)
                field.end += url.start(part)
                yield field


def looks_like_form(text: bytes) -> bool:
    """Whether a text is nothing but pairs of names and values with `&` between them."""
    return _LOOKS.fullmatch(text) is not None and not _OTHER_PAIRS.search(text)


def looks_like_url(text: bytes) -> bool:
    """Whether a text is nothing but a URL, or the end of one, with such pairs behind its path."""
    return b"=" in text and _URL.fullmatch(text) is not None and not _OTHER_PAIRS.search(text)


def unquote(text: bytes) -> bytes:
    """Take the percent-encoding of a form off."""
    return unquote_to_bytes(text.replace(b"+", b" ")) if b"%" in text or b"+" in text else text


def quote(text: bytes, before: bytes, *, plus: bool = True) -> bytes:
    """Put it on as it was before: what had no escape gets none, for who wrote it decides what needs one. Letters and digits never.

    `plus`: whether a plus is a blank.
    """
    spelt = list(_QUOTED)
    for byte in set(_ESCAPE.sub(b"", before)):
        spelt[32 if plus and byte == 43 else byte] = bytes([byte])
    for escape in _ESCAPE.findall(before):
        byte = int(escape[1:], 16)
        if _QUOTED[byte] != bytes([byte]):
            spelt[byte] = escape
    return b"".join([spelt[byte] for byte in text])


FORM = Codec(unquote, quote)
