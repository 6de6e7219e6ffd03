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
from engine.redaction.alone import IS_KEY, Alone
from engine.redaction.content import NotInspected, Reason
from engine.redaction.edits import Edit, apply
from engine.redaction.lengths import Lengths
from engine.redaction.randomness import looks_random
from engine.redaction.tokens import MARK, TEXT_IN_BASE64, Tokens

SECRETS_LIMIT = 10_000
"""Secrets that are remembered, the latest, in memory and in a snapshot: some 4 MB."""
SHORTEST, LONGEST = 12, 4096
"""Bytes of a secret that is learned, and of its longest word at least."""
DIGEST_BYTES = 16
DIGESTED_TOGETHER = 8
"""Words that are digested in the time in which a secret is found."""
DIGESTS_LIMIT = 100_000
"""Words of a text that are digested only to tell whether it is worth more: a tenth of a second."""
PLACES_LIMIT = 16
"""Places of a word in a text at which the rest of its secret is looked for around it."""

_ESCAPE = re.compile(rb"%[0-9A-Fa-f]{2}")
_IN_WORDS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
_BETWEEN = bytes(byte for byte in range(256) if byte not in _IN_WORDS)
_WORD = re.compile(rb"[A-Za-z0-9_\-]{%d,%d}" % (SHORTEST, LONGEST))
_IS_CASED = re.compile(rb"[a-z].*[A-Z]|[A-Z].*[a-z]")
_IS_PADDED = re.compile(rb"(?:[A-Za-z0-9+/_\-]{4}){5,}[A-Za-z0-9+/_\-]{2,3}={1,2}")
"""Base64, in which letters may happen to look like words."""

_IS_STORED = re.compile(rules.TOKEN + rb"|[0-9][0-9\-]{10,22}[0-9]")
"""Tokens that a snapshot keeps with a digest: with a mark, or of numbers and cards."""


@dataclass(frozen=True, slots=True)
class Digest:
    """By what a secret is known again: a digest of its longest random word, the length of that, how many bytes are before and after
    it, and the secret's token.

    Of one that is known only where it stands `alone` (see `Alone`) all of it is the word. The length spares a digest of most words.
    """

    word: bytes
    length: int
    before: int
    after: int
    alone: bool
    token: bytes

    def check(self) -> None:
        """Raise ValueError where it is none that was made here."""
        if not (
            0 < self.length <= LONGEST
            and 0 <= self.before <= LONGEST
            and 0 <= self.after <= LONGEST
            and _IS_STORED.fullmatch(self.token)
        ):
            raise ValueError("a secret that no answer told")


class Learned:
    """Secrets by their longest words, each with what stands in for it. A text is searched for all of them in one pass."""

    def __init__(self, key: bytes = b"", digests: Iterable[Digest] = ()) -> None:
        """`digests`: of what was learned before, under the same key."""
        self._tokens = Tokens(key)
        self._keyed = blake2b(key=key, digest_size=DIGEST_BYTES, person=b"learned")
        self._by_word: dict[bytes, tuple[bytes, bytes]] = {}
        self._alone = Alone()
        self._new: dict[bytes, Digest] = {}
        self._digests = {digest.word: digest for digest in digests}
        self._lengths = Lengths(_IN_WORDS, _BETWEEN)
        for digest in self._digests.values():
            (self._alone.lengths if digest.alone else self._lengths).add(digest.length)

    def learn(self, secrets: Mapping[bytes, bytes]) -> None:
        """Remember secrets by what stands in for them."""
        for original, token in secrets.items():
            word = _longest_word(original, token) if SHORTEST <= len(original) <= LONGEST and token.startswith(MARK) else b""
            if not word:
                if self._alone.learn(original, token):
                    self._note(Digest(self._digest(original), len(original), 0, 0, True, token))
            elif self._by_word.get(word) != (original, token):
                self._keep(word, original, token)
                before = original.find(word)
                after = len(original) - before - len(word)
                self._note(Digest(self._digest(word), len(word), before, after, False, token))

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
        self._lengths.add(len(word))
        if len(self._by_word) > SECRETS_LIMIT:
            del self._by_word[next(iter(self._by_word))]

    def _digest(self, word: bytes) -> bytes:
        made = self._keyed.copy()
        made.update(word)
        return made.digest()

    def recall(self, text: bytes, spend: Callable[[], None] = lambda: None) -> None:
        """Learn again what is known by its digest, where it stands in a text: once for each text, before it is searched."""
        if not self._digests:
            return
        for word, digest in self._known(self._lengths.words(text), spend):
            if not digest.alone and word not in self._by_word and (original := self._around(word, text, digest)):
                self._keep(word, original, digest.token)
        for value, digest in self._known(self._alone.lengths.words(text), spend):
            if digest.alone:
                self._alone.learn(value, digest.token)

    def _known(self, words: Iterable[bytes], spend: Callable[[], None]) -> Iterator[tuple[bytes, Digest]]:
        for number, word in enumerate(words, 1):
            if not number % DIGESTED_TOGETHER:
                spend()
            if digest := self._digests.get(self._digest(word)):
                yield word, digest

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
        text = self._alone.replaced(text, spend)
        if not self._by_word or len(text) < SHORTEST:
            return text
        edits: list[Edit] = []
        for start, word in self._lengths.places(text, self._by_word):
            spend()
            original, token = self._by_word[word]
            for spelling in _spellings(original):
                begin = start - spelling.find(word)
                if begin >= 0 and text.startswith(spelling, begin) and not IS_KEY.match(text, begin + len(spelling)):
                    edits.append((begin, begin + len(spelling), token, ""))
                    break
        return apply(text, edits) if edits else text

    def found(self, text: bytes) -> bool:
        """Whether any of these secrets may be in a text."""
        left = DIGESTS_LIMIT

        def spend() -> None:
            nonlocal left
            left -= DIGESTED_TOGETHER
            if left < 0:
                raise NotInspected(Reason.ECHOES)

        try:
            self.recall(text, spend)
        except NotInspected:
            return True
        return self._alone.found(text) or any(True for _ in self._lengths.places(text, self._by_word))


def _longest_word(text: bytes, token: bytes) -> bytes:
    """The longest word of a secret that may be known wherever it stands; empty where none may."""
    is_known = _IS_CASED.search if _IS_PADDED.fullmatch(text) or token.startswith(TEXT_IN_BASE64) else looks_random
    return max(filter(is_known, _WORD.findall(_ESCAPE.sub(b"   ", text))), key=len, default=b"")


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
