"""Finds secrets in a text whatever its form: assignments to secret names, parameters of URLs, forms that are known."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from engine.redaction import rules
from engine.redaction.fields import Budget
from engine.redaction.pattern import Pattern, Span

__all__ = ["Assignment", "assignments", "is_padding", "keys", "name_before", "named_values", "parameter_end", "private_keys"]


class Assignment(NamedTuple):
    """A name and the span of its value. `quote` is empty for a bare word. `json`: the name was in double quotes; `escaped`: with
    backslashes.
    """

    name: bytes
    start: int
    end: int
    quote: bytes
    json: bool
    escaped: bool


PART_LIMIT = 4096
"""Bytes of base64 in a part of a URL that are looked at."""
RECORD_LIMIT = 4096
"""Bytes before and behind a naming field in which a value is looked for."""

_NAME_BYTE = re.compile(rb"[A-Za-z0-9_.\-]")
_OPERATOR = re.compile(rb"(?:\\{0,16}[\"'`]|\]|&quot;|&#34;|&#39;){0,3}[ \t\r\n]{0,64}(?:=>|:=|={1,3}|:)[ \t\r\n]{0,64}")
_PADDING = re.compile(rb"={1,2}(\\{0,16}[\"']|[/?#&])")
_URL_MARKS = (b"/", b"?", b"#", b"&")
_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/_\-]{4})++[A-Za-z0-9+/_\-]{2,3}={1,2}(?<=[A-Za-z0-9+/_\-=]{16})")
_QUOTE = re.compile(rb"(?:[bru]{0,2})((?:\\{0,16}\"){3}|\\{0,16}[\"'`]|&quot;|&#34;|&#39;)")
_BARE = re.compile(rb"[^\s&,;\"'<>\\]++")
_BARE_IN_QUERY = re.compile(rb"[^\s&,;#\"'<>\\]++")
_PAIR = re.compile(rb"[A-Za-z_][A-Za-z0-9_.\-]{0,63}=(?![=\s]|\Z)")
_NEXT_PAIR = re.compile(rb"(?:[,;&][ \t]*+|(?<![ \t])[ \t]++)[^\s,;&=\"'<>]{1,128}=(?![=\s]|\Z)")
_NEXT_PARAMETER = re.compile(rb"," + _PAIR.pattern)
_CREDENTIALS = re.compile(rb"[^\r\n&;\"'<>\\]*+")
_LINE = re.compile(rb"[^\r\n]*+")
_LINE_START = re.compile(rb"[ \t]*(?:- |export |set )?[ \t]*")
_STRING_END = {quote: re.compile(rb"[^\\%b]*+(?:\\.[^\\%b]*+)*+" % (quote, quote), re.DOTALL) for quote in (b'"', b"'", b"`")}
_NOT_SECRET = re.compile(rb"(?i:true|false|null|none|nil|undefined|string!?|str|\$[a-z_{(].*)[)}\].!]*")
_FLOW_WORDS = re.compile(rb"[^,}\]\r\n]*+")
_NAMING = re.compile(
    rb"(?i)(?<![A-Za-z0-9_\-])(" + rules.NAMING_EITHER + rb")(?:\\{0,16}[\"'`])?[ \t]{0,64}[:=]"
    rb"[ \t]{0,64}(?:\\{0,16}[\"'`])?([^\s\"'`\\,;{}<>&]{1,128})"
)
_VALUE = re.compile(rb"(?i)(?<![A-Za-z0-9_\-])(" + rules.VALUES_EITHER + rb")(?=\\{0,16}[\"'`]?[ \t]{0,64}[:=])")
_PIECE = re.compile(rb"[{}]|" + _VALUE.pattern.removeprefix(b"(?i)"), re.IGNORECASE)
_LINE_KEY = re.compile(rb"^([ \t]*+(?:-[ \t]++)*+)[\"']?([A-Za-z]++)[\"']?[ \t]*+[:=]", re.MULTILINE)
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
        if not operator or operator.end() >= len(text) or is_padding(text, end):
            continue
        name, start = name_before(text, end)
        assignment = _assignment(text, name, start, operator, bare)
        if assignment:
            covered = assignment.end
            yield assignment


def is_padding(text: bytes, at: int) -> bool:
    """Whether what looks like an operator ends a string, or a part of a URL, that is base64: its letters happen to make a name."""
    padding = _PADDING.match(text, at)
    if not padding:
        return False
    if padding[1] in _URL_MARKS:
        low = max(0, at - PART_LIMIT)
        begin = max(text.rfind(b"/", low, at), text.rfind(b"=", low, at))
    else:
        begin = text.rfind(padding[1], 0, at)
    return begin >= 0 and _BASE64.fullmatch(text, begin + len(padding[1]), padding.start(1)) is not None


def _assignment(
    text: bytes, name: bytes, start: int, operator: re.Match[bytes], bare: bool, *, flow: bool = False
) -> Assignment | None:
    """What is behind an operator. `start`: where the name begins. `flow`: bare words end as in YAML's `{a: b c, d: e}`."""
    at = operator.end()
    json = b'"' in operator[0]
    found = _QUOTE.match(text, at)
    quote = found[1] if found else text[at : at + 1] if text[at] in b"{[" else b""
    if found:
        at = found.end()
        end = _closing(text, at, quote)
    elif quote:
        end = at + 1
    elif bare or json:
        credentials = name[-13:].lower() == b"authorization"
        quoted = json or b"'" in operator[0]
        if flow and not quoted:
            end = _end(_FLOW_WORDS, text, at)
        else:
            equals = b"=" in operator[0]
            end = _end(_CREDENTIALS, text, at) if credentials else _bare_end(text, start, at, quoted=quoted, equals=equals)
            if equals and b"\n" in operator[0] and _PAIR.match(text, at):
                return None  # the next line of a file whose value is empty
        if end == at or _NOT_SECRET.fullmatch(text, at, end):
            return None
    else:
        return None
    return Assignment(name, at, end, quote, json, b"\\" in operator[0])


