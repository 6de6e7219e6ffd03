"""What headers mean for matching, by tables.

Of a request, many of them never tell two requests apart. Some are fields of the request, as its path is: another value is
another request (`engine.matching.fields` takes them in). The rest, credentials among it, selects only where recorded requests
that are otherwise equal were answered differently. Of an answer, everything counts but what is new in each answer.

A name is known by its words where these say enough, since APIs are many and their words are few.
"""

from __future__ import annotations

import marshal
import re
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b
from operator import itemgetter
from typing import Any

from engine.matching.accept import normal
from engine.redaction.rules import HEADERS, PLAIN_HEADER
from engine.rrpair import Fields

_IDEMPOTENCY_KEY = re.compile(rb"(?:.*-)?idempotency-?(?:key|token)|paypal-request-id|x-amzn?-client-token|opc-retry-token")
"""The same value again means the same request again (draft-ietf-httpapi-idempotency-key-header; AWS, Oracle and Google alike)."""

# -- what says what is asked ---------------------------------------------------------------------------------------------

_FIELDS = frozenset(
    (
        # conditional and partial requests (RFC 9110 sections 13 and 14; event streams)
        b"range range-unit content-range last-event-id"
        # what is done, where a header says it (SOAP, RFC 7240, WebDAV, AtomPub, Git, Graph, PayPal, Azure ML, purges)
        b" soapaction prefer depth destination overwrite if slug git-protocol consistencylevel paypal-mock-response"
        b" azureml-model-deployment surrogate-key x-copy-from x-newest x-wait-for-model x-use-cache"
        # in which part of the data, though its name ends as a secret's does (Cosmos DB)
        b" x-ms-documentdb-partitionkey"
        # for whom, where that is no credential (also Dynamics, GitLab, Box, Redmine, Elasticsearch, Google Ads, Grafana)
        b" mscrmcallerid callerobjectid sudo as-user on-behalf-of es-security-runas-user securitytenant orgid x-rapidapi-host"
        b" stripe-context x-user-id user-id"
        # what happened (CloudEvents)
        b" ce-type ce-source ce-subject"
    ).split()
)
_CONDITIONS = (b"if-", b"x-goog-if-", b"x-ms-if-", b"x-ms-source-if-")
_FIELD_PREFIXES = tuple(
    (
        # the parameters of cloud APIs: AWS, Azure, Google, Alibaba, Tencent, Huawei, Volcengine, Baidu, Backblaze
        b"x-amz- x-amzn- x-ms- x-goog- x-oss- x-acs- x-cos- x-tc- x-obs- x-tos- x-bce- x-bz-"
        # Dropbox, Salesforce, LinkedIn, Anthropic, Microsoft's speech and Dynamics, OpenStack's objects, Subversion, Kubernetes
        b" dropbox-api- sforce- x-restli- anthropic- x-microsoft- mscrm. x-object- x-container- x-svn- impersonate-"
        # databases and vaults: Hasura, Trino, Presto, ClickHouse, ArangoDB, Vault
        b" x-hasura- x-trino- x-presto- x-clickhouse- x-arango- x-vault-"
        # resumable uploads: tus, the IETF's, YouTube's
        b" upload- tus- x-upload-"
    ).split()
)
_FIELD_WORDS = re.compile(
    rb".*version"  # of an API: Stripe-Version, OData-MaxVersion
    rb"|.*tenant.*"
    rb"|(?:.*[-_])?(?:"
    # which of it
    rb"args?|cursor|page|page-?(?:size|number|index|token)|per-page|continuation(?:-?token)?|offset|limit|marker"
    rb"|partition-?key|field-?mask|fields|filter|query|sort"
    # what is done with it, and how
    rb"|action|operation|operation-name|command|method|method-override|directive|profile|topic|event|format|options?|beta"
    # for whom
    rb"|act-as|on-behalf-of|(?:run-?as|switch|select|impersonate|as)-user"
    rb"|(?:org|organi[sz]ation|account|project|workspace|namespace|team|shop|store|realm|database|schema|catalog|cluster|region"
    rb"|environment|subscription|company|customer|merchant|entity)(?:[-_]?(?:ids?|name|domain|code))?"
    rb")"
)
"""Words at the end of a header's name that say what it is for, whoever's API it is: `X-Next-Cursor`, `Harvest-Account-ID`."""
_BODY_FORM = (b"content-type", b"content-encoding")
"""How to read the body: fields as well."""

