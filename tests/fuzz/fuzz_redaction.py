"""Fuzz target: redaction of any body, in any coding, of any media type, and of any header and target.

`one(data)`: the first byte chooses the kind of body, the second the coding, the third where it stands. The rest is taken
twice: as it is, and as the filler around a planted secret.
"""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable
from types import FrameType

import brotli
import zstandard

from engine.redaction import Redactor
from engine.rrpair import Connection, Direction, Fields, Message, RRPair

SECRET = b"Zq7hunter2Kx9"
CALLS_FOR_A_BYTE = 200
"""Python calls that a byte may cost: a field costs about 20, and is gone into a few times; a byte of a secret 100, for all ways
to write it are looked for elsewhere. More is not linear."""
CALLS_FOR_A_MESSAGE = 20_000

_REDACTOR = Redactor(b"k" * 32)
_SAFE = b"abcdefghilmo 0123456789"
_Kind = tuple[bytes, bytes]
KINDS: tuple[_Kind, ...] = (
    (b"application/json", b'{"a":"%s","password":"%s","b":"%s"}'),
    (b"application/json", b'[{"a":"%s","name":"token","value":"%s"},"%s"]'),
    (b"application/json", b'{"a":"%s","m":"{\\"secret\\":\\"%s\\"}","b":"%s"}'),
    (b"text/xml", b"<a><b>%s</b><Password>%s</Password><c>%s</c></a>"),
    (b"text/html", b'<a b="%s"/><input name="password" value="%s"><c>%s</c>'),
    (b"text/yaml", b"a: %s\npassword: %s\nb: %s\n"),
    (b"text/plain", b"%s\n token='%s' %s"),
    (b"application/x-www-form-urlencoded", b"a=%s&client_secret=%s&b=%s"),
    (
        b"multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n%s\r\n'
        b'--x\r\nContent-Disposition: form-data; name="password"; filename="p"\r\n\r\n%s\r\n'
        b'--x\r\nContent-Disposition: form-data; name="b"\r\n\r\n%s\r\n--x--\r\n',
    ),
    (b"", b"%s postgres://u:%s@h/ %s"),
)
CODINGS: tuple[tuple[bytes, Callable[[bytes], bytes], Callable[[bytes], bytes]], ...] = (
    (b"", bytes, bytes),
    (b"gzip", gzip.compress, gzip.decompress),
    (b"deflate", zlib.compress, zlib.decompress),
    (b"zstd", zstandard.compress, zstandard.decompress),
    (b"br", brotli.compress, brotli.decompress),
    (b"identity, gzip", gzip.compress, gzip.decompress),
    (b"deflate, gzip", lambda text: gzip.compress(zlib.compress(text)), lambda body: zlib.decompress(gzip.decompress(body))),
    (b"compress", bytes, bytes),
)


def one(data: bytes) -> None:
    """Check what must hold for any input."""
    if len(data) < 3:
        return
    media, template = KINDS[data[0] % len(KINDS)]
    coding, encode, decode = CODINGS[data[1] % len(CODINGS)]
    rest = data[3:]
    _any_body(media, coding, encode(rest) if data[2] & 1 else rest, rest)
    _planted(media, coding, encode, decode, template, bytes(_SAFE[byte % len(_SAFE)] for byte in rest[:200]))


def _any_body(media: bytes, coding: bytes, body: bytes, text: bytes) -> None:
    line = bytes(byte for byte in text[:300] if 32 < byte < 127)
    value = bytes(byte for byte in text[:300] if byte not in b"\r\n\0")
    headers = ((b"X-Other", value), (b"Cookie", value), (b"Authorization", value), (b"X-Token", value), (b"Host", value))
    before = _pair(b"/" + line, _headers(media, coding) + headers, body)
    calls, once = _counted(before)
    assert calls < CALLS_FOR_A_MESSAGE + CALLS_FOR_A_BYTE * (len(text) + 7 * len(value)), "work grows faster than the input"
    twice = _REDACTOR.pair(once)
    assert twice == once, f"not idempotent: {once} became {twice}"
    assert once.missing or once.redacted or once == before, "changed without a word"


def _planted(
    media: bytes,
    coding: bytes,
    encode: Callable[[bytes], bytes],
    decode: Callable[[bytes], bytes],
    template: bytes,
    filler: bytes,
) -> None:
    half = len(filler) // 2
    before, after = filler[:half].strip() or b"a", filler[half:].strip() or b"b"
    redacted = _REDACTOR.pair(_pair(b"/", _headers(media, coding), encode(template % (before, SECRET, after))))
    if coding == b"compress":
        assert SECRET not in redacted.request.body
        assert redacted.missing
        return
    content = decode(redacted.request.body)
    token = next(value for _, value in _REDACTOR.message(Message(b"", ((b"X-Token", SECRET),)), set()).headers)
    assert content == template % (before, token, after), f"{content!r}"


def _headers(media: bytes, coding: bytes) -> Fields:
    fields = ((b"Content-Type", media), (b"Content-Encoding", coding))
    return tuple([field for field in fields if field[1]])


def _pair(target: bytes, headers: Fields, body: bytes) -> RRPair:
    request = Message(b"POST " + target + b" HTTP/1.1", headers, body)
    way = Direction.OUT
    return RRPair("0" * 16, 0, way, "s", "http/1.1", "h", 443, "POST", "/", (), "POST /", request, Connection("c"))


def _counted(pair: RRPair) -> tuple[int, RRPair]:
    """Redact, and count the calls of Python functions."""
    calls = 0

    def count(frame: FrameType, event: str, arg: object) -> None:
        nonlocal calls
        calls += event == "call"  # of a function of Python: what atheris puts into the code calls functions of C

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        redacted = _REDACTOR.pair(pair)
    finally:
        sys.setprofile(before)
    return calls, redacted
