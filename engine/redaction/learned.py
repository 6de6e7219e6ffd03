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
from typing import TypeVar

from engine.redaction import rules
from engine.redaction.alone import Alone
from engine.redaction.content import NotInspected, Reason
from engine.redaction.edits import Edit, apply
from engine.redaction.lengths import Lengths, without_escapes
from engine.redaction.randomness import is_meant, is_name, looks_random
from engine.redaction.spelt import readings
from engine.redaction.tokens import MARK, TEXT_IN_BASE64, Tokens

Value = TypeVar("Value")

SECRETS_LIMIT = 10_000
"""Secrets that are remembered, those that were told last, in memory and in a snapshot: some 4 MB."""
SHORTEST, LONGEST = 12, 4096
"""Bytes of a secret that is learned."""
WORD = 4
"""Letters and digits of the shortest word by which a secret is found."""
UNGUESSED = 10
"""Characters of the word or of the rest at least, where both may be random: else who has digest and token finds first the one by
trying, and then the other.
"""
DIGEST_BYTES = 16
DIGESTED_TOGETHER = 8
"""Words that are digested in the time in which a secret is found."""
DIGESTS_LIMIT = 100_000
"""Words of a text that are digested only to tell whether it is worth more: a tenth of a second."""
PLACES_LIMIT = 16
"""Places of a word in a text at which the rest of its secret is looked for around it."""

_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_BETWEEN = bytes(byte for byte in range(256) if byte not in _LETTERS)
_PART = re.compile(rb"[A-Za-z0-9]+")
_IS_ONE_CASE = re.compile(rb"[A-Z]+|[a-z]+")
_LONG = re.compile(rb"[A-Za-z0-9_\-]{%d,}" % SHORTEST)
_IS_CASED = re.compile(rb"[a-z].*[A-Z]|[A-Z].*[a-z]")
_IS_PADDED = re.compile(rb"(?:[A-Za-z0-9+/_\-]{4}){5,}[A-Za-z0-9+/_\-]{2,3}={1,2}")
"""Base64, in which letters may happen to look like words."""

_IS_STORED = re.compile(rules.TOKEN + rb"|[0-9][0-9\-]{10,22}[0-9]")
"""Tokens that a snapshot keeps with a digest: with a mark, or of numbers and cards."""


