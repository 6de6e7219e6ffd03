from __future__ import annotations

import base64
import gzip
import hashlib
import zlib
from collections.abc import Callable

import pytest

from engine.redaction import refit
from engine.redaction.refit import FIELDS_LIMIT, SLOW_LIMIT, SLOW_TOTAL, Allowance, Refit
from engine.rrpair import Fields, Message
from tests.engine.redaction.messages import REDACTOR

BODY = b'{"password":"hunter2-9f8e7d6c","n":1}'


def slow_crc(body: bytes, bits: int, polynomial: int) -> bytes:
    """The definition, bit by bit."""
    value = mask = (1 << bits) - 1
    for byte in body:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (polynomial if value & 1 else 0)
    return base64.b64encode((value ^ mask).to_bytes(bits // 8, "big"))


def b64(name: str) -> Callable[[bytes], bytes]:
    return lambda body: base64.b64encode(hashlib.new(name, body).digest())


def crc32c(body: bytes) -> bytes:
    return slow_crc(body, 32, 0x82F63B78)


def crc64nvme(body: bytes) -> bytes:
    return slow_crc(body, 64, 0x9A6C9329AC4BC9B5)


CHECKSUMS: list[tuple[bytes, Callable[[bytes], bytes]]] = [
    (b"Content-Length", lambda body: b"%d" % len(body)),
    (b"Content-MD5", b64("md5")),
    (b"Digest", lambda body: b"SHA-256=" + b64("sha256")(body)),
    (b"Content-Digest", lambda body: b"sha-512=:" + b64("sha512")(body) + b":"),
    (b"Repr-Digest", lambda body: b"sha-256=:" + b64("sha256")(body) + b":"),
    (b"Content-Range", lambda body: b"bytes 0-%d/%d" % (len(body) - 1, len(body))),
    (b"X-Amz-Crc32", lambda body: b"%d" % zlib.crc32(body)),
    (b"x-amz-content-sha256", lambda body: hashlib.sha256(body).hexdigest().encode()),
    (b"x-amz-checksum-crc32", lambda body: base64.b64encode(zlib.crc32(body).to_bytes(4, "big"))),
    (b"x-amz-checksum-crc32c", crc32c),
    (b"x-amz-checksum-crc64nvme", crc64nvme),
    (b"x-amz-checksum-sha1", b64("sha1")),
    (b"x-amz-checksum-sha256", b64("sha256")),
    (b"x-goog-hash", lambda body: b"crc32c=" + crc32c(body) + b",md5=" + b64("md5")(body)),
]


def test_the_definitions_of_the_test() -> None:
    """Check values of the CRC catalogue (reveng)."""
    assert crc32c(b"123456789") == base64.b64encode(bytes.fromhex("e3069283"))
    assert crc64nvme(b"123456789") == base64.b64encode(bytes.fromhex("ae8b14860a799888"))


@pytest.mark.parametrize(("name", "checksum"), CHECKSUMS)
@pytest.mark.parametrize("trailer", [False, True])
def test_checksums_fit_the_changed_body(name: bytes, checksum: Callable[[bytes], bytes], trailer: bool) -> None:
    fields = ((name, checksum(BODY)),)
    message = Message(b"HTTP/1.1 200 OK", () if trailer else fields, BODY, fields if trailer else ())
    redacted = REDACTOR.message(message, set())
    assert redacted.body != BODY
    assert (redacted.trailers if trailer else redacted.headers) == ((name, checksum(redacted.body)),)


@pytest.mark.parametrize(("name", "checksum"), CHECKSUMS)
def test_checksums_of_coded_bodies(name: bytes, checksum: Callable[[bytes], bytes]) -> None:
    body = gzip.compress(BODY)
    fields: Fields = ((b"Content-Encoding", b"gzip"), (name, checksum(body)))
    redacted = REDACTOR.message(Message(b"HTTP/1.1 200 OK", fields, body), set())
    assert redacted.headers[1] == (name, checksum(redacted.body))


def test_the_decoded_length_of_an_aws_chunked_body() -> None:
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    fields = ((b"Content-Encoding", b"aws-chunked"), (b"x-amz-decoded-content-length", b"%d" % len(BODY)))
    redacted = REDACTOR.message(Message(b"PUT /x HTTP/1.1", fields, body), set())
    content = redacted.body.split(b"\r\n")[1]
    assert redacted.headers[1][1] == b"%d" % len(content)
    assert int(redacted.body.split(b"\r\n")[0], 16) == len(content)


def test_the_checksum_in_the_trailer_of_an_aws_chunked_body() -> None:
    checksum = base64.b64encode(zlib.crc32(BODY).to_bytes(4, "big"))
    body = b"%x\r\n%b\r\n0\r\nx-amz-checksum-crc32:%b\r\n\r\n" % (len(BODY), BODY, checksum)
    redacted = REDACTOR.message(Message(b"PUT /x HTTP/1.1", ((b"Content-Encoding", b"aws-chunked"),), body), set())
    content = redacted.body.split(b"\r\n")[1]
    fitting = base64.b64encode(zlib.crc32(content).to_bytes(4, "big"))
    assert redacted.body.endswith(b"0\r\nx-amz-checksum-crc32:" + fitting + b"\r\n\r\n")


def test_headers_of_a_part() -> None:
    md5 = base64.b64encode(hashlib.md5(b"hunter2-9f8e7d6c").digest())
    body = b'--x\r\nContent-Disposition: form-data; name="password"\r\nContent-MD5: %b\r\nContent-Length: 16\r\n\r\n' % md5
    body += b"hunter2-9f8e7d6c\r\n--x--\r\n"
    fields = ((b"Content-Type", b"multipart/form-data; boundary=x"),)
    head, _, content = REDACTOR.message(Message(b"POST / HTTP/1.1", fields, body), set()).body.partition(b"\r\n\r\n")
    token = content.partition(b"\r\n")[0]
    assert b"Content-MD5: " + base64.b64encode(hashlib.md5(token).digest()) in head
    assert b"Content-Length: %d" % len(token) in head


def test_an_etag_stays() -> None:
    """Of the same thing, what has no body says it as well, and a client asks by it."""
    etag: Fields = ((b"ETag", b'"' + hashlib.md5(BODY).hexdigest().encode() + b'"'),)
    redacted = REDACTOR.message(Message(b"HTTP/1.1 200 OK", etag, BODY), set())
    assert redacted.body != BODY
    assert redacted.headers == REDACTOR.message(Message(b"HTTP/1.1 304 Not Modified", etag), set()).headers == etag


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"bytes 100-%d/2000", b"bytes 100-%d/%d"),
        (b"bytes 100-%d/*", b"bytes 100-%d/*"),
    ],
)
def test_the_range_of_a_part_fits_it(before: bytes, after: bytes) -> None:
    fields: Fields = ((b"Content-Range", before % (99 + len(BODY))),)
    redacted = REDACTOR.message(Message(b"HTTP/1.1 206 Partial Content", fields, BODY), set())
    last = 99 + len(redacted.body)
    expected = after % (last, 2000 + len(redacted.body) - len(BODY)) if after.count(b"%d") == 2 else after % last
    assert redacted.headers == ((b"Content-Range", expected),)


