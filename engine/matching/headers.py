"""What headers mean for matching, by tables.

Most of them never tell two requests apart. A few always do (`engine.matching.fields` reads those). The rest selects only
where requests that are otherwise equal were answered differently: `Authorization` of two users, `If-None-Match`, `Range`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import blake2b

from engine.rrpair import Fields

IDEMPOTENCY_KEYS = frozenset((b"idempotency-key", b"x-idempotency-key", b"paypal-request-id"))
"""The same value again means the same request again (draft-ietf-httpapi-idempotency-key-header)."""

_ALWAYS = (b"x-amz-target", b"content-type")
_FOLLOWS_FROM_THE_REST = (
    b"host content-length transfer-encoding content-encoding content-md5 digest content-digest repr-digest te trailer expect"
    b" x-amz-content-sha256 x-amz-decoded-content-length x-amz-sdk-checksum-algorithm x-amz-trailer"
)
_OF_THE_CONNECTION = (
    b"connection keep-alive proxy-connection proxy-authorization upgrade via forwarded x-forwarded-for x-forwarded-proto"
)
_OF_EACH_REQUEST = (
    b"date x-amz-date traceparent tracestate baggage b3 x-b3-traceid x-b3-spanid x-b3-parentspanid x-b3-sampled x-b3-flags"
    b" uber-trace-id sentry-trace x-amzn-trace-id x-cloud-trace-context x-datadog-trace-id x-datadog-parent-id"
    b" x-datadog-sampling-priority x-datadog-tags x-datadog-origin newrelic x-request-id request-id x-correlation-id"
    b" x-amzn-requestid x-client-request-id x-ms-client-request-id x-goog-request-params amz-sdk-invocation-id amz-sdk-request"
    b" x-stripe-client-telemetry x-goog-api-client stripe-signature signature signature-input"
)
NEVER_SELECTS = frozenset(
    [*_ALWAYS, *b" ".join((_FOLLOWS_FROM_THE_REST, _OF_THE_CONNECTION, _OF_EACH_REQUEST)).split(), *IDEMPOTENCY_KEYS]
)
"""Headers that hold nothing of their own, or something new each time."""

ANSWER_HEADERS = frozenset(
    b"content-type content-encoding content-range location set-cookie www-authenticate etag retry-after link".split()
)
"""Headers of a response in which two answers differ; others (dates, ids of requests) do not make another answer of it."""

NAMES_LIMIT = 4096
"""Spellings of header names that are remembered: real traffic has a few hundred."""
NAME_LENGTH = 256
"""Longest name that is remembered: none in use is longer."""

_SIGV4 = re.compile(rb"AWS4-\S+ .*?Credential=([^/,\s]+)")


class _Names(dict[bytes, bytes]):
    """Header names as spelt to their lower case; empty for those that are not looked at."""

    def __init__(self, wanted: Callable[[bytes], bool]) -> None:
        super().__init__()
        self._wanted = wanted

    def __missing__(self, name: bytes) -> bytes:
        lower = name.lower()
        known = lower if self._wanted(lower) else b""
        if len(self) < NAMES_LIMIT and len(name) <= NAME_LENGTH:
            self[name] = known
        return known


_MAY_SELECT = _Names(lambda lower: lower not in NEVER_SELECTS and not lower.startswith(b"x-amz-checksum-"))
_OF_ANSWERS = _Names(ANSWER_HEADERS.__contains__)
_KEYS = _Names(IDEMPOTENCY_KEYS.__contains__)


def may_select(headers: Fields) -> list[tuple[bytes, bytes]]:
    """Headers that might tell a request from one that is equal but for headers; sorted, for their order says nothing."""
    may = _MAY_SELECT
    found = [(lower, value) for name, value in headers if (lower := may[name])]
    found.sort()
    return [(name, _credentials(value)) if name == b"authorization" else (name, value) for name, value in found]


def _credentials(value: bytes) -> bytes:
    """Who asks: of SigV4 the access key, for the signature is new each time."""
    signed = _SIGV4.match(value)
    return signed[1] if signed else value


def idempotency_key(headers: Fields) -> bytes:
    """Give the request's idempotency key; empty where it has none."""
    keys = _KEYS
    for name, value in headers:
        if keys[name]:
            return value
    return b""


def answer_headers(headers: Fields) -> list[tuple[bytes, bytes]]:
    """Headers of a response that make another answer of it, in order."""
    names = _OF_ANSWERS
    return [(lower, value) for name, value in headers if (lower := names[name])]


def short_digest(parts: list[bytes]) -> str:
    """16 hexadecimal digits that stand for these texts."""
    return blake2b(b"\0".join(parts), digest_size=8).hexdigest()
