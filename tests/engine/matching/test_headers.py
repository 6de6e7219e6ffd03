"""Which headers of a request are fields of it, which never count, and which may select: by the names that real APIs use."""

from __future__ import annotations

import pytest
from botocore.loaders import Loader

from engine.matching.headers import COUNTS, NAME_LENGTH, idempotency_key, may_select


def kind(name: str) -> str:
    spelt = name.encode()
    if COUNTS[spelt]:
        return "field"
    return "may select" if may_select(((spelt, b"1"),)) else "never"


FIELDS = {
    "conditions and ranges": "Range If-None-Match If-Match Content-Range x-goog-if-generation-match x-ms-if-tags Last-Event-ID",
    "what is done": "SOAPAction Prefer Depth Destination Overwrite X-HTTP-Method X-HTTP-Method-Override X-Method-Override Slug"
    " X-Amz-Target X-TC-Action x-acs-action X-Akamai-ACS-Action X-RestLi-Method Git-Protocol ConsistencyLevel X-GitHub-Event",
    "versions": "Api-Version X-Api-Version Accept-Version Stripe-Version Notion-Version anthropic-version x-ms-version"
    " Xero-Api-Version X-GitHub-Api-Version OpenStack-API-Version OData-MaxVersion CB-VERSION Square-Version"
    " MCP-Protocol-Version LinkedIn-Version",
    "beta": "anthropic-beta OpenAI-Beta",
    "for whom": "X-Tenant-ID X-Tenant Xero-tenant-id Fineract-Platform-TenantId X-Account-Id Harvest-Account-ID X-Org X-Org-Id"
    " X-Scope-OrgID X-Grafana-Org-Id Stripe-Account Stripe-Context OpenAI-Organization OpenAI-Project x-goog-user-project"
    " X-Project-Id login-customer-id X-Vault-Namespace X-Consul-Namespace X-Shopify-Shop-Domain X-User-Id Sudo As-User On-Behalf-Of"
    " X-Mailgun-On-Behalf-Of Impersonate-User Dropbox-API-Select-User MSCRMCallerID X-Hasura-Role X-Trino-Catalog Accept-Profile",
    "which part": "Dropbox-API-Arg Dropbox-API-Path-Root x-ms-continuation x-ms-max-item-count x-ms-documentdb-partitionkey"
    " x-ms-documentdb-partitionkeyrangeid x-ms-documentdb-isquery X-Cursor X-Next-Cursor X-Page X-Page-Size X-Per-Page X-Offset"
    " X-Goog-FieldMask Sforce-Query-Options x-ms-range X-Amz-Invocation-Type Upload-Offset Surrogate-Key",
    "what is kept": "x-amz-acl x-amz-copy-source x-amz-meta-colour x-goog-acl x-ms-blob-type x-ms-copy-source X-Bz-File-Name",
}
NEVER = {
    "traces": "traceparent tracestate baggage b3 X-B3-TraceId X-B3-Sampled uber-trace-id uberctx-user jaeger-baggage sentry-trace"
    " elastic-apm-traceparent x-datadog-trace-id x-datadog-tags x-datadog-anything newrelic x-newrelic-id X-INSTANA-T X-Instana-L"
    " sw8 sw8-correlation ot-tracer-traceid ot-tracer-sampled ot-baggage-a x-ot-span-context X-Amzn-Trace-Id X-Cloud-Trace-Context"
    " grpc-trace-bin X-Honeycomb-Trace Pinpoint-TraceID singularityheader Request-Context Correlation-Context X-Trace-Id X-Span-Id",
    "ids of requests": "X-Request-ID Request-Id X-Correlation-ID CorrelationId WM_QOS.CORRELATION_ID opc-request-id"
    " x-ms-client-request-id X-Openstack-Request-Id amz-sdk-invocation-id x-ms-activity-id"
    " x-ms-cosmos-correlated-activityid X-Opaque-Id",
    "keys of retries": "Idempotency-Key X-Idempotency-Key Klarna-Idempotency-Key PayPal-Request-Id x-amz-client-token"
    " opc-retry-token X-Goog-Gcs-Idempotency-Token",
    "times and numbers used once": "Date x-amz-date x-ms-date x-goog-date X-Date X-TC-Timestamp CB-ACCESS-TIMESTAMP bfx-nonce"
    " x-acs-signature-nonce X-Request-Start X-Server-Timeout grpc-timeout",
    "what an SDK tells": "x-goog-api-client x-amz-user-agent x-stainless-lang x-stainless-package-version"
    " X-Stripe-Client-User-Agent x-elastic-client-meta X-Client-Current-Telemetry amz-sdk-request"
    " x-stainless-retry-count X-Retry-Attempt",
    "checksums": "Content-MD5 Digest x-amz-content-sha256 x-amz-checksum-crc32 x-goog-hash x-ms-blob-content-md5 x-bz-content-sha1",
    "connection": "Host Content-Length Connection Transfer-Encoding Via X-Forwarded-For",
}
MAY_SELECT = {
    "credentials": "Authorization Cookie X-Api-Key X-Auth-Token x-amz-security-token x-goog-api-key Ocp-Apim-Subscription-Key"
    " x-amz-server-side-encryption-customer-key x-ms-copy-source-authorization X-Vault-Token X-Hasura-Admin-Secret X-Trino-User"
    " X-Shopify-Access-Token Mcp-Session-Id x-amz-mfa X-Hub-Signature-256",
    "the client": "User-Agent X-App-Version X-Client-Version x-ms-client-session-id sec-ch-ua-full-version"
    " apollographql-client-version X-Terraform-Version x-trino-client-info X-Node-Version X-Service-Version",
    "what it likes": "Accept Accept-Language Accept-Encoding Origin Referer Cache-Control X-Requested-With",
    "times": "x-amz-meta-mtime x-goog-meta-goog-reserved-file-mtime x-object-meta-mtime x-amz-meta-s3cmd-attrs"
    " x-ms-proposed-lease-id x-amz-object-lock-retain-until-date X-Bz-Info-src_last_modified_millis",
    "what is not known": "X-Anything X-Transaction-Id X-Checksum-Sha1 X-Artifact-Sha256",
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (name, expected)
        for expected, table in (("field", FIELDS), ("never", NEVER), ("may select", MAY_SELECT))
        for names in table.values()
        for name in names.split()
    ],
)
def test_what_a_header_is_for(name: str, expected: str) -> None:
    assert {kind(name), kind(name.lower()), kind(name.upper())} == {expected}


