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
_IS_ONE_WORD = re.compile(rb"[a-z]{%d,}|[A-Z]{%d,}" % (ONE_WORD, ONE_WORD))


def looks_random(value: bytes) -> bool:
    """Whether a value was made at random: one that is none passes for it hardly ever; of short ones, many are not recognised."""
    if len(value) < SHORTEST:
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
    if cased and 2 * sum(map(len, _WORD.findall(value))) > length:
        return False
    turns = [len(_RUN.findall(part)) - 1 for part in parts]
    if (cased and length >= LONG) or any(t > 1 and t * len(p) >= TURNS_BY_LENGTH for p, t in zip(parts, turns, strict=True)):
        return True
    return sum(max(turned - 1, 0) for turned in turns) >= max(TURNS, length / PER_TURN)


def is_one_word(value: bytes) -> bool:
    """Whether a value is letters of one case, too many for a word. It is a secret where something else says so."""
    return _IS_ONE_WORD.fullmatch(value) is not None


def _is_number(value: bytes) -> bool:
    return value.isdigit() and len(set(value)) >= DIFFERENT_DIGITS and not _IS_TIME.fullmatch(value)
