"""The lines of an HTTP/1.1 head, taken apart (RFC 9112 sections 3 and 5). Every function takes time that is linear in its bytes."""

from __future__ import annotations

import re
from functools import lru_cache

from engine.rrpair import Fields

NAMES_LIMIT = 4096
"""Most field names remembered in lower case: real traffic has a few hundred."""
FIELDS_LIMIT = 4096
"""Most header lines remembered as split: those of a few services."""
REMEMBERED_LENGTH = 1024
"""Longest line or name that is remembered: longer ones (cookies, tokens) seldom come again, and memory is bounded by it."""

Index = dict[bytes, bytes]
"""Header values by lower-case name; of repeated names the last."""

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
VERSIONS = (b"HTTP/1.1", b"HTTP/1.0")
"""Those that are seen; others are looked at more closely."""


class Malformed(ValueError):
    """Not HTTP/1.1; does not leave the parser."""


class _Names(dict[bytes, bytes]):
    """Field names in lower case, checked to be tokens when first seen (RFC 9110 section 5.1)."""

    def __missing__(self, name: bytes) -> bytes:
        if not _TOKEN.fullmatch(name):
            raise Malformed("malformed header line")
        lower = name.lower()
        if len(self) < NAMES_LIMIT and len(name) <= REMEMBERED_LENGTH:
            self[name] = lower
        return lower


NAMES = _Names()
"""Methods are in it, too: they are tokens as well."""


def parse_fields(lines: list[bytes], size: int) -> tuple[Fields, Index]:
    """Split header lines (RFC 9112 section 5) of so many bytes in all. Raises ValueError."""
    if size <= REMEMBERED_LENGTH:
        found = [_field(line) for line in lines]
    else:
        found = [_field(line) if len(line) <= REMEMBERED_LENGTH else _split_field(line) for line in lines]
    return tuple([field for field, _ in found]), {name: field[1] for field, name in found}


def _split_field(line: bytes) -> tuple[tuple[bytes, bytes], bytes]:
    """Split one header line into name and value, and the name in lower case. Raises ValueError."""
    name, value = line.split(b":", 1)
    return (name, value.strip(b" \t")), NAMES[name]


_field = lru_cache(FIELDS_LIMIT)(_split_field)
"""Most lines come again and again."""


def parse_trailer(line: bytes) -> Fields:
    """Split a line of a trailer section. Raises ValueError."""
    try:
        return parse_fields([line], len(line))[0]
    except ValueError:
        raise Malformed("malformed trailer") from None


def _lenient_lines(block: bytes) -> list[bytes]:
    """Lines of a block with bare LF, obs-fold (section 5.2) or blanks before the colon; a bare CR is a blank (2.2)."""
    folded: list[list[bytes]] = []
    for line in block.split(b"\n"):
        line = line.removesuffix(b"\r").replace(b"\r", b" ")
        if folded and line[:1] in (b" ", b"\t"):
            folded[-1].append(line.strip(b" \t"))
        else:
            folded.append([line.rstrip(b" \t")])
    lines = [b" ".join(parts) for parts in folded]
    return lines[:1] + [_without_blank_before_colon(line) for line in lines[1:]]


def _without_blank_before_colon(line: bytes) -> bytes:
    name, colon, value = line.partition(b":")
    return name.rstrip(b" \t") + colon + value


def request_words(line: bytes) -> tuple[bytes, bytes, bytes]:
    """Method, target and version of a request line with any blanks between and within (RFC 9112 section 3, "lenient parsing")."""
    words = line.split(b" ", 3)
    if len(words) == 3 and words[2] in VERSIONS and words[0] in NAMES:
        return words[0], words[1], words[2]
    line = line.replace(b"\t", b" ").rstrip(b" ")
    method, _, rest = line.partition(b" ")
    target, _, version = rest.rpartition(b" ")
    return method, target.strip(b" "), version


def parse_block(block: bytes) -> tuple[bytes, Fields, Index]:
    """Split a header block without its blank line into the start line and the fields. Raises ValueError."""
    if b"\0" in block:
        raise Malformed("NUL in a header block")
    lines = block.split(b"\r\n")
    if block.count(b"\n") == block.count(b"\r") == len(lines) - 1:
        try:
            return lines[0], *parse_fields(lines[1:], len(block))
        except ValueError:
            pass
    lines = _lenient_lines(block)
    try:
        return lines[0], *parse_fields(lines[1:], len(block))
    except ValueError:
        raise Malformed("malformed header line") from None


def content_length(fields: Fields, index: Index) -> int:
    """The one value of all Content-Length fields (RFC 9112 section 6.3, rule 5)."""
    value = index[b"content-length"]
    if len(fields) == len(index) and value.isdigit() and len(value) <= 18:
        return int(value)
    values = {item.strip(b" \t") for name, value in fields if name.lower() == b"content-length" for item in value.split(b",")}
    value = values.pop()
    if values or not value.isdigit() or len(value) > 18:
        raise Malformed("invalid Content-Length")
    return int(value)


def is_chunked(fields: Fields) -> bool:
    """Whether chunked is the last of all transfer codings (RFC 9112 section 6.1)."""
    codings = b",".join(value for name, value in fields if name.lower() == b"transfer-encoding")
    return codings.rpartition(b",")[2].strip(b" \t").lower() == b"chunked"
