"""Secrets that an answer told and that look as an ordinary word or number does: known only where they stand alone.

Such a one, `48151623` or `a1b2.c3d4`, is replaced where it is the whole of a value or of a step of a path: there a client sends it
back, and under mock what it has is the token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from engine.redaction.edits import Edit, apply

SECRETS_LIMIT = 10_000
"""Secrets that are remembered, the latest: some 3 MB."""
PIECE = 64 * 1024
"""Bytes of a text that are taken apart at a time."""

_IS_ONE = re.compile(rb"(?=[^0-9]*[0-9])[A-Za-z0-9._~\-]{8,64}|[A-Za-z._~\-]{12,64}")
"""Long enough to be nothing else by accident; words longer than numbers. None of these characters is ever escaped."""
_BETWEEN = b"/?#&=\"'<>\\,;:|`()[]{}"
_PARTED = bytes(32 if byte <= 32 or byte >= 127 or byte in _BETWEEN else byte for byte in range(256))
_ESCAPE = re.compile(rb"%[0-9A-Fa-f]{2}")
_VALUE = re.compile(rb"[^ ]{8,}")
_BEFORE_VALUE = re.compile(rb"[\\\"'\s]{0,16}[:=]")


class Alone:
    """Such secrets, each with what stands in for it."""

    def __init__(self) -> None:
        self._tokens: dict[bytes, bytes] = {}
        self._originals: dict[bytes, bytes] = {}

    def learn(self, original: bytes, token: bytes) -> bool:
        """Remember a secret, and say whether it is new; not one whose token already stands for another, as that of a number may."""
        if token == original or not _IS_ONE.fullmatch(original) or self._originals.setdefault(token, original) != original:
            return False
        new = original not in self._tokens
        self._tokens[original] = token
        if len(self._tokens) > SECRETS_LIMIT:
            del self._originals[self._tokens.pop(next(iter(self._tokens)))]
        return new

    def candidates(self, text: bytes) -> Iterator[bytes]:
        """What stands alone in a text and may be such a secret, but is not remembered."""
        for _, values in _values(text):
            for value in set(values.split()):
                if value not in self._tokens and _IS_ONE.fullmatch(value):
                    yield value

    def found(self, text: bytes) -> bool:
        """Whether any of these secrets may be in a text."""
        return bool(self._tokens) and not all(self._tokens.keys().isdisjoint(values.split()) for _, values in _values(text))

    def replaced(self, text: bytes, spend: Callable[[], None] = lambda: None) -> bytes:
        """Give a text without these secrets; the same object where it has none. `spend` is called for each that may be one."""
        if not self._tokens:
            return text
        edits: list[Edit] = []
        for at, values in _values(text):
            if self._tokens.keys().isdisjoint(values.split()):
                continue
            for value in _VALUE.finditer(values):
                start, end = at + value.start(), at + value.end()
                if value[0] in self._tokens:
                    spend()
                    if not _is_name(text, start, end):
                        edits.append((start, end, self._tokens[value[0]], ""))
        return apply(text, edits) if edits else text


def _is_name(text: bytes, start: int, end: int) -> bool:
    """Whether it is the name of something, and happens to be the same word."""
    return _BEFORE_VALUE.match(text, end) is not None and not any(48 <= byte <= 57 for byte in text[start:end])


def _values(text: bytes) -> Iterator[tuple[int, bytes]]:
    """A text with blanks for all that is in no value and no step of a path, piece by piece."""
    if b"%" in text:
        text = _ESCAPE.sub(b"   ", text)
    text = text.translate(_PARTED)
    at = 0
    while at < len(text):
        end = len(text) if len(text) - at <= PIECE else text.find(b" ", at + PIECE)
        end = len(text) if end < 0 else end
        yield at, text[at:end]
        at = end
