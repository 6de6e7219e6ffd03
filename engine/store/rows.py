"""Pairs, flows and what is known of connections as rows of a snapshot, and back.

What is read is checked value by value: SQLite keeps any type in any column, and the file may be somebody else's.
"""

from __future__ import annotations

import json
from dataclasses import fields
from functools import lru_cache
from typing import Any

from engine.pairing.description import Place, placed, server_address
from engine.protocols.http1 import query_of
from engine.redaction.learned import Digest
from engine.rrpair import UNREAD, Connection, Direction, Flow, Role, RRPair
from engine.store import Answer, Entry, Group, Heads, Row
from engine.store.encoding import compress, decompress, pack_messages, unpack_messages, well_formed

Values = tuple[Any, ...]
"""A row as SQLite takes and gives it."""

CONNECTIONS_KEPT = 4096
"""Connections whose facts are kept after they were read: most pairs are of a few."""
INTEGER_LIMIT = 2**63 - 1
"""Largest integer of SQLite."""
SMALL_LIMIT = 2**32
"""What ports and statuses lie below, whatever a client has claimed."""
SEPARATOR = "\x1f"
_KINDS = {"str": str, "int": int, "bool": bool, "Role": int}
_FACTS = {field.name: _KINDS[str(field.type)] for field in fields(Connection)}
_REQUEST_COMPRESSED, _RESPONSE_COMPRESSED = 1, 2
_SIGNED = ("request", "headers", "answer")
_UNSTORABLE = "a pair that could not be stored"

_ROW = (str, int, int, str, str, str, int, str, str, str, int, int)
_ROWS = {(*_ROW, int, str), (*_ROW, type(None), str)}
_PAIR = (str, int, int, str, str, str, int, str, str, str, str, str, str, int, int)
_PAIRS = {
    (*_PAIR, int, int, int, str, str, int, bytes, bytes, bytes, str),
    (*_PAIR, type(None), int, int, str, str, int, bytes, bytes, type(None), str),
}
_ENTRIES = {(int, str, str, int, str, str, str, str, int, str)}
_ANSWERS = {(str, int, int, int, int, int, bytes, bytes, str)}
_HEADS = {(int, int, bytes)}
_FLOWS = {(str, int, str, str, int, int)}
_LEARNED = {(bytes, int, int, int, int, str)}
_GROUPS = {(str, str, str, int, str, int, int, str)}


# -- to rows -----------------------------------------------------------------------------------------------------------


def pair_row(pair: RRPair, known: dict[str, Connection]) -> Values:
    """The row of a pair; its connection goes to `known`."""
    response = pair.response
    known[pair.connection.id] = pair.connection
    request_body, compressed = compress(pair.request.body)
    response_body, response_compressed = compress(response.body) if response else (None, False)
    return (
        pair.id,
        pair.time,
        pair.duration,
        pair.direction.value,
        pair.protocol,
        pair.host,
        pair.port,
        pair.connection.id,
        SEPARATOR.join(pair.technology),
        SEPARATOR.join(pair.missing),
        pair.method,
        pair.path,
        pair.operation,
        pair.status,
        len(pair.request.body),
        len(response.body) if response else None,
        pair.request_ended,
        pair.response_started,
        SEPARATOR.join(pair.redacted),
        json.dumps(pair.signature) if pair.signature else "",
        compressed * _REQUEST_COMPRESSED + response_compressed * _RESPONSE_COMPRESSED,
        pack_messages(pair.request, response, pair.interim),
        request_body,
        response_body,
    )


def flow_row(flow: Flow, known: dict[str, Connection]) -> Values:
    """The row of a flow; its connection goes to `known`."""
    known[flow.connection.id] = flow.connection
    return (flow.connection.id, flow.time, flow.protocol, flow.reason, flow.read, flow.written)


def facts_row(connection: Connection) -> tuple[str, str]:
    """The row of a connection."""
    return connection.id, json.dumps({name: getattr(connection, name) for name in _FACTS})


def learned_row(digest: Digest) -> Values:
    """The row of a secret that was learned."""
    return digest.word, digest.length, digest.before, digest.after, int(digest.alone), digest.token.decode()


def storable(row: Values) -> Values:
    """A row whose texts can be written."""
    return tuple([well_formed(value) if isinstance(value, str) else value for value in row])


def clamped(row: Values) -> Values:
    """The same, with every number made one that SQLite can hold: for what is told of something, not for the thing itself."""
    return tuple([min(max(value, 0), INTEGER_LIMIT) if isinstance(value, int) else value for value in storable(row)])


def unstorable_flow(pair: RRPair, reason: object) -> Flow:
    """What is left of a pair that cannot be stored: that it was there, and why it is not."""
    answered = len(pair.response.body) if pair.response else 0
    return Flow(pair.connection, pair.time, pair.protocol, f"{_UNSTORABLE}: {reason}", answered, len(pair.request.body))


def unstorable_row(row: Values, reason: object) -> Values:
    """The same of a pair that is a row already: the row of a flow."""
    _, time, _, _, protocol, _, _, connection, *_ = row
    asked, answered = row[14:16]
    return clamped((connection, time, protocol, f"{_UNSTORABLE}: {reason}", answered or 0, asked))


def weight(row: Values) -> int:
    """Bytes of a row, about: those of its texts."""
    return sum([len(value) for value in row if isinstance(value, (bytes, str))])


# -- from rows ---------------------------------------------------------------------------------------------------------


def row_of(ordinal: int, row: Values) -> Row:
    """A pair without its messages. Raises ValueError, as all of these do where a row is damaged."""
    _check(row, _ROWS)
    (identity, time, duration, way, protocol, host, port, technology, missing, operation, status, asked, answered,
     facts) = row  # fmt: skip
    _check_small(port, status)
    direction, connection = Direction(way), connection_of(facts)
    place = _place(direction, host, port, technology, connection)
    return Row(
        ordinal, identity, time, duration, direction, protocol, place.host, place.port, operation, status, asked,
        answered or 0, _parted(missing), connection.tls,
    )  # fmt: skip