def named_values(text: bytes, bare: bool, budget: Budget) -> Iterator[Assignment]:
    """Values that another field says are secret, in a text that is not read as a whole: `{"name": "password", "value": "x"}` in a
    line of a log, and in YAML as `- name: password` with `value: x` before or behind it.
    """
    if not rules.NAMED.found(text):
        return
    namings = [naming for naming in budget.each(_NAMING.finditer(text)) if rules.kind_of(naming[2])]
    ends = [0, *[naming.end() for naming in namings]]
    starts = [*[naming.start() for naming in namings[1:]], len(text)]
    for low, naming, high in zip(ends, namings, starts, strict=False):
        span = max(low, naming.start() - RECORD_LIMIT), min(high, naming.end() + RECORD_LIMIT)
        within = _in_braces(text, naming, *span)
        values = rules.values_of(naming[1])
        for value in budget.each(_in_lines(text, naming, *span) if within is None else within):
            if value[1].lower() in values and value.end() < len(text):
                operator = _OPERATOR.match(text, value.end(1))
                found = operator and _assignment(text, naming[2], value.start(1), operator, bare, flow=within is not None)
                if found:
                    yield found


def _in_braces(text: bytes, naming: re.Match[bytes], low: int, high: int) -> list[re.Match[bytes]] | None:
    """The values beside a naming field in the same braces; None where it is in none."""
    open_braces: list[list[re.Match[bytes]]] = []
    for piece in _PIECE.finditer(text, low, naming.start()):
        if piece[0] == b"{":
            open_braces.append([])
        elif piece[0] == b"}" and open_braces:
            open_braces.pop()
        elif piece[1] and open_braces:
            open_braces[-1].append(piece)
    if not open_braces:
        return None
    values = open_braces[-1]
    depth = 0
    for piece in _PIECE.finditer(text, naming.end(), high):
        depth += (piece[0] == b"{") - (piece[0] == b"}")
        if depth < 0:
            break
        if piece[1] and not depth:
            values.append(piece)
    return values


def _in_lines(text: bytes, naming: re.Match[bytes], low: int, high: int) -> Iterator[re.Match[bytes]]:
    """The values in the lines around that begin in the same column, in the same item of a list."""
    begin = max(text.rfind(b"\n", low, naming.start()) + 1, low)
    own = _LINE_KEY.match(text, begin, naming.end())
    if not own or own.start(2) != naming.start(1):
        return
    column = len(own[1])
    if b"-" not in own[1]:
        at = begin
        while at > low:
            at, end = max(text.rfind(b"\n", low, at - 1) + 1, low), at
            line = _LINE_KEY.match(text, at, end)
            indent = len(line[1]) if line else column + 1
            if line and indent == column:
                yield from _VALUE.finditer(text, line.start(2), end)
            if indent < column or (line and b"-" in line[1] and indent == column):
                break
    for line in _LINE_KEY.finditer(text, naming.end(), high):
        before = line[1].partition(b"-")[0]
        if len(before) < column:
            break
        if len(line[1]) == column:
            yield from _VALUE.finditer(text, line.start(2), line.end() + 1)


def _closing(text: bytes, at: int, quote: bytes) -> int:
    """Where a quoted value ends: at its quote, else with the text."""
    if quote in _STRING_END:
        inside = _STRING_END[quote].match(text, at)
        return inside.end() if inside else at
    end = text.find(quote, at)
    return len(text) if end < 0 else end


def parameter_end(text: bytes, start: int, end: int) -> int:
    """Where the value of a URL's parameter ends in a text, in which marks of the text may follow it."""
    pair = _NEXT_PARAMETER.search(text, start, end)
    if pair:
        return pair.start()
    return end if text[end : end + 1] in (b"&", b"#") else start + len(text[start:end].rstrip(b",.)"))


def _bare_end(text: bytes, start: int, at: int, *, quoted: bool, equals: bool) -> int:
    """Where a value without quotes ends: with its line where its name began it, else with the word.

    `equals`: whether an equals sign is before it. Then another pair may follow in the line: `token=x expires=2026 path=/`.
    """
    low = max(0, start - rules.NAME_LIMIT)
    line_start = max(text.rfind(b"\n", low, start), text.rfind(b"\r", low, start)) + 1
    begins_line = (line_start or not low) and _LINE_START.fullmatch(text, line_start, start)
    if quoted or not begins_line:
        in_query = text[max(0, start - 5) : start].endswith((b"?", b"&", b"#", b"[", b"&amp;"))
        return at + len(text[at : _end(_BARE_IN_QUERY if in_query else _BARE, text, at)].rstrip(b")}]."))
    block = _BLOCK.match(text, at)
    if block:
        return _block_end(text, block.end(), start - line_start)
    end = _end(_LINE, text, at)
    pair = _NEXT_PAIR.search(text, at, end) if equals else None
    return pair.start() if pair else end


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


_KEYS: tuple[Pattern, ...] = (rules.KEYS, rules.AWS_SECRET, rules.HOOK, rules.BEARER, rules.PRIVATE_KEY_CODED, rules.CRYPT)


def keys(text: bytes, budget: Budget) -> Iterator[Span]:
    """Keys that are known by their form or by what stands before them."""
    for pattern in _KEYS:
        for (span,) in budget.each(pattern.spans(text, 1)):
            yield span
