"""What a request looks like: equal for requests that a person would call the same, whatever they are about."""

from __future__ import annotations

import re
from functools import lru_cache

CACHE_LIMIT = 4096
"""Distinct segments whose look is remembered."""
WORD_LENGTH = 64
"""Longest segment that may be a word; so what is remembered is short, too."""

_WORD = re.compile(r"v[0-9]{1,2}|[A-Za-z][A-Za-z_.:~-]*")


def shape(method: str, path: str, operation: str) -> str:
    """Name a request's look: its operation where the protocol has one, else the method and the path without ids."""
    if not operation.startswith(method + " "):
        return operation
    return method + " " + "/".join([_segment(segment) if len(segment) <= WORD_LENGTH else "*" for segment in path.split("/")])


@lru_cache(CACHE_LIMIT)
def _segment(segment: str) -> str:
    return segment if not segment or _WORD.fullmatch(segment) else "*"
