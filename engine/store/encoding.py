"""The bytes of a pair that no query asks for, packed: start lines, header fields, trailers, interim responses.

A block is a count, the lengths, then the texts themselves; it takes any bytes, and unpacking copies nothing twice.
"""

from __future__ import annotations

import re
import struct
import threading
from itertools import chain

import zstandard

from engine.rrpair import Fields, Message

COMPRESS_FROM = 1024
"""Shorter bodies are stored as they are: saving 300 bytes of one takes as long as storing all else of the pair."""
ZSTD_LEVEL = 1
"""Ten times as fast as level 6 for nine tenths of its saving; a recording must keep up."""
STORED_BODY_LIMIT = 64 * 1024 * 1024
"""Longest body that is read: no recorder keeps a longer one, and a few bytes of zstd may claim any size."""
WINDOW_LIMIT = 128 * 1024 * 1024
"""Longest window of a zstd frame, which is memory that it makes the reader take."""


class _Contexts(threading.local):
    """Zstd's state, of each thread: it works without the interpreter's lock, so two threads in one spoil each other's bytes."""

    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True).compress
        self.decompress = zstandard.ZstdDecompressor(max_window_size=WINDOW_LIMIT).decompress


_contexts = _Contexts()
_SURROGATES = re.compile("[\ud800-\udfff]")


def well_formed(text: str) -> str:
    """Text that can be written as UTF-8: a lone surrogate, which JSON may hold as an escape, becomes U+FFFD."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def pack(texts: list[bytes]) -> bytes:
    """Join texts so that `unpack` can part them."""
    count = len(texts)
    return struct.pack(f"<{count + 1}I", count, *map(len, texts)) + b"".join(texts)


def unpack(block: bytes) -> list[bytes]:
    """Part texts. Raises ValueError or struct.error where the block is damaged."""
    (count,) = struct.unpack_from("<I", block)
    lengths = struct.unpack_from(f"<{count}I", block, 4)
    at = 4 + 4 * count
    if at + sum(lengths) != len(block):
        raise ValueError("damaged block")
    texts = []
    for length in lengths:
        texts.append(block[at : at + length])
        at += length
    return texts


def pack_messages(request: Message, response: Message | None, interim: tuple[Message, ...]) -> bytes:
    """Pack everything of the messages but the bodies of request and response."""
    messages = (request, *((response,) if response else ()), *interim)
    counts = b"".join([struct.pack("<II", len(m.headers), len(m.trailers)) for m in messages])
    texts = [counts]
    for message in messages:
        texts.append(message.start_line)
        texts += chain.from_iterable(message.headers)
        if message.trailers:
            texts += chain.from_iterable(message.trailers)
    texts += [message.body for message in interim]
    return pack(texts)


def unpack_messages(
    block: bytes, request_body: bytes, response_body: bytes | None
) -> tuple[Message, Message | None, tuple[Message, ...]]:
    """Undo `pack_messages`; a response is there where it has a body, if an empty one."""
    texts = unpack(block)
    heads: list[tuple[bytes, Fields, Fields]] = []
    at = 1
    for headers, trailers in struct.iter_unpack("<II", texts[0]):
        line, at = texts[at], at + 1
        fields = tuple(zip(texts[at : at + 2 * headers : 2], texts[at + 1 : at + 2 * headers : 2], strict=True))
        at += 2 * headers
        more = tuple(zip(texts[at : at + 2 * trailers : 2], texts[at + 1 : at + 2 * trailers : 2], strict=True))
        at += 2 * trailers
        heads.append((line, fields, more))
    bodies = [request_body, *(() if response_body is None else (response_body,)), *texts[at:]]
    messages = [Message(head[0], head[1], body, head[2]) for head, body in zip(heads, bodies, strict=True)]
    response = None if response_body is None else messages[1]
    return messages[0], response, tuple(messages[1 if response is None else 2 :])


def compress(body: bytes) -> tuple[bytes, bool]:
    """Give a body as it is stored, and whether it is compressed."""
    if len(body) < COMPRESS_FROM:
        return body, False
    packed = _contexts.compress(body)
    return (packed, True) if len(packed) < len(body) else (body, False)


def decompress(stored: bytes, size: int) -> bytes:
    """Undo `compress` for a body of this size. Raises zstandard.ZstdError or ValueError where it is damaged."""
    if size > STORED_BODY_LIMIT:
        raise ValueError(f"a body of {size:,} bytes, longer than any that is recorded")
    if zstandard.frame_content_size(stored) != size:
        raise ValueError("damaged body")
    return _contexts.decompress(stored, max_output_size=size)
