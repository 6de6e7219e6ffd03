"""Reads the fields of XML and HTML: what is in elements, CDATA sections and attributes. Tolerant, and expands no entity."""

from __future__ import annotations

import re
from collections.abc import Iterator

from engine.redaction.fields import PLAIN, Budget, Codec, Field, Group

OPEN_LIMIT = 32
"""Open elements that an end tag may close: what HTML leaves open is not looked for any further."""

_MARKUP = re.compile(rb"<!\[CDATA\[|<!--|<(/?)((?:[A-Za-z_][\w.\-]*+:)?[A-Za-z_][\w.\-]*+)|<")
_IN_TAG = re.compile(rb"(?:[^<>\"']++|\"[^\"<]*+\"|'[^'<]*+'){1,1000}")
"""A part of what stands in a tag behind its name: `re` remembers every round of a loop, so there are not more."""
_ATTRIBUTE = re.compile(rb"([^\s=<>\"'/]++)(?:\s*+=\s*+(?:\"([^\"<]*+)\"|'([^'<]*+)'|([^\s<>\"']++)))?")
_ENTITY = re.compile(rb"&(?:#([0-9]{1,7})|#[xX]([0-9a-fA-F]{1,6})|(amp|lt|gt|quot|apos));")
_ENTITIES = re.compile(rb"[^&]*+(?:&[^&]*+){0,1000}")
"""Some text with its entities whole: `sub` holds on to each piece that it puts together."""
_PLIST_VALUES = frozenset(b"string data integer real array dict".split())
"""In property lists of Apple, what stands behind `<key>password</key>` is named by it."""
_NAMED = {b"amp": b"&", b"lt": b"<", b"gt": b">", b"quot": b'"', b"apos": b"'"}


def xml_fields(text: bytes, budget: Budget) -> Iterator[Field]:
    """Every text and attribute. An element's name is that of its text; `<param name="password">` names it as well."""
    stack = [Group(b"")]
    tags = [b""]
    at = 0
    key: bytes | None = None
    for markup in _MARKUP.finditer(text):
        if markup.start() < at:
            continue
        budget.spend()
        yield from _content(text, at, markup.start(), stack[-1], XML)
        start, at, end = at, markup.end(), _tag_end(text, markup.end()) if markup[2] else -1
        if markup[0] in (b"<![CDATA[", b"<!--"):
            at, end = _section(text, at, b"]]>" if markup[0] != b"<!--" else b"-->")
            yield from _content(text, markup.end(), at, stack[-1], PLAIN)
            at = end
        elif end < 0:
            at = markup.start() + 1  # no markup
        elif markup[1]:
            if tags[-1] == b"key":
                key = unescape(text[start : markup.start()])
            at = end + 1
            _close(stack, tags, _local(markup[2]))
        else:
            at = end + 1
            tag = _local(markup[2])
            element = Group.below(stack[-1], key if key and tag in _PLIST_VALUES else tag)
            key = None
            yield from _attributes(text, markup.end(), end, element, budget)
            if not text.endswith(b"/", markup.end(), end):
                stack.append(element)
                tags.append(tag)
    yield from _content(text, at, len(text), stack[-1], XML)


def _content(text: bytes, start: int, end: int, element: Group, codec: Codec) -> Iterator[Field]:
    if end > start and text[start:end].strip():
        yield Field(start, end, element.name, element, codec, inner=True)


def _section(text: bytes, at: int, end: bytes) -> tuple[int, int]:
    stop = text.find(end, at)
    return (len(text), len(text)) if stop < 0 else (stop, stop + len(end))


def _close(stack: list[Group], tags: list[bytes], tag: bytes) -> None:
    for back in range(1, min(len(stack), OPEN_LIMIT)):
        if tags[-back] == tag:
            del stack[-back:], tags[-back:]
            return


def _tag_end(text: bytes, at: int) -> int:
    """Where the `>` of a tag is; -1 where it has none."""
    while inside := _IN_TAG.match(text, at):
        at = inside.end()
    return at if text.startswith(b">", at) else -1


def _attributes(text: bytes, start: int, end: int, element: Group, budget: Budget) -> Iterator[Field]:
    for attribute in _ATTRIBUTE.finditer(text, start, end):
        budget.spend()
        value = attribute.lastindex
        if value and value > 1:
            yield Field(*attribute.span(value), _local(attribute[1]), element, XML)


def _local(name: bytes) -> bytes:
    return name.rpartition(b":")[2]


def unescape(text: bytes) -> bytes:
    """Take entities off: the five of XML, and characters by number."""
    if b"&" not in text:
        return text
    return b"".join([_ENTITY.sub(_unescaped, part[0]) for part in _ENTITIES.finditer(text)])


def _unescaped(entity: re.Match[bytes]) -> bytes:
    if entity[3]:
        return _NAMED[entity[3]]
    number = int(entity[1]) if entity[1] else int(entity[2], 16)
    return chr(number).encode("utf-8", "surrogatepass") if number < 0x110000 else entity[0]


def escape(text: bytes, before: bytes) -> bytes:
    """Put entities on again, where there were any: a token needs none."""
    if not _ENTITY.search(before):
        return text
    for each, mark in _NAMED.items():
        if each in (b"amp", b"lt") or b"&" + each + b";" in before or (each == b"quot" and b"&#" in before):
            text = text.replace(mark, b"&" + each + b";")
    return text


XML = Codec(unescape, escape)
