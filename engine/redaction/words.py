"""What texts look like whose name does not tell: credentials, and the words that language models and search engines call tokens."""

from __future__ import annotations

import re

WORD_LIMIT = 96
"""Bytes of the longest word of a text, and of what is looked at beside it."""

_OPAQUE = re.compile(rb"(?=[^A-Za-z]*[A-Za-z])(?=[^0-9]*[0-9])[A-Za-z0-9+/_=.~$\-]{16,}")
_NAMES = frozenset((b"token", b"tokens", b"text", b"token_str"))
_SHORT = re.compile(rb"(?:\s|##|\xc4\xa0|\xe2\x96\x81).*|[A-Z]?[a-z']{0,6}|[^A-Za-z0-9]{1,7}", re.DOTALL)
"""A word by its looks. Models write a blank before it as it is, or as one of two other characters."""
_BESIDE = re.compile(rb"\b(?:logprob|token_logprobs|start_offset|token_id|token_str|score)\\{0,16}\"\s{0,8}:")
"""What is said of a word, and of no secret."""
_BRACE = re.compile(rb"[{}]")


def is_opaque(value: bytes) -> bool:
    """Whether a text looks like a credential, whatever it is called: 16 bytes or more with letters and digits, and no blank."""
    return _OPAQUE.fullmatch(value) is not None


def is_word(text: bytes, name: bytes, start: int, end: int, value: bytes) -> bool:
    """Whether a field `token` of JSON is a word: it looks so, or it stands beside what is said of words."""
    if name not in _NAMES or len(value) > WORD_LIMIT or is_opaque(value.strip()):
        return False
    if name != b"text" and _SHORT.fullmatch(value):
        return True
    before = _BRACE.split(text[max(0, start - WORD_LIMIT) : start])[-1]
    after = _BRACE.split(text[end : end + WORD_LIMIT], maxsplit=1)[0]
    return _BESIDE.search(before + b" " + after) is not None
