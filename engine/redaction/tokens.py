"""What stands in for a secret: the same token for the same secret within a snapshot, in a form that still parses.

A token is REDACTED-<kind>-<hash>, the hash being HMAC-SHA256 of the secret under the snapshot's key. The kind follows
from the secret itself, never from where it stands, so that a token handed out in a body and shown in a header stay
the same. UUIDs, long hexadecimal digits and base64 keep their forms, for clients decode them before they use them: they have the
mark and the hash in that form. Text in base64 becomes a token in base64. Short base64 without padding is not known by its form:
there the field tells.

A client under mock sends back the tokens that it was given, so every kind is recognised and never replaced again. Numbers
and card numbers have no room for a mark; there a part of the token is a check value of the rest under the key. A real
number of that length passes that check once in 100,000 times (a card number once in 10,000, and only one of the issuer 0000).
Nor have they room for a hash that no two secrets share: what must tell secrets apart asks `engine.redaction.originals`.

The key is kept in the snapshot, because requests to a responder must become the same tokens. So whoever holds a
snapshot can *test a guess*: nobody can compute a secret from its token, but a short PIN can be found by trying all.
"""

from __future__ import annotations

import hmac
import json
import re
from base64 import b64decode, b64encode, urlsafe_b64decode

from engine.redaction import rules
from engine.redaction.originals import Originals

HASH_DIGITS = 15
"""Hexadecimal digits of a hash: 60 bits, and "REDACTED-jwt-<hash>" has 28 characters, a length that base64 can have."""
MARK = (b"REDACTED-", b"52454441-4354-4544-8", b"5245444143544544", b"UkVEQUNURUQ")
"""How a token may begin: as `bytes.startswith` takes it. That a UUID is of version 4 is luck."""
TEXT_IN_BASE64 = b"UkVEQUNURUQt"
"""How a token of text in base64 begins."""
BYTES_LEAST = 16
"""Bytes in the token of fewer ones in base64: the mark and 56 bits of hash, as no two secrets may share a token."""
NUMBER_DIGITS = 15
"""Digits of a token that must be a number: as many as a double holds exactly, for that is what JavaScript sends back. The last 5
check the others, which are one of 4 * 10^9."""
NUMBER_FIRST = b"1789"
"""First digits that no card number has."""
NUMBER_CHECK = 5
CARD_ISSUER = b"0000"
"""Digits 3 to 6 of a card token: with them the issuer is one that no brand has given out."""
CARD_CHECK = 4

_BEGIN = re.compile(rules.TOKEN_ITSELF + rb"(?![A-Za-z0-9_-])")
_DASHED = rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_UUID = re.compile(_DASHED + rb"|" + _DASHED.replace(b"a-f", b"A-F"))
_HEX = re.compile(rb"[0-9a-f]{32,}|[0-9A-F]{32,}")
_BASE64 = re.compile(rb"(?=.*=|(?=.*[a-z])(?=.*[A-Z]).*[0-9])(?:[A-Za-z0-9+/]{22,}|[A-Za-z0-9_-]{22,})={0,2}")
"""In one alphabet: 24 characters that are no word. What has no padding has letters of both cases and digits."""
_BASE64_SHORT = re.compile(rb"(?:[A-Za-z0-9+/]{2,}|[A-Za-z0-9_-]{2,})={1,2}")
"""Shorter, but with padding."""
_BASE64_ANY = re.compile(rb"(?:[A-Za-z0-9+/]{2,}|[A-Za-z0-9_-]{2,})={0,2}")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_ALNUM = bytes.maketrans(b"+/", b"AB")
_PAIR = re.compile(rb"([A-Za-z0-9_.@+-]{1,64}):((?!//)\S+)")
"""A user and a password."""


def is_token(text: bytes) -> bool:
    """Whether this is a token already: tokens stand for themselves."""
    return text.startswith(MARK) and rules.TOKEN_WHOLE.fullmatch(text) is not None


def begins_with_token(text: bytes) -> bool:
    """Whether a text is a token, perhaps with something behind it that was not taken for a part of the secret before."""
    return text.startswith(MARK) and _BEGIN.match(text) is not None


