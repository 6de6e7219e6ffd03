"""Words of some lengths in a text: one fast pass tells that it has none, as most have, so that no word is looked at by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache

from engine.redaction.pattern import Pattern

EXACT_LIMIT = 128
"""Longest length that is told exactly: the automaton has a state for each character."""
FEW = 16
"""Lengths that are told one by one; of more, the shortest."""
PIECE = 64 * 1024
"""Bytes of a text that are taken apart at a time."""

_PERCENT = re.compile(rb"%[0-9A-Fa-f]{2}")
_DEEPER = re.compile(
    rb"%(?:25)*5[Cc](?:[nrt]|u[0-9A-Fa-f]{4})|%(?:25)+(?:[01][0-9A-Fa-f]|2[0-46-9A-Fa-f]|3[A-Fa-f]|40|5[B-Fb-f]|60|7[B-Fb-f])"
)
"""An escape of JSON in percent-encoding; what is neither a letter nor a digit, encoded more than once."""
_CODED = ((b"\\u", re.compile(rb"\\u[0-9A-Fa-f]{4}"), b" " * 6), (b"\\x", re.compile(rb"\\x[0-9A-Fa-f]{2}"), b" " * 4))
_LINES = (b"\\n", b"\\r", b"\\t")
_WORD = re.compile(rb"[^ ]+")


@cache
def _tables(letters: bytes, between: bytes) -> tuple[bytes, bytes]:
    """Translations of a text: to blanks between words; and also to `a` for each letter and `b` for what no word is beside."""
    blanked = bytes(32 if byte in between else byte for byte in range(256))
    return blanked, bytes(97 if byte in letters else 32 if byte in between else 98 for byte in range(256))


def without_escapes(text: bytes) -> bytes:
    """A text with blanks for its escapes, whose letters would otherwise be taken for those of a word beside them. Places stay."""
    if b"%" in text:
        if b"%25" in text or b"%5C" in text or b"%5c" in text:
            text = _DEEPER.sub(lambda found: b" " * len(found[0]), text)
        text = _PERCENT.sub(b"   ", text)
    if b"\\" in text:
        for line in _LINES:
            text = text.replace(line, b"  ")
        for begin, escape, blanks in _CODED:
            if begin in text:
                text = escape.sub(blanks, text)
    return text


class Lengths:
    """Lengths of the words that are looked for, of `letters`. What is neither those nor `between` is in no word, nor beside one.

    Escapes are between words.
    """

    def __init__(self, letters: bytes, between: bytes) -> None:
        self._blanked, self._marked = _tables(letters, between)
        self._lengths: set[int] = set()
        self._exact: set[int] = set()
        self._pattern: Pattern | None = None

    def add(self, length: int) -> None:
        """Look for words of that length, too."""
        self._lengths.add(length)
        if min(length, EXACT_LIMIT) in self._exact:
            return
        self._exact.add(min(length, EXACT_LIMIT))
        exact = sorted(self._exact)
        ends = [rb"a{%d}" % each + (rb"\b" if each < EXACT_LIMIT else b"") for each in exact]
        self._pattern = Pattern(rb"\b(?:" + b"|".join(ends if len(exact) <= FEW else [rb"a{%d}" % exact[0]]) + rb")")

    def words(self, text: bytes) -> Iterator[bytes]:
        """Give the words of these lengths, those of one piece of the text only once."""
        for _, piece in self._pieces(text):
            yield from {word for word in piece.split() if len(word) in self._lengths}

    def places(self, text: bytes, words: Mapping[bytes, object]) -> Iterator[tuple[int, bytes]]:
        """Where in a text some words are that have these lengths."""
        for at, piece in self._pieces(text):
            if not words.keys().isdisjoint(piece.split()):
                yield from ((at + word.start(), word[0]) for word in _WORD.finditer(piece) if word[0] in words)

    def _pieces(self, text: bytes) -> Iterator[tuple[int, bytes]]:
        """A text with blanks between words, piece by piece; nothing where it has no word of these lengths."""
        if self._pattern is None:
            return
        text = without_escapes(text)
        if not self._pattern.found(text.translate(self._marked)):
            return
        text = text.translate(self._blanked)
        at = 0
        while at < len(text):
            end = len(text) if len(text) - at <= PIECE else text.find(b" ", at + PIECE)
            end = len(text) if end < 0 else end
            yield at, text[at:end]
            at = end
