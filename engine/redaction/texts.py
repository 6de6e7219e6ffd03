"""Finds the secrets in texts and says which bytes to change: offsets and replacements, nothing is serialised again."""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode, b64encode, urlsafe_b64decode
from collections.abc import Callable, Iterator
from functools import lru_cache
from urllib.parse import quote_plus, unquote_to_bytes

from engine.redaction import rules
from engine.redaction.hints import has_field, has_parameter
from engine.redaction.tokens import Tokens, is_luhn_valid, is_token

Edit = tuple[int, int, bytes, str]
"""From, to, what to put there, and the name of it in a pair's `redacted`."""

MEDIA_LIMIT = 1024
"""Media types that are remembered."""
NESTING_LIMIT = 64
"""Levels of values under a secret field that are gone into; deeper ones are replaced as they stand by their leaves."""

_STRING = rb'"((?:[^"\\]|\\.)*+)"'
_JSON_FIELD = re.compile(rb'"(' + rules.NAME + rb')"\s*:\s*(?=["0-9\[{-])', re.DOTALL)
_JSON_SCALAR = re.compile(_STRING + rb"|(-?[0-9][0-9.eE+-]*)|([\[{])|([\]}])", re.DOTALL)
_JSON_KEY_END = re.compile(rb"\s*:")
_NESTED_FIELD = re.compile(rb'(\\+)"(' + rules.NAME + rb')\1"\s*:\s*\1"(.*?)(?<!\\)\1"', re.DOTALL)
_PARAMETER = re.compile(rb"[?&#]([A-Za-z0-9_.%\[\]-]{3,64})=([^&#;\s\"'<>\\]+)")
_FORM_PAIR = re.compile(rb"([^&=]*)=([^&]*)")
_XML_ELEMENT = re.compile(rb"<(?:[A-Za-z_][\w.-]*:)?([A-Za-z_][\w.-]*)(?:\s[^<>]*)?>([^<]+)</")
_PART_HEADERS = rb"\r\n(?:[!-9;-~]+:[^\r\n]*\r\n)*\r\n"
_MULTIPART_FIELD = re.compile(rb'\bname="(' + rules.NAME + rb')"' + _PART_HEADERS + rb"(.*?)\r\n--", re.DOTALL)


def apply(text: bytes, edits: list[Edit], kinds: set[str]) -> bytes:
    """Put the edits into a text. Of two that overlap the first one wins and takes in the other's bytes."""
    if not edits:
        return text
    parts: list[bytes] = []
    at = 0
    for start, end, replacement, kind in sorted(edits, key=lambda edit: (edit[0], -edit[1])):
        if start >= at:
            parts += (text[at:start], replacement)
            kinds.add(kind)
        at = max(at, end)
    parts.append(text[at:])
    return b"".join(parts)


