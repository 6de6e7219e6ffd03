"""Secrets that the answers of a recording told: clients send them back in places where no name gives them away: a path, `?t=`.

Only what a server made up is learned. A client under mock never has it, but the token that stands in for it, which its recorded
request then has as well. What a client brings itself it brings again, so its requests must not depend on others before them.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from urllib.parse import quote

from engine.redaction.alone import Alone
from engine.redaction.edits import Edit, apply
from engine.redaction.tokens import MARK

SECRETS_LIMIT = 10_000
"""Secrets that are remembered, the latest: some 4 MB."""
SHORTEST, LONGEST = 12, 4096
"""Bytes of a secret that is learned, and of its longest word at least."""

PIECE = 64 * 1024
"""Bytes of a text whose words are taken at a time."""

_ESCAPE = re.compile(rb"%[0-9A-Fa-f]{2}")
_IN_WORDS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
_ONLY_WORDS = bytes(byte if byte in _IN_WORDS else 32 for byte in range(256))
_WORD = re.compile(rb"[^ ]{%d,}" % SHORTEST)
_IDENTIFIES = re.compile(rb"(?=.*[A-Za-z])(?=.*[0-9]).*", re.DOTALL)
"""What no ordinary word or number is."""


class Learned:
    """Secrets by their longest words, each with what stands in for it. A text is searched for all of them in one pass."""

    def __init__(self) -> None:
        self._by_word: OrderedDict[bytes, tuple[bytes, bytes]] = OrderedDict()
        self._alone = Alone()

    def learn(self, secrets: Mapping[bytes, bytes]) -> None:
        """Remember secrets by what stands in for them."""
        for original, token in secrets.items():
            if not (SHORTEST <= len(original) <= LONGEST and token.startswith(MARK)):
                self._alone.learn(original, token)
                continue
            word = max((word for _, piece in _pieces(original) for word in piece.split()), key=len, default=b"")
            if len(word) >= SHORTEST and _IDENTIFIES.fullmatch(word):
                self._by_word[word] = original, token
                self._by_word.move_to_end(word)
                if len(self._by_word) > SECRETS_LIMIT:
                    self._by_word.popitem(last=False)
            else:
                self._alone.learn(original, token)

    def replaced(self, text: bytes, spend: Callable[[], None] = lambda: None) -> bytes:
        """Give a text without these secrets; the same object where it has none. `spend` is called for each that may be one."""
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
        if self._alone.found(text):
            return True
        return bool(self._by_word) and any(self._standing(text))


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
