"""Tells apart the secrets of a request whose tokens are too short to do so.

A token of a number or a card number keeps the form of its secret, which leaves no room for a long hash, so two secrets may
have one token. Requests must not be equal because their tokens are: each of these tokens is accompanied by a 128-bit digest
of what it stands for, in the signature of a recorded request and with a live one alike.

A client under mock also sends tokens that it was given in answers. Such a token has no digest, for what it stands for is not
known: it fits the recorded requests with that token.
"""

from __future__ import annotations

from hashlib import blake2b

PLACE_BYTES = 8
DIGEST_BYTES = 16
_ENTRY_BYTES = PLACE_BYTES + DIGEST_BYTES
ENTRIES_LIMIT = 64
"""Tokens of a request that have digests of their own; with more there is one digest of all, for signatures stay in memory."""
_ALL = bytes(PLACE_BYTES)


class Originals:
    """What the short tokens of one message stand for, in the order in which they were made."""

    def __init__(self) -> None:
        self._by_token: dict[bytes, list[bytes]] = {}

    def add(self, token: bytes, secret: bytes) -> None:
        """Note that a token was put in the place of a secret. A secret that is a token already stands for itself."""
        if token != secret:
            self._by_token.setdefault(token, []).append(secret)

    def clear(self) -> None:
        """Forget them."""
        self._by_token.clear()

    def digest(self, key: bytes) -> bytes:
        """Give an entry for each token, sorted; empty where there are none."""
        entries = [_digest(key, token)[:PLACE_BYTES] + _digest(key, *secrets) for token, secrets in self._by_token.items()]
        entries.sort()
        if len(entries) > ENTRIES_LIMIT:
            return _ALL + _digest(key, *entries)
        return b"".join(entries)


def fits(live: bytes, recorded: bytes) -> bool:
    """Whether every secret of a live request is known to be that of the recorded one; only tokens sent back may be without."""
    return _entries(live) <= _entries(recorded)


def _entries(digest: bytes) -> set[bytes]:
    return {digest[at : at + _ENTRY_BYTES] for at in range(0, len(digest), _ENTRY_BYTES)}


def _digest(key: bytes, *secrets: bytes) -> bytes:
    """Of secrets that have one token; several of them only where two secrets of one message do."""
    made = blake2b(key=key, digest_size=DIGEST_BYTES, person=b"originals")
    for secret in secrets if len(set(secrets)) > 1 else secrets[:1]:
        made.update(b"%d:" % len(secret) + secret)
    return made.digest()
