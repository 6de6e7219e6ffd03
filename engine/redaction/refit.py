"""Makes what depends on a body fit it again after it was changed: lengths and checksums, where they fitted it before.

An ETag stays, though it often is the MD5 of what it is of: it is a name that the answer to a HEAD, a 304, lists, `If-Match`
and `If-None-Match` must give in the same way, and none of these has the body (RFC 9110 section 8.8.3: opaque).
"""

from __future__ import annotations

import hashlib
import re
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterable
from functools import lru_cache

from engine.rrpair import Fields

__all__ = ["Allowance", "Refit"]

SLOW_LIMIT = 1024 * 1024
"""Longest body whose CRCs are computed that Python has no fast function for: a tenth of a second."""
SLOW_TOTAL = 8 * SLOW_LIMIT
"""Bytes of all contents of a message that this is done for: two CRCs of the longest body and what is below its coding, before and
after."""
FIELDS_LIMIT = 64
"""Fields with checksums of one head that are made to fit; real ones have two or three. Any further ones are left out."""

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
_Algorithm = Callable[[bytes], bytes]
_Digest = tuple[_Algorithm, Callable[[bytes], bytes]]
_FIELDS: dict[bytes, tuple[_Digest, ...]] = {
    b"content-md5": ((_sha("md5"), _base64),),
    b"digest": ((_sha("sha256"), _base64), (_sha("sha512"), _base64), (_sha("md5"), _base64), (_sha("sha1"), _base64)),
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
"""RFC 9530, RFC 3230, RFC 1864; Amazon S3, "Checking object integrity"."""
_LENGTHS = frozenset((b"content-length", b"x-amz-decoded-content-length", b"x-goog-stored-content-length"))
_RANGE = re.compile(rb"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
"""RFC 9110 section 14.4."""


class Allowance:
    """What may still be spent on the slow checksums of a message, all of its parts together."""

    def __init__(self) -> None:
        self.slow_bytes = SLOW_TOTAL

    def spend(self, size: int) -> bool:
        """Take so many bytes off; False where that is more than is left."""
        if size > self.slow_bytes:
            return False
        self.slow_bytes -= size
        return True


class Refit:
    """Makes header fields fit a changed content. Each checksum of each content is computed once, however many fields want it."""

    def __init__(self, contents: Iterable[_Content], allowance: Allowance) -> None:
        self._contents = list(dict.fromkeys(contents))
        self._allowance = allowance
        self._digests: dict[tuple[_Algorithm, bytes], bytes | None] = {}
        self._left = FIELDS_LIMIT

    def fields(self, headers: Fields) -> Fields:
        """Give the header fields that fit the contents after. One whose new value cannot be computed in time is left out."""
        fitted: list[tuple[bytes, bytes]] = []
        for name, value in headers:
            new = self._field(name.lower(), value)
            if new is not None:
                fitted.append((name, new))
        return tuple(fitted)

    def text(self, text: bytes) -> bytes:
        """The same of header fields that stand in a body: lines of NAME:VALUE."""
        lines = []
        for line in text.split(b"\n"):
            name, colon, value = line.partition(b":")
            value = value.strip()
            new = self._field(name.strip().lower(), value) if colon and value else value
            if new is not None:
                lines.append(line if new == value else line.replace(value, new))
        return b"\n".join(lines)

    def _field(self, name: bytes, value: bytes) -> bytes | None:
        if name in _LENGTHS:
            return next((b"%d" % len(new) for old, new in self._contents if value == b"%d" % len(old)), value)
        if name == b"content-range":
            return self._range(value)
        digests = _FIELDS.get(name)
        if not digests:
            return value
        self._left -= 1
        return self._fitted(value, digests) if self._left >= 0 else None

    def _range(self, value: bytes) -> bytes:
        """Of a part whose length changed: it begins where it did, and the whole has become as much longer."""
        found = _RANGE.fullmatch(value)
        if not found:
            return value
        first, last, whole = int(found[1]), int(found[2]), found[3]
        for old, new in self._contents:
            if last - first + 1 == len(old) and (whole == b"*" or last < int(whole)):
                longer = whole if whole == b"*" else b"%d" % (int(whole) + len(new) - len(old))
                return b"bytes %d-%d/%b" % (first, first + len(new) - 1, longer)
        return value

    def _fitted(self, value: bytes, digests: tuple[_Digest, ...]) -> bytes | None:
        for algorithm, spelt in digests:
            for old, new in self._contents:
                before = self._digest(algorithm, old)
                if before is not None and spelt(before) not in value:
                    continue
                after = self._digest(algorithm, new)
                if before is None or after is None:
                    return None
                value = value.replace(spelt(before), spelt(after))
                break
        return value

    def _digest(self, algorithm: _Algorithm, content: bytes) -> bytes | None:
        key = algorithm, content
        if key not in self._digests:
            slow = algorithm in _SLOW
            in_time = not slow or (len(content) <= SLOW_LIMIT and self._allowance.spend(len(content)))
            self._digests[key] = algorithm(content) if in_time else None
        return self._digests[key]