# -- what says nothing of its own, or something new each time -------------------------------------------------------------

_FOLLOWS_FROM_THE_REST = (
    b"host content-length transfer-encoding content-encoding content-md5 digest content-digest repr-digest te trailer expect"
    b" x-amz-decoded-content-length x-amz-sdk-checksum-algorithm x-amz-trailer x-goog-request-params x-goog-hash upload-checksum"
)
_OF_THE_CONNECTION = (
    b"connection keep-alive proxy-connection proxy-authorization upgrade via forwarded x-forwarded-for x-forwarded-proto"
    b" x-forwarded-port x-real-ip cdn-loop"
)
_OF_EACH_REQUEST = (
    b"date amz-sdk-request x-stripe-client-telemetry x-goog-api-client x-elastic-client-meta x-firebase-client x-amz-user-agent"
    b" x-ms-useragent stripe-signature signature signature-input x-ms-session-token x-amzn-sagemaker-inference-id ce-time"
    b" x-request-start x-queue-start x-amz-cf-id"
)
_NEVER = frozenset(b" ".join((_FOLLOWS_FROM_THE_REST, _OF_THE_CONNECTION, _OF_EACH_REQUEST)).split())
_TRACED = re.compile(
    rb"(?:.*[-_.])?trace-?(?:id|parent|state|context|flags|info|sampled)"  # W3C, X-Ray, Google, Uber, Elastic, SkyWalking, …
    rb"|(?:.*[-_.])?span-?(?:id|context)"
    rb"|(?:.*[-_.])?(?:request|correlation|correlated-activity|activity|invocation)[-_]?id"
    rb"|(?:x-b3|x-datadog|x-instana|x-newrelic|elastic-apm|ot-tracer|ot-baggage|ot|uberctx|jaeger|pinpoint|sw8|x-ot|x-envoy)-.*"
    rb"|baggage|.*-baggage|b3|sw[368]|newrelic|x-trace|grpc-trace-bin|x-honeycomb-trace|sentry-trace|x-dynatrace|traceresponse"
    rb"|singularityheader|(?:correlation|request)-context|x-opaque-id|cf-ray"
)
"""Of a trace, or an id of the request: new each time."""
_NEW_EACH_TIME = re.compile(
    rb"(?:x-[a-z]+-|x-)date|(?:.*[-_])?(?:nonce|timestamp)"  # of a signature
    rb"|(?:.*-)?(?:timeout|deadline)(?:-(?:ms|millis|seconds))?"  # what is left of it
    rb"|(?:.*-)?(?:retry-(?:count|attempt|number)|attempt(?:-(?:count|number))?)"
    rb"|x-stainless-.*|x-stripe-client-.*|.*-telemetry"  # what an SDK tells of itself
    rb"|x-(?:amz|ms|goog|oss|acs|cos|obs|tos|bce|bz)-(?:.*-)?(?:md5|sha1|sha256|tree-hash|crc32c?|crc64(?:nvme)?)"  # of the body
    rb"|x-amz-checksum-.*"
)

# -- what selects only where recorded answers differ by it -----------------------------------------------------------------

_OF_THE_CLIENT = re.compile(
    rb"sec-.*|x-client-.*|sdk-?version"
    rb"|(?:.*-)?(?:client|sdk|app|application|library|lib|package|runtime|platform|os|browser|device|agent|build|extension|plugin"
    rb"|driver|cli|lang|node|npm|pacote|python|java|ruby|php|dotnet|terraform"
    rb"|service|caller|release|source)-(?:.*-)?(?:version|name|info|id|tags)"
    rb"|(?:.*-)?(?:driver|lib-capability|requestclient)"
    rb"|x-(?:clickhouse|trino|presto)-user"  # a dummy user is answered as a dummy key is
)
"""Which program asks: the same requests come from its next version."""
_TIMES = re.compile(
    rb"(?:.*-)?(?:[amc]time|mtime-.*|.*last[-_]modified.*millis|until-date|expiry-time|creation-time|write-time|change-time|delete-at"
    rb"|s3cmd-attrs|proposed-lease-id|mfa)"
)
"""Times and ids that a client makes anew, beside a request rather than in it."""

