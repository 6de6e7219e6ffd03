"""Secrets that the answers of a recording told: clients send them back in places where no name gives them away: a path, `?t=`.

Only what a server told is learned. A client under mock has the token that stands in for it, or brings the secret itself, from its
configuration, say. Recorded requests have the token, so a live one must get it as well, whatever was asked before it. Therefore a
snapshot keeps digests of what was learned, under its key, as tokens are: with them the secret is known where it comes again, and it
cannot be read from them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from urllib.parse import quote, unquote_to_bytes

from engine.redaction import rules
from engine.redaction.alone import Alone
from engine.redaction.edits import Edit, apply
from engine.redaction.tokens import MARK, Tokens

SECRETS_LIMIT = 10_000
"""Secrets that are remembered, the latest, in memory and in a snapshot: some 4 MB."""
SHORTEST, LONGEST = 12, 4096
"""Bytes of a secret that is learned, and of its longest word at least."""
DIGEST_BYTES = 16
STRANGERS_LIMIT = 1000
"""Words that are remembered as no secret's, because each text of a message is searched several times: 4 MB at most."""
PLACES_LIMIT = 16
"""Places of a word in a text at which the rest of its secret is looked for around it."""

PIECE = 64 * 1024
"""Bytes of a text whose words are taken at a time."""

_ESCAPE = re.compile(rb"%[0-9A-Fa-f]{2}")
_IN_WORDS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
_ONLY_WORDS = bytes(byte if byte in _IN_WORDS else 32 for byte in range(256))
_WORD = re.compile(rb"[^ ]{%d,}" % SHORTEST)
_IDENTIFIES = re.compile(rb"(?=.*[A-Za-z])(?=.*[0-9]).*", re.DOTALL)
"""What no ordinary word or number is."""

_IS_STORED = re.compile(rules.TOKEN + rb"|[0-9][0-9\-]{10,22}[0-9]")
"""Tokens that a snapshot keeps with a digest: with a mark, or of numbers and cards."""


@dataclass(frozen=True, slots=True)
class Digest:
    """By what a secret is known again: a digest of its longest word, how many bytes are before and after that, and its token.

    Of one that is known only where it stands alone (`Alone`) all of it is the word.
    """

    word: bytes
    before: int
    after: int
    token: bytes

    def check(self) -> None:
        """Raise ValueError where it is none that was made here."""
        if not (0 <= self.before <= LONGEST and 0 <= self.after <= LONGEST and _IS_STORED.fullmatch(self.token)):
            raise ValueError("a secret that no answer told")


