"""A miss as real SDKs take it: as nobody's answer, and not to be tried again."""

from __future__ import annotations

from typing import Any

import boto3
import pytest
import requests
import stripe
from botocore.config import Config
from botocore.exceptions import ClientError
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from engine.responder.server import Responder
from tests.engine.making import Exchange
from tests.engine.responder.conftest import Serve


def proxy(responder: Responder) -> str:
    return f"http://{responder.address}:{responder.port}"


def sdk_client(responder: Responder, service: str) -> Any:
    retries = {"mode": "standard", "max_attempts": 4}
    return boto3.client(
        service,
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        verify=str(responder.authority.certificate_file),
        config=Config(proxies={"https": proxy(responder)}, retries=retries),
    )


@pytest.mark.parametrize(
    ("service", "operation", "arguments"),
    [
        ("s3", "get_object", {"Bucket": "b", "Key": "k"}),
        ("s3", "put_object", {"Bucket": "b", "Key": "k", "Body": b"x"}),
        ("s3", "list_objects_v2", {"Bucket": "b"}),
        ("sns", "list_topics", {}),
        ("sts", "get_caller_identity", {}),
        ("lambda", "list_functions", {}),
        ("dynamodb", "list_tables", {}),
        ("sqs", "list_queues", {}),
    ],
)
def test_no_aws_sdk_takes_a_miss_for_an_answer(serve: Serve, service: str, operation: str, arguments: dict[str, Any]) -> None:
    responder = serve(Exchange("GET /a"))
    with pytest.raises(ClientError) as caught:
        getattr(sdk_client(responder, service), operation)(**arguments)
    error = caught.value.response["Error"]
    assert error["Code"] == "UnderstudyNoMatch"
    assert "nothing was recorded of" in error["Message"]
    assert responder.stop().requests == 1, "it is not tried again"


@pytest.mark.parametrize("operation", ["head_object", "head_bucket"])
def test_s3_does_not_take_a_miss_for_a_missing_key(serve: Serve, operation: str) -> None:
    """A HEAD has no body: the status is all that there is."""
    responder = serve(Exchange("GET /a"))
    arguments = {"Bucket": "b", "Key": "k"} if operation == "head_object" else {"Bucket": "b"}
    with pytest.raises(ClientError) as caught:
        getattr(sdk_client(responder, "s3"), operation)(**arguments)
    assert caught.value.response["Error"]["Code"] == "418"
    assert responder.stop().requests == 1, "it is not tried again, nor looked for elsewhere"


def test_stripe_does_not_take_a_miss_for_an_answer(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    responder = serve(Exchange("GET /a"))
    monkeypatch.setattr(stripe, "ca_bundle_path", str(responder.authority.certificate_file))
    transport = stripe.RequestsClient(proxy=proxy(responder))
    client = stripe.StripeClient("sk_test_x", http_client=transport, max_network_retries=3)
    with pytest.raises(stripe.APIError, match="NO_MATCH"):
        client.v1.charges.retrieve("ch_1")
    assert responder.stop().requests == 1, "it is not tried again"


def test_requests_with_its_usual_retries_asks_once(serve: Serve) -> None:
    responder = serve(Exchange("GET /a"))
    with requests.Session() as client:
        client.trust_env = False
        retries = Retry(5, status_forcelist=(408, 425, 429, 500, 502, 503, 504), backoff_factor=0)
        client.mount("https://", HTTPAdapter(max_retries=retries))
        proxies = {"https": proxy(responder)}
        got = client.get("https://api.example.com/b", proxies=proxies, verify=str(responder.authority.certificate_file))
    assert (got.status_code, got.reason, got.json()["understudy"]["outcome"]) == (418, "No Recorded Answer", "NO_MATCH")
    assert responder.stop().requests == 1
