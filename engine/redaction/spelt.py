"""What stands around a word of a text, read as it is, and with its escapes: of JSON, of URLs and of HTML, on top of each other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html import unescape

ESCAPE = 64
"""Bytes of the longest escape that is read."""
READ_TOGETHER = 2
"""Characters that are read in the time in which a secret is found."""

_CODE = rb"[0-9A-Fa-f]{2}"
_PERCENT = rb"%(?:25){0,8}"
_SLASH = rb"(?:\\|%(?:25){0,8}5[Cc])"
_UNIT = b"|".join(
    (
        _SLASH + rb"{1,8}(?:u(?P<high>[dD][89ABab]" + _CODE + rb")" + _SLASH + rb"{1,8}u(?P<low>[dD][C-Fc-f]" + _CODE + rb")"
        rb"|u(?P<unit>" + _CODE * 2 + rb")|x(?P<code>" + _CODE + rb")|(?P<sign>[/\"'`nrt])|" + _PERCENT + rb"(?P<quoted>2[27Ff]))",
        rb"%(?:25){0,8}(?P<byte>" + _CODE + rb")",
        rb"&(?:amp;){0,8}(?P<entity>(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|amp|quot|apos|lt|gt);)",
        rb"(?P<slash>\\)\\{1,7}",
    )
)
_AHEAD = re.compile(_UNIT)
_BEHIND = re.compile(rb"(?:" + _UNIT + rb")\Z")
_LAST = frozenset(b"0123456789ABCDEFabcdef;/\"'`nrt\\")
"""With what an escape ends."""
_IS_ESCAPED = re.compile(rb"[%\\&]")
_SIGNS = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def readings(
    text: bytes, start: int, end: int, before: int, after: int, spend: Callable[[], None]
) -> Iterator[tuple[int, int, bytes]]:
    """What a word at these places may be with so many bytes before and after it, and from where to where each stands.

    What is read without escapes comes last: a backslash before it may be a part of it. `spend` is called for what takes longer.
    """
    if _IS_ESCAPED.search(text, max(start - before - ESCAPE, 0), end + after + ESCAPE):
        for _ in range((before + after) // READ_TOGETHER + 1):
            spend()
        begin, head = _read_back(text, start, before)
        finish, tail = _read_on(text, end, after)
        yield begin, finish, head + text[start:end] + tail
        if b"+" in head + tail:
            yield begin, finish, _spaced(head) + text[start:end] + _spaced(tail)
    if start < before or len(text) < end + after:
        return
    found = text[start - before : end + after]
    yield start - before, end + after, found
    if b"+" in found:
        yield start - before, end + after, _spaced(found)


def _read_back(text: bytes, at: int, count: int) -> tuple[int, bytes]:
    read: list[bytes] = []
    while count > 0 and at > 0:
        found = _BEHIND.search(text, max(at - ESCAPE, 0), at) if text[at - 1] in _LAST else None
        read.append(_meant(found) if found else text[at - 1 : at])
        at = found.start() if found else at - 1
        count -= len(read[-1])
    return at, b"".join(reversed(read))


def _read_on(text: bytes, at: int, count: int) -> tuple[int, bytes]:
    read: list[bytes] = []
    while count > 0 and at < len(text):
        found = _AHEAD.match(text, at, at + ESCAPE)
        read.append(_meant(found) if found else text[at : at + 1])
        at = found.end() if found else at + 1
        count -= len(read[-1])
    return at, b"".join(read)


def _spaced(text: bytes) -> bytes:
    """As forms and queries have it."""
    return text.replace(b"+", b" ")


def _meant(found: re.Match[bytes]) -> bytes:
    if byte := found["byte"] or found["quoted"]:
        return bytes.fromhex(byte.decode())
    if found["high"]:
        return bytes.fromhex((found["high"] + found["low"]).decode()).decode("utf-16-be").encode()
    if code := found["unit"] or found["code"]:
        return chr(int(code, 16)).encode("utf-8", "surrogatepass")
    if entity := found["entity"]:
        return unescape(f"&{entity.decode()}").encode("utf-8", "surrogatepass")
    sign: bytes = found["sign"] or found["slash"]
    return _SIGNS.get(sign, sign)
