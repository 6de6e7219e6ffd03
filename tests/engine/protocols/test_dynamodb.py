from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocols.dynamodb import call, operation
from engine.protocols.operations import operation as any_operation

KEY = {"id": {"S": "7"}}
CALLS = [
    ("GetItem", {"TableName": "Orders", "Key": KEY}, "DynamoDB.GetItem Orders", [KEY]),
    ("PutItem", {"TableName": "Orders", "Item": {"TableName": {"S": "x"}}}, "DynamoDB.PutItem Orders", []),
    ("ListTables", {}, "DynamoDB.ListTables", []),
    ("BatchGetItem", {"RequestItems": {"B": {"Keys": [KEY]}, "A": {"Keys": []}}}, "DynamoDB.BatchGetItem A,B", [KEY]),
    (
        "BatchWriteItem",
        {"RequestItems": {"T": [{"DeleteRequest": {"Key": KEY}}, {"PutRequest": {"Item": {}}}]}},
        "DynamoDB.BatchWriteItem T",
        [KEY],
    ),
    (
        "TransactWriteItems",
        {"TransactItems": [{"Put": {"TableName": "Z", "Item": {}}}, {"Delete": {"TableName": "A", "Key": KEY}}]},
        "DynamoDB.TransactWriteItems A,Z",
        [KEY],
    ),
    ("ExecuteStatement", {"Statement": 'SELECT * FROM "Music" WHERE a=1'}, "DynamoDB.ExecuteStatement Music", []),
]


@pytest.mark.parametrize(("name", "document", "text", "keys"), CALLS)
def test_calls(name: str, document: dict[str, object], text: str, keys: list[object]) -> None:
    target, body = f"DynamoDB_20120810.{name}".encode(), json.dumps(document).encode()
    assert operation(target, body) == text
    assert [json.loads(key) for key in call(target, body).keys] == keys
    assert str(call(target, body)) == text


def test_others() -> None:
    assert operation(b"Kinesis_20131202.PutRecord", b"{}") is None
    assert any_operation("POST", "/v1/charges", {}, b"") == "POST /v1/charges"


@given(st.binary(max_size=100))
def test_any_body(body: bytes) -> None:
    assert str(operation(b"DynamoDB_20120810.Query", body)).startswith("DynamoDB.Query")


@given(
    st.recursive(
        st.none() | st.text(max_size=3) | st.integers(),
        lambda i: (
            st.lists(i, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "TableName",
                        "Key",
                        "Keys",
                        "RequestItems",
                        "TransactItems",
                        "Statements",
                        "Statement",
                        "DeleteRequest",
                    ]
                ),
                i,
                max_size=3,
            )
        ),
        max_leaves=12,
    )
)
def test_any_document(document: object) -> None:
    call(b"DynamoDB_20120810.X", json.dumps(document).encode())


@pytest.mark.parametrize(
    "body",
    [
        rb'{"TableName":"\ud83d"}',
        rb'{"RequestItems":{"\ud83d":{}}}',
        rb'{"TransactItems":[{"Put":{"TableName":"a\udc00"}}]}',
        rb'{"Statement":"SELECT * FROM \"x\"","TableName":"\udfff"}',
    ],
)
def test_half_a_surrogate_pair_is_named_in_characters_that_can_be_stored(body: bytes) -> None:
    """SQLite and protobuf take UTF-8 only."""
    named = operation(b"DynamoDB_20120810.GetItem", body)
    assert named
    assert "\\ud" in named
    named.encode()
