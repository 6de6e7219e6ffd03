"""Tells what was made at random from what means something: words, names, versions, places, dates and times.

Either may be the value of a cookie or be called a token. What was made at random is the same secret elsewhere, too, but
`eu-west-1` is a region there.
"""

from __future__ import annotations

import re

from engine.redaction import rules
from engine.redaction.tokens import is_luhn_valid

SHORTEST = 8
"""Characters of the shortest value that is long enough to be nothing else by accident."""
HEX_DIGITS = 16
"""Hexadecimal digits, dashes aside, of which any letters and digits are random: half of a UUID."""
LONG = 14
"""Letters and digits, with letters of both cases, that are random where less than half of them are in words."""
ONE_WORD = 20
"""Letters in a row, and nothing else, that are no ordinary word."""
PER_TURN = 6
"""Characters for each turn between letters and digits, besides the first in each part, that a random value has at most."""
TURNS = 2
"""Turns of the shortest, besides the first in each part."""
TURNS_BY_LENGTH = 48
"""What turns and characters of one part multiply to: 3 turns of 16, 2 of 24."""
LONG_PART = 16
"""Characters of a part in which more consonants in a row than words have are random, if letters and digits take turns."""
SHORT_MIXED = 10
"""Letters of both cases and digits, with nothing between, that are random where a word or number ends after two on average."""
DIFFERENT_DIGITS = 4
"""Different digits of a number that is not round."""

_DATE = rb"(?:19|20)[0-9]{2}[\-._]?(?:0[1-9]|1[0-2])[\-._]?(?:0[1-9]|[12][0-9]|3[01])"
_DATES = re.compile(rb"(?<![0-9A-Za-z])" + _DATE + rb"(?:[T\-._]?[0-9]{2,9}Z?)?(?![0-9A-Za-z])")
_IS_TIME = re.compile(_DATE + rb"[0-9]{0,9}|1[5-9][0-9]{8}(?:[0-9]{3}){0,3}")
"""Digits of a date, perhaps with the time of day; seconds to nanoseconds since 1970, from 2017 to 2033."""
_IS_HEX = re.compile(rb"(?=[^0-9]*[0-9])(?=[^A-Fa-f]*[A-Fa-f])[0-9A-Fa-f\-]+")
_PART = re.compile(rb"[A-Za-z0-9]+")
_RUN = re.compile(rb"[0-9]+|[A-Za-z]+")
_WORD = re.compile(rb"[A-Z][a-z]{3,}|[a-z]{4,}")
"""What may be a word in a name such as `InvalidS3Region`. In random letters of both cases these make up a third."""
_BOTH_CASES = re.compile(rb"(?=[^a-z]*[a-z])[^A-Z]*[A-Z]")
_PIECE = re.compile(rb"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
"""A word or number of a name such as `getUserById2`."""
_IS_MEANT = re.compile(rb"[0-9]*(?:[A-Z]?[a-z]+(?:[A-Z][a-z]+)*[A-Z]*|[A-Z]+[a-z]*)?[0-9]*")
_CONSONANTS = re.compile(rb"(?i)[bcdfghjklmnpqrstvwxz]{5}")
_BLANK = re.compile(rb"[\x00-\x20\x7f]")
_IN_NAMES = re.compile(rb"[A-Za-z0-9._~\-]+")
_IS_ONE_WORD = re.compile(rb"[a-z]{%d,}|[A-Z]{%d,}" % (ONE_WORD, ONE_WORD))


def looks_random(value: bytes) -> bool:
    """Whether a value was made at random: one that is none passes for it hardly ever; of short ones, many are not recognised."""
    if len(value) < SHORTEST or _BLANK.search(value):
        return False
    if rules.CARD_WHOLE.fullmatch(value):
        return is_luhn_valid(value.translate(None, b" -")) or _is_number(value)
    if value.isdigit():
        return _is_number(value)
    value = _DATES.sub(b"", value)
    if _IS_HEX.fullmatch(value) and len(value) - value.count(b"-") >= HEX_DIGITS:
        return True
    parts: list[bytes] = _PART.findall(value)
    length = sum(map(len, parts))
    cased = _BOTH_CASES.match(value) is not None
    if (cased and 2 * sum(map(len, _WORD.findall(value))) > length) or _is_put_together(value, parts, length):
        return False
    turns = [len(_RUN.findall(part)) - 1 for part in parts]
    if (cased and length >= LONG) or any(map(_is_mixed, parts, turns)):
        return True
    if cased and len(parts) == 1 and length >= SHORT_MIXED and turns[0] > 1 and not is_meant(parts[0]):
        return 2 * len(_PIECE.findall(parts[0])) >= length
    return sum(max(turned - 1, 0) for turned in turns) >= max(TURNS, length / PER_TURN)


def _is_mixed(part: bytes, turns: int) -> bool:
    if turns < 2:
        return False
    return turns * len(part) >= TURNS_BY_LENGTH or (len(part) >= LONG_PART and _CONSONANTS.search(part) is not None)


def _is_put_together(value: bytes, parts: list[bytes], length: int) -> bool:
    """Whether it is a URL, a path or the like: most of it is in parts that mean something."""
    if is_name(value):
        return False
    return 2 * sum(len(part) for part in parts if len(part) > 3 and is_meant(part)) > length


def is_meant(part: bytes) -> bool:
    """Whether letters and digits look as people write: a number, words, a number behind them."""
    return _IS_MEANT.fullmatch(part) is not None


def is_name(value: bytes) -> bool:
    """Whether a value has only what is in names of hosts, files and the like, and no path or URL."""
    return _IN_NAMES.fullmatch(value) is not None


def is_one_word(value: bytes) -> bool:
    """Whether a value is letters of one case, too many for a word. It is a secret where something else says so."""
    return _IS_ONE_WORD.fullmatch(value) is not None


def _is_number(value: bytes) -> bool:
    return value.isdigit() and len(set(value)) >= DIFFERENT_DIGITS and not _IS_TIME.fullmatch(value)