# -- answers -------------------------------------------------------------------------------------------------------------

OF_EACH_ANSWER = frozenset(
    (
        # of the connection (RFC 9110 section 7.6.1), and of those on the way
        b"connection keep-alive proxy-connection transfer-encoding te trailer upgrade via alt-svc x-served-by x-cache x-cache-hits"
        b" x-timer x-backend-server cf-ray cf-cache-status x-amz-cf-id x-amz-cf-pop nel report-to server"
        # when it was made, and how long that took
        b" date age expires x-runtime x-response-time server-timing x-envoy-upstream-service-time openai-processing-ms"
        # ids of the request that no pattern knows
        b" x-amz-id-2 x-guploader-uploadid x-transaction-id paypal-debug-id"
    ).split()
)
"""Headers of an answer that are new each time: they do not make another answer of it."""
_QUOTAS = (b"x-ratelimit-", b"x-rate-limit-", b"ratelimit", b"anthropic-ratelimit-")
"""How much a client may still ask falls with each request."""

NAMES_LIMIT = 4096
"""Spellings of header names that are remembered: real traffic has a few hundred."""
NAME_LENGTH = 256
"""Longest name that is looked at by its words, and remembered: none in use is longer."""

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
    if lower in _FIELDS or lower in _BODY_FORM or lower.startswith(_CONDITIONS):
        return True
    if _never_selects(lower) or _named(lower, _OF_THE_CLIENT, _TIMES) or HEADERS[lower] != PLAIN_HEADER:
        return False
    return lower.startswith(_FIELD_PREFIXES) or _named(lower, _FIELD_WORDS)


def _never_selects(lower: bytes) -> bool:
    return lower in _NEVER or _named(lower, _IDEMPOTENCY_KEY, _TRACED, _NEW_EACH_TIME)


def _named(lower: bytes, *patterns: re.Pattern[bytes]) -> bool:
    """Whether a name is of one of these forms. They may take time with the square of a name's length, so that is bounded."""
    return len(lower) <= NAME_LENGTH and any(pattern.fullmatch(lower) for pattern in patterns)


COUNTS = _Names(_is_field)
"""Headers that are fields of a request, and those that say how to read its body."""
_MAY_SELECT = _Names(lambda lower: not (_is_field(lower) or _never_selects(lower)))
_OF_ANSWERS = _Names(lambda lower: not (lower in OF_EACH_ANSWER or lower.startswith(_QUOTAS) or _named(lower, _TRACED)))
_KEYS = _Names(lambda lower: _named(lower, _IDEMPOTENCY_KEY))
_ACCEPTS = _Names(lambda lower: lower == b"accept")
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
    """Give a digest of the request's idempotency key (8 bytes, for keys may be long and are many); empty where it has none."""
    keys = _KEYS
    for name, value in headers:
        if keys[name]:
            return blake2b(value, digest_size=8).digest()
    return b""


def accept_of(headers: Fields) -> bytes:
    """Give what a client takes, as one field (RFC 9110 section 5.3); empty where it does not say."""
    accepts = _ACCEPTS
    values = [value for name, value in headers if accepts[name]]
    return b",".join(values) if values else b""


def accept_digest(accept: bytes) -> bytes:
    """8 bytes that stand for an Accept field, however it is spaced."""
    return _known_accept_digest(accept) if len(accept) <= NAME_LENGTH else _accept_digest(accept)


def _accept_digest(accept: bytes) -> bytes:
    return blake2b(normal(accept), digest_size=8).digest()


_known_accept_digest = lru_cache(NAMES_LIMIT)(_accept_digest)


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
