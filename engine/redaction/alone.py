"""Secrets that an answer told and that are known only where they stand alone, for they are short, a number, or of letters only.

Such a one, `48151623` or `a1b2.c3d4`, is replaced where it is the whole of a value or of a step of a path: there a client sends it
back, and under mock what it has is the token.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from engine.redaction.edits import Edit, apply
from engine.redaction.lengths import Lengths
from engine.redaction.randomness import is_one_word, looks_random

_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~-"
"""None of these is ever escaped."""
_BETWEEN = bytes(range(33)) + b"/?#&=\"'<>\\,;:|`()[]{}" + bytes(range(127, 256))
_IS_ONE = re.compile(rb"[A-Za-z0-9._~\-]{8,64}")
_BEFORE_VALUE = re.compile(rb"[\\\"'\s]{0,16}[:=]")
"""What is behind the name of a field: a name is no value."""


class Alone:
    """Such secrets, each with what stands in for it."""

    def __init__(self) -> None:
        self._tokens: dict[bytes, bytes] = {}
        self._originals: dict[bytes, bytes] = {}
        self.lengths = Lengths(_LETTERS, _BETWEEN)
        """Of these, and of others that are to be looked for: what has such a length may be one."""

    def learn(self, original: bytes, token: bytes) -> bool:
        """Remember a secret, and say whether it is one; not where its token already stands for another, as that of a number may."""
        if token == original or not _is_one(original) or self._originals.setdefault(token, original) != original:
            return False
        self._tokens[original] = token
        self.lengths.add(len(original))
        return True

    def forget(self, original: bytes) -> None:
        """Remember a secret no longer."""
        del self._originals[self._tokens.pop(original)]

    def found(self, text: bytes) -> bool:
        """Whether any of these secrets may be in a text."""
        return bool(self._tokens) and any(True for _ in self.lengths.places(text, self._tokens))

    def replaced(self, text: bytes, spend: Callable[[], None] = lambda: None) -> bytes:
        """Give a text without these secrets; the same object where it has none. `spend` is called for each that may be one."""
        if not self._tokens:
            return text
        edits: list[Edit] = []
        for start, value in self.lengths.places(text, self._tokens):
            spend()
            if not _is_name(text, start, start + len(value)):
                edits.append((start, start + len(value), self._tokens[value], ""))
        return apply(text, edits) if edits else text


def _is_one(value: bytes) -> bool:
    return _IS_ONE.fullmatch(value) is not None and (looks_random(value) or is_one_word(value))


def _is_name(text: bytes, start: int, end: int) -> bool:
    """Whether it is the name of something, and happens to be the same word. What is random is no other's name."""
    return _BEFORE_VALUE.match(text, end) is not None and not looks_random(text[start:end])
