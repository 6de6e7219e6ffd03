"""Replaces secrets before a pair is stored or shown.

Only the bytes of a secret change; whatever depends on them (Content-Length, content coding, X-Amz-Crc32) is made to fit
again. Binary bodies are never touched. Most pairs hold no secret, so each is first asked for hints, which costs a tenth
of looking.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import replace

from engine.protocols.http1 import request_line, split_query, split_target
from engine.redaction import rules
from engine.redaction.hints import has_shape, has_special, is_clean, is_special, is_textual
from engine.redaction.texts import Edit, Finder, apply, body_finder
from engine.redaction.tokens import Tokens
from engine.rrpair import Fields, Message, RRPair

__all__ = ["Redactor", "decode_content"]

DECODED_LIMIT = 64 * 1024 * 1024
"""Longest content that is taken out of a compressed body to be looked into: as much as is kept of a plain one."""

_SIGV4 = re.compile(rb"Credential=([^/,\s]+)|Signature=([0-9a-fA-F]+)")
_COOKIE = re.compile(rb"([^=;\s]+)=\"?([^;\"]*)")
_WINDOW_BITS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}


class Redactor:
    """Redacts pairs under one key (32 random bytes, one for each snapshot)."""

    def __init__(self, key: bytes) -> None:
        self._finder = Finder(Tokens(key))

    def pair(self, pair: RRPair) -> RRPair:
        """Give the pair without its secrets; the very same object where it has none."""
        if is_clean(pair):
            return pair
        kinds: set[str] = set()
        request = self.message(pair.request, kinds)
        response = self.message(pair.response, kinds) if pair.response else None
        interim = tuple([self.message(part, kinds) for part in pair.interim]) if pair.interim else ()
        if not kinds:
            return pair
        names = tuple(sorted({*pair.redacted, *kinds}))
        pair = self._retarget(pair, request)
        return replace(pair, request=request, response=response, interim=interim, redacted=names)

    def message(self, message: Message, kinds: set[str]) -> Message:
        """Redact one message and add what was found to `kinds`."""
        found: set[str] = set()
        line, headers, trailers, body = message.start_line, message.headers, message.trailers, message.body
        hinted = has_shape(b"\n".join([line, *[value for _, value in headers], *[value for _, value in trailers]]))
        if hinted or b"?" in line:
            line = self._text(line, found, url=True)
        headers = self._headers(headers, found, hinted)
        if trailers:
            trailers = self._headers(trailers, found, hinted)
        if body:
            body = self._body(message, found)
        if not found:
            return message
        kinds |= found
        if body is not message.body:
            headers = _refit(headers, message.body, body)
        return Message(line, headers, body, trailers)

    # -- headers -------------------------------------------------------------------------------------------------------

    def _headers(self, fields: Fields, kinds: set[str], hinted: bool) -> Fields:
        if not hinted and not has_special(fields):
            return fields
        return tuple(
            (name, self._value(name.lower(), value, kinds) if hinted or is_special(name) else value) for name, value in fields
        )

    def _value(self, name: bytes, value: bytes, kinds: set[str]) -> bytes:
        if not value:
            return value
        if name in (b"authorization", b"proxy-authorization"):
            return self._credentials(value, kinds)
        if name == b"cookie":
            return self._cookies(value, kinds)
        if name == b"set-cookie":
            first, semicolon, attributes = value.partition(b";")
            return self._cookies(first, kinds) + semicolon + attributes
        if name in rules.SECRET_HEADERS:
            return self._replaced(value, self._finder.value(value), "key", kinds)
        return self._text(value, kinds, url=name in rules.PARAMETER_HEADERS)

    def _credentials(self, value: bytes, kinds: set[str]) -> bytes:
        """RFC 9110 section 11.6.2: the scheme stays; of SigV4 all that is not secret stays."""
        scheme, blank, credentials = value.partition(b" ")
        if not credentials:
            return self._replaced(value, self._finder.value(value), "authorization", kinds)
        if scheme.upper().startswith(b"AWS4-"):
            edits: list[Edit] = []
            for part in _SIGV4.finditer(credentials):
                group = 1 if part[1] else 2
                edits.append((*part.span(group), self._finder.value(part[group]), "authorization"))
            return scheme + blank + apply(credentials, edits, kinds)
        token = self._finder.basic(credentials) if scheme.lower() == b"basic" else self._finder.value(credentials)
        return self._replaced(value, scheme + blank + token, "authorization", kinds)

    def _cookies(self, value: bytes, kinds: set[str]) -> bytes:
        """RFC 6265 sections 4.1 and 4.2: names stay."""
        cookies = [cookie for cookie in _COOKIE.finditer(value) if cookie[2]]
        edits = [(*cookie.span(2), self._finder.value(cookie[2]), "cookie") for cookie in cookies]
        return apply(value, edits, kinds)

    @staticmethod
    def _replaced(value: bytes, replacement: bytes, kind: str, kinds: set[str]) -> bytes:
        kinds.add(kind)
        return replacement if replacement != value else value

    # -- texts ---------------------------------------------------------------------------------------------------------

    def _text(self, text: bytes, kinds: set[str], *, url: bool = False) -> bytes:
        """Redact a text of no structure, a URL's query where it is or holds one."""
        edits = self._finder.parameters(text) if url else []
        if has_shape(text):
            edits += self._finder.shapes(text)
        return apply(text, edits, kinds) if edits else text

    def _body(self, message: Message, kinds: set[str]) -> bytes:
        body = message.body
        media, coding = _content(message.headers)
        if not is_textual(media) and (media or not _looks_textual(body)):
            return body
        if not coding or coding == b"identity":
            return self._text_body(body, media, kinds)
        text = decode_content(body, coding)
        if text is None:
            return body
        redacted = self._text_body(text, media, kinds)
        return body if redacted is text else _encode(redacted, coding)

    def _text_body(self, text: bytes, media: bytes, kinds: set[str]) -> bytes:
        edits = body_finder(media)(self._finder, text)
        edits += self._finder.parameters(text)
        if has_shape(text):
            edits += self._finder.shapes(text)
        return apply(text, edits, kinds) if edits else text

    # -- what follows from it ------------------------------------------------------------------------------------------

    @staticmethod
    def _retarget(pair: RRPair, request: Message) -> RRPair:
        """Make path, query and operation those of the redacted start line."""
        if request.start_line == pair.request.start_line:
            return pair
        method, target = request_line(request.start_line)
        _, path, query = split_target(method, target)
        operation = pair.operation.replace(pair.path, path) if pair.path else pair.operation
        return replace(pair, path=path, query=split_query(query), operation=operation)


