from __future__ import annotations

import pytest

from engine.technologies import _named, technologies, with_tls

CASES = [
    (
        "api.stripe.com",
        {b"authorization": b"Bearer sk"},
        {b"content-type": b"application/json"},
        ("Stripe", "HTTP", "JSON", "Bearer"),
    ),
    (
        "dynamodb.us-east-1.amazonaws.com",
        {
            b"x-amz-target": b"DynamoDB_20120810.GetItem",
            b"authorization": b"AWS4-HMAC-SHA256 x",
            b"content-type": b"application/x-amz-json-1.0",
        },
        {},
        ("DynamoDB", "AWS", "HTTP", "JSON", "AWS SigV4"),
    ),
    ("localhost", {b"x-amz-target": b"DynamoDB_20120810.GetItem"}, {}, ("DynamoDB", "AWS", "HTTP")),
    ("s3.eu-west-1.amazonaws.com", {}, {b"content-type": b"application/xml"}, ("AWS", "HTTP", "XML")),
    ("api.hubapi.com", {b"authorization": b"Basic eA=="}, {}, ("HubSpot", "HTTP", "Basic")),
    ("sandbox.plaid.com", {b"content-type": b"application/x-www-form-urlencoded"}, {}, ("Plaid", "HTTP", "form")),
    ("storage.googleapis.com", {b"authorization": b"Bearer eyJhb"}, {}, ("GCP", "HTTP", "Bearer", "JWT")),
    ("notstripe.com", {b"cookie": b"a=b"}, {}, ("HTTP", "cookie")),
    (
        "x",
        {},
        {b"set-cookie": b"a=b", b"content-type": b"multipart/form-data; boundary=x"},
        ("HTTP", "multipart", "cookie"),
    ),
]


@pytest.mark.parametrize(("host", "request_fields", "response_fields", "names"), CASES)
def test_names(host: str, request_fields: dict[bytes, bytes], response_fields: dict[bytes, bytes], names: tuple[str, ...]) -> None:
    assert technologies("http/1.1", host, request_fields, response_fields, "", "") == names
    assert technologies("http/1.1", host, request_fields, response_fields, "", "TLS 1.3") == (*names, "TLS 1.3")


def test_presigned() -> None:
    assert "AWS SigV4" in technologies("http/1.1", "x", {}, {}, "a=b&X-Amz-Signature=c", "")


def test_tls_is_added_once() -> None:
    assert with_tls(("HTTP", "TLS 1.3"), "TLS 1.3") == ("HTTP", "TLS 1.3")


def test_what_is_remembered_is_short() -> None:
    """Peers choose these values: whatever their length, they are one entry."""
    before = _named.cache_info().currsize
    for end in (b"a", b"b", b"c"):
        long = b"application/json;" + b"x" * 10_000 + end
        fields = {b"content-type": long, b"x-amz-target": long, b"authorization": long}
        technologies("http/1.1", "h.example", fields, {b"content-type": long}, "", "")
    assert _named.cache_info().currsize == before + 1