RANGES_OF_OTHERS = [b"bytes */20", b"bytes 0-19", b"items 0-36/37", b"bytes 0-1/2", b"bytes 5-2/9", b"bytes 0-36/36"]


@pytest.mark.parametrize("value", [*RANGES_OF_OTHERS, b"bytes " + b"9" * 5000])
def test_a_range_of_something_else_stays(value: bytes) -> None:
    fields: Fields = ((b"Content-Range", value),)
    assert REDACTOR.message(Message(b"HTTP/1.1 206 Partial Content", fields, BODY), set()).headers == fields


def test_what_did_not_fit_before_stays() -> None:
    fields: Fields = ((b"ETag", b'"abc"'), (b"Content-Length", b"7"), (b"Content-MD5", b"AAAA"))
    assert REDACTOR.message(Message(b"HTTP/1.1 200 OK", fields, BODY), set()).headers == fields


def test_a_checksum_that_would_take_too_long_is_left_out() -> None:
    long = b"x" * (SLOW_LIMIT + 1)
    assert Refit([(long, long)], Allowance()).fields(((b"x-amz-checksum-crc32c", b"AAAA"), (b"A", b"b"))) == ((b"A", b"b"),)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all contents that went through CRC-32C and MD5."""
    sizes: list[int] = []

    def counting(algorithm: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        def counted(body: bytes) -> bytes:
            sizes.append(len(body))
            return algorithm(body)

        return counted

    crc, md5 = counting(refit._CRC32C), counting(refit._sha("md5"))
    monkeypatch.setattr(refit, "_SLOW", (crc,))
    fields = {b"x-amz-checksum-crc32c": ((crc, base64.b64encode),), b"content-md5": ((md5, base64.b64encode),)}
    monkeypatch.setattr(refit, "_FIELDS", fields)
    return sizes


def test_a_content_is_hashed_once_however_many_fields_want_it(hashed: list[int]) -> None:
    checksum = crc32c(BODY) + b64("md5")(BODY)
    many = tuple((name, checksum) for _ in range(1000) for name in (b"x-amz-checksum-crc32c", b"content-md5"))
    redacted = REDACTOR.message(Message(b"HTTP/1.1 200 OK", many, BODY, many), set())
    assert redacted.body != BODY
    assert len(hashed) == 4
    assert len(redacted.headers + redacted.trailers) == FIELDS_LIMIT


def test_parts_share_what_may_be_spent_on_slow_checksums(hashed: list[int]) -> None:
    value = b"x" * (SLOW_LIMIT // 4)
    head = b'--x\r\nContent-Disposition: form-data; name="password"\r\n' + b"x-amz-checksum-crc32c: AAAA\r\n" * 100
    body = (head + b"\r\n" + value + b"\r\n") * 100 + b"--x--\r\n"
    fields = ((b"Content-Type", b"multipart/form-data; boundary=x"),)
    redacted = REDACTOR.message(Message(b"POST / HTTP/1.1", fields, body), set())
    assert value not in redacted.body
    assert SLOW_TOTAL // 2 < sum(hashed) <= SLOW_TOTAL, sum(hashed)