def _content(headers: Fields) -> tuple[bytes, bytes]:
    media = coding = b""
    for name, value in headers:
        length = len(name)
        if length == 12 and name.lower() == b"content-type":
            media = value
        elif length == 16 and name.lower() == b"content-encoding":
            coding = value.strip().lower()
    return media, coding


def _looks_textual(body: bytes) -> bool:
    """Whether a body without a media type begins as JSON, XML or a form do."""
    return body[:1] in b"{[<" or (b"=" in body[:64] and body[:64].isascii() and b"\0" not in body[:64])


def decode_content(body: bytes, coding: bytes) -> bytes | None:
    """Take the content coding off; None where it is unknown, broken, or hides more than the limit."""
    bits = _WINDOW_BITS.get(coding)
    if bits is None:
        return None
    for window in (bits, -15) if coding == b"deflate" else (bits,):  # raw deflate: RFC 9110 section 8.4.1.2, note
        decoder = zlib.decompressobj(window)
        try:
            text = decoder.decompress(body, DECODED_LIMIT)
        except zlib.error:
            continue
        return text if decoder.eof and not decoder.unused_data else None
    return None


def _encode(text: bytes, coding: bytes) -> bytes:
    encoder = zlib.compressobj(6, zlib.DEFLATED, _WINDOW_BITS[coding])
    return encoder.compress(text) + encoder.flush()


def _refit(headers: Fields, old: bytes, new: bytes) -> Fields:
    """Make the headers that depend on the body fit it again, where they fitted it before."""
    changed = {
        b"content-length": (b"%d" % len(old), b"%d" % len(new)),
        b"x-amz-crc32": (b"%d" % zlib.crc32(old), b"%d" % zlib.crc32(new)),
    }
    fitted: list[tuple[bytes, bytes]] = []
    for name, value in headers:
        before, after = changed.get(name.lower(), (None, b""))
        fitted.append((name, after if value == before else value))
    return tuple(fitted)
