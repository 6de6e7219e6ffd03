"""DynamoDB's JSON protocol: what a request asks for (AWS API reference, DynamoDB_20120810).

The operation is in the header X-Amz-Target, tables and keys are in the body; the path is always "/".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from engine.rrpair import storable

TARGET_PREFIX = b"DynamoDB_20120810."
BODY_LIMIT = 16 * 1024 * 1024
"""No request of the service is longer; a longer body is not looked into."""

_TABLE = re.compile(rb'"TableName"\s*:\s*"([^"\\]+)"')
_PARTIQL_TABLE = re.compile(r'\b(?:FROM|INTO|UPDATE)\s+"?([A-Za-z0-9_.\-]+)', re.IGNORECASE)
_SINGLE_TABLE = frozenset(b"GetItem PutItem UpdateItem DeleteItem Query Scan DescribeTable CreateTable DeleteTable".split())


@dataclass(frozen=True, slots=True)
class Call:
    """A call: operation, tables by name, and the keys it names, each as JSON."""

    operation: str
    tables: tuple[str, ...]
    keys: tuple[str, ...]

    def __str__(self) -> str:
        """Write it as a person would: `DynamoDB.GetItem Orders`."""
        return f"DynamoDB.{self.operation} {','.join(self.tables)}".rstrip()


def operation(target: bytes, body: bytes) -> str | None:
    """Name a request by its X-Amz-Target and body; None where it is not DynamoDB's.

    The calls of the hot path name one table, in one place: no JSON is parsed for them.
    """
    if not target.startswith(TARGET_PREFIX):
        return None
    name = target.removeprefix(TARGET_PREFIX)
    if name in _SINGLE_TABLE:
        tables = _TABLE.findall(body)
        if len(tables) == 1:
            return f"DynamoDB.{name.decode('latin-1')} {tables[0].decode('utf-8', 'replace')}"
    return str(call(target, body))


def call(target: bytes, body: bytes) -> Call:
    """Look into a request. What cannot be read is left out."""
    name = target.removeprefix(TARGET_PREFIX).decode("latin-1")
    try:
        document = json.loads(body) if len(body) <= BODY_LIMIT else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        return Call(name, (), ())
    parts = list(_requests(document))
    tables = {table for part in parts for table in _tables(part)} | _listed_tables(document)
    return Call(name, tuple(sorted(map(storable, tables))), tuple(_keys(parts, document)))


def _requests(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The call itself, the actions of a transaction, the statements of a batch."""
    yield document
    for listed in ("TransactItems", "TransactStatements", "Statements"):
        entries = document.get(listed)
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict):
                yield entry
                yield from (action for action in entry.values() if isinstance(action, dict))


def _tables(part: dict[str, Any]) -> list[str]:
    name, statement = part.get("TableName"), part.get("Statement")
    if isinstance(name, str):
        return [name]
    return _PARTIQL_TABLE.findall(statement) if isinstance(statement, str) else []


def _listed_tables(document: dict[str, Any]) -> set[str]:
    """Tables of BatchGetItem and BatchWriteItem: the keys of RequestItems."""
    items = document.get("RequestItems")
    return set(items) if isinstance(items, dict) else set()


def _keys(parts: list[dict[str, Any]], document: dict[str, Any]) -> Iterator[str]:
    for part in parts:
        if isinstance(part.get("Key"), dict):
            yield json.dumps(part["Key"])
    items = document.get("RequestItems")
    for requests in items.values() if isinstance(items, dict) else ():
        yield from _batch_keys(requests)


def _batch_keys(requests: Any) -> Iterator[str]:
    """Keys of one table in a batch: {"Keys": [key…]} of a read, [{"DeleteRequest": {"Key": key}}…] of a write."""
    if isinstance(requests, dict):
        keys = requests.get("Keys")
        yield from (json.dumps(key) for key in (keys if isinstance(keys, list) else ()))
    for request in requests if isinstance(requests, list) else ():
        delete = request.get("DeleteRequest") if isinstance(request, dict) else None
        if isinstance(delete, dict) and "Key" in delete:
            yield json.dumps(delete["Key"])
