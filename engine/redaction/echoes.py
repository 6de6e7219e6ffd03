"""Replaces what was recognised as a secret wherever else it stands in the same messages, in whatever way it is written there.

A secret is looked for as it is, with escapes (of JSON, of URLs, of XML, also on top of each other), and in base64. The search is
cheap where it is not there: each text is first searched for pieces of the secrets that no escape can change. Whatever the number of
secrets, that is one pass; where a piece is found, it says which secrets are worth a pass of their own, and which base64 is decoded.
What takes longer than a pass is counted for each message.
"""

from __future__ import annotations

import html
import json
import re
from base64 import b64decode, b64encode
from binascii import Error
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, quote_plus

from engine.redaction import rules
from engine.redaction.content import NotInspected, Reason
from engine.redaction.edits import Edit, apply
from engine.redaction.learned import Learned
from engine.redaction.originals import Originals
from engine.redaction.pattern import Pattern
from engine.redaction.tokens import MARK

SHORTEST = 8
"""Bytes of the shortest secret that is looked for elsewhere: shorter ones are in a text by accident."""
SECRETS_LIMIT = 64
"""Secrets of a message that are looked for, besides those of the messages before it."""
TOTAL_LIMIT = 4 * SECRETS_LIMIT
"""Secrets that are looked for in one message: those of its request, of interim responses, and its own."""
TOGETHER = 4
"""Secrets that are looked for in one pass: the automaton of more outgrows its memory on a text of their beginnings, and is then a
hundred times slower.
"""
SPELT_LIMIT = 128
"""Bytes of a secret of which any may be escaped. A longer one is looked for as common encoders write it."""
FINDS_LIMIT = 32 * 1024 * 1024
"""Bytes of a message that are searched for one piece of a secret after the other: some 30 ms. From then on it is worth the
automaton that finds all pieces at once.
"""
FIND_COST = 256
"""Bytes that can be searched in the time in which a search begins."""
CORE_LIMIT = 64
"""Letters and digits of a secret that are looked for first."""
BASE64_PIECE = 16
"""Characters of base64 by which a secret in it is found."""
BASE64_DEPTH = 2
"""Base64 within base64 that is gone into."""
REMEMBERED, FEW = 64, 8
"""Sets of some, and of all, secrets whose automata are remembered: a key is in every request of a program."""

RECALLED_LIMIT = 1000
"""Texts of a message that are remembered as looked through, by their hashes."""
WORK_LIMIT = 200_000
"""What may be done for the echoes of a message, in finds of a secret: a second or two of work."""
DECODED_COST = 8
"""Finds that base64 counts for that is decoded and searched."""
PASS_BYTES, LOOSE_BYTES = 16 * 1024, 1024
"""Bytes of a pass for some secrets that count as a find. Among escaped letters an automaton is slower, for it knows them all."""

_WORD = re.compile(rb"[A-Za-z_\-]{8,20}")
_WORD_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
_IS_NAME = re.compile(rb"\\{0,16}[\"']\s{0,16}:|=")
_ALNUM = re.compile(rb"[A-Za-z0-9]+")
_VARIED = re.compile(rb"([A-Za-z0-9])[^A-Za-z0-9]*+(?!\1)[A-Za-z0-9]")
"""Two letters or digits that differ."""
_LETTER = rb"(?:3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa])"
_DECIMAL = rb"(?:4[89]|5[0-7]|6[5-9]|[78][0-9]|90|9[7-9]|1[01][0-9]|12[0-2])"
_ESCAPED_LETTER = Pattern(
    rb"%(?:25)*" + _LETTER + rb"|\\(?:u00|x)" + _LETTER + rb"|&(?:amp;)*#(?:0*" + _DECIMAL + rb"|[xX]0*" + _LETTER + rb");"
)
"""A letter or digit that is written with an escape. Hardly any text has one."""
_PADDING = re.compile(rb"=|%(?:25)*3[dD]|\\u003[dD]")
_BASE64_RUN = re.compile(rb"((?:[A-Za-z0-9+/_\-]|\\/){10,}+)((?:" + _PADDING.pattern + rb"){0,2})")
"""Letters, and what may be padding: as it is, and with the escapes of URLs and of JSON."""
_GOES_ON = re.compile(rb"\.[A-Za-z0-9_\-]|%(?:25)*2[bBfF]|\\u002[bBfF]")
"""Behind a run: another part of a JWT or of a name, or a character of base64 with an escape."""
_IN_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_-\\"
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_FROM_URL_SAFE = bytes.maketrans(b"+/", b"-_")


@dataclass(frozen=True, slots=True)
class _Pieces:
    """By what a secret is found: `core`, of its longest run of letters and digits; pieces of it in base64, each with the characters
    from the begin of its group of four.
    """

    core: bytes
    base64: tuple[tuple[bytes, int], ...]


