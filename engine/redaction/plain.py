"""Finds secrets in a text whatever its form: assignments to secret names, parameters of URLs, forms that are known."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from engine.redaction import rules
from engine.redaction.fields import Budget
from engine.redaction.pattern import Pattern, Span

__all__ = ["Assignment", "assignments", "keys", "name_before", "private_keys"]


class Assignment(NamedTuple):
    """A name and the span of its value. `quote` is empty for a bare word. `json`: the name was in double quotes."""

    name: bytes
    start: int
    end: int
    quote: bytes
    json: bool


_NAME_BYTE = re.compile(rb"[A-Za-z0-9_.\-]")
_OPERATOR = re.compile(rb"(?:\\{0,16}[\"'`]|\]|&quot;|&#34;|&#39;){0,3}[ \t\r\n]{0,64}(?:=>|:=|={1,3}|:)[ \t\r\n]{0,64}")
_QUOTE = re.compile(rb"(?:[bru]{0,2})((?:\\{0,16}\"){3}|\\{0,16}[\"'`]|&quot;|&#34;|&#39;)")
_BARE = re.compile(rb"[^\s&,;\"'<>\\]++")
_CREDENTIALS = re.compile(rb"[^\r\n&;\"'<>\\]*+")
_LINE = re.compile(rb"[^\r\n]*+")
_LINE_START = re.compile(rb"[ \t]*(?:- |export |set )?[ \t]*")
_STRING_END = {quote: re.compile(rb"[^\\%b]*+(?:\\.[^\\%b]*+)*+" % (quote, quote), re.DOTALL) for quote in (b'"', b"'", b"`")}
_NOT_SECRET = re.compile(rb"(?i:true|false|null|none|nil|undefined|string!?|str|\$[a-z_{(].*)[)}\].!]*")
_BLOCK = re.compile(rb"[|>][+\-0-9]{0,2}[ \t]*\r?\n")


def name_before(text: bytes, end: int) -> tuple[bytes, int]:
    """The whole name that ends there, and where it begins."""
    at = end
    low = max(0, end - rules.NAME_LIMIT)
    while at > low and _NAME_BYTE.match(text, at - 1):
        at -= 1
    return text[at:end], at


def assignments(text: bytes, bare: bool, budget: Budget) -> Iterator[Assignment]:
    """Values that are assigned to secret names: `password: x`, `"token": "x"`, `API_KEY='x'`.

    `bare`: also words without quotes. Objects and lists are given as their bracket, which is for others to read.
    """
    covered = 0
    for ((_, end),) in budget.each(rules.NAME.spans(text, 1)):
        if end <= covered:
            continue
        operator = _OPERATOR.match(text, end)
        if not operator or operator.end() >= len(text):
            continue
        name, start = name_before(text, end)
        at = operator.end()
        json = b'"' in operator[0]
        found = _QUOTE.match(text, at)
        quote = found[1] if found else text[at : at + 1] if text[at] in b"{[" else b""
        if found:
            at = found.end()
            covered = _closing(text, at, quote)
        elif quote:
            covered = at + 1
        elif bare or json:
            credentials = name[-13:].lower() == b"authorization"
            quoted = json or b"'" in operator[0]
            covered = _end(_CREDENTIALS, text, at) if credentials else _bare_end(text, start, at, quoted=quoted)
            if covered == at or _NOT_SECRET.fullmatch(text, at, covered):
                continue
        else:
            continue
        yield Assignment(name, at, covered, quote, json)


def _closing(text: bytes, at: int, quote: bytes) -> int:
    """Where a quoted value ends: at its quote, else with the text."""
    if quote in _STRING_END:
        inside = _STRING_END[quote].match(text, at)
        return inside.end() if inside else at
    end = text.find(quote, at)
    return len(text) if end < 0 else end


def _bare_end(text: bytes, start: int, at: int, *, quoted: bool) -> int:
    """Where a value without quotes ends: with its line where its name began it, else with the word."""
    low = max(0, start - rules.NAME_LIMIT)
    line_start = max(text.rfind(b"\n", low, start), text.rfind(b"\r", low, start)) + 1
    begins_line = (line_start or not low) and _LINE_START.fullmatch(text, line_start, start)
    if quoted or not begins_line:
        return at + len(text[at : _end(_BARE, text, at)].rstrip(b")}]."))
    block = _BLOCK.match(text, at)
    if block:
        return _block_end(text, block.end(), start - line_start)
    return _end(_LINE, text, at)


def _end(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    """Where a match that begins there ends, without blanks."""
    found = pattern.match(text, at)
    return at + len(found[0].rstrip()) if found else at


def _block_end(text: bytes, at: int, indent: int) -> int:
    """Where a YAML block scalar ends: before the first line that is not indented more than its key."""
    last = at - 1
    while at < len(text):
        end = text.find(b"\n", at)
        end = len(text) if end < 0 else end
        line = text[at:end]
        if line.strip():
            if len(line) - len(line.lstrip(b" ")) <= indent:
                break
            last = end
        at = end + 1
    return last


def private_keys(text: bytes, budget: Budget) -> Iterator[Span]:
    """What is between the lines of a private key, to the end of the text where its last line is missing."""
    covered = 0
    for ((start, end),) in budget.each(rules.PRIVATE_KEY.spans(text, 0)):
        if start >= covered:
            covered = text.find(b"-----END", end)
            covered = len(text) if covered < 0 else covered
            yield end, covered


_KEYS: tuple[Pattern, ...] = (rules.KEYS, rules.AWS_SECRET, rules.SLACK_HOOK, rules.BEARER)


def keys(text: bytes, budget: Budget) -> Iterator[Span]:
    """Keys that are known by their form or by what stands before them."""
    for pattern in _KEYS:
        for (span,) in budget.each(pattern.spans(text, 1)):
            yield span
