"""Captured text made fit to be shown: never interpreted, and no control reaches the terminal."""

from __future__ import annotations

import json
import re
import zlib

from engine.rrpair import Message

BODY_SHOWN = 64 * 1024
"""Bytes of a body that are shown to a person; --json has all of it."""
HEX_SHOWN = 512
"""Bytes of a binary body that are shown."""

# C0 and C1 controls, what breaks lines or turns the direction of writing, and surrogates, which no output can encode.
_UNFIT = "\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_CONTROLS = re.compile(f"[\x00-\x1f{_UNFIT}]")
_CONTROLS_IN_LINES = re.compile(f"[\x00-\x08\x0b-\x1f{_UNFIT}]")
_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')
_WINDOW_BITS = {b"gzip": 31, b"deflate": 15}


def clean(text: str, *, lines: bool = False) -> str:
    r"""Make captured text harmless: controls become \x1b and the like; `lines` keeps line feeds and tabs."""
    return (_CONTROLS_IN_LINES if lines else _CONTROLS).sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8, as os.fsdecode leaves it
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def counted(number: int, word: str) -> str:
    """A number of things: `1 request`, `1,200 requests`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def header_text(value: bytes) -> str:
    """Show a header value: UTF-8 where it is that, else latin-1."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def body_text(message: Message) -> str:
    """Show a body: gzip and deflate taken off, JSON indented, other text as it is, the rest in hexadecimal."""
    body = _plain(message)
    shown = body[:BODY_SHOWN]
    try:
        text = shown.decode("utf-8", "strict" if len(body) <= BODY_SHOWN else "ignore")
    except UnicodeDecodeError:
        return _hex(body)
    if "\0" in text:
        return _hex(body)
    if len(body) > BODY_SHOWN:
        return f"{text}\n… cut here, --json has it whole"
    return indent_json(text) if text[:1] in "{[" else text


def indent_json(text: str) -> str:
    """Indent JSON and change nothing else: numbers and repeated keys stay as they are. Other text stays as it is."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    out: list[str] = []
    depth = 0
    tokens = _JSON_TOKEN.findall(text)
    for token, following in zip(tokens, [*tokens[1:], ""], strict=True):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token, 0)
        out.append(token + " " * (token == ":"))
        opens, closes = token in ("{", "["), following in ("}", "]")
        if token == "," or (opens != closes and (opens or closes)):
            out.append("\n" + "  " * (depth - closes))
    return "".join(out)


def _plain(message: Message) -> bytes:
    bits = _WINDOW_BITS.get((message.header(b"content-encoding") or b"").lower())
    if bits is None:
        return message.body
    try:
        return zlib.decompressobj(bits).decompress(message.body, BODY_SHOWN + 1)
    except zlib.error:
        return message.body


def _hex(body: bytes) -> str:
    lines = [f"{len(body):,} bytes"]
    for at in range(0, min(len(body), HEX_SHOWN), 16):
        row = body[at : at + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{at:08x}  {row.hex(' '):47}  {text}")
    return "\n".join(lines) + ("\n…" if len(body) > HEX_SHOWN else "")