class Tokens:
    """Makes tokens under one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def digest(self, originals: Originals) -> bytes:
        """Give what tells the secrets of a request from others with the same tokens."""
        return originals.digest(self._key)

    def value(self, secret: bytes, originals: Originals, *, base64: bool = False) -> bytes:
        """Give the token of a secret; its form decides of what kind. A token stays as it is.

        Digits stay digits, in a text as well: what an answer has as a number goes into a path or a form as a text.
        `base64`: whether clients decode it whatever it looks like.
        """
        if is_token(secret):
            return secret
        if base64 and (token := self._base64(secret, originals, _BASE64_ANY)):
            return token
        jwt = rules.JWT_WHOLE.fullmatch(secret)
        if jwt and is_jwt(jwt[1]):
            return secret[: jwt.start(2)] + self.jwt(secret, jwt[2])
        if rules.CARD_WHOLE.fullmatch(secret):
            digits = secret.translate(None, b" -")
            if is_luhn_valid(digits):
                return self.card(secret, originals)
        if secret.isdigit():
            return self.number(secret, originals)
        if rules.KEY.fits(secret):
            return self.token("key", secret)
        token = self._uuid(secret) or self._hex(secret) or self._base64(secret, originals, _BASE64)
        return token or self._base64(secret, originals, _BASE64_SHORT) or self.token("secret", secret)

    def _uuid(self, secret: bytes) -> bytes:
        """Give the token of a UUID; empty where it is none. One in capitals is the same secret: clients write it either way."""
        if not _UUID.fullmatch(secret):
            return b""
        lower = secret.lower()
        digits = self._hash(lower)
        token = f"52454441-4354-4544-8{digits[:3]}-{digits[3:HASH_DIGITS]}".encode()
        return token if secret == lower else token.upper()

    def _hex(self, secret: bytes) -> bytes:
        if not _HEX.fullmatch(secret):
            return b""
        token = (b"REDACTED".hex() + self._hash(secret)).encode().ljust(len(secret), b"0")[: len(secret)]
        return token.upper() if secret.isupper() else token

    def _base64(self, secret: bytes, originals: Originals, form: re.Pattern[bytes]) -> bytes:
        """Give the token of base64, in letters and digits, so that it is of both alphabets; empty where it is none.

        Text stays text. Of other bytes the length stays where there is room for the hash.
        """
        if len(secret) % 4 or not form.fullmatch(secret):
            return b""
        plain = secret.translate(_URL_SAFE)
        decoded = b64decode(plain)
        if b64encode(decoded) != plain:
            return b""
        if is_token(decoded):
            return secret
        if not is_text(decoded):
            size = max(len(decoded), BYTES_LEAST)
            token = (b"REDACTED\0" + hmac.digest(self._key, plain, "sha256")).ljust(size, b"\0")[:size]
            return b64encode(token).translate(_ALNUM)
        pair = _PAIR.fullmatch(decoded)
        if pair:
            return b64encode(self.value(pair[1], originals) + b":" + self.value(pair[2], originals))
        return b64encode(self.token("key" if rules.KEY.fits(decoded) else "secret", decoded))

    def token(self, kind: str, secret: bytes) -> bytes:
        """Give the token of a secret, as ASCII that needs no escape in JSON, URLs, XML, headers and base64url."""
        return secret if is_token(secret) else f"REDACTED-{kind}-{self._hash(secret)[:HASH_DIGITS]}".encode()

    def is_of(self, token: bytes, secret: bytes) -> bool:
        """Whether a token with a hash stands in for this secret."""
        if token.endswith(b"-" + self._hash(secret)[:HASH_DIGITS].encode()):
            return True
        return any(token == self.value(secret, Originals(), base64=base64) for base64 in (False, True))

    def jwt(self, whole: bytes, signature: bytes) -> bytes:
        """Stand-in for a JWT's last part; header and payload stay as they are."""
        return signature if is_token(signature) else self.token("jwt", whole)

    def number(self, secret: bytes, originals: Originals) -> bytes:
        """Give the token of a number, as a number."""
        digits = secret.translate(None, b" -")
        if rules.CARD_WHOLE.fullmatch(digits) and is_luhn_valid(digits):
            return self.card(digits, originals)
        if len(secret) == NUMBER_DIGITS and self._checked(secret[:-NUMBER_CHECK], NUMBER_CHECK) == secret:
            return secret
        digits = self._digits(secret, NUMBER_DIGITS - NUMBER_CHECK)
        body = NUMBER_FIRST[digits[0] % 4 :][:1] + digits[1:]
        token = self._checked(body, NUMBER_CHECK)
        originals.add(token, secret)
        return token

    def card(self, number: bytes, originals: Originals) -> bytes:
        """Give a card number of the same length and brand (the first two digits) that is Luhn-valid; separators stay."""
        digits = number.translate(None, b" -")
        body = digits[:2] + CARD_ISSUER
        given = digits[: -CARD_CHECK - 1]
        token = self._card(given) if given.startswith(body) else b""
        if token != digits:
            token = self._card(body + self._digits(digits, len(given) - len(body)))
            originals.add(token, digits)
        each = iter(token)
        return bytes(next(each) if 48 <= c <= 57 else c for c in number)

    def _card(self, body: bytes) -> bytes:
        checked = self._checked(body, CARD_CHECK)
        return checked + luhn_digit(checked)

    def _checked(self, body: bytes, digits: int) -> bytes:
        return body + self._digits(b"check " + body, digits)

    def _digits(self, secret: bytes, count: int) -> bytes:
        return b"%0*d" % (count, int(self._hash(secret), 16) % 10**count)

    def _hash(self, secret: bytes) -> str:
        return hmac.digest(self._key, secret, "sha256").hex()


def is_text(decoded: bytes) -> bool:
    """Whether these are characters, and none of them controls."""
    try:
        return not _CONTROL.search(decoded.decode())
    except UnicodeDecodeError:
        return False


def is_jwt(header: bytes) -> bool:
    """Whether this is a JOSE header in base64url: a JSON object (RFC 7515)."""
    try:
        return isinstance(json.loads(urlsafe_b64decode(header + b"=" * (-len(header) % 4))), dict)
    except (ValueError, RecursionError):
        return False


def luhn_digit(digits: bytes) -> bytes:
    """Give the check digit that makes digits Luhn-valid (ISO/IEC 7812-1 annex B)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = (digit - 48) * (1 if place % 2 else 2)
        total += value - 9 if value > 9 else value
    return b"%d" % (-total % 10)


def is_luhn_valid(digits: bytes) -> bool:
    """Whether the last digit checks the others."""
    return luhn_digit(digits[:-1]) == digits[-1:]
