"""Tells quickly that there is nothing secret in a text. Most texts have nothing: this is what they cost.

A hint may be wrong, a missing hint never: whatever the rules would change has one.
"""

from __future__ import annotations

from functools import lru_cache

from engine.redaction import rules
from engine.rrpair import Fields, Message, RRPair

TEXT_LIMIT = 64 * 1024
"""Longer bodies are looked at by themselves: to put texts together copies them."""
NAMES_LIMIT = 4096
"""Header names whose note is remembered, as spelt."""
MEDIA_LIMIT = 1024
"""Media types that are remembered."""

_PLAIN, _SECRET, _MEDIA, _CODING = range(4)
_NOTES = {
    **dict.fromkeys(rules.SPECIAL_HEADERS, _SECRET),
    b"content-type": _MEDIA,
    b"content-encoding": _CODING,
}


class _Notes(dict[bytes, int]):
    def __missing__(self, name: bytes) -> int:
        note = _NOTES.get(name.lower(), _PLAIN)
        if len(self) < NAMES_LIMIT:
            self[name] = note
        return note


_notes = _Notes()


def is_clean(pair: RRPair) -> bool:
    """Whether nothing in a pair hints at a secret, by one look at all its texts; False where that takes more."""
    texts: list[bytes] = []
    messages = (pair.request, pair.response, *pair.interim) if pair.response else (pair.request, *pair.interim)
    for message in messages:
        notes = [_notes[name] for name, _ in message.headers]
        if _SECRET in notes or _CODING in notes or message.trailers:
            return False
        if message.body and not _is_clean_body(message, notes, texts):
            return False
        texts.append(message.start_line)
        texts += [value for _, value in message.headers]
    return not (has_parameter(pair.request.start_line) or has_shape(b"\n".join(texts)))


def _is_clean_body(message: Message, notes: list[int], texts: list[bytes]) -> bool:
    """Whether a body has no secret fields; one that can have shapes is added to the texts."""
    body = message.body
    if len(body) > TEXT_LIMIT or _MEDIA not in notes:
        return False
    media = message.headers[notes.index(_MEDIA)][1]
    if not is_textual(media):
        return True
    texts.append(body)
    return is_json(media) and not (has_field(body) or has_parameter(body))


def has_special(fields: Fields) -> bool:
    """Whether a header has a rule of its own."""
    return _SECRET in [_notes[name] for name, _ in fields]


def is_special(name: bytes) -> bool:
    """Whether a header of that name has a rule of its own."""
    return _notes[name] == _SECRET


def has_shape(text: bytes) -> bool:
    """Whether a text may hold a secret that is known by its looks."""
    for byte, hint in rules.SHAPE_HINTS:
        if byte in text and hint.search(text):
            return True
    digits = text.translate(rules.CARD_HINT_MAP)
    plain, by_four, by_six = rules.CARD_HINTS
    return plain in digits or by_four in digits or by_six in digits


def has_field(text: bytes) -> bool:
    """Whether JSON may have a secret field: one of the names stands between two quotes."""
    lower = text.lower()
    if _has_stem(lower):
        return True
    quoted = lower.split(b'"')
    return not rules.FIELD_SPELLINGS.isdisjoint(quoted if b"\\" in text else quoted[1::2])


def has_parameter(text: bytes) -> bool:
    """Whether a URL in a text may have a secret parameter; brackets and escapes in names are a hint by themselves."""
    if b"=" not in text or (b"?" not in text and b"#" not in text):
        return False
    lower = text.lower()
    if _has_stem(lower):
        return True
    parts = lower.replace(b"?", b"&").replace(b"#", b"&").split(b"&")
    names = [part.partition(b"=")[0] for part in parts[1:]]
    return not rules.PARAMETER_SPELLINGS.isdisjoint(names) or any([b"%" in n or b"[" in n for n in names])  # noqa: C419


def _has_stem(lower: bytes) -> bool:
    password, secret = rules.STEMS
    return password in lower or secret in lower


@lru_cache(MEDIA_LIMIT)
def is_textual(media: bytes) -> bool:
    """Whether a media type is text; other bodies are never touched."""
    return rules.TEXTUAL.match(media) is not None


@lru_cache(MEDIA_LIMIT)
def is_json(media: bytes) -> bool:
    """Whether a media type is JSON."""
    return b"json" in media.partition(b";")[0].lower()