@dataclass(frozen=True, slots=True)
class Digest:
    """By what a secret is known again: a digest of a word in it, the length of that, how many are before and after, its token.

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
    """Secrets by a word of each, with what stands in for them. A text is searched for all of them in one pass."""

    def __init__(self, key: bytes = b"", digests: Iterable[Digest] = ()) -> None:
        """`digests`: of what was learned before, under the same key."""
        self._tokens = Tokens(key)
        self._keyed = blake2b(key=key, digest_size=DIGEST_BYTES, person=b"learned")
        self._told: dict[bytes, bytes] = {}
        """Secrets, the one that was told last in the end, with the word of each; empty for those that are known alone."""
        self._by_word: dict[bytes, tuple[bytes, bytes]] = {}
        self._alone = Alone()
        self._new: dict[bytes, Digest] = {}
        self._digests = {digest.word: digest for digest in digests}
        self._noted = {word: number for number, word in enumerate(self._digests)}
        self._count = len(self._noted)
        self._lengths = Lengths(_LETTERS, _BETWEEN)
        for digest in self._digests.values():
            (self._alone.lengths if digest.alone else self._lengths).add(digest.length)

    def learn(self, secrets: Mapping[bytes, bytes]) -> None:
        """Remember secrets by what stands in for them."""
        for original, token in secrets.items():
            if word := self._word_of(original, token):
                self._keep(word, original, token)
                before = original.find(word)
                self._note(Digest(self._digest(word), len(word), before, len(original) - before - len(word), False, token))
            elif self._alone.learn(original, token):
                self._remember(original, b"")
                self._note(Digest(self._digest(original), len(original), 0, 0, True, token))

    def take_new(self) -> list[Digest]:
        """Give digests of what was learned since the last time."""
        new = list(self._new.values())
        self._new.clear()
        return new

    def _note(self, digest: Digest) -> None:
        """Have a digest stored; that of a secret that is told again not each time, but before it is one of the oldest."""
        at = self._noted.get(digest.word, -SECRETS_LIMIT)
        if self._count - at <= SECRETS_LIMIT // 2 or not _IS_STORED.fullmatch(digest.token):
            return
        self._count += 1
        _put_last(self._noted, digest.word, self._count)
        _put_last(self._new, digest.word, digest)

    def _keep(self, word: bytes, original: bytes, token: bytes) -> None:
        self._by_word[word] = original, token
        self._lengths.add(len(word))
        self._remember(original, word)

    def _remember(self, original: bytes, word: bytes) -> None:
        for old, known_by in _put_last(self._told, original, word):
            if not known_by:
                self._alone.forget(old)
            elif self._by_word[known_by][0] == old:
                del self._by_word[known_by]

    def _word_of(self, original: bytes, token: bytes) -> bytes:
        """The word by which a secret may be known wherever it stands, if possible none of another; empty where there is none."""
        if not (SHORTEST <= len(original) <= LONGEST and token.startswith(MARK) and _is_random(original, token)):
            return b""
        parts = set(_PART.findall(without_escapes(original)))
        unsafe = len([part for part in parts if not _IS_ONE_CASE.fullmatch(part)]) > 1
        usable = [
            part
            for part in parts
            if len(part) >= WORD
            and (not unsafe or max(len(part), len(original) - len(part)) >= UNGUESSED)
            and (not is_meant(part) or len(part) >= SHORTEST or is_name(original))
        ]
        return max(usable, key=lambda word: (not self._is_others(word, original), not is_meant(word), len(word), word), default=b"")

    def _is_others(self, word: bytes, original: bytes) -> bool:
        return word in self._by_word and self._by_word[word][0] != original

    def _digest(self, word: bytes) -> bytes:
        made = self._keyed.copy()
        made.update(word)
        return made.digest()

    def recall(self, text: bytes, spend: Callable[[], None] = lambda: None) -> None:
        """Learn again what is known by its digest, where it stands in a text: once for each text, before it is searched."""
        if not self._digests:
            return
        for word, digest in self._known(self._lengths.words(text), spend):
            if not digest.alone and word not in self._by_word and (original := self._around(word, text, digest, spend)):
                self._keep(word, original, digest.token)
        for value, digest in self._known(self._alone.lengths.words(text), spend):
            if digest.alone and self._alone.learn(value, digest.token):
                self._remember(value, b"")

    def _known(self, words: Iterable[bytes], spend: Callable[[], None]) -> Iterator[tuple[bytes, Digest]]:
        for number, word in enumerate(words, 1):
            if not number % DIGESTED_TOGETHER:
                spend()
            if digest := self._digests.get(self._digest(word)):
                yield word, digest

    def _around(self, word: bytes, text: bytes, digest: Digest, spend: Callable[[], None]) -> bytes:
        """The secret whose word stands in a text; empty where only the word does."""
        if not digest.before and not digest.after:
            return word
        at = -1
        for _ in range(PLACES_LIMIT):
            at = text.find(word, at + 1)
            if at < 0:
                break
            for _, _, secret in readings(text, at, at + len(word), digest.before, digest.after, spend):
                if self._tokens.is_of(digest.token, secret):
                    return secret
        return b""

    def replaced(self, text: bytes, spend: Callable[[], None] = lambda: None) -> bytes:
        """Give a text without these secrets; the same object where it has none. `spend` is called for each that may be one."""
        text = self._alone.replaced(text, spend)
        edits = list(self._edits(text, spend))
        return apply(text, edits) if edits else text

    def _edits(self, text: bytes, spend: Callable[[], None]) -> Iterator[Edit]:
        if not self._by_word or len(text) < SHORTEST:
            return
        for start, word in self._lengths.places(text, self._by_word):
            spend()
            original, token = self._by_word[word]
            before = original.find(word)
            after = len(original) - before - len(word)
            for begin, end, secret in readings(text, start, start + len(word), before, after, spend):
                if secret == original:
                    yield begin, end, token, ""
                    break

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
            return self._alone.found(text) or any(True for _ in self._edits(text, spend))
        except NotInspected:
            return True


def _put_last(kept: dict[bytes, Value], name: bytes, value: Value) -> list[tuple[bytes, Value]]:
    """Put something at the end of what is kept, and give what that leaves no room for."""
    kept.pop(name, None)
    kept[name] = value
    return [(oldest := next(iter(kept)), kept.pop(oldest))] if len(kept) > SECRETS_LIMIT else []


def _is_random(text: bytes, token: bytes) -> bool:
    """Whether a secret is nothing else by accident: as a whole, or a long word in it."""
    words = _LONG.findall(without_escapes(text))
    if _IS_PADDED.fullmatch(text) or token.startswith(TEXT_IN_BASE64):
        return any(map(_IS_CASED.search, words)) or looks_random(text)
    return looks_random(text) or any(looks_random(word) for word in words if not word.isdigit())