@dataclass(frozen=True, slots=True)
class _Secret:
    """What is looked for, and what stands in for it."""

    original: bytes
    token: bytes
    pieces: _Pieces


class Echoes:
    """The secrets that were recognised in some messages, and what stands in for each, while one message is searched for them."""

    def __init__(self, others: Echoes | None = None, learned: Learned | None = None) -> None:
        """`others`: those of the request that is answered. `learned`: what earlier answers told."""
        self._learned: Learned = learned or (others._learned if others else Learned())
        self._secrets: dict[bytes, _Secret] = dict(others._secrets) if others else {}
        self._limit = min(len(self._secrets) + SECRETS_LIMIT, TOTAL_LIMIT)
        self._common: dict[bytes, tuple[bytes, ...]] = {}
        self._looked = 0
        self._recalled: set[int] = set()
        self._left = WORK_LIMIT

    def add(self, original: bytes, token: bytes) -> None:
        """Note a secret that was recognised. One that is short, or nothing but a rule or a filler, is not looked for elsewhere."""
        if len(original) < SHORTEST or original == token or len(self._secrets) >= self._limit or original in self._secrets:
            return
        if _VARIED.search(original) and not original.startswith(MARK):
            self._secrets[original] = _Secret(original, token, _pieces(original))

    def replaced(self, text: bytes, originals: Originals, depth: int = 0) -> bytes:
        """Give a text without these secrets; the same object where it has none. Short tokens are added to `originals`.

        Raises NotInspected where that is more work than any real message makes.
        """
        self._recall(text)
        text = self._learned.replaced(text, self._spend)
        if not self._secrets or len(text) < SHORTEST:
            return text
        held, loose, in_base64 = self._held(text)
        if held:
            text = self._long_replaced(text, held)
            text = self._spelt_replaced(text, held, originals, loose=loose)
        return self._recoded(text, originals, depth) if in_base64 and depth < BASE64_DEPTH else text

    def told_since(self, others: Echoes) -> dict[bytes, bytes]:
        """The secrets that others had not, and what stands in for them."""
        return {original: secret.token for original, secret in self._secrets.items() if original not in others._secrets}

    def found(self, text: bytes) -> bool:
        """Whether any of these secrets is in a text. Raises NotInspected."""
        return self.replaced(text, Originals()) != text

    def _recall(self, text: bytes) -> None:
        """Have those of earlier answers known that stand in a text: once, for it is gone through several times."""
        if hash(text) not in self._recalled:
            if len(self._recalled) < RECALLED_LIMIT:
                self._recalled.add(hash(text))
            self._learned.recall(text, self._spend)

    def _spend(self, count: int = 1) -> None:
        self._left -= count
        if self._left < 0:
            raise NotInspected(Reason.ECHOES)

    def _held(self, text: bytes) -> tuple[list[_Secret], bool, bool]:
        """Which secrets a text may have in it, whether because letters are escaped, and whether any may be in base64."""
        secrets = self._secrets.values()
        self._looked += len(secrets) * (len(text) + FIND_COST)
        at_once = self._looked > FINDS_LIMIT
        if at_once and not _any_of(tuple(self._secrets)).found(text):
            return [], False, False
        loose = (b"\\" in text or b"%" in text or b"&" in text) and _ESCAPED_LETTER.found(text)
        if at_once:
            return list(secrets), loose, True
        held = [secret for secret in secrets if loose or secret.pieces.core in text]
        return held, loose, True in [piece in text for secret in secrets for piece, _ in secret.pieces.base64]

    def _long_replaced(self, text: bytes, held: Collection[_Secret]) -> bytes:
        """The same of long secrets, each by itself. No escape changes what is looked for first, and none makes them shorter."""
        for secret in sorted(held, key=lambda secret: len(secret.original), reverse=True):
            if not SPELT_LIMIT < len(secret.original) <= len(text) or secret.pieces.core not in text:
                continue
            if secret.original not in self._common:
                self._common[secret.original] = tuple(dict.fromkeys(_common(secret.original)))
            for spelling in self._common[secret.original]:
                self._spend(1 + len(text) // PASS_BYTES)
                text = text.replace(spelling, secret.token)
        return text

    def _spelt_replaced(self, text: bytes, held: Collection[_Secret], originals: Originals, *, loose: bool) -> bytes:
        """The same of the others: some of them in a pass, then all that was found at once."""
        spelt = [secret for secret in held if len(secret.original) <= SPELT_LIMIT]
        found: list[tuple[int, int, _Secret]] = []
        for at in range(0, len(spelt), TOGETHER):
            some = spelt[at : at + TOGETHER]
            if loose or any(secret.pieces.core in text for secret in some):
                self._spend(len(text) // (LOOSE_BYTES if loose else PASS_BYTES))
                found += self._spelt(text, sorted(some, key=lambda secret: len(secret.original), reverse=True))
        edits: list[Edit] = []
        for start, end, secret in sorted(found, key=lambda each: each[0]):
            if not any(mark in secret.token for mark in MARK):
                originals.add(secret.token, secret.original)
            edits.append((start, end, secret.token, ""))
        return apply(text, edits) if edits else text

    def _spelt(self, text: bytes, secrets: list[_Secret]) -> Iterator[tuple[int, int, _Secret]]:
        pattern = _any_spelling_of(tuple([secret.original for secret in secrets]))
        for (start, end), *groups in pattern.spans(text, *range(len(secrets) + 1)):
            self._spend()
            secret = next((secret for secret, group in zip(secrets, groups, strict=True) if group[0] >= 0), None)
            if secret and _is_meant(text, start, end):
                yield start, end, secret

    # -- base64 --------------------------------------------------------------------------------------------------------------

    def _recoded(self, text: bytes, originals: Originals, depth: int) -> bytes:
        """The same of what is in base64: each run of it that has a piece of a secret is decoded, and coded again."""
        pieces, leads = _in_base64(tuple(self._secrets))
        edits: list[Edit] = []
        at = 0
        for ((start, end),) in pieces.spans(text, 0):
            self._spend()
            if start >= at:
                run = _run_around(text, at, start)
                at = run.end()
                before = len(_plain(text[run.start() : start]))
                new = self._run_recoded(run, before - leads[text[start:end]], originals, depth)
                edits.append((run.start(), at, new, ""))
        return apply(text, edits) if edits else text

    def _run_recoded(self, run: re.Match[bytes], begin: int, originals: Originals, depth: int) -> bytes:
        """The same of one run, which has a group of four that begins at `begin`; others may begin elsewhere."""
        plain = _plain(run[1])
        for start in [(begin + turn) % 4 for turn in range(4)]:
            self._spend(DECODED_COST)
            end = len(plain) - ((len(plain) - start) % 4 == 1)
            decoded = _decoded(plain[start:end])
            new = self.replaced(decoded, originals, depth + 1)
            if new != decoded:
                return _coded(new, run, plain, start, end)
        return run[0]


@lru_cache(TOTAL_LIMIT)
def _pieces(original: bytes) -> _Pieces:
    found: dict[bytes, int] = {}
    begin = original[: BASE64_PIECE * 2]
    for shift, lead in ((0, 0), (1, 2), (2, 3)):
        coded = b64encode(bytes(shift) + begin)[lead : (shift + len(begin)) * 8 // 6][:BASE64_PIECE]
        for piece in (coded, coded.translate(_FROM_URL_SAFE), coded.replace(b"/", b"\\/")):
            found[piece] = lead
    return _Pieces(max(_ALNUM.findall(original), key=len)[:CORE_LIMIT], tuple(found.items()))


@lru_cache(FEW)
def _any_of(originals: tuple[bytes, ...]) -> Pattern:
    """What is in every text that may have one of these in it."""
    pieces = [_pieces(original) for original in originals]
    literals = {each.core for each in pieces} | {piece for each in pieces for piece, _ in each.base64}
    return Pattern(b"|".join([re.escape(each) for each in literals]) + b"|" + _ESCAPED_LETTER.pattern)


@lru_cache(FEW)
def _in_base64(originals: tuple[bytes, ...]) -> tuple[Pattern, dict[bytes, int]]:
    """What base64 has in it that has one of these in it, and how far behind the begin of a group of four."""
    leads = {piece: lead for original in originals for piece, lead in _pieces(original).base64}
    return Pattern(b"|".join([re.escape(piece) for piece in leads])), leads


def _is_meant(text: bytes, start: int, end: int) -> bool:
    """Whether it is more than a part of a word or number, and no name of a field that happens to be the same word."""
    found = text[start:end]
    before, after = text[start - 1 : start], text[end : end + 1]
    if found.isdigit():
        return not (before.isdigit() or after.isdigit() or before == b".")
    if not _WORD.fullmatch(found):
        return True
    if (before and before[0] in _WORD_BYTES) or (after and after[0] in _WORD_BYTES):
        return False
    return not (_IS_NAME.match(text, end) or before == b"<" or text[max(0, start - 2) : start] == b"</")


# -- spellings -----------------------------------------------------------------------------------------------------------


@lru_cache(REMEMBERED)
def _any_spelling_of(originals: tuple[bytes, ...]) -> Pattern:
    """Matches each of them in a group of its own, and tokens in none: a secret may be a part of what a token has."""
    return Pattern(
        b"|".join([rules.TOKEN_AS_TEXT, *[b"(" + _any_spelling(original) + b")" for original in originals]]), MEMORY_LIMIT
    )


MEMORY_LIMIT = 8 * 1024 * 1024
"""Bytes for the automaton of one pattern of secrets, for several are remembered."""

_MARKS = {'"': b"quot", "'": b"apos", "&": b"amp", "<": b"lt", ">": b"gt"}
_SHORT = {"\n": b"n", "\r": b"r", "\t": b"t", "\b": b"b", "\f": b"f"}
_BACKSLASHES = rb"(?:\\|%(?:25)*5[cC])"


def _any_spelling(original: bytes) -> bytes:
    try:
        return b"".join([_spelling(char) for char in original.decode()])
    except UnicodeDecodeError:
        return b"".join([b"(?:" + re.escape(bytes((byte,))) + b"|" + _percent(bytes((byte,))) + b")" for byte in original])


def _common(original: bytes) -> Iterator[bytes]:
    """A long secret as JSON, forms, URLs and XML have it."""
    yield original
    yield quote(original).encode()
    yield quote_plus(original).encode()
    yield quote(original, safe="").encode()
    text = original.decode("utf-8", "surrogateescape")
    for ascii_only in (True, False):
        coded = json.dumps(text, ensure_ascii=ascii_only)[1:-1].encode("utf-8", "surrogateescape")
        yield coded
        yield coded.replace(b"/", b"\\/")
    yield html.escape(text).encode("utf-8", "surrogateescape")


@lru_cache(1024)
def _spelling(char: str) -> bytes:
    """All ways to write a character."""
    raw = char.encode()
    code = ord(char)
    ways = [re.escape(raw), _percent(raw), rb"&(?:amp;)*#(?:0*%d|[xX]0*%b);" % (code, _hex(b"%x" % code))]
    units = char.encode("utf-16-be").hex()
    ways.append(b"".join([rb"\\+u" + _hex(units[at : at + 4].encode()) for at in range(0, len(units), 4)]))
    if code < 256:
        ways.append(rb"\\+x" + _hex(b"%02x" % code))
    if char in _MARKS:
        ways.append(b"&(?:amp;)*" + _MARKS[char] + b";")
    if char in _SHORT:
        ways.append(_BACKSLASHES + b"+" + _SHORT[char])
    if char == " ":
        ways.append(rb"\+|%(?:25)*2[bB]")
    spelt = b"(?:" + b"|".join(ways) + b")"
    if char == "\\":
        return b"(?:" + _BACKSLASHES + b"+|" + spelt + b")"
    return _BACKSLASHES + b"*" + spelt if char in "\"'/`" else spelt


def _percent(raw: bytes) -> bytes:
    return b"".join([b"%(?:25)*" + _hex(b"%02x" % byte) for byte in raw])


def _hex(digits: bytes) -> bytes:
    return b"(?i:" + digits + b")"


# -- base64 --------------------------------------------------------------------------------------------------------------


def _run_around(text: bytes, low: int, at: int) -> re.Match[bytes]:
    """The run of base64 that goes on at `at`; `low`: where the one before it ended."""
    begin = low + len(text[low:at].rstrip(_IN_BASE64))
    return next(run for run in _BASE64_RUN.finditer(text, begin) if run.end() > at)


def _plain(run: bytes) -> bytes:
    return run.replace(b"\\/", b"/")


def _decoded(coded: bytes) -> bytes:
    try:
        return b64decode(coded.translate(_URL_SAFE) + b"=" * (-len(coded) % 4))
    except Error:
        return b""


def _coded(text: bytes, run: re.Match[bytes], plain: bytes, start: int, end: int) -> bytes:
    """A run with this text in place of what its letters from `start` to `end` say: in its alphabet, padded and escaped alike."""
    coded = b64encode(text).rstrip(b"=")
    url_safe = b"-" in plain or b"_" in plain
    if url_safe:
        coded = coded.translate(_FROM_URL_SAFE)
    behind = run[2]
    marks = _PADDING.findall(behind)
    if end == len(plain) and not (end - start + len(marks)) % 4:
        mark = marks[0] if marks else b"" if url_safe or _is_in_parts(run) else b"="
        behind = mark * (-len(coded) % 4)
    coded = plain[:start] + coded + plain[end:]
    return (coded.replace(b"/", b"\\/") if b"\\/" in run[1] else coded) + behind


def _is_in_parts(run: re.Match[bytes]) -> bool:
    """Whether a run without padding is a part of a JWT or of a name, or does not end where it seems to: padding is not for these.

    Of others whose length needs none, nothing tells whether the encoder pads: most do, but with the alphabet of URLs.
    """
    text = run.string
    return text[run.start() - 1 : run.start()] == b"." or _GOES_ON.match(text, run.end()) is not None
