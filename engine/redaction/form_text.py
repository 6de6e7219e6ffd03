"""Reads the fields of forms and queries (WHATWG URL, section 5)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote_plus, unquote_to_bytes

from engine.redaction.fields import Budget, Codec, Field, Group

_PAIR = re.compile(rb"(?:\A|&)([^&=]*+)=?+([^&]*+)")
_LOOKS = re.compile(rb"[^\s=&<>{}\"]{1,256}=[^\s<>{}\"]*+")


def form_fields(text: bytes, budget: Budget) -> Iterator[Field]:
    """Every field: of `card[number]` and `Attribute.1.Name` the last part is its name, the others what it stands in."""
    groups: dict[bytes, Group] = {}
    for pair in _PAIR.finditer(text):
        budget.spend()
        name = unquote(pair[1]).rstrip(b"]")
        cut = max(name.rfind(b"["), name.rfind(b".")) + 1
        before = name[:cut].rstrip(b"[.]")
        group = groups.get(before) or groups.setdefault(before, Group(before))
        yield Field(*pair.span(2), name[cut:], group, FORM)


def looks_like_form(text: bytes) -> bool:
    """Whether a text is nothing but pairs of names and values."""
    return _LOOKS.fullmatch(text) is not None


def unquote(text: bytes) -> bytes:
    """Take the percent-encoding of a form off."""
    return unquote_to_bytes(text.replace(b"+", b" ")) if b"%" in text or b"+" in text else text


def quote(text: bytes, _: bytes) -> bytes:
    """Put it on."""
    return quote_plus(text).encode()


FORM = Codec(unquote, quote)