class Finder:
    """Looks for secrets in texts of all kinds."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def json(self, text: bytes) -> list[Edit]:
        """Secret fields of a JSON text, whatever it nests, and JSON written in its strings."""
        edits: list[Edit] = []
        if not has_field(text):
            return edits
        for field in _JSON_FIELD.finditer(text):
            kind = _kind_of(field[1])
            if kind:
                edits += self._json_value(text, field.end(), kind)
        for field in _NESTED_FIELD.finditer(text):
            kind = _kind_of(field[2])
            if kind and field[3]:
                edits.append((*field.span(3), self.value(_unescape(field[3], field[1])), kind))
        return edits

    def form(self, text: bytes) -> list[Edit]:
        """Secret fields of a form (WHATWG URL, section 5), and secrets of a known look in its other fields."""
        edits: list[Edit] = []
        for field in _FORM_PAIR.finditer(text):
            value = unquote_to_bytes(field[2].replace(b"+", b" "))
            kind = _kind_of(unquote_to_bytes(field[1]))
            if kind and value and not _is_placeholder(value):
                edits.append((*field.span(2), self.value(value), kind))
            elif b"%" in field[2] or b"+" in field[2]:
                kinds: set[str] = set()
                changed = apply(value, self.shapes(value), kinds)
                if kinds:
                    edits.append((*field.span(2), quote_plus(changed).encode(), kinds.pop()))
        return edits

    def xml(self, text: bytes) -> list[Edit]:
        """Secret elements of an XML text."""
        return self._fields(_XML_ELEMENT, text)

    def multipart(self, text: bytes) -> list[Edit]:
        """Secret fields of multipart/form-data."""
        return self._fields(_MULTIPART_FIELD, text)

    def parameters(self, text: bytes) -> list[Edit]:
        """Secret query parameters of the URLs in a text."""
        edits: list[Edit] = []
        if not has_parameter(text):
            return edits
        for parameter in _PARAMETER.finditer(text):
            kind = _kind_of(unquote_to_bytes(parameter[1]), rules.PARAMETER_NAMES)
            if kind:
                edits.append((*parameter.span(2), self.value(unquote_to_bytes(parameter[2])), kind))
        return edits

    def shapes(self, text: bytes) -> list[Edit]:
        """JWTs, keys that are known by their looks, card numbers."""
        edits = [(*jwt.span(3), self._jwt(jwt), "jwt") for jwt in rules.JWT.finditer(text) if _is_jwt(jwt[1])]
        for kind, pattern in rules.SHAPES:
            edits += [(*key.span(), self._tokens.token(kind, key[0]), kind) for key in pattern.finditer(text)]
        return edits + self.cards(text)

    def cards(self, text: bytes) -> list[Edit]:
        """Card numbers; separators stay where they are."""
        edits: list[Edit] = []
        for card in rules.CARD.finditer(text):
            digits = re.sub(rb"[^0-9]", b"", card[0])
            if is_luhn_valid(digits):
                token = iter(self._tokens.card(digits))
                edits.append((*card.span(), bytes(next(token) if 48 <= c <= 57 else c for c in card[0]), "card"))
        return edits

    def value(self, secret: bytes) -> bytes:
        """Give the token of a value that is secret by its place; its looks decide of what kind."""
        jwt = rules.JWT.fullmatch(secret)
        if jwt and _is_jwt(jwt[1]):
            return secret[: jwt.start(3)] + self._jwt(jwt)
        kind = next((kind for kind, pattern in rules.SHAPES if pattern.fullmatch(secret)), "secret")
        return self._tokens.token(kind, secret)

    def basic(self, credentials: bytes) -> bytes:
        """RFC 7617: user and password each become a token, and the whole stays valid base64."""
        try:
            user, colon, password = b64decode(credentials, validate=True).partition(b":")
        except (ValueError, binascii.Error):
            return self.value(credentials)
        return b64encode((user and self.value(user)) + colon + (password and self.value(password)))

    def _jwt(self, jwt: re.Match[bytes]) -> bytes:
        """Stand-in for the last part; header and payload stay as they are."""
        return jwt[3] if is_token(jwt[3]) else self._tokens.token("jwt", jwt[0])

    def _fields(self, pattern: re.Pattern[bytes], text: bytes) -> list[Edit]:
        found = ((field, _kind_of(field[1])) for field in pattern.finditer(text))
        return [(*field.span(2), self.value(field[2]), kind) for field, kind in found if kind and field[2].strip()]

    def _json_value(self, text: bytes, at: int, kind: str) -> Iterator[Edit]:
        """All leaves of the value that begins there: {"password": {"S": "…"}} is how DynamoDB writes it."""
        depth = 0
        for leaf in _JSON_SCALAR.finditer(text, at):
            if leaf[3]:
                depth += 1
            elif leaf[4]:
                depth -= 1
            elif leaf[2]:
                yield (*leaf.span(2), self._number(leaf[2]), kind)
            elif leaf[1] and not (depth and _JSON_KEY_END.match(text, leaf.end())):
                secret = _unescape(leaf[1], b"")
                if not _is_placeholder(secret):
                    yield (*leaf.span(1), self.value(secret), kind)
            if depth <= 0 or depth > NESTING_LIMIT:
                return

    def _number(self, number: bytes) -> bytes:
        sign = b"-" if number.startswith(b"-") else b""
        digits = re.match(rb"-?([0-9]*)", number)
        assert digits is not None
        return sign + self._tokens.digits(digits[1])


def _kind_of(name: bytes, names: dict[str, str] = rules.FIELD_NAMES) -> str | None:
    """Look a field's name up; of `card[number]` and `user.password` the last part counts."""
    last = re.split(rb"[\[.]", name.rstrip(b"]"))[-1]
    word = last.decode("latin-1").lower().replace("_", "").replace("-", "").replace(" ", "")
    return names.get(word) or next((kind for end, kind in rules.FIELD_ENDINGS if word.endswith(end)), None)


def _unescape(text: bytes, quote: bytes) -> bytes:
    """Take the escapes off a JSON string. `quote` are the backslashes before its quotes: they tell how deep it lies."""
    for _ in range(len(quote).bit_length() + 1):
        if b"\\" not in text:
            break
        try:
            text = json.loads(b'"' + text + b'"').encode("utf-8", "surrogatepass")
        except (ValueError, RecursionError):
            break
    return text


def _is_placeholder(secret: bytes) -> bool:
    return is_token(secret) or not secret.strip(b"*x. ")


def _is_jwt(header: bytes) -> bool:
    try:
        return isinstance(json.loads(urlsafe_b64decode(header + b"=" * (-len(header) % 4))), dict)
    except (ValueError, RecursionError):
        return False


_BODY_FINDERS: tuple[tuple[re.Pattern[bytes], Callable[[Finder, bytes], list[Edit]]], ...] = (
    (re.compile(rb"(?i)\s*application/x-www-form-urlencoded"), Finder.form),
    (re.compile(rb"(?i)[^;]*xml"), Finder.xml),
    (re.compile(rb"(?i)\s*multipart/"), Finder.multipart),
)


@lru_cache(MEDIA_LIMIT)
def body_finder(media: bytes) -> Callable[[Finder, bytes], list[Edit]]:
    """Say how the fields of a body of this media type are found: as JSON where it is none of the others."""
    return next((find for pattern, find in _BODY_FINDERS if pattern.match(media)), Finder.json)
