"""Regular expressions that take linear time on any input: google-re2, which has no types of its own, behind a typed face."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import re2

MEMORY_LIMIT = 64 * 1024 * 1024
"""Bytes for the automaton of one pattern. Out of it, re2 is slower, but linear still."""

Span = tuple[int, int]


class Pattern:
    """A pattern over bytes. There are no look-arounds and no back-references, which is why it is linear.

    One search is linear; a walk over all matches is linear as long as no match needs a look far beyond its end, so
    patterns must not end in something optional of unbounded length.
    """

    def __init__(self, pattern: bytes, memory: int = MEMORY_LIMIT) -> None:
        self.pattern = pattern
        options = re2.Options()
        options.encoding = re2.Options.Encoding.LATIN1
        options.max_mem = memory
        options.log_errors = False
        self._search = re2.compile(pattern, options).search
        self._finditer = re2.compile(pattern, options).finditer
        self._fullmatch = re2.compile(pattern, options).fullmatch

    def found(self, text: bytes) -> bool:
        """Whether it matches anywhere."""
        return self._search(text) is not None

    def fits(self, text: bytes) -> bool:
        """Whether it matches the whole of a text."""
        return self._fullmatch(text) is not None

    def spans(self, text: bytes, *groups: int) -> Iterator[tuple[Span, ...]]:
        """Give the spans of some groups of each match, in order; (-1, -1) for a group that took no part."""
        for match in self._finditer(text):
            yield tuple([cast(Span, match.span(group)) for group in groups])
