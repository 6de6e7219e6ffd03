"""What a pair is made with, by tables: the names people know, in the order they are shown."""

from __future__ import annotations

import re
from functools import lru_cache

CACHE_LIMIT = 4096
"""Distinct combinations of the few facts looked at that are remembered."""
FACT_LENGTH = 128
"""Characters of a value that are looked at: what is recognised is shorter, and what is remembered is bounded by it."""

_HOSTS: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = tuple(
    (re.compile(rf"(?:^|\.)(?:{host})$"), names)
    for host, names in (
        (r"dynamodb(?:-fips)?\.[a-z0-9-]+\.(?:amazonaws\.com(?:\.cn)?|api\.aws)", ("DynamoDB", "AWS")),
        (r"amazonaws\.com(?:\.cn)?|api\.aws", ("AWS",)),
        (r"stripe\.com", ("Stripe",)),
        (r"hubapi\.com|hubspot\.com", ("HubSpot",)),
        (r"plaid\.com", ("Plaid",)),
        (r"googleapis\.com", ("GCP",)),
    )
)
_TARGETS: tuple[tuple[bytes, tuple[str, ...]], ...] = ((b"DynamoDB", ("DynamoDB", "AWS")),)
_MEDIA: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"(?i)[^;]*[/+](?:x-)?(?:amz-|nd)?json"), "JSON"),
    (re.compile(rb"(?i)[^;]*[/+]xml"), "XML"),
    (re.compile(rb"(?i)application/x-www-form-urlencoded"), "form"),
    (re.compile(rb"(?i)multipart/"), "multipart"),
    (re.compile(rb"(?i)text/event-stream"), "SSE"),
)
_SCHEMES = {b"bearer": "Bearer", b"basic": "Basic", b"digest": "Digest", b"aws4-hmac-sha256": "AWS SigV4"}
_PROTOCOLS = {"http/1.1": "HTTP"}
_JWT = b"eyJ"


def technologies(
    protocol: str, host: str, request: dict[bytes, bytes], response: dict[bytes, bytes], query: str, tls_version: str
) -> tuple[str, ...]:
    """Name what is recognised. `request` and `response` are header values by lower-case name."""
    authorization = request.get(b"authorization", b"")
    scheme, _, credentials = authorization.partition(b" ")
    target = request.get(b"x-amz-target", b"")
    return _named(
        protocol,
        host[-FACT_LENGTH:],
        target[:FACT_LENGTH].partition(b"_")[0],
        (request.get(b"content-type", b"")[:FACT_LENGTH], response.get(b"content-type", b"")[:FACT_LENGTH]),
        scheme[:FACT_LENGTH].lower(),
        _JWT in credentials[:3],
        "X-Amz-Signature=" in query,
        b"cookie" in request or b"set-cookie" in response,
        tls_version,
    )


@lru_cache(CACHE_LIMIT)
def _named(
    protocol: str,
    host: str,
    target: bytes,
    media: tuple[bytes, bytes],
    scheme: bytes,
    jwt: bool,
    presigned: bool,
    cookie: bool,
    tls_version: str,
) -> tuple[str, ...]:
    names = list(next((names for pattern, names in _HOSTS if pattern.search(host)), ()))
    names += next((names for prefix, names in _TARGETS if target == prefix), ())
    names.append(_PROTOCOLS.get(protocol, protocol))
    names += [name for pattern, name in _MEDIA if any(pattern.match(value) for value in media)]
    names += [_SCHEMES[scheme]] if scheme in _SCHEMES else []
    names += ["AWS SigV4"] * presigned + ["JWT"] * jwt + ["cookie"] * cookie
    return with_tls(tuple(names), tls_version)


def with_tls(names: tuple[str, ...], tls_version: str) -> tuple[str, ...]:
    """Add the TLS version, which may become known late, and drop repetitions."""
    return tuple(dict.fromkeys((*names, tls_version))) if tls_version else tuple(dict.fromkeys(names))