@pytest.mark.parametrize("service", ["s3", "lambda", "polly", "ebs"])
def test_the_parameters_that_aws_takes_in_headers_are_fields(service: str) -> None:
    """By the models that boto3 is made from: all but secrets, checksums, what a client makes anew, and the keys of retries."""
    model = Loader().load_service_model(service, "service-2")
    inputs = {each["input"]["shape"] for each in model["operations"].values() if "input" in each}
    members = [member for name in inputs for member in model["shapes"][name].get("members", {}).values()]
    names = {member["locationName"] for member in members if member.get("location") == "header"}
    others = ("md5", "checksum", "token", "-key", "-mfa", "until-date", "-sha256", "tree-hash")
    asked = {name for name in names if name.lower().startswith("x-amz") and not any(each in name.lower() for each in others)}
    asked = {name for name in asked if not name.lower().endswith(("crc32", "crc32c", "crc64nvme", "sha1", "sha512"))}
    assert len(asked) >= 3
    assert {name for name in asked if kind(name) != "field"} == set()


def test_of_an_idempotency_key_a_digest_is_kept() -> None:
    """Of each, as long as the run lasts; clients choose how long they are."""
    keys = [idempotency_key(((b"idempotency-key", b"k" * 200_000 + last),)) for last in (b"a", b"b", b"a")]
    assert [len(key) for key in keys] == [8, 8, 8]
    assert keys[0] == keys[2] != keys[1]


def test_a_long_name_costs_no_more_than_its_length() -> None:
    """Patterns are not tried on it."""
    name = b"a-app-" * 20_000 + b"tenant-id"
    assert len(name) > NAME_LENGTH
    assert not COUNTS[name]
    assert may_select(((name, b"1"),)) == [(name, b"1")]
    assert idempotency_key(((name, b"1"),)) == b""
