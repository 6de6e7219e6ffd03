"""Takes content codings off a body and puts them on again (RFC 9110 section 8.4), in bounded memory."""

from __future__ import annotations

import enum
import io
import zlib
from collections.abc import Callable

import brotli
import zstandard

from engine.redaction.refit import Allowance, Refit

__all__ = ["NotInspected", "Reason", "beginning", "codings_of", "decode", "decode_content", "encode"]

DECODED_LIMIT = 16 * 1024 * 1024
"""Longest content that is taken out of a coded body. It bounds what a few coded bytes can cost; uncoded bodies may be longer."""
CODINGS_LIMIT = 4
"""Codings on top of each other; real messages have one."""
WINDOW_LIMIT = 8 * 1024 * 1024
"""Largest window of zstd that a recipient must support (RFC 9659)."""
MEMBERS_LIMIT = 1000
"""Members of a gzip body, frames of a zstd body: blocks of 64 KiB, as BGZF has them, of the longest content are 256."""
PIECE = 16 * 1024
"""Bytes that are decompressed at a time."""
BEGINNING, BEGINNING_CODED = 512, 4096
"""Bytes that tell a text from an archive (those of one entry of a tar), and those of the coded body that they are looked for in."""
CHUNKS_LIMIT = 100_000
"""Chunks of an aws-chunked body; those of 64 KiB make 6 GB."""


class Reason(enum.StrEnum):
    """Why something could not be searched for secrets, as people are shown it."""

    UNKNOWN = "unknown content coding"
    DAMAGED = "damaged content coding"
    TOO_LONG = "too long when decoded"
    TOO_MANY = "too many compressed members"
    CODINGS = "too many content codings"
    FIELDS = "too many fields"
    ECHOES = "too many repeated secrets"
    TEXTS = "texts nested too deeply"
    PARTS = "parts nested too deeply"
    UNSETTLED = "text of no stable form"
    BINARY = "binary content with a secret field or key"


class NotInspected(Exception):
    """What could not be searched for secrets, and why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)


def codings_of(value: bytes) -> tuple[bytes, ...]:
    """The codings in a Content-Encoding or Transfer-Encoding header, in the order in which they were put on; `chunked` is off."""
    names = (name.strip().lower() for name in value.split(b","))
    return tuple([name for name in names if name not in (b"", b"identity", b"chunked")])


def decode_content(body: bytes, value: bytes) -> bytes | None:
    """Take all codings of a Content-Encoding header off; None where one is unknown, broken, or hides more than the limit."""
    try:
        return decode(body, codings_of(value))
    except NotInspected:
        return None


def decode(body: bytes, codings: tuple[bytes, ...]) -> bytes:
    """Take the codings off, the last one first. Raises NotInspected."""
    if len(codings) > CODINGS_LIMIT:
        raise NotInspected(Reason.CODINGS)
    for coding in reversed(codings):
        decoder = _DECODERS.get(coding)
        if decoder is None:
            raise NotInspected(Reason.UNKNOWN)
        body = decoder(body)
        if len(body) > DECODED_LIMIT:
            raise NotInspected(Reason.TOO_LONG)
    return body


def beginning(body: bytes, coding: bytes) -> bytes:
    """What gzip or zstd that could not be decoded begins with; empty where not even that can be told."""
    if coding == b"zstd":
        decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_LIMIT)
        try:
            return decompressor.stream_reader(io.BytesIO(body)).read(BEGINNING)
        except zstandard.ZstdError:
            return b""
    decoder, found = zlib.decompressobj(31), b""
    for at in range(min(len(body), BEGINNING_CODED)):
        try:
            found += decoder.decompress(body[at : at + 1])
        except zlib.error:
            break
        if len(found) >= BEGINNING:
            break
    return found


def encode(content: bytes, codings: tuple[bytes, ...], body: bytes) -> bytes:
    """Put the codings on again. `body` is what they were taken off of."""
    for coding in codings:
        content = _ENCODERS[coding](content) if coding != b"aws-chunked" else _aws_chunks(content, body)
    return content


# -- zlib ----------------------------------------------------------------------------------------------------------------


def _gunzip(body: bytes) -> bytes:
    """RFC 1952 section 2.2: one member after the other, perhaps with zeros behind them."""
    return _members(body, lambda: zlib.decompressobj(31))


def _undeflate(body: bytes) -> bytes:
    """RFC 9110 section 8.4.1.2, with its note on senders that leave the zlib wrapper out."""
    for window in (15, -15):
        decoder = zlib.decompressobj(window)
        try:
            content = decoder.decompress(body, DECODED_LIMIT + 1)
        except zlib.error:
            continue
        if len(content) > DECODED_LIMIT:
            raise NotInspected(Reason.TOO_LONG)
        if decoder.eof and not decoder.unused_data:
            return content
    raise NotInspected(Reason.DAMAGED)


def _members(body: bytes, member: Callable[[], zlib._Decompress]) -> bytes:
    """Decompress members one after the other, piece by piece: what one leaves over is copied, and must be short for that."""
    parts: list[bytes] = []
    size = at = 0
    for _ in range(MEMBERS_LIMIT):
        decoder = member()
        while not decoder.eof:
            piece = body[at : at + PIECE]
            if not piece:
                raise NotInspected(Reason.DAMAGED)
            try:
                parts.append(decoder.decompress(piece, DECODED_LIMIT + 1 - size))
            except zlib.error:
                raise NotInspected(Reason.DAMAGED) from None
            size += len(parts[-1])
            if size > DECODED_LIMIT:
                raise NotInspected(Reason.TOO_LONG)
            at += len(piece) - len(decoder.unused_data)
        if not body[at : at + PIECE].strip(b"\0"):
            break
    if body[at:].strip(b"\0"):
        raise NotInspected(Reason.TOO_MANY)
    return b"".join(parts)


def _deflate(content: bytes, window: int) -> bytes:
    encoder = zlib.compressobj(6, zlib.DEFLATED, window)
    return encoder.compress(content) + encoder.flush()


# -- zstd and brotli -----------------------------------------------------------------------------------------------------


def _unzstd(body: bytes) -> bytes:
    """RFC 8878. First read in bounded memory, which does not tell whether the end was there; then once more to know."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_LIMIT)
    try:
        content = decompressor.stream_reader(io.BytesIO(body), read_across_frames=True).read(DECODED_LIMIT + 1)
        if len(content) > DECODED_LIMIT:
            raise NotInspected(Reason.TOO_LONG)
        at = frames = 0
        while at < len(body):
            frame = decompressor.decompressobj()
            while not frame.eof:
                piece = body[at : at + PIECE]
                if not piece:
                    raise NotInspected(Reason.DAMAGED)
                frame.decompress(piece)
                at += len(piece) - len(frame.unused_data)
            frames += 1
            if frames > MEMBERS_LIMIT:
                raise NotInspected(Reason.TOO_MANY)
    except zstandard.ZstdError:
        raise NotInspected(Reason.DAMAGED) from None
    return content


