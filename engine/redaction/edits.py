"""Changes of a text, put into it all at once."""

from __future__ import annotations

Edit = tuple[int, int, bytes, str]
"""From, to, what to put there, and the name of it in a pair's `redacted`."""


def apply(text: bytes, edits: list[Edit]) -> bytes:
    """Put the edits into a text. Of two that overlap the first one wins and takes in the other's bytes."""
    parts: list[bytes] = []
    at = 0
    for start, end, replacement, _ in sorted(edits, key=lambda edit: (edit[0], -edit[1])):
        if start >= at:
            parts += (text[at:start], replacement)
        at = max(at, end)
    parts.append(text[at:])
    return b"".join(parts)
