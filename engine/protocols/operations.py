"""What a person would call a request. Each protocol that hides its operation in a POST adds a line here."""

from __future__ import annotations

from engine.protocols import dynamodb
from engine.protocols.heads import Index


def operation(method: str, path: str, index: Index, body: bytes) -> str:
    """Name a request, such as "POST /v1/charges" or "DynamoDB.GetItem Orders". `index`: headers by lower-case name."""
    target = index.get(b"x-amz-target")
    named = dynamodb.operation(target, body) if target else None
    return named or f"{method} {path}"