class Learned:
    """Secrets by their longest words, each with what stands in for it. A text is searched for all of them in one pass."""

    def __init__(self, key: bytes = b"", digests: Iterable[Digest] = ()) -> None:
        """`digests`: of what was learned before, under the same key."""
        self._key, self._tokens = key, Tokens(key)
        self._by_word: dict[bytes, tuple[bytes, bytes]] = {}
        self._alone = Alone()
        self._new: dict[bytes, Digest] = {}
        self._digests = {digest.word: digest for digest in digests}
        self._strangers: set[bytes] = set()

    def learn(self, secrets: Mapping[bytes, bytes]) -> None:
        """Remember secrets by what stands in for them."""
        for original, token in secrets.items():
            word = _longest_word(original) if SHORTEST <= len(original) <= LONGEST and token.startswith(MARK) else b""
            if not _is_learned(word):
                if self._alone.learn(original, token):
                    self._note(Digest(self._digest(original), 0, 0, token))
            elif self._by_word.get(word) != (original, token):
                self._keep(word, original, token)
                before = original.find(word)
                self._note(Digest(self._digest(word), before, len(original) - before - len(word), token))

    def take_new(self) -> list[Digest]:
        """Give digests of what was learned since the last time."""
        new = list(self._new.values())
        self._new.clear()
        return new

    def _note(self, digest: Digest) -> None:
        if self._digests.get(digest.word) == digest or not _IS_STORED.fullmatch(digest.token):
            return
        self._new[digest.word] = digest
        if len(self._new) > SECRETS_LIMIT:
            del self._new[next(iter(self._new))]

    def _keep(self, word: bytes, original: bytes, token: bytes) -> None:
        self._by_word[word] = original, token
        if len(self._by_word) > SECRETS_LIMIT:
            del self._by_word[next(iter(self._by_word))]

    def _digest(self, word: bytes) -> bytes:
        return blake2b(word, key=self._key, digest_size=DIGEST_BYTES, person=b"learned").digest()

    def _recall(self, text: bytes) -> None:
        """Learn again what is known by its digest, where it stands in a text."""
        for _, piece in _pieces(text):
            for word in set(piece.split()):
                digest = self._known(word) if word not in self._by_word and _is_learned(word) else None
                if digest and (original := self._around(word, text, digest)):
                    self._keep(word, original, digest.token)
        for value in self._alone.candidates(text):
            digest = self._known(value)
            if digest and not digest.before and not digest.after:
                self._alone.learn(value, digest.token)

    def _known(self, word: bytes) -> Digest | None:
        if word in self._strangers:
            return None
        digest = self._digests.get(self._digest(word))
        if digest is None:
            if len(self._strangers) >= STRANGERS_LIMIT:
                self._strangers.clear()
            self._strangers.add(word)
        return digest

    def _around(self, word: bytes, text: bytes, digest: Digest) -> bytes:
        """The secret whose word stands in a text; empty where only the word does."""
        if not digest.before and not digest.after:
            return word
        at = -1
        for _ in range(PLACES_LIMIT):
            at = text.find(word, at + 1)
            if at < 0:
                break
            for secret in _spelt_around(text, at, at + len(word), digest):
                if self._tokens.is_of(digest.token, secret):
                    return secret
        return b""

    def replaced(self, text: bytes, spend: Callable[[], None] = lambda: None) -> bytes:
        """Give a text without these secrets; the same object where it has none. `spend` is called for each that may be one."""
        if self._digests:
            self._recall(text)
        text = self._alone.replaced(text, spend)
        if not self._by_word or len(text) < SHORTEST:
            return text
        edits: list[Edit] = []
        for start, word in self._standing(text):
            spend()
            original, token = self._by_word[word]
            for spelling in _spellings(original):
                begin = start - spelling.find(word)
                if begin >= 0 and text.startswith(spelling, begin):
                    edits.append((begin, begin + len(spelling), token, ""))
                    break
        return apply(text, edits) if edits else text

    def _standing(self, text: bytes) -> Iterator[tuple[int, bytes]]:
        """Where in a text a word of these secrets is."""
        for at, piece in _pieces(text):
            if not self._by_word.keys().isdisjoint(piece.split()):
                yield from ((at + word.start(), word[0]) for word in _WORD.finditer(piece) if word[0] in self._by_word)

    def found(self, text: bytes) -> bool:
        """Whether any of these secrets may be in a text."""
        if self._digests:
            self._recall(text)
        if self._alone.found(text):
            return True
        return bool(self._by_word) and any(self._standing(text))


def _longest_word(text: bytes) -> bytes:
    return max((word for _, piece in _pieces(text) for word in piece.split()), key=len, default=b"")


def _is_learned(word: bytes) -> bool:
    return SHORTEST <= len(word) <= LONGEST and _IDENTIFIES.fullmatch(word) is not None


def _spelt_around(text: bytes, start: int, end: int, digest: Digest) -> Iterator[bytes]:
    """What stands around a word: as it is, and in percent-encoding."""
    yield text[max(start - digest.before, 0) : end + digest.after]
    for _ in range(digest.before):
        start -= 3 if _ESCAPE.fullmatch(text, start - 3, start) else 1
    for _ in range(digest.after):
        end += 3 if _ESCAPE.match(text, end) else 1
    yield unquote_to_bytes(text[max(start, 0) : end])


def _spellings(original: bytes) -> Iterable[bytes]:
    """A secret as it is, and as paths and queries have it."""
    return original, quote(original).encode(), quote(original, safe="").encode()


def _pieces(text: bytes) -> Iterator[tuple[int, bytes]]:
    """A text with blanks for all that is no word, piece by piece. What is percent-encoded is between words."""
    if b"%" in text:
        text = _ESCAPE.sub(b"   ", text)
    text = text.translate(_ONLY_WORDS)
    at = 0
    while at < len(text):
        end = len(text) if len(text) - at <= PIECE else text.find(b" ", at + PIECE)
        end = len(text) if end < 0 else end
        yield at, text[at:end]
        at = end
