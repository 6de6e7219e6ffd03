"""Replaces the secrets of a body: under its content codings, in its charset, in each of its parts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from engine.redaction import rules
from engine.redaction.content import NotInspected, Reason, beginning, codings_of, decode, encode
from engine.redaction.fields import TEXTS_LIMIT
from engine.redaction.multipart import Part, boundary_of, parts
from engine.redaction.plain import name_before
from engine.redaction.refit import Refit
from engine.redaction.texts import Search, Texts, apply, settled
from engine.rrpair import Fields

__all__ = ["Bodies", "NotInspected"]

BINARY_NAME_AT_LEAST = 5
"""Bytes of a secret name in a binary body: shorter ones are there by accident, in a megabyte of random bytes once in four."""
STEPS_TOGETHER = 4
"""Bytes before a secret word at which its length is looked for in the time in which a field is read."""

_UTF_16 = re.compile(rb"(?i)charset=\"?utf-?16(le|be)?")
_ESCAPED = re.compile(rb"\\u00([2-7][0-9a-fA-F])")
_BOM = b"\xef\xbb\xbf"
_MAGIC = ((b"\x1f\x8b\x08", b"gzip"), (b"\x28\xb5\x2f\xfd", b"zstd"))
_IN_NAMES = b".-/"
_IS_NAME = re.compile(rb"[A-Za-z0-9_.\-]+")


class Bodies:
    """Replaces secrets in bodies."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts

    def body(self, headers: Fields, body: bytes, search: Search) -> tuple[bytes, bytes, bytes]:
        """Give the body without its secrets, and what lies below its codings before and after. Raises NotInspected."""
        media = b", ".join([value for name, value in headers if len(name) == 12 and name.lower() == b"content-type"])
        coded = [value for name, value in headers if len(name) == 16 and name.lower() == b"content-encoding"]
        coded += [value for name, value in headers if len(name) == 17 and name.lower() == b"transfer-encoding"]  # lies on top
        codings = codings_of(b", ".join(coded)) if coded else ()
        content = decode(body, codings) if codings else body
        if not codings:
            codings, content = _unnamed_coding(body, media)
        changed = settled(lambda text: self._content(text, media, search, 0), content)
        if changed == content:
            return body, content, content
        return (encode(changed, codings, body) if codings else changed), content, changed

    def _content(self, content: bytes, media: bytes, search: Search, depth: int) -> bytes:
        if depth > TEXTS_LIMIT:
            raise NotInspected(Reason.PARTS)
        if content.startswith(_BOM):
            return _BOM + self._content(content[len(_BOM) :], media, search, depth + 1)
        hinted = search.placed or b"cbor" in media.lower() or rules.HINT_OR_BINARY.found(content)
        if not hinted and not search.echoes.found(content):
            return content
        boundary = boundary_of(media)
        if boundary and b"--" + boundary in content:
            return self._parts(content, boundary, search, depth)
        charsets = _wide_charsets(content, media)
        for charset in charsets:
            content = self._transcoded(content, charset, media, search, depth)
        return content if charsets else self._narrow(content, media, search, depth)

    def _narrow(self, content: bytes, media: bytes, search: Search, depth: int) -> bytes:
        """Content in ASCII or what contains it, or no text at all."""
        if _is_binary(content, media):
            if self._is_suspicious(content, search):
                raise NotInspected(Reason.BINARY)
            return content
        return search.echoed(self._texts.text(content, search, media=media, depth=depth))

    def _transcoded(self, content: bytes, charset: str, media: bytes, search: Search, depth: int) -> bytes:
        try:
            text = content.decode(charset, "surrogatepass").encode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return self._narrow(content, media, search, depth)
        changed = self._content(text, _UTF_16.sub(b"", media), search, depth + 1)
        if changed != text:
            content = changed.decode("utf-8", "surrogatepass").encode(charset, "surrogatepass")
        if rules.HINT.found(content) or search.echoes.found(content):  # it is ASCII, whatever it says
            return self._narrow(content, media, search, depth)
        return content

    def _is_suspicious(self, content: bytes, search: Search) -> bool:
        """Whether binary content has a secret name or a known form in it, also in UTF-16."""
        if _has_prefixed_name(content, search):
            return True
        for text in dict.fromkeys(_variants(content)):
            if search.echoes.found(text):
                return True
            if not rules.HINT.found(text):
                continue
            if any(self._texts.has_form(text, search)):
                return True
            for ((start, end),) in rules.NAME_AT_END.spans(text, 1):
                search.budget.spend()
                long = len(text[start:end].rstrip(b"0123456789")) >= BINARY_NAME_AT_LEAST
                in_a_path = text[end : end + 1] and text[end] in _IN_NAMES
                name = text[start:end] if b" " in text[start:end] else name_before(text, end)[0]
                if long and not in_a_path and rules.kind_of(name):
                    return True
        return False

    # -- multipart ---------------------------------------------------------------------------------------------------------

    def _parts(self, content: bytes, boundary: bytes, search: Search, depth: int) -> bytes:
        edits = []
        for part in parts(content, boundary, search.budget):
            raw = content[part.start : part.end]
            head = content[part.head : part.start]
            value = part.codec.decode(raw)
            new = self._part(part, value, search, depth)
            new_head = search.echoed(self._texts.text(head, search, bare=False))
            if new != value:
                edits.append((part.start, part.end, part.codec.encode(new, raw), ""))
                new_head = Refit([(raw, edits[-1][2]), (value, new)], search.checksums).text(new_head)
            if new_head != head:
                edits.append((part.head, part.start, new_head, ""))
        return apply(content, edits) if edits else content

    def _part(self, part: Part, value: bytes, search: Search, depth: int) -> bytes:
        kind = rules.kind_of(part.name) if part.name else None
        if kind and value:
            return self._texts.secret(part.name, value, kind, search)
        return self._content(value, part.media, search, depth + 1)


