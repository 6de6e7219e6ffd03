"""Certificates in PEM and DER, as far as files give trust: bundles joined; names by which OpenSSL looks in a folder. Pure."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator

_BEGIN = b"-----BEGIN CERTIFICATE-----"
_PEM = re.compile(b"^" + _BEGIN + b"([A-Za-z0-9+/=\\s]+)-----END CERTIFICATE-----", re.MULTILINE)
"""At the beginning of a line, as OpenSSL wants it: a field of some other file that a person fills in is no certificate."""
_STRINGS = {0x0C: "utf-8", 0x13: "ascii", 0x14: "latin-1", 0x16: "ascii", 0x1A: "ascii", 0x1C: "utf-32-be", 0x1E: "utf-16-be"}
"""Tags of the character strings that OpenSSL brings into one form before it compares names (x509/x_name.c, ASN1_MASK_CANON)."""

_WHITE = re.compile("[ \t\n\v\f\r]+")


def is_bundle(data: bytes) -> bool:
    """Whether a file is a list of certificates to trust: certificates, and no key."""
    return _PEM.search(data) is not None and b"PRIVATE KEY-----" not in data


def joined(bundle: bytes, ca: bytes) -> bytes:
    """A bundle that also trusts `ca`. Last, so that what a program reads first stays first."""
    return bundle.rstrip(b"\n") + b"\n" + ca if bundle.strip() else ca


def first_der(pem: bytes) -> bytes:
    """The first certificate of a PEM text. ValueError where there is none."""
    found = _PEM.search(pem)
    if not found:
        raise ValueError("no certificate in PEM")
    return base64.b64decode(found.group(1))


def as_pem(der: bytes) -> bytes:
    """A certificate as PEM text."""
    return _BEGIN + b"\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


def subject_hash(der: bytes) -> str:
    """What `openssl x509 -subject_hash` prints: the name, before `.0`, of a certificate in a folder of trusted ones.

    SHA-1 of the subject with its strings as UTF-8, in lower case, with white space trimmed and made single (X509_NAME_hash_ex,
    crypto/x509/x509_cmp.c). ValueError where it is no certificate.
    """
    try:
        subject = _subject(der)
        canonical = b"".join(_canonical_set(value) for _, value in _elements(subject))
    except IndexError as error:
        raise ValueError("no certificate") from error
    return hashlib.sha1(canonical).digest()[3::-1].hex()


def _subject(der: bytes) -> bytes:
    """tbsCertificate (RFC 5280 section 4.1): [version], serialNumber, signature, issuer, validity, subject."""
    for _ in range(2):  # into the certificate, and into its first element
        der = next((value for _, value in _elements(der)), b"")
    return [value for tag, value in _elements(der) if tag != 0xA0][4]


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The DER elements in `data`: tag and content."""
    place = 0
    while place < len(data):
        tag, length = data[place], data[place + 1]
        place += 2
        if length & 0x80:
            count = length & 0x7F
            length = int.from_bytes(data[place : place + count], "big")
            place += count
        if place + length > len(data):
            raise ValueError("an element is cut off")
        yield tag, data[place : place + length]
        place += length


def _element(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + content


def _canonical_set(content: bytes) -> bytes:
    attributes = [_element(0x30, _canonical_attribute(value)) for _, value in _elements(content)]
    return _element(0x31, b"".join(sorted(attributes)))  # DER orders the members of a set


def _canonical_attribute(content: bytes) -> bytes:
    (kind_tag, kind), (tag, value) = _elements(content)
    if tag in _STRINGS:
        text = _WHITE.sub(" ", value.decode(_STRINGS[tag])).strip()
        lower = "".join(letter.lower() if letter.isascii() else letter for letter in text)
        tag, value = 0x0C, lower.encode()
    return _element(kind_tag, kind) + _element(tag, value)
