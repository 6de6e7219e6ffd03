"""What stands in for a secret: the same token for the same secret within a snapshot, in a form that still parses.

A token is REDACTED-<kind>-<hash>, the hash being HMAC-SHA256 of the secret under the snapshot's key. The kind follows
from the secret itself, never from where it stands, so that a token handed out in a body and shown in a header stay
the same.

The key is kept in the snapshot, because requests to a responder must become the same tokens. So whoever holds a
snapshot can *test a guess*: nobody can compute a secret from its token, but a short PIN can be found by trying all.
"""

from __future__ import annotations

import hmac
import re

HASH_DIGITS = 15
"""Hexadecimal digits of a hash: 60 bits, and "REDACTED-jwt-<hash>" has 28 characters, a length that base64 can have."""
MARK = b"REDACTED-"

_TOKEN = re.compile(rb"REDACTED-[a-z]+-[0-9a-f]{15}")


def is_token(text: bytes) -> bool:
    """Whether this is a token already: tokens stand for themselves."""
    return text.startswith(MARK) and _TOKEN.fullmatch(text) is not None


class Tokens:
    """Makes tokens under one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def token(self, kind: str, secret: bytes) -> bytes:
        """Give the token of a secret, as ASCII that needs no escape in JSON, URLs, XML, headers and base64url."""
        return secret if is_token(secret) else f"REDACTED-{kind}-{self._hash(secret)[:HASH_DIGITS]}".encode()

    def digits(self, secret: bytes) -> bytes:
        """Give as many decimal digits as the secret has, the first not 0: for numbers that must stay numbers."""
        number = str(int(self._hash(secret), 16)).lstrip("0")
        return (number * (len(secret) // len(number) + 1))[: len(secret)].encode()

    def card(self, number: bytes) -> bytes:
        """Give a card number of the same length and brand (the first two digits) that is Luhn-valid and another one."""
        for attempt in range(16):
            body = number[:2] + self.digits(number + b"#%d" % attempt)[: len(number) - 3]
            token = body + luhn_digit(body)
            if token != number:
                break
        return token

    def _hash(self, secret: bytes) -> str:
        return hmac.digest(self._key, secret, "sha256").hex()


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
