"""What headers mean for matching, by tables.

Of a request, most of them never tell two requests apart. Some are fields of the request, as its path is: another value is
another request (`engine.matching.fields` takes them in). The rest, credentials among it, selects only where recorded requests
that are otherwise equal were answered differently. Of an answer, everything counts but what is new in each answer.
"""

from __future__ import annotations

import marshal
import re
from collections.abc import Callable
from hashlib import blake2b
from operator import itemgetter
from typing import Any

from engine.rrpair import Fields

IDEMPOTENCY_KEYS = frozenset((b"idempotency-key", b"x-idempotency-key", b"paypal-request-id"))
"""The same value again means the same request again (draft-ietf-httpapi-idempotency-key-header)."""

_FIELDS = frozenset(
    (
        # conditional and partial requests (RFC 9110 sections 13 and 14; resumable uploads of Google and tus; event streams)
        b"range content-range x-amz-range x-ms-range x-goog-upload-command x-goog-upload-offset upload-offset last-event-id"
        # what is done, where a header says it (method overrides, SOAP, RFC 7240, WebDAV)
        b" x-http-method-override x-http-method x-method-override soapaction prefer depth destination overwrite if"
        b" x-amz-target x-amz-metadata-directive x-amz-tagging-directive x-ms-blob-type x-ms-lease-action x-ms-lease-id"
        # in which version of an API (dates and names that a client pins)
        b" api-version x-api-version x-ms-version x-github-api-version stripe-version notion-version anthropic-version"
        # for whom, where that is no credential
        b" stripe-account x-tenant-id x-tenant openai-organization openai-project x-goog-user-project x-vault-namespace"
    ).split()
)
_FIELD_PREFIXES = (
    *(b"if-", b"x-goog-if-", b"x-ms-if-", b"x-ms-source-if-"),
    *(b"x-amz-copy-source", b"x-goog-copy-source", b"x-ms-copy-source"),
)
_BODY_FORM = (b"content-type", b"content-encoding")
"""How to read the body: fields as well."""
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
    b" retry-count x-retry-count x-retry-attempt x-stainless-retry-count stripe-retry-count"
)
NEVER_SELECTS = frozenset([*b" ".join((_FOLLOWS_FROM_THE_REST, _OF_THE_CONNECTION, _OF_EACH_REQUEST)).split(), *IDEMPOTENCY_KEYS])
"""Headers that hold nothing of their own, or something new each time."""

OF_EACH_ANSWER = frozenset(
    (
        # of the connection (RFC 9110 section 7.6.1), and of those on the way
        b"connection keep-alive proxy-connection transfer-encoding te trailer upgrade via alt-svc x-served-by x-cache x-cache-hits"
        b" x-timer x-backend-server cf-ray cf-cache-status x-amz-cf-id x-amz-cf-pop nel report-to server"
        # when it was made, and how long that took
        b" date age expires x-runtime x-response-time server-timing x-envoy-upstream-service-time openai-processing-ms"
        # ids of the request and of its trace
        b" x-request-id request-id x-correlation-id correlation-id x-trace-id traceparent tracestate traceresponse b3"
        b" x-b3-traceid x-b3-spanid x-amzn-trace-id x-cloud-trace-context x-amzn-requestid x-amz-request-id x-amz-id-2"
        b" x-github-request-id x-ms-request-id x-ms-client-request-id x-ms-correlation-request-id x-ms-routing-request-id"
        b" x-guploader-uploadid x-transaction-id paypal-debug-id"
    ).split()
)
"""Headers of an answer that are new each time: they do not make another answer of it."""
_QUOTAS = (b"x-ratelimit-", b"x-rate-limit-", b"ratelimit", b"anthropic-ratelimit-")
"""How much a client may still ask falls with each request."""

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


def _is_field(lower: bytes) -> bool:
    return lower in _FIELDS or lower in _BODY_FORM or lower.startswith(_FIELD_PREFIXES)


COUNTS = _Names(_is_field)
"""Headers that are fields of a request, and those that say how to read its body."""
_MAY_SELECT = _Names(lambda lower: not (_is_field(lower) or lower in NEVER_SELECTS or lower.startswith(b"x-amz-checksum-")))
_OF_ANSWERS = _Names(lambda lower: not (lower in OF_EACH_ANSWER or lower.startswith(_QUOTAS)))
_KEYS = _Names(IDEMPOTENCY_KEYS.__contains__)
_NAME = itemgetter(0)


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


def answer_headers(headers: Fields, body: bytes) -> list[tuple[bytes, bytes]]:
    """Headers of a response that make another answer of it; their order counts among equal names only.

    Content-Length says something only where no body does: of what a HEAD asks about.
    """
    names = _OF_ANSWERS
    found = [(lower, value) for name, value in headers if (lower := names[name]) and not (body and lower == b"content-length")]
    found.sort(key=_NAME)
    return found


def short_digest(*parts: Any) -> str:
    """16 hexadecimal digits that stand for these bytes, numbers and lists: equal for equal ones only, wherever parts end."""
    return blake2b(marshal.dumps(parts, 2), digest_size=8).hexdigest()
