"""What a value looks like: a time, or an id that a client made up. Pure.

For hints to people only: nothing is matched by it.
"""

from __future__ import annotations

import re

from engine.redaction import rules

LENGTH_LIMIT = 80
"""Longest value that is looked at: no time and no id is longer."""

_TOKEN = re.compile(rules.TOKEN.decode())
_TIME = re.compile(
    r"1[0-9]{9}(?:[0-9]{3}|[0-9]{6}|[0-9]{9})?(?:\.[0-9]+)?"  # seconds, or ms, µs, ns, since the Unix epoch
    r"|(?:19|20)[0-9]{2}-?[0-9]{2}-?[0-9]{2}"  # ISO 8601, and its times of day
    r"(?:[T ][0-9]{2}:?[0-9]{2}(?::?[0-9]{2})?(?:[.,][0-9]+)?)?(?:Z|[+-][0-9]{2}:?[0-9]{2})?"
    r"|[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT"  # RFC 9110 section 5.6.7
)
_ID = re.compile(
    r"(?i:[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"  # UUID
    r"|[0-9a-hjkmnp-tv-z]{26}"  # ULID
    r"|[0-9a-f]{16,64})"  # ObjectId and other hexadecimal digits
    r"|(?=[^0-9]*[0-9])(?=[^A-Z]*[A-Z])(?=[^a-z]*[a-z])[A-Za-z0-9_-]{20,}={0,2}"  # base64 of something random
)


def form_of(lexeme: str | None) -> str:
    """Name the form of a value: "a time", "an id", or "" where it has neither, as a secret that was replaced."""
    if lexeme is None or len(lexeme) > LENGTH_LIMIT or _TOKEN.search(lexeme):
        return ""
    text = lexeme.strip('"')
    if _TIME.fullmatch(text):
        return "a time"
    return "an id" if _ID.fullmatch(text) else ""
