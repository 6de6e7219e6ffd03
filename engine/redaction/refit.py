"""Makes what depends on a body fit it again after it was changed: lengths and checksums, where they fitted it before."""

from __future__ import annotations

import hashlib
import zlib
from base64 import b64encode
from collections.abc import Callable
from functools import lru_cache

from engine.rrpair import Fields

__all__ = ["refit", "refit_text"]

SLOW_LIMIT = 1024 * 1024
"""Longest body whose CRCs are computed that Python has no fast function for: a tenth of a second."""

_Content = tuple[bytes, bytes]
"""A body before and after; also one that lies below its content coding."""


def _table_crc(bits: int, polynomial: int) -> Callable[[bytes], bytes]:
    """A reflected CRC of so many bits."""

    @lru_cache(1)
    def table() -> list[int]:
        rows = []
        for byte in range(256):
            for _ in range(8):
                byte = byte >> 1 ^ (polynomial if byte & 1 else 0)
            rows.append(byte)
        return rows

    def crc(body: bytes) -> bytes:
        rows = table()
        value = mask = (1 << bits) - 1
        for byte in body:
            value = rows[(value ^ byte) & 0xFF] ^ value >> 8
        return (value ^ mask).to_bytes(bits // 8, "big")

    return crc


def _crc32(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(4, "big")


def _sha(name: str) -> Callable[[bytes], bytes]:
    return lambda body: hashlib.new(name, body, usedforsecurity=False).digest()


def _base64(digest: bytes) -> bytes:
    return b64encode(digest)


def _hex(digest: bytes) -> bytes:
    return digest.hex().encode()


def _decimal(digest: bytes) -> bytes:
    return b"%d" % int.from_bytes(digest, "big")


_CRC32C, _CRC64NVME = _table_crc(32, 0x82F63B78), _table_crc(64, 0x9A6C9329AC4BC9B5)
_SLOW = (_CRC32C, _CRC64NVME)
_Digest = tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]
_FIELDS: dict[bytes, tuple[_Digest, ...]] = {
    b"content-md5": ((_sha("md5"), _base64),),
    b"digest": ((_sha("sha256"), _base64), (_sha("sha512"), _base64), (_sha("md5"), _base64), (_sha("sha1"), _base64)),
    b"etag": ((_sha("md5"), _hex),),
    b"x-goog-hash": ((_sha("md5"), _base64), (_CRC32C, _base64)),
    b"x-amz-crc32": ((_crc32, _decimal),),
    b"x-amz-content-sha256": ((_sha("sha256"), _hex),),
    b"x-amz-checksum-crc32": ((_crc32, _base64),),
    b"x-amz-checksum-crc32c": ((_CRC32C, _base64),),
    b"x-amz-checksum-crc64nvme": ((_CRC64NVME, _base64),),
    b"x-amz-checksum-sha1": ((_sha("sha1"), _base64),),
    b"x-amz-checksum-sha256": ((_sha("sha256"), _base64),),
}
_FIELDS[b"content-digest"] = _FIELDS[b"repr-digest"] = _FIELDS[b"digest"]
"""RFC 9530, RFC 3230, RFC 1864; Amazon S3, "Checking object integrity"; an ETag is often the MD5 of what it is of."""
_LENGTHS = frozenset((b"content-length", b"x-amz-decoded-content-length", b"x-goog-stored-content-length"))


def refit(headers: Fields, contents: list[_Content]) -> Fields:
    """Give the header fields that fit the bodies after. One whose new value cannot be computed in time is left out."""
    fitted: list[tuple[bytes, bytes]] = []
    for name, value in headers:
        lower = name.lower()
        if lower in _LENGTHS:
            value = next((b"%d" % len(new) for old, new in contents if value == b"%d" % len(old)), value)
        digests = _FIELDS.get(lower, ())
        if any(digest in _SLOW and len(body) > SLOW_LIMIT for digest, _ in digests for pair in contents for body in pair):
            continue
        fitted.append((name, _fitted(value, digests, contents)))
    return tuple(fitted)


def _fitted(value: bytes, digests: tuple[_Digest, ...], contents: list[_Content]) -> bytes:
    for digest, spelt in digests:
        for old, new in contents:
            before = spelt(digest(old))
            if before in value:
                value = value.replace(before, spelt(digest(new)))
                break
    return value


def refit_text(text: bytes, contents: list[_Content]) -> bytes:
    """The same of header fields that stand in a body: lines of NAME:VALUE."""
    lines = text.split(b"\n")
    for at, line in enumerate(lines):
        name, colon, value = line.partition(b":")
        if colon:
            kept = refit(((name.strip(), value.strip()),), contents)
            if kept and kept[0][1] != value.strip():
                lines[at] = line.replace(value.strip(), kept[0][1])
    return b"\n".join(lines)
