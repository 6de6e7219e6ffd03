"""Replaces the secrets of a body: under its content codings, in its charset, in each of its parts."""

from __future__ import annotations

import re

from engine.redaction import rules
from engine.redaction.content import NotInspected, codings_of, decode, encode
from engine.redaction.fields import TEXTS_LIMIT
from engine.redaction.multipart import Part, boundary_of, parts
from engine.redaction.plain import name_before
from engine.redaction.refit import refit_text
from engine.redaction.texts import Search, Texts, apply, settled
from engine.rrpair import Fields

__all__ = ["Bodies", "NotInspected"]

BINARY_NAME_AT_LEAST = 5
"""Bytes of a secret name in a binary body: shorter ones are there by accident, in a megabyte of random bytes once in four."""
_BINARY_SECRET = "binary content with a secret field or key"

_UTF_16 = re.compile(rb"(?i)charset=\"?utf-?16(le|be)?")
_TEXT = re.compile(rb"(?i)[^,]*(?:json|xml|text/|urlencoded)")
_MAGIC = ((b"\x1f\x8b", b"gzip"), (b"\x28\xb5\x2f\xfd", b"zstd"))
_IN_NAMES = b".-/\\"


class Bodies:
    """Replaces secrets in bodies."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts

    def body(self, headers: Fields, body: bytes, search: Search) -> tuple[bytes, bytes, bytes]:
        """Give the body without its secrets, and what lies below its codings before and after. Raises NotInspected."""
        media = b", ".join([value for name, value in headers if len(name) == 12 and name.lower() == b"content-type"])
        coded = b", ".join([value for name, value in headers if len(name) == 16 and name.lower() == b"content-encoding"])
        codings = codings_of(coded) if coded else ()
        if not codings and _TEXT.match(media[:256]):
            codings = _unnamed_coding(body)
        content = decode(body, codings) if codings else body
        changed = settled(lambda text: self._content(text, media, search, 0), content)
        if changed == content:
            return body, content, content
        return (encode(changed, codings, body) if codings else changed), content, changed

    def _content(self, content: bytes, media: bytes, search: Search, depth: int) -> bytes:
        if depth > TEXTS_LIMIT:
            raise NotInspected("parts nested too deeply")
        if b"cbor" not in media.lower() and not rules.HINT_OR_BINARY.found(content):
            return content
        boundary = boundary_of(media)
        if boundary and b"--" + boundary in content:
            return self._parts(content, boundary, search, depth)
        charset = _wide_charset(content, media)
        if charset:
            return self._transcoded(content, charset, media, search, depth)
        if _is_binary(content, media):
            if self._is_suspicious(content, search):
                raise NotInspected(_BINARY_SECRET)
            return content
        return self._texts.text(content, search, media=media, depth=depth)

    def _transcoded(self, content: bytes, charset: str, media: bytes, search: Search, depth: int) -> bytes:
        try:
            text = content.decode(charset, "surrogatepass").encode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise NotInspected("damaged UTF-16") from None
        changed = self._texts.text(text, search, media=media, depth=depth)
        return content if changed == text else changed.decode("utf-8", "surrogatepass").encode(charset, "surrogatepass")

    def _is_suspicious(self, content: bytes, search: Search) -> bool:
        """Whether binary content has a secret name or a known form in it, also in UTF-16."""
        if rules.CBOR_NAME.found(content):
            return True
        narrow = content.replace(b"\0", b"")
        for text in (content, narrow) if len(narrow) < len(content) else (content,):
            if not rules.HINT.found(text):
                continue
            if any(self._texts.has_form(text)):
                return True
            for ((_, end),) in rules.NAME.spans(text, 1):
                search.budget.spend()
                name, _ = name_before(text, end)
                in_a_path = text[end : end + 1] and text[end] in _IN_NAMES
                if len(name) >= BINARY_NAME_AT_LEAST and not in_a_path and rules.kind_of(name):
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
            new_head = self._texts.text(head, search, bare=False)
            if new != value:
                edits.append((part.start, part.end, part.codec.encode(new, raw), ""))
                new_head = refit_text(new_head, [(raw, edits[-1][2]), (value, new)])
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


def _is_utf_8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _unnamed_coding(body: bytes) -> tuple[bytes, ...]:
    """The coding of a body that says to be text and is compressed all the same."""
    for magic, coding in _MAGIC:
        if body.startswith(magic):
            return (coding,)
    return ()


def _wide_charset(content: bytes, media: bytes) -> str:
    """The charset of a text in UTF-16, by its media type, its byte order mark, or the zeros beside its first bytes."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16-le" if content[:1] == b"\xff" else "utf-16-be"
    named = _UTF_16.search(media[:1024])
    if named or (len(content) >= 4 and len(content) % 2 == 0 and content[0:4].count(0) == 2):
        if content[1::2][:2] == b"\0\0":
            return "utf-16-le"
        if content[0::2][:2] == b"\0\0":
            return "utf-16-be"
    if named:
        return "utf-16-be" if (named[1] or b"be").lower() == b"be" else "utf-16-le"
    return ""