def _unbrotli(body: bytes) -> bytes:
    """RFC 7932."""
    decoder = brotli.Decompressor()
    try:
        content = bytes(decoder.process(body, output_buffer_limit=DECODED_LIMIT + 1))
        if len(content) > DECODED_LIMIT:
            raise NotInspected(Reason.TOO_LONG)
        if not decoder.is_finished():
            raise NotInspected(Reason.DAMAGED)
    except brotli.error:
        raise NotInspected(Reason.DAMAGED) from None
    return content


# -- aws-chunked ---------------------------------------------------------------------------------------------------------


def _unchunk(body: bytes) -> bytes:
    """Chunks as S3 takes them, perhaps each with a signature (AWS Signature Version 4, "chunked upload")."""
    parts: list[bytes] = []
    for start, end, _ in _chunks(body):
        parts.append(body[start:end])
    return b"".join(parts)


def _chunks(body: bytes) -> list[tuple[int, int, bytes]]:
    """Where each chunk's data is, and its size line; the last one is empty. Raises NotInspected."""
    found: list[tuple[int, int, bytes]] = []
    at = 0
    while len(found) < CHUNKS_LIMIT:
        end = body.find(b"\r\n", at, at + 256)
        line = body[at:end] if end >= 0 else b""
        digits = line.partition(b";")[0]
        if not digits or len(digits) > 8 or digits.strip(b"0123456789abcdefABCDEF"):
            break
        start = end + 2
        at = start + int(digits, 16)
        found.append((start, at, line))
        if start == at:
            return found
        if body[at : at + 2] != b"\r\n":
            break
        at += 2
    raise NotInspected(Reason.DAMAGED)


def _aws_chunks(content: bytes, body: bytes) -> bytes:
    """One chunk, with the extension of the first one; the trailer follows, its checksum made to fit."""
    found = _chunks(body)
    _, semicolon, extension = found[0][2].partition(b";")
    start, _, line = found[-1]
    chunk = b"%x%b\r\n%b\r\n" % (len(content), semicolon + extension, content) if content else b""
    return chunk + line + b"\r\n" + Refit([(_unchunk(body), content)], Allowance()).text(body[start:])


_Coder = Callable[[bytes], bytes]
_DECODERS: dict[bytes, _Coder] = {
    b"gzip": _gunzip,
    b"x-gzip": _gunzip,
    b"deflate": _undeflate,
    b"zstd": _unzstd,
    b"br": _unbrotli,
    b"aws-chunked": _unchunk,
}
_ENCODERS: dict[bytes, _Coder] = {
    b"gzip": lambda content: _deflate(content, 31),
    b"x-gzip": lambda content: _deflate(content, 31),
    b"deflate": lambda content: _deflate(content, 15),
    b"zstd": lambda content: zstandard.ZstdCompressor().compress(content),
    b"br": lambda content: bytes(brotli.compress(content, quality=5)),
}