def entry_of(row: Values, connections: dict[str, str]) -> Entry:
    """What an index needs of a pair. `connections`: the facts of each."""
    _check(row, _ENTRIES)
    number, protocol, host, port, connection_id, method, path, operation, status, signature = row
    _check_small(port, status)
    facts = connections.get(connection_id)
    if facts is None:
        raise ValueError("a pair without its connection")
    connection = connection_of(facts)
    place = _place(Direction.OUT, host, port, "", connection)
    return Entry(
        number, protocol, place.host, place.port, connection.remote_address, connection.tls, method, path, operation, status,
        _signature(signature),
    )  # fmt: skip


def answer_of(row: Values) -> Answer:
    """The answer of a pair."""
    _check(row, _ANSWERS)
    method, status, request_ended, response_started, compressed, size, heads, body, missing = row
    _check_small(status)
    body = _body(body, size, bool(compressed & _RESPONSE_COMPRESSED))
    request, response, interim = unpack_messages(heads, b"", body)
    if response is None:
        raise ValueError("an answer that is not there")
    delay = max(response_started - request_ended, 0)
    return Answer(method, status, response, interim, delay, missing == UNREAD, request.headers)


def heads_of(row: Values) -> Heads:
    """The heads of a pair."""
    _check(row, _HEADS)
    status, answered, heads = row
    _check_small(status)
    request, response, _ = unpack_messages(heads, b"", b"" if answered else None)
    return Heads(status, request, response)


def pair_of(row: Values, service: str) -> RRPair:
    """A whole pair."""
    _check(row, _PAIRS)
    (identity, time, duration, way, protocol, host, port, _, technology, missing, method, path, operation, status,
     asked, answered, request_ended, response_started, redacted, signature, compressed, heads, request_body,
     response_body, facts) = row  # fmt: skip
    _check_small(port, status)
    request_body = _body(request_body, asked, bool(compressed & _REQUEST_COMPRESSED))
    if response_body is not None:
        response_body = _body(response_body, answered, bool(compressed & _RESPONSE_COMPRESSED))
    request, response, interim = unpack_messages(heads, request_body, response_body)
    direction, connection = Direction(way), connection_of(facts)
    place = _place(direction, host, port, technology, connection)
    return RRPair(
        identity, time, direction, service, protocol, place.host, place.port, method, path,
        query_of(request.start_line), operation, request, connection, status, response, interim, request_ended,
        response_started, duration, place.technology, _parted(missing), _parted(redacted), _texts(signature),
    )  # fmt: skip


def flow_of(row: Values) -> Flow:
    """A flow."""
    _check(row, _FLOWS)
    facts, *rest = row
    return Flow(connection_of(facts), *rest)


def learned_of(row: Values) -> Digest:
    """By what a secret is known that was learned."""
    _check(row, _LEARNED)
    word, length, before, after, alone, token = row
    if alone not in (0, 1):
        raise ValueError("a secret that is known neither by a word nor alone")
    digest = Digest(word, length, before, after, bool(alone), token.encode())
    digest.check()
    return digest


def group_of(row: Values) -> Group:
    """Pairs of one connection, counted: what became known of it late is in it."""
    _check(row, _GROUPS)
    direction, protocol, host, port, technology, requests, complete, facts = row
    _check_small(port)
    way, connection = Direction(direction), connection_of(facts)
    place = _place(way, host, port, technology, connection)
    address = server_address(connection, way)
    return Group(way, protocol, connection.tls, place.host, place.port, place.technology, requests, complete, address)


@lru_cache(CONNECTIONS_KEPT)
def connection_of(facts: str) -> Connection:
    """What is known of a connection."""
    values = json.loads(facts)
    for name, value in values.items():
        if type(value) is not _FACTS[name]:
            raise ValueError(f"a connection whose {name} is {value!r:.50}")
    texts = {name: well_formed(value) for name, value in values.items() if isinstance(value, str)}
    _check_small(*[value for value in values.values() if isinstance(value, int)])
    return Connection(**{**values, **texts, "role": Role(values["role"])})


def _check(row: Values, kinds: set[tuple[Any, ...]]) -> None:
    if tuple(map(type, row)) not in kinds:
        raise ValueError("a row with values of other types than are written")


def _check_small(*numbers: int) -> None:
    for number in numbers:
        if not 0 <= number < SMALL_LIMIT:
            raise ValueError(f"a number that is none of a connection: {number}")


def _body(stored: bytes, size: int, compressed: bool) -> bytes:
    if compressed:
        return decompress(stored, size)
    if len(stored) != size:
        raise ValueError("a body of another length than its pair says")
    return stored


def _signature(text: str) -> dict[str, str]:
    signature = _texts(text)
    if signature:
        for name in _SIGNED:
            bytes.fromhex(signature[name])
        for name in ("idempotency", "secrets"):
            bytes.fromhex(signature.get(name, ""))
    return signature


def _texts(text: str) -> dict[str, str]:
    """A signature as it is, if it is one."""
    found = json.loads(text) if text else {}
    if type(found) is not dict or not all(type(value) is str for value in found.values()):
        raise ValueError("a signature that is none")
    return {well_formed(name): well_formed(value) for name, value in found.items()}


def _parted(text: str) -> tuple[str, ...]:
    return tuple(text.split(SEPARATOR)) if text else ()


def _place(direction: Direction, host: str, port: int, technology: str, connection: Connection) -> Place:
    return placed(Place(host, port, _parted(technology)), direction, connection)
