"""Captured text on its way to a terminal: nothing raises, and no control character and no lone surrogate is let through."""

from __future__ import annotations

import unicodedata

from engine.cli.text import body_text, clean, header_text
from engine.rrpair import Message

CODINGS = (b"", b"gzip", b"deflate", b"br")


def one(data: bytes) -> None:
    """The first byte chooses a coding, the rest is a body, a header's value and a name."""
    coding = CODINGS[data[0] % len(CODINGS)] if data else b""
    message = Message(b"HTTP/1.1 200 OK", ((b"content-encoding", coding),), data[1:])
    _check(clean(body_text(message), lines=True), allowed="\n\t")
    _check(clean(header_text(data)), allowed="")
    _check(clean(data.decode("utf-8", "surrogateescape")), allowed="")


def _check(text: str, allowed: str) -> None:
    bad = {char for char in text if unicodedata.category(char) in ("Cc", "Cs") and char not in allowed}
    assert not bad, f"reaches the terminal: {sorted(map(ord, bad))}"
    text.encode()