def _is_binary(content: bytes, media: bytes) -> bool:
    """Whether content is no text: it has controls, is CBOR, or is no UTF-8 where a secret name is followed by its bytes."""
    if rules.BINARY.found(content) or b"cbor" in media.lower():
        return True
    return rules.BINARY_NAME.found(content) and not _is_utf_8(content)


def _has_prefixed_name(content: bytes, search: Search) -> bool:
    """Whether a secret name stands behind its length: then what follows it, be it a letter, is no part of it."""
    for ((start, end),) in rules.NAME_ANYWHERE.spans(content, 0):
        search.budget.spend()
        if end - start < BINARY_NAME_AT_LEAST:
            continue
        for step, begin in enumerate(range(start, max(0, start - rules.NAME_LIMIT), -1), 1):
            names = [content[begin : begin + length] for length in _lengths_before(content, begin) if length >= end - begin]
            search.budget.spend(len(names) + (not step % STEPS_TOGETHER))
            if any(_IS_NAME.fullmatch(name) and rules.kind_of(name) for name in names):
                return True
            if not _IS_NAME.fullmatch(content, begin - 1, begin):
                break
    return False


def _lengths_before(content: bytes, at: int) -> set[int]:
    """The lengths that the bytes before a text may tell: as such in both byte orders, doubled (Avro's zigzag), in the low bits of a
    byte of type (MessagePack, CBOR, binary property lists, Smile).
    """
    byte = content[at - 1]
    lengths = {byte, byte & 0x0F, byte & 0x1F, (byte & 0x3F) + 1}
    if not byte & 1:
        lengths.add(byte >> 1)
    if not byte:
        lengths |= {int.from_bytes(content[at - size : at], "little") for size in (2, 4) if at >= size}
    return {length for length in lengths if length <= rules.NAME_LIMIT}


def _is_utf_8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _unnamed_coding(body: bytes, media: bytes) -> tuple[tuple[bytes, ...], bytes]:
    """The coding of a text that is compressed without a word, and the text. Compressed archives are not opened.

    What is damaged or too long to tell is an archive if it begins as one; else NotInspected is raised.
    """
    for magic, coding in _MAGIC:
        if body.startswith(magic):
            try:
                content = decode(body, (coding,))
            except NotInspected:
                if _is_text(beginning(body, coding), media):
                    raise
            else:
                if _is_text(content, media):
                    return (coding,), content
    return (), body


def _is_text(content: bytes, media: bytes) -> bool:
    return bool(_wide_charsets(content, media)) or not _is_binary(content, media)


def _variants(content: bytes) -> Iterator[bytes]:
    """Content as it is, and without what may hide a name in it: the zeros of UTF-16, percent-encoding, escapes of JSON."""
    yield content
    narrow = content.replace(b"\0", b"")
    yield narrow
    yield unquote_to_bytes(narrow)
    yield _ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()), narrow)


def _wide_charsets(content: bytes, media: bytes) -> tuple[str, ...]:
    """The charset of a text in UTF-16 or UTF-32: by its byte order mark, by the zeros beside its first characters (RFC 4627
    section 3), or by its media type. Zeros, and a type without an order, leave the order open (`一` has a zero where ASCII has
    none): then it is searched in both, for the wrong one makes no words of ASCII.
    """
    first = content[:4]
    zeros = tuple(at for at, byte in enumerate(first) if not byte)
    if first[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff") or zeros in ((1, 2, 3), (0, 1, 2)):
        return ("utf-32-le",) if first[:1] != b"\0" else ("utf-32-be",)
    if first[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return ("utf-16-le",) if first[:1] == b"\xff" else ("utf-16-be",)
    named = _UTF_16.search(media[:1024])
    if zeros in ((1, 3), (0, 2)) or (named and not named[1]):
        return ("utf-16-le", "utf-16-be")
    return (f"utf-16-{named[1].decode().lower()}",) if named else ()
